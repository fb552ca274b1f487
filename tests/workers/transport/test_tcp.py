"""The TCP transport: the conformance suite in threads and in processes, and its own promises."""

from __future__ import annotations

import random
import time
from functools import partial

import pytest
import torch

from dni_async.messages import Activation
from tests.support.channels import copy_late
from tests.support.conformance import TEST_TIMEOUT_S, seconds_until_gone
from tests.support.conformance_messages import assert_same, message
from tests.support.conformance_runs import Outcome, nothing_left_open, over_channels
from tests.support.conformance_tests import ConformanceTests
from tests.support.gradients import gradient
from tests.support.tcp_channels import (
    receiver_of_raw_socket,
    sender_of_raw_socket,
    tcp_channel,
    vanish,
)
from tests.support.transport_processes import run_in_processes, tcp_links
from tests.support.waiting import meanwhile, until
from workers.transport.base import PeerGone, TransportError, TransportTimeout
from workers.transport.tcp import connect
from workers.transport.wire import HEADER_BYTES, add_checksum, encode


@pytest.fixture(scope="module", params=[1, 3], ids=["one connection", "three"])
def in_threads(request: pytest.FixtureRequest) -> Outcome:
    return over_channels(partial(tcp_channel, stripes=request.param))


@pytest.fixture(scope="module")
def in_processes(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_in_processes(tcp_links, tmp_path_factory.mktemp("tcp"))


class TestConformance(ConformanceTests):
    pass


@pytest.mark.parametrize("stripes", [1, 4])
def test_large_messages_arrive_equal_and_in_order(stripes: int) -> None:
    """Larger than the kernel's buffers, mixed with small ones that overtake them."""
    sizes = [3_000_000, 1, 10, 2_000_000, 0, 5, 4_000_000, 7, 8, 9]
    with nothing_left_open():
        sender, receiver = tcp_channel(3, stripes=stripes)
        with meanwhile(lambda: [sender.send(gradient(n), TEST_TIMEOUT_S) for n in sizes]):
            for size in sizes:
                assert_same(receiver.recv(TEST_TIMEOUT_S), gradient(size))
                receiver.release()
        sender.close()
        receiver.close()


def test_a_message_leaves_without_the_receivers_caller() -> None:
    """Nobody polls or receives, and still all that there are credits for goes out, and `close` ends."""
    sender, receiver = tcp_channel(4, stripes=2)
    with receiver:
        for _ in range(4):
            sender.send(gradient(1_000_000), 0.0)
        sender.close()
        for _ in range(4):
            assert_same(receiver.recv(0.0), gradient(1_000_000))
        with pytest.raises(PeerGone, match=r"stage 0 closed its end \(after 4 messages from it\)"):
            receiver.recv(TEST_TIMEOUT_S)


def test_credits_that_nobody_read_do_not_cost_messages() -> None:
    """A socket that is closed with unread bytes resets the connection; `close` reads them first."""
    for _ in range(20):
        sender, receiver = tcp_channel(3)
        for i in range(3):
            sender.send(message(i), 0.0)
        receiver.recv(TEST_TIMEOUT_S)
        receiver.release()
        sender.close()
        for i in (1, 2):
            assert_same(receiver.recv(0.0), message(i))
        receiver.close()


def test_the_senders_tensors_are_its_own_again_after_send() -> None:
    sender, receiver = tcp_channel(2)
    with receiver, sender:
        tensor = torch.ones(500_000)
        sender.send(Activation(0, 0, tensor, torch.zeros(1)), 0.0)
        tensor.zero_()
        received = receiver.recv(TEST_TIMEOUT_S)
        assert isinstance(received, Activation) and received.h.min() == 1


def test_both_ends_use_few_slots_again_and_again() -> None:
    sender, receiver = tcp_channel(8)
    with receiver, sender:
        addresses = set()
        for _ in range(30):
            sender.send(gradient(10_000), 0.0)
            addresses.add(receiver.recv(TEST_TIMEOUT_S).grad.data_ptr())
            receiver.release()
            until(
                lambda: sender.ready() and not sender._pool.in_flight,
                TEST_TIMEOUT_S,
                "the return of the slot",
            )
        assert len(addresses) == 1 and sender.held_bytes() < 50_000


def test_a_copy_from_a_gpu_may_take_its_time() -> None:
    sender, receiver = tcp_channel(2)
    sender.copy_out = copy_late  # type: ignore[method-assign, assignment]
    with receiver, sender:
        for i in range(6):
            sender.send(gradient(i), TEST_TIMEOUT_S)
            assert_same(receiver.recv(TEST_TIMEOUT_S), gradient(i))
            receiver.release()


def test_a_copy_that_never_ends_ends_the_channel() -> None:
    class Hanging:
        def query(self) -> bool:
            return False

    sender, receiver = tcp_channel(2, timeout=0.3)
    sender.copy_out = lambda places, tensors: Hanging()  # type: ignore[method-assign, assignment]
    with receiver, sender:
        sender.send(gradient(1), 0.0)
        with pytest.raises(TransportTimeout, match="a copy between the GPU and the host was not done"):
            for _ in range(3):  # the last one waits for a credit
                sender.send(gradient(1), TEST_TIMEOUT_S)


def test_an_error_of_a_device_ends_the_channel_with_its_text() -> None:
    """The thread that waits for a copy must not die in silence: messages would wait for ever."""
    sender, receiver = tcp_channel(2)

    class Broken:
        def query(self) -> bool:
            raise RuntimeError("an illegal memory access was encountered")

    sender.copy_out = lambda places, tensors: Broken()  # type: ignore[method-assign, assignment]
    sender.send(gradient(3), TEST_TIMEOUT_S)
    until(sender.peer_gone, TEST_TIMEOUT_S, "the end of the channel")
    with pytest.raises(TransportError, match="RuntimeError: an illegal memory access"):
        sender.ready()
    sender.close()
    receiver.close()


def test_a_receiver_that_was_closed_has_nothing_to_release() -> None:
    sender, receiver = tcp_channel(2)
    sender.send(gradient(3), 0.0)
    receiver.recv(TEST_TIMEOUT_S)
    receiver.close()
    with pytest.raises(TransportError):
        receiver.release()
    sender.close()


def test_a_tensor_of_inference_mode_can_be_sent() -> None:
    sender, receiver = tcp_channel(2)
    with receiver, sender:
        for inference in (True, False, True):
            with torch.inference_mode(inference):
                sender.send(gradient(10 + inference), TEST_TIMEOUT_S)
            receiver.recv(TEST_TIMEOUT_S).grad.requires_grad_()
            receiver.release()


@pytest.mark.parametrize("stripes", [1, 2])
def test_a_closed_receiver_is_a_gone_peer(stripes: int) -> None:
    with nothing_left_open():
        sender, receiver = tcp_channel(2, stripes=stripes)
        sender.send(gradient(3), 0.0)
        receiver.close()
        assert seconds_until_gone(sender, sender.ready) < 5.0
        assert sender.peer_gone()
        with pytest.raises(PeerGone):
            sender.send(gradient(3), 1.0)
        sender.close()
        receiver.close()


def test_a_host_that_vanishes_is_noticed_within_the_timeout() -> None:
    """No end of file comes from it, and no reset; neither channel has anything under way."""
    timeout = 4.0
    (to_it, its_receiver), (its_sender, from_it) = (
        tcp_channel(1, timeout=timeout),
        tcp_channel(1, timeout=timeout),
    )
    vanish([*its_receiver._connections, *its_sender._connections])
    begin = time.monotonic()
    seconds_until_gone(from_it, from_it.poll)
    seconds_until_gone(to_it, to_it.ready)
    assert time.monotonic() - begin <= timeout + 2.0  # two beats, which are at least a second
    assert from_it.peer_gone() and to_it.peer_gone()
    for end in (to_it, from_it, its_sender, its_receiver):
        end.close()


def test_a_host_that_vanishes_with_messages_under_way_is_noticed() -> None:
    timeout = 2.0
    sender, receiver = tcp_channel(2, timeout=timeout)
    vanish(receiver._connections)
    sender.send(gradient(1000), 0.0)
    assert seconds_until_gone(sender, sender.ready) <= timeout + 1.0
    for end in (sender, receiver):
        end.close()


def test_an_idle_channel_lives_on() -> None:
    sender, receiver = tcp_channel(1, timeout=1.0)
    with receiver, sender:
        time.sleep(2.5)
        sender.send(gradient(5), 0.0)
        assert_same(receiver.recv(TEST_TIMEOUT_S), gradient(5))


def test_a_slow_stage_may_take_longer_than_the_timeout() -> None:
    """What it was sent waits in slots, not in the kernel, whose own deadline would end the connection."""
    sender, receiver = tcp_channel(3, timeout=1.0)
    with receiver, sender:
        for _ in range(3):
            sender.send(gradient(2_000_000), 0.0)
        time.sleep(2.5)
        for _ in range(3):
            assert_same(receiver.recv(0.0), gradient(2_000_000))
            receiver.release()


def test_a_changed_header_is_refused() -> None:
    rng = random.Random(0)
    for i in range(100):
        good = add_checksum(encode(message(i))[0])
        damaged = bytearray(rng.randbytes(HEADER_BYTES) if i % 3 == 0 else good)
        damaged[rng.randrange(HEADER_BYTES)] ^= rng.randrange(1, 256)
        raw, receiver = receiver_of_raw_socket()
        with raw, receiver:
            raw.sendall(damaged)
            with pytest.raises(TransportError, match="header"):
                receiver.recv(TEST_TIMEOUT_S)
            assert receiver.peer_gone()


@pytest.mark.parametrize("share", [0.1, 0.6, 0.99])
def test_an_end_in_the_middle_of_a_message_is_no_message(share: float) -> None:
    fields, tensors, _ = encode(gradient(1000))
    header = add_checksum(fields)
    whole = header + tensors[0].numpy().tobytes()
    raw, receiver = receiver_of_raw_socket()
    with raw, receiver:
        raw.sendall(whole + whole[: int(len(whole) * share)])
        raw.close()
        assert_same(receiver.recv(TEST_TIMEOUT_S), gradient(1000))
        with pytest.raises(PeerGone, match="in the middle of a message"):
            receiver.recv(TEST_TIMEOUT_S)


def test_more_messages_than_credits_are_refused() -> None:
    fields, tensors, _ = encode(gradient(10))
    header = add_checksum(fields)
    raw, receiver = receiver_of_raw_socket(capacity=2)
    with raw, receiver:
        raw.sendall((header + tensors[0].numpy().tobytes()) * 3)
        for _ in range(2):
            receiver.recv(TEST_TIMEOUT_S)
        with pytest.raises(TransportError, match="stage 1 sent more messages than it had credits for"):
            receiver.recv(TEST_TIMEOUT_S)


@pytest.mark.parametrize("credits", [b"\1\1", b"\0", b"HTTP/1.1 200 OK"])
def test_credits_that_make_no_sense_are_refused(credits: bytes) -> None:
    sender, raw = sender_of_raw_socket()
    with raw, sender:
        sender.send(gradient(1), 0.0)
        raw.sendall(credits)
        with pytest.raises(TransportError, match="stage 1 sent credits that make no sense"):
            until(lambda: not sender.ready(), TEST_TIMEOUT_S, "the refusal")  # there is room for a message


def test_a_receiver_that_reads_nothing_is_given_up_at_the_deadline() -> None:
    """As a process that was stopped: its host answers, and the window stays closed."""
    timeout, messages = 2.0, 60
    sender, raw = sender_of_raw_socket(capacity=messages, timeout=timeout)
    with raw:
        begin = time.monotonic()
        with pytest.raises(PeerGone, match="stage 1 is gone"):
            for _ in range(messages + 1):  # the last one waits for a credit
                sender.send(gradient(250_000), TEST_TIMEOUT_S)
        assert time.monotonic() - begin < timeout + 5.0
        sender.close()


@pytest.mark.parametrize("capacity", [0, -1])
def test_capacity_has_bounds(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"capacity is {capacity}"):
        connect(("nowhere", 1), b"", 1, capacity, 1.0)


def test_a_host_that_does_not_resolve_is_one_line() -> None:
    with pytest.raises(PeerGone, match=r"stage 1 does not listen at no\.such\.host\.invalid:1 \(.+\)$"):
        connect(("no.such.host.invalid", 1), b"", 1, 1, 1.0)
