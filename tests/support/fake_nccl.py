"""NCCL between GPUs that are not there (`fake_gpu`)."""

from __future__ import annotations

from collections import deque

from torch import Tensor

from tests.support.fake_gpu import FakeGpu, FakeStream, Work


class FakeNccl:
    """One communicator of two GPUs. A send is done when its receive has begun, whatever its size.

    Both work in a stream of the communicator, behind the work of the caller's stream, which waits for it: as
    torch's NCCL does (`syncStream` before, `synchronizeStream` behind).
    """

    def __init__(self) -> None:
        self._sending: deque[Tensor] = deque()
        """What sends that have begun, in order, have for their receivers."""
        self._taken = 0
        self._begun = 0

    def send(self, tensor: Tensor) -> Work:
        """Return the work of a send."""
        number: list[int] = []

        def work() -> bool:
            if not number:
                number.append(self._begun)
                self._begun += 1
                self._sending.append(tensor)
            return self._taken > number[0]

        return work

    def recv(self, tensor: Tensor) -> Work:
        """Return the work of a receive."""

        def work() -> bool:
            if not self._sending:
                return False
            tensor.copy_(self._sending.popleft())
            self._taken += 1
            return True

        return work


class FakeNcclEnd:
    """A communicator as one rank has it."""

    def __init__(self, nccl: FakeNccl, gpu: FakeGpu, stream: FakeStream) -> None:
        self._nccl, self._gpu, self._stream = nccl, gpu, stream

    def send(self, tensor: Tensor) -> None:
        self._do(self._nccl.send(tensor))

    def recv(self, tensor: Tensor) -> None:
        self._do(self._nccl.recv(tensor))

    def _do(self, work: Work) -> None:
        caller = self._gpu.current_stream()
        self._stream.wait_event(caller.record_event())
        self._stream.add(work)
        caller.wait_event(self._stream.record_event())
