"""What the sockets say of their peers."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from workers.transport.base import TransportError
from workers.transport.packets import is_writable, receive, same_user
from workers.transport.sockets import check_open, is_hung_up, make_poller

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ends[0], ends[1]:
        yield ends


def test_no_packet_a_packet_and_the_end_are_distinguished(pair: Pair) -> None:
    assert receive(pair[0], 9) is None
    assert not make_poller(pair[0]).poll(0)
    pair[1].send(b"hello")
    assert make_poller(pair[0]).poll(0)
    assert receive(pair[0], 9) == (b"hello", -1)
    pair[1].close()
    assert receive(pair[0], 9) == (b"", -1)


def test_a_peer_that_hung_up_is_noticed_before_its_packets_are_read(pair: Pair) -> None:
    pair[1].send(b"hello")
    assert not is_hung_up(pair[0])
    pair[1].close()
    assert is_hung_up(pair[0])
    assert receive(pair[0], 9) == (b"hello", -1)


def test_a_full_socket_is_not_writable(pair: Pair) -> None:
    pair[0].setblocking(False)
    assert is_writable(pair[0], 0.0)
    with pytest.raises(BlockingIOError):
        while True:
            pair[0].send(b"x" * 1000)
    assert not is_writable(pair[0], 0.0)


def test_our_own_user_is_known(pair: Pair) -> None:
    assert same_user(pair[0])


def test_a_closed_end_is_refused(pair: Pair) -> None:
    check_open(pair[0])
    pair[0].close()
    with pytest.raises(TransportError, match="is closed"):
        check_open(pair[0])
    assert not is_hung_up(pair[0])
