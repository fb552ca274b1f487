"""Channels between threads of one process, or inside one thread. Messages are passed by reference.

sender thread                   receiver thread
take a credit
put the message  ------------>  get it, use it
take a credit    <------------  release: give the credit back
"""

from __future__ import annotations

from dni_async.messages import Message
from workers.transport.base import PeerGone, Receiver, Sender, TransportError
from workers.transport.queues import Credits, Inbox, check_capacity
from workers.transport.wire import payload_bytes


def memory_channel(
    capacity: int, sender_stage: int = 0, receiver_stage: int = 1
) -> tuple[MemorySender, MemoryReceiver]:
    """Both ends of a channel that holds at most `capacity` messages. Raises ValueError below 1."""
    inbox, credits = Inbox(), Credits(check_capacity(capacity))
    return MemorySender(receiver_stage, inbox, credits), MemoryReceiver(sender_stage, inbox, credits)


class MemorySender(Sender):
    """The end that messages go into; see `memory_channel`."""

    def __init__(self, peer: int, inbox: Inbox, credits: Credits) -> None:
        self.peer = peer
        self._inbox = inbox
        self._credits = credits

    def fileno(self) -> int:
        """The credits' doorbell."""
        return self._credits.fileno()

    def peer_gone(self) -> bool:
        """Whether the receiver closed its end."""
        return self._credits.ended()

    def ready(self) -> bool:
        """Whether there is a credit."""
        return self._credits.ready()

    def send(self, message: Message, timeout: float) -> None:
        """Pass the message itself on: nothing is copied."""
        self._credits.take(timeout)
        self._inbox.put(message)
        self.sent += 1

    def held_bytes(self) -> int:
        """Bytes of the tensors that wait to be received."""
        return sum(payload_bytes(message) for message in self._inbox.messages())

    def close(self) -> None:
        """End the stream; the receiver still gets what is in it."""
        self._inbox.fail(PeerGone(f"the peer closed the channel after {self.sent} messages"))
        self._credits.close()


class MemoryReceiver(Receiver):
    """The end that messages come out of; see `memory_channel`."""

    def __init__(self, peer: int, inbox: Inbox, credits: Credits) -> None:
        self.peer = peer
        self._inbox = inbox
        self._credits = credits
        self._lent = 0

    def fileno(self) -> int:
        """The inbox's doorbell."""
        return self._inbox.fileno()

    def peer_gone(self) -> bool:
        """Whether the sender closed its end."""
        return self._inbox.ended()

    def poll(self) -> bool:
        """Whether a message waits."""
        return self._inbox.poll()

    def recv(self, timeout: float) -> Message:
        """The oldest message, the very object that was sent."""
        message = self._inbox.get(timeout)
        self._lent += 1
        return message

    def release(self) -> None:
        """Give one credit back."""
        if not self._lent:
            raise TransportError("nothing to release (every received message was released already)")
        self._lent -= 1
        self._credits.give()

    def close(self) -> None:
        """Stop receiving; the sender learns that nobody listens."""
        self._credits.fail(PeerGone("the peer closed the channel"))
        self._inbox.close()
