"""Channel ends that forward to another end; a subclass overrides what it does differently."""

from __future__ import annotations

from typing_extensions import override

from dni_async.contract import wrong_value
from dni_async.errors import UserError
from dni_async.messages import Message
from workers.transport.base import Channel, Receiver, Sender


class _Forwarding(Channel):
    def __init__(self, end: Channel) -> None:
        self.peer, self.spin_s = end.peer, end.spin_s
        self._end = end

    @override
    def fileno(self) -> int:
        return self._end.fileno()

    @override
    def peer_gone(self) -> bool:
        return self._end.peer_gone()

    @override
    def close(self) -> None:
        self._end.close()


class ForwardingSender(_Forwarding, Sender):
    """Forwards every call to another sender; a base for senders that change messages on the way."""

    def __init__(self, sender: Sender) -> None:
        super().__init__(sender)
        self._sender = sender

    @override
    def ready(self) -> bool:
        return self._sender.ready()

    @override
    def send(self, message: Message, timeout: float) -> None:
        self._sender.send(message, timeout)
        self.sent += 1

    @override
    def poke(self) -> bool:
        return self._sender.poke()

    @override
    def flush(self, timeout: float) -> None:
        self._sender.flush(timeout)

    @override
    def pinned(self) -> bool | None:
        return self._sender.pinned()

    @override
    def held_bytes(self) -> int:
        return self._sender.held_bytes()


class ForwardingReceiver(_Forwarding, Receiver):
    """Forwards to another receiver."""

    def __init__(self, receiver: Receiver) -> None:
        super().__init__(receiver)
        self._receiver = receiver

    @override
    def poll(self) -> bool:
        return self._receiver.poll()

    @override
    def recv(self, timeout: float) -> Message:
        return self._receiver.recv(timeout)

    @override
    def release(self) -> None:
        self._receiver.release()


def not_a_message(receiver: Receiver, value: object) -> UserError:
    """Return the error that `recv` of a receiver, or of the one that it forwards from, returned `value`."""
    while isinstance(receiver, ForwardingReceiver):
        receiver = receiver._receiver
    return wrong_value(receiver, "recv", value, "the next message")
