"""Completion of options in a shell."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from dni_async.errors import UserError
from launch.cli import COMMANDS
from launch.completion import CONFIGS, script

ASK = """
source {script}
COMP_WORDS=(dni-async {words}); COMP_CWORD={last}; COMP_LINE="dni-async {words}"; COMP_POINT=${{#COMP_LINE}}
_tyro_dni_async
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def test_every_command_has_its_options_completed() -> None:
    assert set(CONFIGS) == set(COMMANDS) - {"completion"}


def test_an_unknown_shell_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^unknown shell \(fish\); use one of bash, zsh$"):
        script("fish")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_options_and_values(tmp_path: Path) -> None:
    (tmp_path / "script").write_text(script("bash"))
    for words, found in (
        ("comp", {"compare"}),
        ("train --sg.ki", {"--sg.kind"}),
        ("train --schedule co", {"constant", "cosine"}),
        ("predict --inp", {"--input"}),
    ):
        last = len(words.split())
        asked = ASK.format(script=tmp_path / "script", words=words, last=last)
        done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, timeout=30)
        completed = {line.split()[0] for line in done.stdout.splitlines() if line}
        assert completed == found, (words, done.stdout, done.stderr)


@pytest.mark.slow
def test_zsh_gets_a_script_of_its_own() -> None:
    assert script("zsh").startswith("#compdef dni-async")
