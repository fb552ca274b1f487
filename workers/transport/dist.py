"""Channels across hosts: torch.distributed point-to-point, gloo for headers, gloo or NCCL for tensors.

One daemon thread per end does the waiting. A gloo send ends only when the receive is posted, which bounds the
channel without credit messages: the receiver posts no receive while its share is full.

    sender's caller   sender's thread              receiver's thread            receiver's caller
    send ----------->  queue (1 message)
                       header         ~~waits~~>   while queued + unreleased
                                                     < max(1, capacity - 1)
                       each tensor    --------->   tensors of the header's shape
    <--- ready         (queue is empty)              inbox ---------------------> recv
                                                                                use
                                                   may post again  <----------- release
                       heartbeat      --------->   (ignored)
    close ---------->  goodbye        --------->   (the end)

In flight: the sender's queue and the receiver's share, together `capacity` messages (2 for a capacity of 1).

Dead peers: a broken connection fails the pending operation at once; an idle sender notices at its next
heartbeat, a receiver whose share is full when its caller releases.

Deadlines: the group's `timeout` is the longest that a message (or a heartbeat) may wait for the receiver to
post. A receiver that holds its share for longer than that ends the channel.

Close all ends before `destroy_process_group`: a thread that still waits inside gloo when its group or the
interpreter ends can abort the process. Close the senders first: two stages that both close their receiver
first wait CLOSE_TIMEOUT_S for each other's goodbye. What is open when the interpreter ends is closed then.
The receiver's `close` reads on in the background until the goodbye, so the sender never hangs in its own
`close`; the sender learns of it by the process's end only.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from dni_async.messages import Message
from workers.runtime.accelerator import Event
from workers.transport.base import PeerGone, TransportError, TransportTimeout, check_capacity, timed_out
from workers.transport.dist_groups import Groups
from workers.transport.lanes import Lane
from workers.transport.queues import Credits, Inbox, QueueReceiver, QueueSender
from workers.transport.wire import HEADER_BYTES, WireError, add_checksum, assemble, decode, encode

HEARTBEAT_INTERVAL_S = 2.0
"""After how long a silent sender shows that it is alive (sooner for short group timeouts)."""
CLOSE_TIMEOUT_S = 5.0
"""How long `close` waits for the peer to take what is still to be sent."""

_HEARTBEAT_FRAME = b"beat".ljust(HEADER_BYTES, b"\0")
_GOODBYE_FRAME = b"bye!".ljust(HEADER_BYTES, b"\0")


class DistSender(QueueSender):
    """The sending end. `peer` is the receiver's stage and, in the default group, its rank."""

    def __init__(self, peer: int, groups: Groups) -> None:
        super().__init__(peer, Credits(1))  # the queue holds one message
        self._groups, self._lane = groups, groups.lane()
        self._queue: queue.SimpleQueue[_Parcel | None] = queue.SimpleQueue()
        self._sending = 0
        self._thread = threading.Thread(target=self._run, name=f"send to {peer}", daemon=True)
        self._thread.start()
        groups.ends.add(self)

    @override
    def send(self, message: Message, timeout: float) -> None:
        header, tensors, _ = encode(message)
        self._credits.take(timeout)
        self._sending = sum(tensor.nbytes for tensor in tensors)
        tensors = [tensor.contiguous() for tensor in tensors]  # before the event, which includes such copies
        self._queue.put(_Parcel(add_checksum(header), tensors, self._lane.computed(tensors)))
        self.sent += 1

    @override
    def held_bytes(self) -> int:
        return self._sending

    def close(self) -> None:
        """Send what is left and the goodbye, waiting up to CLOSE_TIMEOUT_S for the peer to take them."""
        self._queue.put(None)
        self._thread.join(CLOSE_TIMEOUT_S)
        self._groups.ends.discard(self)
        self._credits.close()

    def _run(self) -> None:
        """Send parcels until the goodbye; the thread's body."""
        silence = min(HEARTBEAT_INTERVAL_S, self._groups.timeout / 4)
        with _thread_of(self._credits, self.peer, self._lane):
            while True:
                try:
                    parcel = self._queue.get(timeout=silence)
                except queue.Empty:
                    self._frame(_HEARTBEAT_FRAME)
                    continue
                if parcel is None:
                    return self._frame(_GOODBYE_FRAME)
                self._deliver(parcel)
                self._sending = 0
                self._credits.give()

    def _deliver(self, parcel: _Parcel) -> None:
        self._frame(parcel.header)
        with self._lane.work(parcel.tensors, parcel.computed):
            sent = [tensor.to(self._groups.device) for tensor in parcel.tensors if tensor.numel()]
            for tensor in sent:
                dist.send(_bytes(tensor), self.peer, group=self._groups.payload)

    def _frame(self, frame: bytes) -> None:
        packet = torch.frombuffer(bytearray(frame), dtype=torch.uint8)
        dist.send(packet, self.peer, group=self._groups.header)


