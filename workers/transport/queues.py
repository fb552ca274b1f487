"""The two halves of a bounded queue between threads, each with a doorbell for an event loop.

    sending end                         receiving end
    Credits.take() --message--> Inbox.put() ... Inbox.get()
    Credits.give() <----------release-----------

The transports that work with threads (memory, dist, rpc) differ only in how `put` and `give` reach the
other side: their ends are a `QueueSender` and a `QueueReceiver`.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import deque
from typing import Generic, TypeVar

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
        """Whether `fail` or `close` was called."""
        return self._error is not None

    def fail(self, error: TransportError) -> None:
        """No more comes: raise `error` once all that came before is consumed. The first error stays."""
        with self._lock:
            self._error = self._error or error
            self._bell.ring()

    def close(self) -> None:
        """Give back the doorbell. May be called twice."""
        with self._lock:
            self._error = TransportError("this end of the channel is closed")
            self._bell.close()

    def _look(self) -> bool:
        """Whether there is something to take; called under the lock."""
        raise NotImplementedError

    def _pick(self) -> T:
        """Take it; called under the lock after `_look` said yes."""
        raise NotImplementedError

    def _take(self, timeout: float, what: str) -> T:
        deadline = Deadline(timeout)
        while True:
            with self._lock:
                if self._look():
                    return self._pick()
            if not wait_any([self], deadline.left()):
                raise TransportTimeout(f"{what} in {timeout:g} s")

    def _raise_if_ended(self) -> None:
        if self._error is not None:
            raise type(self._error)(*self._error.args)  # a new one: a stored error would grow a traceback


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
        """Whether `get` would return at once. Raises the end's error when nothing can come any more."""
        with self._lock:
            return self._look()

    def get(self, timeout: float) -> Message:
        """The oldest message, waiting up to `timeout` seconds for it."""
        return self._take(timeout, "no message came")

    def messages(self) -> list[Message]:
        """What waits here now."""
        with self._lock:
            return list(self._queue)

    def close(self) -> None:
        """Drop what was not received, give back the doorbell."""
        super().close()
        self._queue.clear()

    def _look(self) -> bool:
        if self._queue:
            return True
        self._raise_if_ended()
        self._bell.hush()
        return False

    def _pick(self) -> Message:
        return self._queue.popleft()


class Credits(_End[None]):
    """How many messages may still be sent."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._free = count

    def ready(self) -> bool:
        """Whether `take` would return at once. Raises the end's error when the peer is gone."""
        with self._lock:
            return self._look()

    def take(self, timeout: float) -> None:
        """Use one credit, waiting up to `timeout` seconds for it."""
        self._take(timeout, "no credit came back (the peer released no message)")

    def give(self) -> None:
        """Return one credit; called from any thread."""
        with self._lock:
            self._free += 1
            self._bell.ring()

    def _look(self) -> bool:
        self._raise_if_ended()
        self._bell.hush()
        return self._free > 0

    def _pick(self) -> None:
        self._free -= 1


class QueueSender(Sender):
    """A sender that needs a credit per message. Its `close` must close the credits."""

    def __init__(self, peer: int, credits: Credits) -> None:
        self.peer = peer
        self._credits = credits

    def fileno(self) -> int:
        """A doorbell: a credit came, or the channel ended."""
        return self._credits.fileno()

    def peer_gone(self) -> bool:
        """Whether sending failed or the receiver closed."""
        return self._credits.ended()

    def ready(self) -> bool:
        """Whether there is a credit."""
        return self._credits.ready()


class QueueReceiver(Receiver):
    """A receiver that takes messages out of an inbox. Its `close` must close the inbox."""

    def __init__(self, peer: int, inbox: Inbox) -> None:
        self.peer = peer
        self._inbox = inbox
        self._lent = 0

    def fileno(self) -> int:
        """A doorbell: a message came, or the channel ended."""
        return self._inbox.fileno()

    def peer_gone(self) -> bool:
        """Whether receiving failed or the sender closed."""
        return self._inbox.ended()

    def poll(self) -> bool:
        """Whether a message waits."""
        return self._inbox.poll()

    def recv(self, timeout: float) -> Message:
        """The oldest message; it is the receiver's own."""
        message = self._inbox.get(timeout)
        self._lent += 1
        return message

    def release(self) -> None:
        """Let the sender send one more."""
        if not self._lent:
            raise TransportError("nothing to release (every received message was released already)")
        self._lent -= 1
        self._give_back()

    @abstractmethod
    def _give_back(self) -> None:
        """Return one credit to the sender."""


def check_capacity(capacity: int, most: int | None = None) -> int:
    """`capacity`, if a channel can have it. Raises ValueError if not."""
    if capacity < 1 or (most is not None and capacity > most):
        bounds = "at least 1" if most is None else f"1 to {most}"
        raise ValueError(f"channel capacity is {capacity}; use {bounds}")
    return capacity
