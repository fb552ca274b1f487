"""Channels over torch.distributed.rpc: each queue is a bounded buffer at the receiver.

    sender                                        receiver
    take a credit
    rpc_async(_deliver, number, message) ------>  buffer, in the order of the numbers
                                                  recv, use
    a credit more  <------ rpc_async(_credit)     release
    rpc_async(_deliver, number, nothing) ------>  (the end, after all that was sent)
    (the end)      <------ rpc_async(_leave)      close

rpc runs calls in a pool of threads, in any order; hence the numbers. Every end pings its peer once a second:
a call to a dead process fails at once, while an idle channel would notice nothing.

Anybody who reaches the port of such a process can let it call any function: only for a trusted network.

Call `start_rpc` before the first channel is made and `stop_rpc` after the last one is closed.
"""

from __future__ import annotations

import threading
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed.rpc as rpc
import torch.distributed.rpc.constants as constants
from torch import Tensor
from typing_extensions import override

from dni_async.messages import Message
from workers.coordination.interruptible import OVERTIME_S, interruptible
from workers.transport.base import PeerGone, TransportError, check_capacity
from workers.transport.links import Link, LinkRequest, Transport
from workers.transport.queues import Credits, Inbox, QueueReceiver, QueueSender
from workers.transport.rpc_caller import Caller, worker_name
from workers.transport.wire import WireError, add_checksum, assemble, decode, encode


class RpcTransport(Transport):
    """Links over torch.distributed.rpc, which runs what any peer on its port asks for."""

    needs_trusted_network = True

    @override
    def open(self, request: LinkRequest) -> dict[int, Link]:
        rank = request.rendezvous.rank
        start_rpc(rank, request.rendezvous.world, request.timeout, attempt=request.rendezvous.restart)
        request.stack.callback(stop_rpc, request.timeout)
        return {
            n: request.link(RpcSender(rank, n, request.capacity), RpcReceiver(rank, n))
            for n in request.neighbours
        }


def start_rpc(rank: int, world_size: int, timeout: float, url: str = "env://", attempt: int = 0) -> None:
    """Join the rpc of `world_size` processes as f"stage{rank}".

    timeout: seconds for the others to come, and for each call. attempt: how often these processes were
    restarted; the store at `url` may still hold the addresses of those before.
    Raises RuntimeError when the others do not come.
    """
    options = rpc.TensorPipeRpcBackendOptions(rpc_timeout=timeout, init_method=url)
    # Both private, for want of a parameter: under this number init_rpc meets the others in the store, and
    # so long (else 30 minutes) it waits for them.
    rpc._init_counter = attempt
    constants.DEFAULT_PROCESS_GROUP_TIMEOUT = timedelta(seconds=timeout)
    with _quiet():
        interruptible(
            lambda: rpc.init_rpc(
                worker_name(rank), rank=rank, world_size=world_size, rpc_backend_options=options
            ),
            timeout + OVERTIME_S,
            f"rank {rank} could not join the rpc",
        )


def stop_rpc(timeout: float, graceful: bool = True) -> None:
    """Leave the rpc, waiting up to `timeout` seconds for all others if `graceful`; forget all channels."""
    with _quiet():
        rpc.shutdown(graceful=graceful, timeout=timeout)
    _CHANNELS.clear()


class RpcSender(QueueSender):
    """The sending end. Several channels from `me` to `peer` need different names."""

    def __init__(self, me: int, peer: int, capacity: int, name: str = "") -> None:
        self._key = _key(me, peer, name)
        super().__init__(peer, _CHANNELS.credits(self._key))
        for _ in range(check_capacity(capacity)):
            self._credits.give()
        self._caller = Caller(peer, self._credits.fail)

    @override
    def send(self, message: Message, timeout: float) -> None:
        header, tensors, _ = encode(message)
        self._credits.take(timeout)
        packet = add_checksum(header)
        self._caller.call(_deliver, self._key, self.sent, packet, [tensor.cpu() for tensor in tensors])
        self.sent += 1

    @override
    def held_bytes(self) -> int:
        return self._caller.pending_bytes()

    def close(self) -> None:
        """Tell the receiver that this was all, and wait up to CLOSE_TIMEOUT_S for its answers."""
        self._caller.close(_deliver, self._key, self.sent, b"", [])
        self._credits.close()


class RpcReceiver(QueueReceiver):
    """The receiving end."""

    def __init__(self, me: int, peer: int, name: str = "") -> None:
        self._key = _key(peer, me, name)
        self._buffer = _CHANNELS.buffer(self._key)
        super().__init__(peer, self._buffer.inbox)
        self._caller = Caller(peer, self._inbox.fail)

    def close(self) -> None:
        """Tell the sender that nobody listens."""
        self._caller.close(_leave, self._key)
        self._inbox.close()

    def _return_credit(self) -> None:
        self._caller.call(_credit, self._key)


class _Buffer:
    """Puts messages in the order of their numbers. Credits bound it."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self._lock = threading.Lock()
        self._early: dict[int, Message | None] = {}
        self._next = 0

    def add(self, number: int, message: Message | None) -> None:
        """Take message `number`; None is the end. Called from any thread."""
        with self._lock:
            self._early[number] = message
            while self._next in self._early:
                following = self._early.pop(self._next)
                self._next += 1
                if following is None:
                    self.inbox.fail(PeerGone(f"the peer closed its end (after {number} messages)"))
                else:
                    self.inbox.put(following)


class _Channels:
    """The ends in this process, by channel key, where a call of a peer finds them.

    An end is created at its first use, since a call can come before the channel is made here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buffers: defaultdict[str, _Buffer] = defaultdict(_Buffer)
        self._credits: defaultdict[str, Credits] = defaultdict(lambda: Credits(0))

    def buffer(self, key: str) -> _Buffer:
        """The receiving end of a channel."""
        with self._lock:
            return self._buffers[key]

    def credits(self, key: str) -> Credits:
        """The sending end of a channel."""
        with self._lock:
            return self._credits[key]

    def clear(self) -> None:
        """Forget all channels; their keys may be used again."""
        with self._lock:
            for buffer in self._buffers.values():
                buffer.inbox.close()
            for credits in self._credits.values():
                credits.close()
            self._buffers.clear()
            self._credits.clear()


_CHANNELS = _Channels()


def _deliver(key: str, number: int, header: bytes, tensors: list[Tensor]) -> None:
    """Called by the sender; an empty header is the end. A damaged message ends the channel at both ends."""
    buffer = _CHANNELS.buffer(key)
    try:
        message = _message(header, tensors) if header else None
    except WireError as error:
        buffer.inbox.fail(TransportError(str(error)))
        raise
    buffer.add(number, message)


def _credit(key: str) -> None:
    """Called by the receiver for each release."""
    _CHANNELS.credits(key).give()


def _leave(key: str) -> None:
    """Called by the receiver when it closes."""
    _CHANNELS.credits(key).fail(PeerGone("the peer closed its end"))


def _message(header: bytes, tensors: list[Tensor]) -> Message:
    decoded = decode(header)
    if [(spec.dtype, spec.shape) for spec in decoded.specs] != [(t.dtype, tuple(t.shape)) for t in tensors]:
        raise WireError("header and tensors do not fit together")
    return assemble(decoded, tensors)


def _key(source: int, destination: int, name: str) -> str:
    return f"{name}:{source}>{destination}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warning that rpc is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
