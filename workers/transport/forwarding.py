"""Channel ends that forward to another end; a subclass overrides what it does differently."""

from __future__ import annotations

from dni_async.messages import Message
from workers.transport.base import Receiver, Sender


class ForwardingSender(Sender):
    """Sends by another sender; by itself it changes nothing."""

    def __init__(self, sender: Sender) -> None:
        self.peer, self.spin_s = sender.peer, sender.spin_s
        self._sender = sender

    def fileno(self) -> int:
        """The sender's."""
        return self._sender.fileno()

    def peer_gone(self) -> bool:
        """Whether the sender's peer is."""
        return self._sender.peer_gone()

    def ready(self) -> bool:
        """Whether the sender has room."""
        return self._sender.ready()

    def send(self, message: Message, timeout: float) -> None:
        """Hand the message to the sender."""
        self._sender.send(message, timeout)
        self.sent += 1

    def flush(self, timeout: float) -> None:
        """See off what waits for its copy in the sender."""
        self._sender.flush(timeout)

    def held_bytes(self) -> int:
        """The sender's."""
        return self._sender.held_bytes()

    def close(self) -> None:
        """Close the sender."""
        self._sender.close()


class ForwardingReceiver(Receiver):
    """Receives by another receiver; by itself it changes nothing."""

    def __init__(self, receiver: Receiver) -> None:
        self.peer, self.spin_s = receiver.peer, receiver.spin_s
        self._receiver = receiver

    def fileno(self) -> int:
        """The receiver's."""
        return self._receiver.fileno()

    def peer_gone(self) -> bool:
        """Whether the receiver's peer is."""
        return self._receiver.peer_gone()

    def poll(self) -> bool:
        """Whether a message waits in the receiver."""
        return self._receiver.poll()

    def recv(self, timeout: float) -> Message:
        """The receiver's next message."""
        return self._receiver.recv(timeout)

    def release(self) -> None:
        """Give a message back to the receiver."""
        self._receiver.release()

    def close(self) -> None:
        """Close the receiver."""
        self._receiver.close()
