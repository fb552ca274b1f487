"""Links of supervised stages at the end of a run: a stage stays until its messages were handled."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import torch
import torch.distributed as dist

from tests.support.conformance import TEST_TIMEOUT_S
from tests.support.conformance_messages import assert_same
from tests.support.gradients import gradient
from workers.coordination.rendezvous import Rendezvous
from workers.recovery.journal import Journal
from workers.recovery.reconnecting_channel import ReconnectingSender
from workers.recovery.stable_storage import StableStorage
from workers.transport.base import Deadline, wait_any
from workers.transport.links import Link, LinkRequest
from workers.transport.shm_link import ShmTransport
from workers.transport.tcp import TcpTransport


class SupervisedStage:
    """One of two stages: what its supervisor keeps, and what its newest process has opened."""

    def __init__(self, rank: int, transport: ShmTransport | TcpTransport, store: dist.Store) -> None:
        self.rank, self.transport, self.store = rank, transport, store
        self.storage = StableStorage.create(rank, 2, 2, tcp=isinstance(transport, TcpTransport))

    def start(self) -> None:
        """Open the link as a new process does."""
        self.stack = ExitStack()
        rendezvous = Rendezvous(self.rank, 2, self.rank, 2, self.store, secret=b"of the job")
        self.journal = Journal(self.storage.journal, TEST_TIMEOUT_S)
        cpu, recovery = torch.device("cpu"), (self.storage, self.journal)
        request = LinkRequest(rendezvous, [(0, 1)], 2, TEST_TIMEOUT_S, cpu, self.stack, recovery)
        self.link: Link = self.transport.open(request)[1 - self.rank]

    def send(self) -> None:
        """Send what the first message of the stream has caused."""
        self.journal.stamp = 1
        sender = self.link.sender
        sender.send(gradient(7), TEST_TIMEOUT_S)
        deadline = Deadline(TEST_TIMEOUT_S)
        while self.dialing() and wait_any([sender], deadline.left()):
            sender.ready()

    def dialing(self) -> bool:
        """Whether the connection is still being made."""
        assert isinstance(self.link.sender, ReconnectingSender)
        return self.link.sender._sender is None

    def die(self) -> None:
        """Close the connections, and do nothing else that belongs to an orderly end."""
        self.stack.pop_all()
        self.link.sender.close()
        self.link.receiver.close()


@pytest.fixture(params=[ShmTransport, TcpTransport])
def stages(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[SupervisedStage]]:
    for name in ("GLOO_SOCKET_IFNAME", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    store = dist.HashStore()
    both = [SupervisedStage(rank, request.param(), store) for rank in range(2)]
    threads = [threading.Thread(target=stage.start) for stage in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TEST_TIMEOUT_S)
    yield both
    for stage in both:
        stage.die()
        stage.storage.close()


@pytest.mark.parametrize("ending", [0, 1])
def test_a_stage_ends_only_when_its_neighbour_has_handled_its_messages(
    stages: list[SupervisedStage], ending: int
) -> None:
    """The neighbour's process may die before; the next one needs the message again."""
    stage, neighbour = stages[ending], stages[1 - ending]
    stage.send()
    assert_same(neighbour.link.receiver.recv(TEST_TIMEOUT_S), gradient(7))
    end = threading.Thread(target=stage.stack.close)
    end.start()
    neighbour.die()
    neighbour.start()
    assert end.is_alive()
    assert_same(neighbour.link.receiver.recv(TEST_TIMEOUT_S), gradient(7))
    neighbour.link.receiver.release()
    end.join(TEST_TIMEOUT_S)
    assert not end.is_alive()


def test_a_stage_ends_at_once_when_its_neighbour_has_ended_without_its_last_credit(
    stages: list[SupervisedStage],
) -> None:
    stage, neighbour = stages
    stage.send()
    neighbour.stack.close()
    stage.stack.close()


def test_a_stage_ends_although_the_store_is_gone(
    stages: list[SupervisedStage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the launcher, which has seen that all other stages have ended."""

    def gone(rendezvous: Rendezvous, question: object) -> None:
        raise dist.DistNetworkError("broken pipe")

    stage, _ = stages
    stage.send()
    monkeypatch.setattr(Rendezvous, "_ask", gone)
    stage.stack.close()
