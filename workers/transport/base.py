"""The contract of every transport.

A *link* between stage i and stage i+1 is two one-way *channels*, so that an activation never queues
behind a gradient. A channel has a `Sender` at one end and a `Receiver` at the other:

    stage i                                              stage i+1
    Sender  --header, payload-->  [at most `capacity`]  --> Receiver
            <--------------credit (release)--------------

- bounded: the sender holds at most `capacity` messages that were not released; then `ready()` is False;
- ordered: messages arrive once, in the order sent, whatever their sizes and dtypes;
- borrowed: a received tensor may lie in the transport's memory. The receiver must not write to it after
  `release()`; a tensor that somebody still refers to then keeps its content;
- owned: after `send()` the caller no longer writes to the message's tensors;
- dead peers: `poll`, `recv`, `ready` and `send` raise `PeerGone` once the peer is gone and all it had
  sent is consumed; a peer that closed its end counts as gone. `release` never does;
- deadlines: every wait has a timeout in seconds and raises `TransportTimeout`;
- sleeping: a receiver's descriptor is readable while a message or the peer's end waits, a sender's from
  a credit (or the peer's end) until the next `ready` or `send`. So a loop polls before it sleeps:

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
    """Whether an error of torch means that a deadline was reached; torch has no class for it."""
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
    spin_s = 0.0
    """How long `wait_any` may poll before it sleeps. Above 0 for channels of the kernel, whose latency is
    shorter than that of a wake-up; polling would hinder a channel that is served by a thread of this
    process."""

    @abstractmethod
    def fileno(self) -> int:
        """A descriptor that becomes readable when there may be news."""

    @abstractmethod
    def peer_gone(self) -> bool:
        """Whether the peer is known to be gone, even if messages from it are still unread."""

    @abstractmethod
    def close(self) -> None:
        """Free all resources. What was sent before still arrives. May be called twice."""

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
        """Whether `send` would not wait for a credit."""

    @abstractmethod
    def send(self, message: Message, timeout: float) -> None:
        """Send a message, with tensors on any device, waiting up to `timeout` seconds for a credit."""

    def await_ready(self, deadline: Deadline) -> None:
        """Wait until `ready`. Raises TransportTimeout at the deadline."""
        while not self.ready():
            self.flush(deadline.left())
            if not wait_any([self], deadline.left()):
                raise TransportTimeout(f"stage {self.peer} released no message in {deadline.timeout:g} s")

    def poke(self) -> bool:
        """Send what waited for its copy from a GPU, as far as that is done; return whether more waits."""
        return False

    def flush(self, timeout: float) -> None:
        """Send what waits for its copy from a GPU; called before sleeping, since else the next `ready` or
        `send` would send it."""
        return

    def pinned(self) -> bool | None:
        """Whether a GPU copies into the memory of all messages without a detour; None where none does."""
        return None

    @abstractmethod
    def held_bytes(self) -> int:
        """Bytes that this end holds for messages that were not released."""


class Receiver(Channel):
    """The end that messages come out of."""

    activity = ""
    """What it does at the moment to make the next message, for the line about a rank that others wait for."""

    @abstractmethod
    def poll(self) -> bool:
        """Whether a message can be received without waiting."""

    @abstractmethod
    def recv(self, timeout: float) -> Message:
        """The next message, waiting up to `timeout` seconds for it."""

    @abstractmethod
    def release(self) -> None:
        """Release the oldest received message that was not released yet: the sender may send one more."""


class Doorbell:
    """Lets a thread wake an event loop that sleeps on file descriptors."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a late ring must not hit a descriptor that close() has freed
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Readable after `ring` until `acknowledge`."""
        return self._event

    def ring(self) -> None:
        """Wake a loop that sleeps on this. Does nothing after `close`."""
        with self._lock:
            if self._event >= 0:
                os.eventfd_write(self._event, 1)

    def acknowledge(self) -> None:
        """Stop ringing. To be called before looking for news, not after."""
        with self._lock:
            try:
                if self._event >= 0:
                    os.eventfd_read(self._event)
            except BlockingIOError:
                pass  # it did not ring

    def close(self) -> None:
        """Free the descriptor. May be called twice."""
        with self._lock:
            if self._event >= 0:
                os.close(self._event)
            self._event = -1


def wait_any(channels: Sequence[Waitable], timeout: float, eager: bool = False) -> bool:
    """Sleep until one of the channels has news; False if `timeout` seconds passed first.

    Args:
        eager: poll for `Channel.spin_s` before sleeping; for a process with a core of its own, as polling
            takes all of it.
    """
    poller = select.poll()
    for channel in channels:
        poller.register(channel.fileno(), select.POLLIN)
    if eager and (spin := min([getattr(channel, "spin_s", 0.0) for channel in channels], default=0.0)):
        end = time.perf_counter() + min(spin, timeout)
        while time.perf_counter() < end:
            if poller.poll(0):
                return True
    return bool(poller.poll(max(0.0, timeout) * 1e3))


MAX_CAPACITY = 128
"""Largest capacity of any channel: so many credits surely fit into a socket's buffer, and `release` never
waits."""


def check_capacity(capacity: int) -> int:
    """`capacity`, if a channel can have it. Raises ValueError if not."""
    if not 1 <= capacity <= MAX_CAPACITY:
        raise ValueError(f"channel capacity is {capacity}; use 1 to {MAX_CAPACITY}")
    return capacity


class Deadline:
    """Counts down from `timeout` seconds."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._end = time.monotonic() + timeout

    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())
