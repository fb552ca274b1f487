"""The script that checks and measures a GPU, on a machine without one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dni_async.errors import UserError
from launch import gpu_check
from launch.gpu_check import GpuCheckConfig, check, line, work
from launch.local.gpu_checks import CHECKS
from tests.support.source_tree import ROOT
from tests.support.waiting import until


def run(*arguments: str, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.gpu_check", *arguments, "--out", str(out)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)


def test_without_a_gpu_it_says_so_and_ends_with_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(tmp_path)])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError) as caught:
        work(SimpleNamespace())  # type: ignore[arg-type]
    assert str(caught.value) == "torch sees no GPU here; --dry-run-cpu tries the script itself on the CPU"
    assert caught.value.status == 2


@pytest.mark.slow
def test_a_check_in_its_own_process_writes_what_it_found(tmp_path: Path) -> None:
    done = run("--dry-run-cpu", "--only", "pinning", out=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ok        pinning ")
    found = json.loads((tmp_path / "checks.json").read_text())
    assert found["dry_run"] and found["checks"]["pinning"]["status"] == "ok"
    assert json.loads((tmp_path / "pinning.json").read_text())["device"] == "cpu"


class Run:
    """`work` with checks that do nothing, each by a name that says how it ends."""

    def __init__(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *names: str, minutes: str = "9"
    ) -> None:
        self.limits: dict[str, float] = {}

        def play(config: GpuCheckConfig, name: str, seconds: float, out: Path) -> dict[str, Any]:
            self.limits[name] = seconds
            return (
                {"status": "failed", "reason": "so it is"}
                if name in names
                else {"status": "ok", "check_s": 1.0}
            )

        arguments = ["gpu_check", "--out", str(tmp_path), "--minutes", minutes]
        monkeypatch.setattr(sys, "argv", arguments)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(gpu_check, "check", play)
        monkeypatch.setattr(gpu_check, "hardware", dict)
        self.error = ""
        try:
            work(SimpleNamespace(describe_position=None))  # type: ignore[arg-type]
        except Exception as error:
            self.error = str(error)
        self.results = json.loads((tmp_path / "checks.json").read_text())["checks"]


def test_a_check_that_fails_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, monkeypatch, "pinning", "latency")
    assert list(run.results) == list(CHECKS)
    assert run.error == "checks that failed: pinning, latency; the reasons stand above"


def test_when_the_time_is_up_the_rest_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, monkeypatch, minutes="0.3")
    assert run.limits["pinning"] == pytest.approx(18, abs=2)
    run = Run(tmp_path, monkeypatch, minutes="0.2")
    assert run.limits == {}
    assert {result["status"] for result in run.results.values()} == {"left out"}


HANGS = """
import subprocess, sys, time
open(sys.argv[1], "w").write(str(subprocess.Popen(["sleep", "600"]).pid))
time.sleep(600)
"""


class Hanging(subprocess.Popen):  # type: ignore[type-arg]
    """A check that starts another process, and hangs; its time is up when that runs."""

    child: Path

    def __init__(self, command: list[str], **how: Any) -> None:
        super().__init__([sys.executable, "-c", HANGS, str(self.child)], **how)

    def wait(self, timeout: float | None = None) -> int:
        if timeout is None:
            return super().wait()
        until(lambda: self.child.exists() and bool(self.child.read_text()), 60.0, "the start of a process")
        raise subprocess.TimeoutExpired("check", timeout)


def test_a_check_that_hangs_is_ended_with_all_that_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hanging, "child", tmp_path / "child", raising=False)
    monkeypatch.setattr(gpu_check.subprocess, "Popen", Hanging)
    found = check(GpuCheckConfig(), "latency", 60.0, tmp_path)
    assert (found["status"], found["reason"]) == ("failed", "it had not ended after 60 s")
    stat = Path(f"/proc/{Hanging.child.read_text()}/stat")
    until(lambda: not stat.exists() or stat.read_text().split()[2] == "Z", 60.0, "its end")


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ({"status": "failed", "reason": "no way", "check_s": 2.0}, "failed    latency       2.0 s  no way"),
        ({"status": "left out", "reason": "no time"}, "left out  latency              no time"),
        (
            {"status": "ok", "check_s": 61.5, "rows": [{"engine": "cdni", "samples_per_s": 1234.5}]},
            "ok        latency      61.5 s  cdni 1,234/s",
        ),
    ],
)
def test_a_check_has_one_line(result: dict[str, Any], shown: str) -> None:
    assert line("latency", result) == shown


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_checks_pass_on_the_cpu_with_tiny_networks(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "launch.gpu_check", "--dry-run-cpu", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    lines = done.stdout.splitlines()
    assert [each.split()[0] for each in lines] == ["ok"] * len(CHECKS), done.stdout
    assert done.returncode == 0
    assert {path.stem for path in tmp_path.glob("*.json")} == {"checks", *CHECKS}
