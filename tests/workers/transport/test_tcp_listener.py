"""Who is let in by the listener of a TCP channel, and who is not."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from dni_async.errors import UserError
from tests.support.conformance import TEST_TIMEOUT_S
from tests.support.conformance_messages import assert_same
from tests.support.conformance_runs import nothing_left_open
from tests.support.gradients import gradient
from tests.support.tcp_channels import HOST, SECRET, introduce, listen, read
from tests.support.waiting import meanwhile, until
from workers.transport import tcp_listener
from workers.transport.base import PeerGone, TransportError, TransportTimeout
from workers.transport.handshake import CHALLENGE_BYTES, HELLO_BYTES, Hello, make_hello
from workers.transport.tcp import connect
from workers.transport.tcp_listener import _MOST_STRANGERS, Admission, TcpListener


@pytest.fixture
def listener() -> Iterator[TcpListener]:
    with nothing_left_open():
        made = listen()
        yield made
        made.close()


def admits_its_sender(listener: TcpListener) -> None:
    """As ever, two stripes: a message arrives."""
    with (
        connect(listener.address, SECRET, 1, 1, TEST_TIMEOUT_S, stripes=2) as sender,
        listener.accept(TEST_TIMEOUT_S) as receiver,
    ):
        sender.send(gradient(3), TEST_TIMEOUT_S)
        assert_same(receiver.recv(TEST_TIMEOUT_S), gradient(3))


@pytest.mark.parametrize("words", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" * 100, b"DNI-TCP1" * 200])
def test_a_foreign_protocol_is_turned_away(listener: TcpListener, words: bytes) -> None:
    with socket.create_connection(listener.address, TEST_TIMEOUT_S) as stranger:
        read(stranger, CHALLENGE_BYTES)
        stranger.sendall(words)
        if len(words) < HELLO_BYTES:
            stranger.shutdown(socket.SHUT_WR)
        try:
            assert stranger.recv(1) == b""
        except ConnectionResetError:
            pass  # it had said more than was read
        admits_its_sender(listener)


def test_a_wrong_secret_is_turned_away(listener: TcpListener) -> None:
    line = r"what listens at 127\.0\.0\.1:\d+ is not stage 1 of this job: it does not accept the secret"
    with pytest.raises(TransportError, match=line):
        connect(listener.address, b"guessed", 1, 1, TEST_TIMEOUT_S)
    admits_its_sender(listener)


def test_a_recorded_hello_is_turned_away(listener: TcpListener) -> None:
    with socket.create_connection(listener.address, TEST_TIMEOUT_S) as spied:
        packet = make_hello(SECRET, read(spied, CHALLENGE_BYTES), Hello(0, 1, 1))
    with socket.create_connection(listener.address, TEST_TIMEOUT_S) as stranger:
        read(stranger, CHALLENGE_BYTES)
        stranger.sendall(packet)
        assert stranger.recv(1) == b""
    admits_its_sender(listener)


def test_a_silent_peer_keeps_no_other_peer_waiting(listener: TcpListener) -> None:
    strangers = [socket.create_connection(listener.address, TEST_TIMEOUT_S) for _ in range(70)]
    begin = time.monotonic()
    admits_its_sender(listener)
    assert time.monotonic() - begin < 5.0
    for stranger in strangers:
        stranger.close()


def test_a_stranger_that_makes_room_for_the_next_and_then_speaks_does_no_harm() -> None:
    """The next stranger and the words of the first, which is turned away for it, come in one `select`."""
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as strangers:
        server.setblocking(False)

        def connect() -> socket.socket:
            return strangers.enter_context(socket.create_connection(server.getsockname(), TEST_TIMEOUT_S))

        with Admission(server, b"secret") as admission:
            first = connect()
            for stranger in [first, *(connect() for _ in range(_MOST_STRANGERS - 1))]:
                assert stranger and wait_readable(server) and admission._meet()
            connect()
            assert wait_readable(server)
            first.send(b"0123456789")
            answers: list[object] = []
            thread = threading.Thread(target=lambda: answers.append(admission.run()), daemon=True)
            thread.start()
            until(
                lambda: (
                    len(admission._applicants) == _MOST_STRANGERS and not first_is_known(admission, first)
                ),
                TEST_TIMEOUT_S,
                "the next stranger's admission",
            )
            server.shutdown(socket.SHUT_RDWR)
            thread.join(TEST_TIMEOUT_S)
        assert answers == [None]


def wait_readable(server: socket.socket) -> bool:
    return bool(select.select([server], [], [], TEST_TIMEOUT_S)[0])


def first_is_known(admission: Admission, first: socket.socket) -> bool:
    return first.getsockname() in [applicant.getpeername() for applicant in list(admission._applicants)]


def test_a_silent_peer_is_turned_away_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch, listener: TcpListener
) -> None:
    monkeypatch.setattr(tcp_listener, "_HANDSHAKE_TIMEOUT_S", 0.2)
    with socket.create_connection(listener.address, TEST_TIMEOUT_S) as stranger:
        read(stranger, CHALLENGE_BYTES)
        assert stranger.recv(1) == b""
    admits_its_sender(listener)


def test_a_peer_that_leaves_at_once_does_no_harm(listener: TcpListener) -> None:
    for _ in range(20):
        stranger = socket.create_connection(listener.address, TEST_TIMEOUT_S)
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stranger.close()  # with a reset
    admits_its_sender(listener)


@pytest.mark.parametrize("second", [Hello(0, 2, 5), Hello(1, 3, 5), Hello(1, 2, 6)])
def test_stripes_must_belong_together(listener: TcpListener, second: Hello) -> None:
    first = introduce(listener.address, Hello(0, 2, 5))
    with pytest.raises(AssertionError):
        introduce(listener.address, second)
    last = introduce(listener.address, Hello(1, 2, 5))
    with first, last, listener.accept(TEST_TIMEOUT_S):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_listener_on_all_interfaces_takes_senders_of_either_family(host: str) -> None:
    if host == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("this host has no IPv6")
    with nothing_left_open():
        listener = TcpListener(2, "", SECRET, TEST_TIMEOUT_S)
        address = host, listener.address[1]
        with (
            connect(address, SECRET, 1, 1, TEST_TIMEOUT_S) as sender,
            listener.accept(TEST_TIMEOUT_S) as receiver,
        ):
            sender.send(gradient(3), TEST_TIMEOUT_S)
            assert_same(receiver.recv(TEST_TIMEOUT_S), gradient(3))


def test_a_host_with_several_addresses_is_tried_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    with nothing_left_open():
        listener = listen()
        real, (_, port) = socket.getaddrinfo, listener.address
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda host, port, **kind: [*real("127.0.0.2", port, **kind), *real(HOST, port, **kind)],
        )
        with (
            connect(("several", port), SECRET, 1, 1, TEST_TIMEOUT_S) as sender,
            listener.accept(TEST_TIMEOUT_S) as receiver,
        ):
            sender.send(gradient(3), TEST_TIMEOUT_S)
            assert_same(receiver.recv(TEST_TIMEOUT_S), gradient(3))


def test_a_sender_that_does_not_come_is_given_up_at_the_deadline(listener: TcpListener) -> None:
    for _ in range(2):
        with pytest.raises(TransportTimeout, match=r"stage 1 did not connect in 0\.1 s"):
            listener.accept(0.1)
    admits_its_sender(listener)


def test_a_listener_can_be_closed_before_anybody_came(listener: TcpListener) -> None:
    stranger = socket.create_connection(listener.address, TEST_TIMEOUT_S)
    read(stranger, CHALLENGE_BYTES)
    listener.close()
    listener.close()
    with stranger, pytest.raises(PeerGone, match="stage 1 does not listen at"):
        connect(listener.address, SECRET, 1, 1, TEST_TIMEOUT_S)


def test_a_sender_recognises_a_stranger_that_listens() -> None:
    """It says nothing of the secret to somebody who speaks another protocol, or knows another secret."""
    with socket.create_server((HOST, 0)) as server:
        server.settimeout(TEST_TIMEOUT_S)
        with (
            meanwhile(greet_one, server),
            pytest.raises(TransportError, match="it does not speak our protocol"),
        ):
            connect(server.getsockname(), SECRET, 1, 1, TEST_TIMEOUT_S)


def greet_one(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.settimeout(TEST_TIMEOUT_S)
        connection.sendall(b"220 mail.example.org ESMTP".ljust(CHALLENGE_BYTES))
        assert connection.recv(1) == b""


def test_a_sender_gives_up_on_somebody_silent_at_the_deadline() -> None:
    with socket.create_server((HOST, 0)) as server:
        begin = time.monotonic()
        with pytest.raises(TransportTimeout, match=r"stage 1 did not answer at .* in 0\.3 s"):
            connect(server.getsockname(), SECRET, 1, 1, 0.3)
        assert time.monotonic() - begin < 3.0


def test_an_address_of_another_host_is_the_users_to_correct() -> None:
    with pytest.raises(UserError, match=r"no stage can listen on 192\.0\.2\.77 \(.*\) of this host"):
        TcpListener(1, "192.0.2.77", SECRET, 1.0)


def test_a_listener_that_cannot_go_on_says_why_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(tcp_listener, "Admission", full)
    listener = listen()
    line = r"^no connection of stage 1 can be accepted \(\[Errno \d+\] Too many open files\)$"
    with pytest.raises(TransportError, match=line):
        listener.accept(TEST_TIMEOUT_S)
    listener.close()
