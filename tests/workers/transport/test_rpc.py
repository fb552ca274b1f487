"""The rpc transport: the conformance suite in two processes."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from dni_async.messages import TargetGradient
from tests.support.children import Child
from tests.support.conformance import KILLED, NAMES
from tests.support.conformance_runs import Outcome
from tests.support.transport_processes import rpc_links, run_in_processes
from workers.failure.rank_runner import RankRunner
from workers.transport import rpc
from workers.transport.base import TransportError
from workers.transport.rpc import start_rpc
from workers.transport.wire import WireError, add_checksum, encode


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


def start_alone(runner: RankRunner, mouth: Connection) -> None:
    begin = time.monotonic()
    with pytest.raises(RuntimeError):
        start_rpc(0, 2, 1.0, f"file://{runner.folder}/store")
    mouth.send(time.monotonic() - begin)


@pytest.fixture
def no_channels() -> Iterator[None]:
    yield
    rpc._CHANNELS.clear()


@pytest.mark.usefixtures("no_channels")
def test_an_unreadable_message_ends_the_channel_on_both_sides() -> None:
    """Headers that were damaged, and tensors that are not those of the header."""
    rng = random.Random(0)
    fields, tensors, _ = encode(TargetGradient(1, 0, torch.ones(4, 3)))
    header = add_checksum(fields)
    other = [torch.ones(3, 4), torch.ones(4, 3, dtype=torch.float64), torch.ones(4, 2)]
    forged = [(header, [tensor]) for tensor in other] + [(header, []), (header, [*tensors, *tensors])]
    for _ in range(300):
        damaged = bytearray(header)
        for _ in range(rng.randrange(1, 5)):
            damaged[rng.randrange(len(damaged))] ^= rng.randrange(1, 256)
        if damaged != header:
            forged.append((bytes(damaged[: rng.choice((1, 80, 164))]), tensors))
    for i, (bad, given) in enumerate(forged):
        with pytest.raises(WireError):  # at the sender: rpc brings it back
            rpc._deliver(f"fuzz {i}", 0, bad, given)
        with pytest.raises(TransportError, match="header"):
            rpc._CHANNELS.buffer(f"fuzz {i}").inbox.poll()
