"""The rpc transport: the conformance suite in two processes."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.workers.helpers import Child
from tests.workers.transport.conformance import KILLED, NAMES, Outcome
from tests.workers.transport.processes import rpc_links, run_in_processes
from workers.supervise import Guard
from workers.transport.rpc import start_rpc


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_in_processes(rpc_links, tmp_path_factory.mktemp("rpc"))


@pytest.mark.parametrize("name", NAMES)
def test_conforms(outcome: Outcome, name: str) -> None:
    outcome.check(name)


def test_a_killed_peer_is_noticed(outcome: Outcome) -> None:
    outcome.check(KILLED, ranks=(0,))


def test_a_rank_whose_peer_does_not_come_gives_up_at_its_deadline(tmp_path: Path) -> None:
    """Which torch has only as a constant of half an hour."""
    with Child(start_alone, tmp_path) as child:
        seconds = child.hear()
        assert isinstance(seconds, float) and 0.5 < seconds < 20.0


def start_alone(guard: Guard, mouth: Connection) -> None:
    begin = time.monotonic()
    with pytest.raises(RuntimeError):
        start_rpc(0, 2, 1.0, f"file://{guard.folder}/store")
    mouth.send(time.monotonic() - begin)
