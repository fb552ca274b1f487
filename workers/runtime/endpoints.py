"""Channel ends that belong to no transport: stage 0's data and report, and a receiver that takes in
everything."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from typing_extensions import override

from dni_async.messages import Marker, Message, TargetGradient
from workers.transport.base import Channel, PeerGone, Receiver, Sender
from workers.transport.forwarding import ForwardingReceiver


class _LocalEnd(Channel):
    """An end whose other side is in this process: always ready, so nobody sleeps on it."""

    peer = -1

    @override
    def fileno(self) -> int:
        raise AssertionError("source and sink are always ready")

    @override
    def peer_gone(self) -> bool:
        return False

    @override
    def close(self) -> None:
        pass


class Source(_LocalEnd, Receiver):
    """Delivers the batches and markers of stage 0 from an iterator that ends with the STOP marker."""

    def __init__(self, messages: Iterator[Message]) -> None:
        self._messages = messages

    @override
    def poll(self) -> bool:
        return True

    @override
    def recv(self, timeout: float) -> Message:
        self.activity = ", reading a batch of the data set"
        message = next(self._messages)
        self.activity = ""
        return message

    @override
    def release(self) -> None:
        pass


class Sink(_LocalEnd, Sender):
    """Passes the markers that come back to stage 0 to `report`."""

    def __init__(self, report: Callable[[Marker], None]) -> None:
        self._report = report

    @override
    def ready(self) -> bool:
        return True

    @override
    def send(self, message: Message, timeout: float) -> None:
        assert isinstance(message, Marker), message
        self._report(message)

    @override
    def held_bytes(self) -> int:
        return 0


class DrainingReceiver(ForwardingReceiver):
    """Takes in every message at once, so that the neighbour has room to send while messages wait here.

    In lockstep a target waits until it is due, and markers wait behind it. Left in the channel they would
    fill it, the neighbour would take no more activations, and no target would ever be due. The descriptor is
    quiet after `poll`, even while messages wait here.

    Args:
        initial: messages that come before all others.
    """

    def __init__(self, receiver: Receiver, initial: Iterable[Message] = ()) -> None:
        super().__init__(receiver)
        self.spin_s = 0.0  # a stage whose next message is not due leaves the core to the others
        self._waiting: deque[Message] = deque(initial)

    @override
    def poll(self) -> bool:
        try:
            while self._receiver.poll():
                self._waiting.append(self._take())
        except PeerGone:
            if not self._waiting:
                raise
        return bool(self._waiting)

    @override
    def recv(self, timeout: float) -> Message:
        """The oldest message, in memory of its own."""
        return self._waiting.popleft() if self._waiting else self._take(timeout)

    @override
    def release(self) -> None:
        """Nothing: the message was released when it was taken in."""

    def _take(self, timeout: float = 0.0) -> Message:
        message = self._receiver.recv(timeout)
        if isinstance(message, TargetGradient):
            message.grad = message.grad.clone()
        self._receiver.release()
        return message
