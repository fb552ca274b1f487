"""The commands of docs/CLUSTER.md, and the scripts beside it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dni_async.errors import UserError
from launch.local.wan import INTERFACE, FarHosts, Wire, address, far_hosts
from tests.support.jobs import TINY, descendants

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "CLUSTER.md").read_text()
SETTINGS, *COMMANDS = re.findall(r"```bash\n(.*?)```", PAGE.partition("## Slurm")[0], re.DOTALL)
TIMEOUT_S = 150.0


def script(command: str, out: Path) -> str:
    """A host's commands as the page shows them, for the emulated hosts and a smaller network."""
    text = (SETTINGS + command).replace("SECRET\n", "of-a-test\n").replace("eth1", INTERFACE)
    text = text.replace("HOST0", address(0)).replace("runs/a", str(out))
    return text.replace("--task mnist-fcn --epochs 5", " ".join((*TINY, "--epochs", "2")))


def start(hosts: FarHosts, host: int, out: Path) -> subprocess.Popen[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with hosts.visit(host):
        return subprocess.Popen(
            ["bash", "-ec", script(COMMANDS[host], out)],
            cwd=out.parent,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.mark.slow
def test_the_commands_for_two_hosts_train_on_two_hosts(tmp_path: Path) -> None:
    try:
        with far_hosts(2, Wire(0.001, 125e6)) as hosts:
            processes = [start(hosts, host, tmp_path / "run") for host in range(2)]
            try:
                printed = [process.communicate(timeout=TIMEOUT_S)[0] for process in processes]
            finally:
                for process in processes:
                    for member in descendants(process.pid):
                        member.kill()
                    process.kill()
    except UserError as error:
        pytest.skip(str(error))
    assert [process.returncode for process in processes] == [0, 0], printed
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["transports"] == ["tcp"] and len(summary["epochs"]) == 2
    assert summary["links"][0]["round_trip_s"] >= 0.002
    assert len(list((tmp_path / "run" / "weights").iterdir())) == 2


def test_the_page_shows_a_command_for_each_host() -> None:
    assert len(COMMANDS) == 2
    for rank, command in enumerate(COMMANDS):
        assert f"--node-rank {rank} " in command and "-m launch.train" in command
    assert SETTINGS.count("export ") == 2


SLURM_SCRIPT = ROOT / "examples" / "slurm" / "train.sbatch"


@pytest.mark.parametrize(
    ("before", "run", "status", "queued"),
    [
        ("", 'echo "{\\"interrupted\\": 1}" > "$OUT/summary.json"; exit 143', 143, True),
        ('{"interrupted": 1}', 'echo "{\\"interrupted\\": 1}" > "$OUT/summary.json"; exit 143', 143, True),
        ('{"interrupted": 1}', 'echo "{}" > "$OUT/summary.json"', 0, False),
        ('{"interrupted": 1}', "exit 2", 2, False),  # refused, as --resume with other settings is
        ("", "exit 1", 1, False),
    ],
    ids=["signalled", "signalled again", "done", "refused", "failed"],
)
def test_a_slurm_job_is_queued_again_only_if_this_start_of_it_was_signalled(
    tmp_path: Path, before: str, run: str, status: int, queued: bool
) -> None:
    out, programs = tmp_path / "run", tmp_path / "programs"
    out.mkdir()
    programs.mkdir()
    if before:
        (out / "summary.json").write_text(before)
        os.utime(out / "summary.json", (0, 0))
    for name, text in ("srun", f"sleep 0.05; {run}"), ("scontrol", f'echo "$@" >> {tmp_path}/scontrol'):
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "OUT": str(out),
        "SLURM_JOB_NAME": "job",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node",
    }
    done = subprocess.run(["bash", str(SLURM_SCRIPT)], env=environment, timeout=30, stdout=subprocess.DEVNULL)
    assert done.returncode == status
    assert ("requeue 7" in (tmp_path / "scontrol").read_text()) is queued


def test_the_slurm_script_is_valid_bash_and_resumes() -> None:
    assert subprocess.run(["bash", "-n", str(SLURM_SCRIPT)], timeout=30).returncode == 0
    text = SLURM_SCRIPT.read_text()
    for words in (
        "#SBATCH --requeue",
        "#SBATCH --signal=TERM@",
        "--resume",
        "--checkpoint-every",
        "scontrol requeue",
    ):
        assert words in text
