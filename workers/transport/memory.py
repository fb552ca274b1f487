"""Channels between threads of one process, or inside one thread. Messages are passed by reference.

sender thread                   receiver thread
take a credit
put the message  ------------>  get it, use it
take a credit    <------------  release: give the credit back
"""

from __future__ import annotations

from dni_async.messages import Message
from workers.transport.base import PeerGone, check_capacity
from workers.transport.queues import Credits, Inbox, QueueReceiver, QueueSender
from workers.transport.wire import payload_bytes


def memory_channel(
    capacity: int, sender_stage: int = 0, receiver_stage: int = 1
) -> tuple[MemorySender, MemoryReceiver]:
    """Both ends of a channel that holds at most `capacity` messages. Raises ValueError below 1."""
    inbox, credits = Inbox(), Credits(check_capacity(capacity))
    return MemorySender(receiver_stage, inbox, credits), MemoryReceiver(sender_stage, inbox, credits)


class MemorySender(QueueSender):
    """The end that messages go into; see `memory_channel`."""

    def __init__(self, peer: int, inbox: Inbox, credits: Credits) -> None:
        super().__init__(peer, credits)
        self._inbox = inbox

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


class MemoryReceiver(QueueReceiver):
    """The end that messages come out of; see `memory_channel`."""

    def __init__(self, peer: int, inbox: Inbox, credits: Credits) -> None:
        super().__init__(peer, inbox)
        self._credits = credits

    def close(self) -> None:
        """Stop receiving; the sender learns that nobody listens."""
        self._credits.fail(PeerGone("the peer closed the channel"))
        self._inbox.close()

    def _return_credit(self) -> None:
        self._credits.give()
