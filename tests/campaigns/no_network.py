"""Commands run without any network interface: each ends in one line with status 2, or needs none.

python -m tests.campaigns.no_network

Every command runs in a network namespace of its own (`unshare --net`), whose loopback interface is down.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from tests.campaigns.report import Report, known_faults
from tests.support.jobs import TINY, started
from tests.support.refusal import refusal_problem

UNSHARE = ("unshare", "--map-root-user", "--net")
END_TIMEOUT_S = 150.0
"""Importing torch on a busy machine is most of it."""
TRAIN = ("-m", "launch.train", *TINY, "--epochs", "1", "--quiet")


@dataclass(frozen=True, slots=True)
class Case:
    """A command, and whether it needs the network."""

    arguments: tuple[str, ...]
    refused: bool = True
    variables: tuple[tuple[str, str], ...] = ()


def _by_hand(rank: int) -> tuple[tuple[str, str], ...]:
    """Return the variables of one of two ranks, whose store is at an address that cannot be reached."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    return tuple((k, str(v)) for k, v in (place | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29511}).items())


CASES: dict[str, Case] = {
    "two stages": Case((*TRAIN, "--stages", "2")),
    "two supervised stages": Case((*TRAIN, "--stages", "2", "--supervise", "--out", "/tmp/never-made")),
    "two stages over tcp": Case((*TRAIN, "--stages", "2", "--transport", "tcp")),
    "two stages over dist": Case((*TRAIN, "--stages", "2", "--transport", "dist")),
    "ddp": Case((*TRAIN, "--stages", "2", "--engine", "ddp")),
    "restarts": Case((*TRAIN, "--stages", "2", "--max-restarts", "3", "--out", "/tmp/never-made")),
    "a comparison": Case(
        ("-m", "launch.compare", *TINY, "--epochs", "1", "--engines", "cdni", "--stages", "2")
    ),
    "latency": Case(("-m", "launch.latency", "--quiet")),
    "one stage": Case((*TRAIN, "--stages", "1"), refused=False),
    "rank 0, started by hand": Case(TRAIN, variables=_by_hand(0)),
    "rank 1, started by hand": Case(TRAIN, variables=_by_hand(1)),
}
SHORT = ("two stages",)
KNOWN_FAULTS = known_faults({}, CASES)
"""Cases that end otherwise, and why; a case that is mended must leave."""


def skip_reason() -> str:
    """Return why this machine cannot run the campaign; "" when it can."""
    if shutil.which("unshare") is None:
        return "there is no unshare on this machine"
    made = subprocess.run([*UNSHARE, "true"], capture_output=True, timeout=END_TIMEOUT_S)
    return "this machine makes no network namespaces" if made.returncode else ""


def problem(case: Case) -> str:
    """Run a command; return what is wrong with its end, "" when nothing is."""
    command = [*UNSHARE, sys.executable, *case.arguments]
    with started(command, **dict(case.variables)) as process:
        try:
            stdout, stderr = process.communicate(timeout=END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return f"it did not end in {END_TIMEOUT_S:g} s"
    if case.refused:
        return refusal_problem(subprocess.CompletedProcess(command, process.returncode, stdout, stderr))
    return f"status {process.returncode}: {stderr[-300:]}" if process.returncode or stderr else ""


def campaign(cases: Mapping[str, Case]) -> Report:
    """Run every command; a known fault that is mended is a problem, too."""
    report = Report()
    for name, case in cases.items():
        report.add(name, problem(case), KNOWN_FAULTS.get(name, ""))
    return report


def main() -> int:
    argparse.ArgumentParser(prog="tests.campaigns.no_network").parse_args()
    if reason := skip_reason():
        print(f"dni-async: {reason}", file=sys.stderr)
        return 2
    return campaign(CASES).show()


if __name__ == "__main__":
    sys.exit(main())