class DistReceiver(QueueReceiver):
    """The receiving end; tensors arrive on the groups' device."""

    def __init__(self, peer: int, groups: Groups, capacity: int) -> None:
        super().__init__(peer, Inbox())
        self._groups, self._lane = groups, groups.lane()
        self._room = threading.Semaphore(max(1, check_capacity(capacity) - 1))
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"receive from {peer}", daemon=True)
        self._thread.start()
        groups.ends.add(self)

    def close(self) -> None:
        """Read up to the goodbye, waiting at most CLOSE_TIMEOUT_S; the messages are dropped."""
        self._closed = True
        self._room.release()
        self._thread.join(CLOSE_TIMEOUT_S)
        self._groups.ends.discard(self)
        self._inbox.close()

    def _return_credit(self) -> None:
        self._room.release()

    def _run(self) -> None:
        """Receive messages until the goodbye; the thread's body."""
        with _thread_of(self._inbox, self.peer, self._lane):
            while self._room.acquire():
                message = self._next()
                if message is None:
                    raise PeerGone(f"stage {self.peer} closed its end")
                if self._closed:
                    self._room.release()
                else:
                    self._inbox.put(message)

    def _next(self) -> Message | None:
        """The next message; None for the goodbye."""
        frame = _HEARTBEAT_FRAME
        while frame == _HEARTBEAT_FRAME:
            buffer = torch.empty(HEADER_BYTES, dtype=torch.uint8)
            dist.recv(buffer, self.peer, group=self._groups.header)
            frame = buffer.numpy().tobytes()
        if frame == _GOODBYE_FRAME:
            return None
        header = decode(frame)
        tensors = []
        with self._lane.work():
            for spec in header.specs:
                tensors.append(torch.empty(spec.shape, dtype=spec.dtype, device=self._groups.device))
                if spec.nbytes:
                    dist.recv(_bytes(tensors[-1]), self.peer, group=self._groups.payload)
        self._lane.hand_over(tensors)
        return assemble(header, tensors)


class _Parcel(NamedTuple):
    """An encoded message."""

    header: bytes
    tensors: list[Tensor]
    computed: Event | None
    """When the tensors are computed, for tensors on a GPU."""


def _bytes(tensor: Tensor) -> Tensor:
    """The tensor as bytes, since gloo does not know every dtype."""
    return tensor.view(-1).view(torch.uint8)


@contextlib.contextmanager
def _thread_of(end: Inbox | Credits, peer: int, lane: Lane) -> Iterator[None]:
    """Set the thread's device, and turn an error that ends the thread into one that the channel raises."""
    try:
        lane.enter_thread()
        yield
    except (TransportError, WireError) as error:
        end.fail(error if isinstance(error, TransportError) else TransportError(str(error)))
    except Exception as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        late = timed_out(error)
        kind = TransportTimeout if late else PeerGone
        end.fail(kind(f"stage {peer} {'did not answer' if late else 'is gone'} ({cause})"))
