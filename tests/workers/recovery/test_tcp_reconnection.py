"""Messages over TCP connections that break, between stages that die: each is taken once, in order."""

from __future__ import annotations

import errno
import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.supervised_stages import CAPACITY, Killed, TcpLower, TcpUpper, batch, end, kill
from tests.support.waiting import until
from workers.recovery import tcp_dial, tcp_reception
from workers.recovery.stable_storage import StableStorage
from workers.recovery.tcp_dial import TcpDial
from workers.recovery.tcp_reception import TcpReception
from workers.transport import tcp_connect
from workers.transport.base import Deadline, PeerGone, TransportError, TransportTimeout, wait_any
from workers.transport.tcp_connect import Address
from workers.transport.tcp_stamped import TcpArrivals, TcpStampedSender

TEST_TIMEOUT_S = 20.0
Pair = tuple[TcpUpper, TcpLower]


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    below = StableStorage.create(1, 2, CAPACITY, tcp=True)
    lower = TcpLower(below)
    upper = TcpUpper(StableStorage.create(0, 2, CAPACITY), below.tcp_sockets[0])
    yield upper, lower
    end((upper, lower))


def connection(upper: TcpUpper) -> socket.socket:
    """The sender's socket, once it is connected."""
    until(lambda: upper.sender._connected() is not None, TEST_TIMEOUT_S, "the connection")
    sender = upper.sender._sender
    assert isinstance(sender, TcpStampedSender)
    return sender._connections[0]


def send(upper: TcpUpper, step: int) -> None:
    until(upper.sender.ready, TEST_TIMEOUT_S, "room for a message")
    upper.send(batch(step))


def take(pair: Pair) -> str:
    """The next message, while the sender's loop runs, as that of a stage does."""
    until(lambda: arrived(pair), TEST_TIMEOUT_S, "a message")
    return pair[1].take()


def arrived(pair: Pair) -> bool:
    upper, lower = pair
    upper.sender.ready()
    return lower.receiver.poll()


def is_quiet(pair: Pair) -> bool:
    """Whether no message is delivered, all that was sent having arrived."""
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        if arrived(pair):
            return False
    return True


def test_messages_come_once_and_in_order(pair: Pair) -> None:
    upper, _ = pair
    for step in range(3 * CAPACITY):
        send(upper, step)
        assert take(pair) == f"A{step}"
    assert is_quiet(pair)


def test_messages_are_logged_before_there_is_a_connection(pair: Pair) -> None:
    upper, lower = pair
    lower.die()
    for step in range(CAPACITY):
        upper.send(batch(step))
    assert not upper.sender.ready()
    with pytest.raises(TransportTimeout, match="stage 1 released no message"):
        upper.sender.send(batch(9), 0.01)
    lower.start()
    assert [take(pair) for _ in range(CAPACITY)] == ["A0", "A1", "A2"]
    until(upper.sender.ready, TEST_TIMEOUT_S, "a credit")


