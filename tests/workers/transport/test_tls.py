"""Encrypted links: the conformance suite, who is refused, and what somebody on the way can read."""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist

from dni_async.errors import UserError
from dni_async.messages import TargetGradient
from tests.support.conformance import TEST_TIMEOUT_S
from tests.support.conformance_messages import assert_same
from tests.support.conformance_runs import Outcome, over_channels
from tests.support.conformance_tests import ConformanceTests
from tests.support.gradients import gradient
from tests.support.tcp_channels import HOST, SECRET, introduce, listen
from tests.support.tls_channels import certificate, client_tunnels, server_tunnels, tls_channel
from tests.support.transport_processes import run_in_processes, tls_links
from tests.support.waiting import meanwhile
from workers.coordination.rendezvous import Rendezvous
from workers.transport import tls
from workers.transport.base import PeerGone, TransportError, TransportTimeout, wait_any
from workers.transport.certificates import make_certificate
from workers.transport.handshake import Hello
from workers.transport.links import LinkRequest
from workers.transport.tcp import connect
from workers.transport.tcp_listener import TcpListener
from workers.transport.tcp_receiver import TcpReceiver
from workers.transport.tcp_sender import TcpSender
from workers.transport.tls import TlsTransport, await_handshakes
from workers.transport.tunnel import Tunnel

pytest.importorskip("cryptography")


@pytest.fixture(scope="module", params=[1, 3], ids=["one connection", "three"])
def in_threads(request: pytest.FixtureRequest) -> Outcome:
    return over_channels(partial(tls_channel, stripes=request.param))


