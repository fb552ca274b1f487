"""Both halves of a bounded queue between threads, each with a doorbell for an event loop.

    sending end                         receiving end
    Credits.take() --message--> Inbox.put() ... Inbox.get()
    Credits.give() <----------release-----------

The transports that work with threads (memory, dist, rpc, tcp) differ in how `put` and `give` reach the other
side: their ends are a `QueueSender` and a `QueueReceiver`.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import deque
from typing import Generic, TypeVar

from typing_extensions import override

from dni_async.messages import Message
from workers.transport.base import (
    Deadline,
    Doorbell,
    Receiver,
    Sender,
    TransportError,
    TransportTimeout,
    wait_any,
)

T = TypeVar("T")


class _End(Generic[T]):
    """A doorbell, the lock it rings under, and the error that ended the channel, if any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bell = Doorbell()
        self._error: TransportError | None = None

    def fileno(self) -> int:
        """Readable when there may be news."""
        return self._bell.fileno()

    def ended(self) -> bool:
        """Whether the channel has ended, by `fail` or `close`."""
        return self._error is not None

    def fail(self, error: TransportError) -> None:
        """End the channel: when all that came before is consumed, `error` (or that of an earlier call) is
        raised."""
        with self._lock:
            self._error = self._error or error
            self._bell.ring()

    def close(self) -> None:
        """Free the doorbell. May be called twice."""
        with self._lock:
            self._error = TransportError("this end of the channel is closed")
            self._bell.close()

    def _has_any(self) -> bool:
        """Whether there is something to take; called under the lock."""
        raise NotImplementedError

    def _pop(self) -> T:
        """Take it; called under the lock after `_has_any` was True."""
        raise NotImplementedError

    def _take(self, timeout: float, what: str) -> T:
        deadline = Deadline(timeout)
        while True:
            with self._lock:
                if self._has_any():
                    return self._pop()
            if not wait_any([self], deadline.left()):
                raise TransportTimeout(f"{what} in {timeout:g} s")

    def _raise_if_ended(self) -> None:
        if self._error is not None:
            raise type(self._error)(*self._error.args)  # a copy: a stored error would grow a traceback


class Inbox(_End[Message]):
    """Messages that arrived, in order."""

    def __init__(self) -> None:
        super().__init__()
        self._queue: deque[Message] = deque()

    def put(self, message: Message) -> None:
        """Add a message; called from any thread."""
        with self._lock:
            self._queue.append(message)
            self._bell.ring()

    def poll(self) -> bool:
        """Whether `get` would return at once. Raises the channel's error if nothing can come any more."""
        with self._lock:
            return self._has_any()

    def get(self, timeout: float) -> Message:
        """The oldest message, waiting up to `timeout` seconds for it."""
        return self._take(timeout, "no message came")

    def messages(self) -> list[Message]:
        """Return the waiting messages, the oldest first."""
        with self._lock:
            return list(self._queue)

    @override
    def close(self) -> None:
        super().close()
        self._queue.clear()

    def _has_any(self) -> bool:
        if self._queue:
            return True
        self._raise_if_ended()
        self._bell.acknowledge()
        return False

    def _pop(self) -> Message:
        return self._queue.popleft()


class Credits(_End[None]):
    """How many messages may still be sent."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._free = count

    def ready(self) -> bool:
        """Whether `take` would return at once. Raises the channel's error if the peer is gone."""
        with self._lock:
            return self._has_any()

    def take(self, timeout: float) -> None:
        """Use one credit, waiting up to `timeout` seconds for it."""
        self._take(timeout, "no credit came back (the peer released no message)")

    def give(self) -> None:
        """Return one credit; called from any thread."""
        with self._lock:
            self._free += 1
            self._bell.ring()

    def _has_any(self) -> bool:
        self._raise_if_ended()
        self._bell.acknowledge()
        return self._free > 0

    def _pop(self) -> None:
        self._free -= 1


class QueueSender(Sender):
    """A sender that needs a credit for each message. Its `close` must close the credits."""

    def __init__(self, peer: int, credits: Credits) -> None:
        self.peer = peer
        self._credits = credits

    @override
    def fileno(self) -> int:
        return self._credits.fileno()

    @override
    def peer_gone(self) -> bool:
        return self._credits.ended()

    @override
    def ready(self) -> bool:
        return self._credits.ready()


class QueueReceiver(Receiver):
    """A receiver of messages from an inbox. Its `close` must close the inbox."""

    def __init__(self, peer: int, inbox: Inbox) -> None:
        self.peer = peer
        self._inbox = inbox
        self._unreleased = 0

    @override
    def fileno(self) -> int:
        return self._inbox.fileno()

    @override
    def peer_gone(self) -> bool:
        return self._inbox.ended()

    @override
    def poll(self) -> bool:
        return self._inbox.poll()

    @override
    def recv(self, timeout: float) -> Message:
        message = self._inbox.get(timeout)
        self._unreleased += 1
        return message

    @override
    def release(self) -> None:
        if not self._unreleased:
            raise TransportError("nothing to release (every received message was released already)")
        self._unreleased -= 1
        self._return_credit()

    @abstractmethod
    def _return_credit(self) -> None:
        """Return one credit to the sender."""