def test_a_message_is_sent_when_the_connection_is_made_while_it_waits_for_room(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    upper, _ = pair
    dialed, asked = upper.dial.connect, 0

    def connect() -> TcpStampedSender | None:
        nonlocal asked
        asked += 1
        end = time.monotonic() + TEST_TIMEOUT_S
        while asked > 1 and time.monotonic() < end:
            if connected := dialed():
                return connected
        return None

    monkeypatch.setattr(upper.dial, "connect", connect)
    upper.send(batch(0))
    assert upper.sender._sender is not None
    assert take(pair) == "A0"


@pytest.mark.parametrize("broken_by", ["sender", "receiver"])
def test_a_connection_that_breaks_is_made_again_with_nothing_lost_or_doubled(
    pair: Pair, broken_by: str
) -> None:
    upper, lower = pair
    send(upper, 0)
    assert take(pair) == "A0"
    for step in (1, 2):
        send(upper, step)
    until(lambda: arrived(pair), TEST_TIMEOUT_S, "the next message")
    end = connection(upper) if broken_by == "sender" else arrivals(lower)._connections[0]
    end.shutdown(socket.SHUT_RDWR)
    send(upper, 3)
    assert [take(pair) for _ in range(3)] == ["A1", "A2", "A3"]
    assert is_quiet(pair)


def arrivals(lower: TcpLower) -> TcpArrivals:
    receiver = lower.receiver._receiver
    assert isinstance(receiver, TcpArrivals)
    return receiver


def test_a_receiver_leaves_a_connection_that_looks_alive_for_the_senders_next(pair: Pair) -> None:
    """As after a cut that only the sender has noticed."""
    upper, _ = pair
    send(upper, 0)
    assert take(pair) == "A0"
    kept = connection(upper).dup()  # its end of file does not come
    upper.die()
    upper.start()
    send(upper, 1)
    assert take(pair) == "A1"
    assert is_quiet(pair)
    kept.close()


def test_what_a_killed_receiver_had_not_handled_comes_again(pair: Pair) -> None:
    upper, lower = pair
    for step in range(3):
        send(upper, step)
    assert take(pair) == "A0"
    until(lambda: arrived(pair), TEST_TIMEOUT_S, "the next message")
    with pytest.raises(Killed):
        lower.take(kill)
    lower.die()
    lower.start()
    assert [take(pair), take(pair)] == ["A1", "A2"]
    assert is_quiet(pair)


def test_what_a_killed_sender_sends_again_is_taken_once(pair: Pair) -> None:
    upper, _ = pair
    send(upper, 0)
    until(upper.sender.ready, TEST_TIMEOUT_S, "room for a message")
    with pytest.raises(Killed):
        upper.send(batch(1), kill)
    upper.die()
    upper.start()
    assert upper.handled() == 1
    send(upper, 1)
    assert [take(pair), take(pair)] == ["A0", "A1"]
    assert is_quiet(pair)


def test_whatever_breaks_when_every_message_is_taken_once_and_in_order(pair: Pair) -> None:
    upper, lower = pair
    rng = random.Random(0)
    step = 0
    while step < 60:
        sends = upper.sender.ready() and rng.random() < 0.7
        if sends:
            upper.send(batch(step))
            step += 1
        takes = lower.receiver.poll()
        if takes:
            lower.take()
        if not (sends or takes):
            continue  # what is broken is to be mended before more breaks
        chance = rng.random()
        if chance < 0.03:
            connection(upper).shutdown(socket.SHUT_RDWR)
        elif chance < 0.05:
            upper.die()
            upper.start()
        elif chance < 0.07:
            lower.die()
            lower.start()
    until(lambda: len(all_taken(pair)) == 60, TEST_TIMEOUT_S, "the last message")
    assert lower.taken == [f"A{step}" for step in range(60)]
    assert is_quiet(pair)


def all_taken(pair: Pair) -> list[str]:
    """What the receiver has taken, while the sender's loop runs, whether or not there is room."""
    while arrived(pair):
        pair[1].take()
    return pair[1].taken


def test_a_receiver_whose_supervisor_died_is_gone(pair: Pair) -> None:
    upper, lower = pair
    send(upper, 0)
    take(pair)
    lower.die()
    lower.stable.tcp_sockets[0].listener.close()
    until(upper.sender.peer_gone, TEST_TIMEOUT_S, "the news")
    with pytest.raises(PeerGone, match="stage 1 does not listen at"):
        while True:
            upper.sender.ready()


def test_a_dead_receiver_is_not_taken_for_gone(pair: Pair) -> None:
    upper, lower = pair
    send(upper, 0)
    take(pair)
    lower.die()
    until(lambda: not upper.sender.peer_gone() and upper.sender._sender is None, TEST_TIMEOUT_S, "the end")
    assert not upper.sender.peer_gone()


def test_a_host_that_stays_out_of_reach_is_given_up_at_the_deadline(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*arguments: object) -> socket.socket:
        raise OSError(errno.EHOSTUNREACH, "No route to host")

    upper, _ = pair
    monkeypatch.setattr(tcp_dial, "open_connection", unreachable)
    upper.die()
    upper.timeout = 0.3
    upper.start()
    line = r"^stage 1 could not be reached at 127\.0\.0\.1:\d+ \(No route to host\) for 0\.3 s$"
    with pytest.raises(TransportTimeout, match=line):
        while True:
            upper.sender.ready()


class TestClosingADial:
    """While nobody takes part in the handshake, it ends at once and not at the deadline."""

    @pytest.fixture
    def dial(self, pair: Pair) -> TcpDial:
        upper, lower = pair
        lower.die()
        upper.dial._timeout = 60.0
        return upper.dial

    def test_that_waits_in_the_handshake(self, dial: TcpDial) -> None:
        dial.connect()
        until(lambda: dial._current is not None, TEST_TIMEOUT_S, "the connection")
        self.close(dial)

    def test_that_is_about_to_begin_the_handshake(
        self, dial: TcpDial, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opening, closing = threading.Event(), threading.Event()

        def open_connection(address: Address, deadline: Deadline) -> socket.socket:
            opening.set()
            assert closing.wait(TEST_TIMEOUT_S)
            return tcp_connect.open_connection(address, deadline)

        monkeypatch.setattr(tcp_dial, "open_connection", open_connection)
        monkeypatch.setattr(tcp_dial, "prove", lambda *_: pytest.fail("it begins the handshake"))
        dial.connect()
        assert opening.wait(TEST_TIMEOUT_S)
        closer = threading.Thread(target=self.close, args=(dial,))
        closer.start()
        until(lambda: dial._closed, TEST_TIMEOUT_S, "the closing")
        closing.set()
        closer.join(TEST_TIMEOUT_S)
        assert isinstance(dial._result, PeerGone) and "is closed" in str(dial._result)

    def close(self, dial: TcpDial) -> None:
        begin = time.monotonic()
        dial.close()
        assert time.monotonic() - begin < dial._timeout / 2


def test_a_secret_that_is_refused_is_given_up_at_the_deadline(pair: Pair) -> None:
    upper, lower = pair
    lower.die()
    wrong = lower.stable.tcp_sockets[0]
    lower.reception = TcpReception(0, wrong.listener, b"another", 5.0)
    upper.die()
    upper.timeout = 0.3
    upper.start()
    with pytest.raises(TransportTimeout, match=r"is not stage 1 of this job: it does not accept the secret"):
        while True:
            upper.sender.ready()
    lower.reception.close()


def test_a_receiver_that_can_take_in_no_connection_says_why_instead_of_waiting(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    _, lower = pair
    lower.die()
    monkeypatch.setattr(tcp_reception, "Admission", full)
    lower.start()
    assert wait_any([lower.receiver], TEST_TIMEOUT_S)
    for _ in range(2):
        with pytest.raises(TransportError, match=r"^no connection of stage 0 .* Too many open files\)$"):
            lower.receiver.poll()