@pytest.fixture(scope="module")
def in_processes(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_in_processes(tls_links, tmp_path_factory.mktemp("tls"))


class TestConformance(ConformanceTests):
    pass


def test_large_messages_arrive_equal_and_closing_loses_nothing() -> None:
    sender, receiver = tls_channel(4, stripes=2)
    sizes = [3_000_000, 1, 2_000_000, 5]
    for size in sizes:
        sender.send(gradient(size), TEST_TIMEOUT_S)
    with meanwhile(sender.close), receiver:
        for size in sizes:
            assert_same(receiver.recv(TEST_TIMEOUT_S), gradient(size))
        with pytest.raises(PeerGone, match="closed its end"):
            receiver.recv(TEST_TIMEOUT_S)


@pytest.mark.parametrize("stripes", [1, 3])
def test_a_channel_whose_wire_is_full_in_one_direction_returns_credits_in_the_other(stripes: int) -> None:
    sender, receiver = tls_channel(8, stripes=stripes)
    count, message = 400, gradient(1 << 16)

    def send() -> None:
        for _ in range(count):
            sender.send(message, TEST_TIMEOUT_S)
        sender.close()

    with meanwhile(send), receiver:
        for _ in range(count):
            assert_same(receiver.recv(TEST_TIMEOUT_S), message)
            receiver.release()
        with pytest.raises(PeerGone, match=rf"closed its end \(after {count} messages"):
            receiver.recv(TEST_TIMEOUT_S)


@pytest.mark.parametrize("wrong", ["client", "server"])
def test_a_neighbour_with_another_certificate_is_refused(wrong: str) -> None:
    """It knows the secret of the channel, and has a certificate that nobody has published."""
    listener, stranger = listen(0), make_certificate()
    client, server = (
        stranger if wrong == name else certificate(i) for i, name in enumerate(("client", "server"))
    )
    to = client_tunnels(listener.address, 1, 1, client, certificate(1).text)
    of = server_tunnels(listener, server, certificate(0).text)
    refusing = of if wrong == "client" else to
    with pytest.raises(TransportError, match=r"^the link to stage 7 cannot be encrypted \(\S+\)$"):
        await_handshakes(refusing, 7, TEST_TIMEOUT_S)
    for tunnel in (*to, *of):
        tunnel.join(TEST_TIMEOUT_S)
        tunnel.inner.close()


def test_a_neighbour_that_does_not_encrypt_is_refused() -> None:
    listener = listen(0)
    with introduce(listener.address, Hello(0, 1, 1)) as plain:
        (tunnel,) = server_tunnels(listener, certificate(1), certificate(0).text)
        plain.sendall(b"a message that is not encrypted" * 20)
        with pytest.raises(TransportError, match=r"^the link to stage 0 cannot be encrypted \(\w+\)$"):
            await_handshakes([tunnel], 0, TEST_TIMEOUT_S)
        tunnel.join(TEST_TIMEOUT_S)


def test_what_comes_with_the_last_words_of_the_handshake_is_not_lost() -> None:
    """In one piece, and nothing behind it: the tunnel must not wait for more."""
    listener, said = listen(0), b"the first message"
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = certificate(0).context(certificate(1).text, server=False).wrap_bio(incoming, outgoing)
    with introduce(listener.address, Hello(0, 1, 1)) as wire:
        (tunnel,) = server_tunnels(listener, certificate(1), certificate(0).text)
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                wire.sendall(outgoing.read())
                incoming.write(wire.recv(1 << 16))
        client.write(said)
        wire.sendall(outgoing.read())
        tunnel.inner.settimeout(TEST_TIMEOUT_S)
        assert tunnel.inner.recv(1 << 10) == said
    tunnel.join(TEST_TIMEOUT_S)
    tunnel.inner.close()


class Recorder:
    """Somebody between two hosts: forwards what both say to each other, and keeps it."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._server, self._target = socket.create_server((HOST, 0)), target
        self.address: tuple[str, int] = self._server.getsockname()
        self.recorded = bytearray()
        self.ends: list[socket.socket] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        client, _ = self._server.accept()
        server = socket.create_connection(self._target)
        self.ends = [client, server]
        for pair in ((client, server), (server, client)):
            threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                self.recorded += data
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def cut(self) -> None:
        """Break the connections to both hosts."""
        for end in self.ends:
            with contextlib.suppress(OSError):  # the cut of the first has ended the second already
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for end in (self._server, *self.ends):
            end.close()


MESSAGE = TargetGradient(3, 3, torch.arange(1000.0))
PAYLOAD = MESSAGE.grad.numpy().tobytes()


def recorded(send: Callable[[Recorder], None], receive: Callable[[TcpListener], None]) -> bytes:
    """What was on the wire while a message went through a recorder."""
    listener = listen(0)
    recorder = Recorder(listener.address)
    with meanwhile(receive, listener):
        send(recorder)
    recorder.close()
    return bytes(recorder.recorded)


def send_plain(recorder: Recorder) -> None:
    with connect(recorder.address, SECRET, 1, 2, TEST_TIMEOUT_S, stripes=1) as sender:
        sender.send(MESSAGE, TEST_TIMEOUT_S)


def receive_plain(listener: TcpListener) -> None:
    take(listener.accept(TEST_TIMEOUT_S))


def send_encrypted(recorder: Recorder) -> None:
    tunnels = client_tunnels(recorder.address, 1, 2, certificate(0), certificate(1).text)
    await_handshakes(tunnels, 1, TEST_TIMEOUT_S)
    with TcpSender(1, [tunnel.inner for tunnel in tunnels], 2, TEST_TIMEOUT_S, pin=False) as sender:
        sender.send(MESSAGE, TEST_TIMEOUT_S)


def receive_encrypted(listener: TcpListener) -> None:
    tunnels = server_tunnels(listener, certificate(1), certificate(0).text)
    await_handshakes(tunnels, 0, TEST_TIMEOUT_S)
    take(TcpReceiver(0, [tunnel.inner for tunnel in tunnels], 2, pin=False))


def take(receiver: TcpReceiver) -> None:
    with receiver:
        assert_same(receiver.recv(TEST_TIMEOUT_S), MESSAGE)
        receiver.release()
        with pytest.raises(PeerGone):
            receiver.recv(TEST_TIMEOUT_S)


def test_nothing_of_a_message_can_be_read_on_the_wire() -> None:
    plain, encrypted = recorded(send_plain, receive_plain), recorded(send_encrypted, receive_encrypted)
    assert PAYLOAD in plain
    assert len(encrypted) > len(PAYLOAD)
    pieces = [PAYLOAD[i : i + 16] for i in range(64, len(PAYLOAD) - 16, 16)]
    assert not [piece for piece in pieces if piece in encrypted]


def recorded_tunnels() -> tuple[Recorder, list[Tunnel], list[Tunnel]]:
    """Both ends of an encrypted channel through a recorder."""
    listener = listen(0)
    recorder = Recorder(listener.address)
    to = client_tunnels(recorder.address, 1, 1, certificate(0), certificate(1).text)
    of = server_tunnels(listener, certificate(1), certificate(0).text)
    await_handshakes([*to, *of], 1, TEST_TIMEOUT_S)
    return recorder, to, of


def test_a_connection_that_is_cut_ends_both_channels() -> None:
    recorder, to, of = recorded_tunnels()
    recorder.cut()
    for tunnel in (*to, *of):
        tunnel.join(TEST_TIMEOUT_S)
        with pytest.raises(ConnectionResetError):
            tunnel.inner.recv(1)
        tunnel.inner.close()
    recorder.close()


def test_each_direction_ends_by_itself_and_neither_end_counts_as_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    cut: list[Tunnel] = []
    monkeypatch.setattr(Tunnel, "_reset_plain", cut.append)
    listener = listen(0)
    (to,) = client_tunnels(listener.address, 1, 1, certificate(0), certificate(1).text)
    (of,) = server_tunnels(listener, certificate(1), certificate(0).text)
    await_handshakes([to, of], 1, TEST_TIMEOUT_S)
    for first, second in ((to.inner, of.inner), (of.inner, to.inner)):
        first.sendall(b"last words")
        first.shutdown(socket.SHUT_WR)
        second.settimeout(TEST_TIMEOUT_S)
        assert second.recv(1 << 10) == b"last words"
        assert second.recv(1) == b""
    for tunnel in (to, of):
        tunnel.join(TEST_TIMEOUT_S)
        tunnel.inner.close()
    assert not cut


def test_a_sender_says_that_its_connection_was_cut_and_not_that_the_peer_closed_it() -> None:
    recorder, to, of = recorded_tunnels()
    sender = TcpSender(1, [tunnel.inner for tunnel in to], 1, TEST_TIMEOUT_S, pin=False)
    receiver = TcpReceiver(0, [tunnel.inner for tunnel in of], 1, pin=False)
    recorder.cut()
    with pytest.raises(PeerGone, match=r"^stage 0 is gone \(Connection reset by peer\)$"):
        receiver.recv(TEST_TIMEOUT_S)
    with pytest.raises(PeerGone, match=r"^stage 1 is gone \(Connection reset by peer\)$"):
        while sender.ready():
            assert wait_any([sender], TEST_TIMEOUT_S)
    sender.close()
    receiver.close()
    recorder.close()


def test_a_neighbour_that_is_silent_in_tls_is_given_up_after_the_timeout_and_all_tunnels_end() -> None:
    listener = listen(0)
    to = client_tunnels(listener.address, 1, 1, certificate(0), certificate(1).text, 2, 0.2)
    plain, _ = listener.accept_connections(TEST_TIMEOUT_S)
    with pytest.raises(TransportTimeout, match=r"^stage 1 did not answer in TLS in 0\.2 s$"):
        await_handshakes(to, 1, 0.2)
    for tunnel in to:
        tunnel.join(TEST_TIMEOUT_S)
        assert not tunnel._thread.is_alive() and tunnel.inner.fileno() < 0
    for connection in plain:
        connection.close()


@pytest.fixture
def _loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)


def opened(store: dist.Store, secret: bytes) -> list[object]:
    """What the ranks of a chain of three receive over links that the transport has opened, or errors."""
    found: list[object] = [None] * 3

    def body(rank: int) -> None:
        stack, rendezvous = ExitStack(), Rendezvous(rank, 3, rank, 3, store, secret=secret)
        request = LinkRequest(rendezvous, [(0, 1), (1, 2)], 2, TEST_TIMEOUT_S, torch.device("cpu"), stack)
        try:
            links = TlsTransport().open(request)
            for link in links.values():
                link.sender.send(gradient(rank + 1), TEST_TIMEOUT_S)
            for n, link in links.items():
                assert_same(link.receiver.recv(TEST_TIMEOUT_S), gradient(n + 1))
            stack.close()
            found[rank] = sorted(links)
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=body, args=(rank,), daemon=True) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TEST_TIMEOUT_S)
    return found


@pytest.mark.usefixtures("_loopback")
def test_every_pair_of_neighbours_talks_both_ways_and_no_key_is_published() -> None:
    store, threads = dist.HashStore(), threading.active_count()
    assert opened(store, b"of the job") == [[1], [0, 2], [1]]
    assert threading.active_count() == threads
    for rank in range(3):
        published = store.get(f"certificate/{rank}")
        assert b"BEGIN CERTIFICATE" in published and b"PRIVATE" not in published


@pytest.mark.usefixtures("_loopback")
def test_the_handshake_may_take_as_long_as_the_job_waits_for_a_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stage in the middle of a chain may wait for one neighbour while the other greets it."""
    timeouts: list[float] = []

    def tunnel(*arguments: Any, timeout: float, **others: Any) -> Tunnel:
        timeouts.append(timeout)
        return Tunnel(*arguments, timeout=timeout, **others)

    def await_all(tunnels: Sequence[Tunnel], peer: int, timeout: float) -> None:
        timeouts.append(timeout)
        await_handshakes(tunnels, peer, timeout)

    monkeypatch.setattr(tls, "Tunnel", tunnel)
    monkeypatch.setattr(tls, "await_handshakes", await_all)
    assert opened(dist.HashStore(), b"of the job") == [[1], [0, 2], [1]]
    assert timeouts == [TEST_TIMEOUT_S] * 12  # two tunnels and a wait at each end of two links


@pytest.mark.usefixtures("_loopback")
def test_a_job_without_a_secret_is_refused_in_one_line() -> None:
    """Whoever can write to the store could publish a certificate of his own."""
    line = "encrypt needs a secret of the job; set DNI_ASYNC_JOB_SECRET to the same random text on all hosts"
    for error in opened(dist.HashStore(), b""):
        assert isinstance(error, UserError) and str(error) == line


def test_without_the_package_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(UserError, match=r"^encrypt needs the package cryptography; install it with pip"):
        make_certificate()
