"""The torch.distributed transport: the conformance suite in two processes, over gloo, and its deadline."""

import random
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.support.conformance import KILLED, NAMES, TEST_TIMEOUT_S, Side, comes_ready
from tests.support.conformance_messages import assert_same, message
from tests.support.conformance_runs import Outcome, Report, run_facts
from tests.support.transport_processes import dist_links, run_in_processes
from workers.transport import dist
from workers.transport.base import TransportError, TransportTimeout
from workers.transport.dist import DistReceiver, DistSender
from workers.transport.dist_groups import Groups
from workers.transport.wire import HEADER_BYTES, add_checksum, encode


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_in_processes(dist_links, tmp_path_factory.mktemp("dist"))


@pytest.mark.parametrize("name", NAMES)
def test_conforms(outcome: Outcome, name: str) -> None:
    outcome.check(name)


def test_a_killed_peer_is_noticed(outcome: Outcome) -> None:
    outcome.check(KILLED, ranks=(0,))


TIMEOUT = 1.0


def an_idle_link_lives_on(side: Side) -> None:
    time.sleep(1.5 * TIMEOUT)
    side.narrow.tx.send(message(side.rank), TIMEOUT)
    assert_same(side.narrow.rx.recv(TIMEOUT), message(1 - side.rank))
    side.narrow.rx.release()
    side.barrier()


def a_full_receiver_may_take_its_time(side: Side) -> None:
    """Half the timeout without a release is no reason to fail."""
    if side.rank == 1:
        for i in range(3):
            assert_same(side.wide.rx.recv(TEST_TIMEOUT_S), message(i))
            time.sleep(TIMEOUT / 2)
            side.wide.rx.release()
    else:
        for i in range(3):
            side.wide.tx.send(message(i), TEST_TIMEOUT_S)
        assert comes_ready(side.wide.tx, TEST_TIMEOUT_S)
    side.barrier()


def a_full_receiver_ends_the_channel_at_the_timeout(side: Side) -> None:
    if side.rank == 0:
        for i in range(2):
            side.narrow.tx.send(message(i), TIMEOUT)  # one there, one in the send_log
        with pytest.raises(TransportTimeout, match="stage 1 did not answer"):
            side.narrow.tx.send(message(2), TEST_TIMEOUT_S)
    side.barrier()


def a_damaged_header_ends_the_channel(side: Side) -> None:
    if side.rank == 1:
        assert isinstance(side.wide.tx, DistSender)
        header = bytearray(add_checksum(encode(message(3))[0]))
        header[40] ^= 16
        side.wide.tx._frame(bytes(header))
    else:
        with pytest.raises(TransportError, match=r"^header is damaged \(checksum differs\)$"):
            side.wide.rx.recv(TEST_TIMEOUT_S)
    side.barrier()


DEADLINES = (
    an_idle_link_lives_on,
    a_full_receiver_may_take_its_time,
    a_full_receiver_ends_the_channel_at_the_timeout,
    a_damaged_header_ends_the_channel,
)


def play_deadlines(side: Side, report: Report) -> None:
    run_facts(DEADLINES, side, report)
    side.wide.close()
    side.narrow.close()


def test_every_blocking_call_ends_at_its_deadline(tmp_path: Path) -> None:
    links = partial(dist_links, timeout=TIMEOUT)
    outcome = run_in_processes(links, tmp_path, play_deadlines, exits=(0, 0))
    for fact in DEADLINES:
        outcome.check(fact.__name__)


def test_frames_of_other_formats_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes in place of a header is read by the same thread as ever; only gloo is not there."""
    rng, frames = random.Random(0), []
    monkeypatch.setattr(dist.dist, "recv", lambda buffer, peer, group: buffer.copy_(frames[-1]))
    for i in range(60):
        good = add_checksum(encode(message(i))[0])
        damaged = bytearray(rng.randbytes(HEADER_BYTES) if i % 3 == 0 else good)
        damaged[rng.randrange(HEADER_BYTES)] ^= rng.randrange(1, 256)
        frames.append(torch.frombuffer(damaged, dtype=torch.uint8))
        receiver = DistReceiver(1, Groups(None, None, 1.0, torch.device("cpu"), set()), 2)  # type: ignore[arg-type]
        with pytest.raises(TransportError, match="header"):
            receiver.recv(TEST_TIMEOUT_S)
        receiver.close()
