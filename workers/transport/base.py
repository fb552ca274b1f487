"""The contract of every transport.

A *link* between stage i and stage i+1 is two one-way *channels*, so that an activation never queues
behind a gradient. A channel has a `Sender` at one end and a `Receiver` at the other:

    stage i                                              stage i+1
    Sender  --header, payload-->  [at most `capacity`]  --> Receiver
            <--------------credit (release)--------------

- bounded: the sender holds at most `capacity` messages that were not released; then `ready()` is False;
- ordered: messages arrive once, in the order sent, whatever their sizes and dtypes;
- lent: a received tensor may lie in the transport's memory and is valid until `release()`;
- owned: after `send()` the caller no longer writes to the message's tensors;
- dead peers: `poll`, `recv`, `ready` and `send` raise `PeerGone` once the peer is gone and all it had
  sent is consumed; a peer that closed its end counts as gone. `release` never does: a credit for
  somebody who left is no news;
- deadlines: every wait has a timeout in seconds and raises `TransportTimeout`;
- sleeping: a receiver's descriptor is readable while a message or the peer's end waits, a sender's from
  a credit (or the peer's end) until the next `ready` or `send`. So a loop looks first and sleeps then:

      while not receiver.poll():  # raises PeerGone when nothing can come any more
          wait_any([receiver], 1.0)

One conformance suite (tests/support/conformance.py) runs over every implementation.
"""

from __future__ import annotations

import os
import select
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, TypeVar

from dni_async.messages import Message

C = TypeVar("C", bound="Channel")


class TransportError(RuntimeError):
    """A channel that cannot go on."""


class TransportTimeout(TransportError):
    """Nothing happened before the deadline."""


class PeerGone(TransportError):
    """The process at the other end is gone."""


def timed_out(error: Exception) -> bool:
    """Whether torch says by this error that an operation has reached its deadline: it has no class for it."""
    text = str(error).lower()
    return "timed out" in text or "timeout" in text


class Waitable(Protocol):
    """Something an event loop can sleep on."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when there may be news."""


class Channel(ABC):
    """One end of a one-way channel."""

    peer: int
    """The stage at the other end."""
    spin = 0.0
    """Seconds to ask for news before sleeping, which see `wait_any`: for channels that the kernel brings
    news to sooner than it wakes a sleeper. Where a thread of this process brings them, asking hinders it."""

    @abstractmethod
    def fileno(self) -> int:
        """A descriptor that becomes readable when there may be news."""

    @abstractmethod
    def peer_gone(self) -> bool:
        """Whether the peer is known to be gone, even if messages of its are still unread."""

    @abstractmethod
    def close(self) -> None:
        """Give back all resources. What was sent before still arrives. May be called twice."""

    def __enter__(self: C) -> C:
        return self

    def __exit__(self, kind: type | None, value: object, traceback: TracebackType | None) -> None:
        self.close()


class Sender(Channel):
    """The end that messages go into."""

    sent = 0
    """Messages sent so far."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether `send` would go through without waiting for a credit."""

    @abstractmethod
    def send(self, message: Message, timeout: float) -> None:
        """Hand a message over, waiting up to `timeout` seconds for a credit."""

    def flush(self, timeout: float) -> None:
        """See off what waits for its copy from a GPU, which else leaves at the next `ready` or `send`; for
        who is about to sleep."""
        return

    @abstractmethod
    def held_bytes(self) -> int:
        """Bytes that this end holds for messages on their way."""


class Receiver(Channel):
    """The end that messages come out of."""

    @abstractmethod
    def poll(self) -> bool:
        """Whether a message can be received without waiting."""

    @abstractmethod
    def recv(self, timeout: float) -> Message:
        """The next message, waiting up to `timeout` seconds for it."""

    @abstractmethod
    def release(self) -> None:
        """Give back the oldest received message that was not released; its tensors end here."""


class Doorbell:
    """Lets a thread wake an event loop that sleeps on file descriptors."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a late ring must not hit a number that close() gave back
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Readable after `ring` until `hush`."""
        return self._event

    def ring(self) -> None:
        """Wake whoever sleeps on this. Ringing twice is ringing once; after `close` it is nothing."""
        with self._lock:
            if self._event >= 0:
                os.eventfd_write(self._event, 1)

    def hush(self) -> None:
        """Stop ringing. Look for news after this, not before."""
        with self._lock:
            try:
                if self._event >= 0:
                    os.eventfd_read(self._event)
            except BlockingIOError:
                pass  # it did not ring

    def close(self) -> None:
        """Give back the descriptor. May be called twice."""
        with self._lock:
            if self._event >= 0:
                os.close(self._event)
            self._event = -1


def wait_any(channels: Sequence[Waitable], timeout: float, eager: bool = False) -> bool:
    """Sleep until one of the channels has news; False when `timeout` seconds passed first.

    eager: ask again and again for a while before sleeping, where the channels are `Channel.spin`; for
    who has a core of its own, as asking takes all of it.
    """
    poller = select.poll()
    for channel in channels:
        poller.register(channel.fileno(), select.POLLIN)
    if eager and (spin := min([getattr(channel, "spin", 0.0) for channel in channels], default=0.0)):
        end = time.perf_counter() + min(spin, timeout)
        while time.perf_counter() < end:
            if poller.poll(0):
                return True
    return bool(poller.poll(max(0.0, timeout) * 1e3))


class Deadline:
    """Counts down from `timeout` seconds."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._end = time.monotonic() + timeout

    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())
