"""Two stages that send to each other by NCCL at the same time; GPUs and NCCL are models."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dni_async.messages import TargetGradient
from tests.support.channels import TEST_TIMEOUT_S
from tests.support.fake_gpu import FakeGpu, FakeStream, Machine
from tests.support.fake_nccl import FakeNccl, FakeNcclEnd
from workers.transport import dist
from workers.transport.base import TransportTimeout
from workers.transport.dist import DistReceiver, DistSender
from workers.transport.dist_groups import Groups


class SharedStreamGpu(FakeGpu):
    """A GPU where everything is done in one stream, as torch does unless it is asked for another."""

    def new_stream(self) -> FakeStream:
        return self.default


class Gloo:
    """The headers of one channel."""

    def __init__(self) -> None:
        self._frames: queue.SimpleQueue[Tensor] = queue.SimpleQueue()

    def send(self, tensor: Tensor) -> None:
        self._frames.put(tensor)

    def recv(self, tensor: Tensor) -> None:
        tensor.copy_(self._frames.get(timeout=TEST_TIMEOUT_S))


class InTurn(FakeNcclEnd):
    """Receives only when both stages have called send: the order in which they block each other."""

    sends: threading.Barrier

    def send(self, tensor: Tensor) -> None:
        super().send(tensor)
        self.sends.wait(TEST_TIMEOUT_S)

    def recv(self, tensor: Tensor) -> None:
        self.sends.wait(TEST_TIMEOUT_S)
        super().recv(tensor)


class Pair:
    """Both channels between two stages, each on a GPU of its own."""

    def __init__(self, kind: type[FakeGpu], timeout: float) -> None:
        self.machine = Machine()
        self.gpus = [kind(self.machine, computes_at_once=False) for _ in range(2)]
        sends = threading.Barrier(4)  # two senders, two receivers
        self.senders, self.receivers = [], []
        for source in range(2):
            header, nccl = Gloo(), FakeNccl()
            ends = [InTurn(nccl, gpu, FakeStream(self.machine, "nccl")) for gpu in self.gpus]
            for rank, end in enumerate(ends):
                end.sends = sends
                groups: Any = Groups(
                    header,
                    end,
                    timeout,
                    torch.device("cpu"),
                    set(),
                    self.gpus[rank],  # type: ignore[arg-type]
                )
                if rank == source:
                    self.senders.append(DistSender(1 - rank, groups))
                else:
                    self.receivers.append(DistReceiver(source, groups, 2))

    def close(self) -> None:
        for end in [*self.senders, *self.receivers]:
            end.close()


@pytest.fixture(autouse=True)
def groups_in_place_of_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    calls = SimpleNamespace(
        send=lambda tensor, peer, group: group.send(tensor),
        recv=lambda tensor, peer, group: group.recv(tensor),
    )
    monkeypatch.setattr(dist, "dist", calls)
    yield


def cross(pair: Pair, timeout: float) -> list[Tensor]:
    """Both stages send at the same time, and receive."""
    for rank, sender in enumerate(pair.senders):
        sender.send(TargetGradient(0, 0, pair.gpus[rank].put(torch.full((64,), float(rank)))), timeout)
    return [receiver.recv(timeout).grad for receiver in pair.receivers]  # type: ignore[union-attr]


def test_on_one_stream_for_all_neighbours_that_send_to_each_other_wait_until_the_deadline() -> None:
    pair = Pair(SharedStreamGpu, timeout=0.3)
    with pytest.raises(TransportTimeout, match=r"a transfer of the GPU was not done in 0\.3 s"):
        cross(pair, TEST_TIMEOUT_S)
    pair.close()


def test_on_lanes_of_their_own_neighbours_send_to_each_other() -> None:
    pair = Pair(FakeGpu, timeout=TEST_TIMEOUT_S)
    assert [float(grad.mean()) for grad in cross(pair, TEST_TIMEOUT_S)] == [0.0, 1.0]
    pair.close()


def test_the_compute_stream_never_waits_for_a_transfer() -> None:
    pair = Pair(FakeGpu, timeout=TEST_TIMEOUT_S)
    waits: list[Any] = []
    for gpu in pair.gpus:
        gpu.default.wait_event = waits.append  # type: ignore[method-assign]
    cross(pair, TEST_TIMEOUT_S)
    assert waits == []
    pair.close()


def test_a_transfer_begins_when_its_tensors_are_computed() -> None:
    pair = Pair(FakeGpu, timeout=TEST_TIMEOUT_S)
    computed = threading.Event()
    tensor = pair.gpus[0].put(torch.zeros(8))

    def compute() -> bool:
        if computed.is_set():
            tensor.fill_(7.0)
        return computed.is_set()

    pair.gpus[0].default.add(compute)
    pair.senders[0].send(TargetGradient(0, 0, tensor), TEST_TIMEOUT_S)
    pair.senders[1].send(TargetGradient(0, 0, pair.gpus[1].put(torch.zeros(8))), TEST_TIMEOUT_S)
    pair.receivers[1].recv(TEST_TIMEOUT_S)
    assert not pair.receivers[0].poll()
    computed.set()
    arrived = pair.receivers[0].recv(TEST_TIMEOUT_S)
    assert isinstance(arrived, TargetGradient) and arrived.grad.tolist() == [7.0] * 8
    pair.close()
