"""A transport from outside this project: the conformance suite runs over one that is defined here."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from typing_extensions import override

from dni_async.messages import Message
from tests.support.conformance import CAPACITY, NAMES, Link, Side
from tests.support.conformance_runs import Outcome, run_in_threads
from workers.coordination.rendezvous import Rendezvous
from workers.transport import links
from workers.transport.base import PeerGone
from workers.transport.connect import open_links
from workers.transport.links import LinkRequest, Transport
from workers.transport.queues import Credits, Inbox, QueueReceiver, QueueSender
from workers.transport.wire import HEADER_BYTES, add_checksum, assemble, decode, encode

TEST_TIMEOUT_S = 20.0


class PipeSender(QueueSender):
    """Writes messages to a socket; a thread reads the credits."""

    def __init__(self, peer: int, connection: socket.socket, capacity: int) -> None:
        super().__init__(peer, Credits(capacity))
        self._socket = connection
        threading.Thread(target=self._run, daemon=True).start()

    @override
    def send(self, message: Message, timeout: float) -> None:
        self._credits.take(timeout)
        header, tensors, specs = encode(message)
        payload = torch.zeros(specs[-1].offset + specs[-1].nbytes, dtype=torch.uint8)
        for spec, tensor in zip(specs, tensors, strict=True):
            flat = tensor.contiguous().view(-1).view(torch.uint8)
            payload[spec.offset : spec.offset + spec.nbytes] = flat
        self._socket.sendall(add_checksum(header) + payload.numpy().tobytes())
        self.sent += 1

    @override
    def held_bytes(self) -> int:
        return 0

    @override
    def close(self) -> None:
        if not self._credits.ended():
            with contextlib.suppress(OSError):  # the receiver has closed, and the thread this end
                self._socket.shutdown(socket.SHUT_WR)
        self._credits.close()

    def _run(self) -> None:
        with self._socket:
            while self._socket.recv(1):
                self._credits.give()
        self._credits.fail(PeerGone(f"stage {self.peer} closed its end"))


class PipeReceiver(QueueReceiver):
    """A thread reads messages from a socket."""

    def __init__(self, peer: int, connection: socket.socket) -> None:
        super().__init__(peer, Inbox())
        self._socket = connection
        threading.Thread(target=self._run, daemon=True).start()

    @override
    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        self._inbox.close()

    @override
    def _return_credit(self) -> None:
        try:
            self._socket.sendall(b"!")
        except OSError:
            pass  # the sender has left

    def _run(self) -> None:
        with self._socket.makefile("rb") as stream:
            while packet := stream.read(HEADER_BYTES):
                header = decode(packet)
                payload = torch.frombuffer(
                    bytearray(stream.read(header.payload_bytes) or b"\0"), dtype=torch.uint8
                )
                parts = [payload[s.offset : s.offset + s.nbytes].clone() for s in header.specs]
                pairs = zip(parts, header.specs, strict=True)
                self._inbox.put(assemble(header, [part.view(s.dtype).view(s.shape) for part, s in pairs]))
        self._inbox.fail(PeerGone(f"stage {self.peer} closed its end"))


class PipeTransport(Transport):
    """Unix sockets in a folder."""

    same_host_only = True
    folder = Path()

    @override
    def open(self, request: LinkRequest) -> dict[int, links.Link]:
        rank = request.rendezvous.rank
        listeners = {}
        for n in request.neighbours:
            listeners[n] = socket.socket(socket.AF_UNIX)
            listeners[n].bind(str(self.folder / f"{n}-{rank}"))
            listeners[n].listen()
            listeners[n].settimeout(request.timeout)
            request.rendezvous.publish(f"pipe/{n}-{rank}", True)
        opened = {}
        for n, listener in listeners.items():
            request.rendezvous.read(f"pipe/{rank}-{n}", request.timeout)
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(request.timeout)
            connection.connect(str(self.folder / f"{rank}-{n}"))
            connection.settimeout(None)
            sender = PipeSender(n, connection, request.capacity)
            opened[n] = request.link(sender, PipeReceiver(n, listener.accept()[0]))
            listener.close()
        return opened


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    made: list[list[Link]] = [[], []]
    for capacity in (CAPACITY, 1):
        (a, b), (c, d) = socket.socketpair(), socket.socketpair()
        made[0].append(Link(PipeSender(1, a, capacity), PipeReceiver(1, c), capacity))
        made[1].append(Link(PipeSender(0, d, capacity), PipeReceiver(0, b), capacity))
    return run_in_threads([Side(rank, *made[rank], print) for rank in (0, 1)])


@pytest.mark.parametrize("name", NAMES)
def test_conforms(outcome: Outcome, name: str) -> None:
    outcome.check(name)


def test_two_stages_are_linked_by_the_dotted_path_of_a_transport(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PipeTransport, "folder", tmp_path)
    path, store = f"{__name__}:PipeTransport", dist.HashStore()
    senders: dict[int, object] = {}

    def body(rank: int) -> None:
        rendezvous = Rendezvous(rank, 2, rank, 2, store)
        with open_links(rendezvous, [path], 2, TEST_TIMEOUT_S, torch.device("cpu")) as found:
            link = found.upstream or found.downstream
            senders[rank] = link and type(link.sender)

    threads = [threading.Thread(target=body, args=(rank,), daemon=True) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TEST_TIMEOUT_S)
    assert senders == {0: PipeSender, 1: PipeSender}
