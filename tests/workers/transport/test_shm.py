"""The shared-memory transport: the conformance suite in threads and in processes, and its own promises."""

import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from dni_async.messages import Activation, Mark, MarkKind, TargetGradient
from tests.workers.helpers import Copying, copy_late
from tests.workers.transport.conformance import (
    CAPACITY,
    KILLED,
    NAMES,
    Link,
    Outcome,
    Side,
    assert_same,
    message,
    nothing_left_open,
    run_in_threads,
)
from tests.workers.transport.processes import run_in_processes, shm_links
from workers.transport import shm
from workers.transport.base import PeerGone, TransportError, TransportTimeout
from workers.transport.shm import ShmListener, ShmReceiver, ShmSender, connect
from workers.transport.slots import PAGE
from workers.transport.wire import WireError, encode

Ends = tuple[ShmSender, ShmReceiver]


def channel(capacity: int = 2) -> Ends:
    listener = ShmListener(0)
    sender = connect(listener.address, 1, capacity, 5.0)
    return sender, listener.accept(5.0)


@pytest.fixture
def ends() -> Iterator[Ends]:
    with nothing_left_open():
        sender, receiver = channel()
        with sender, receiver:
            yield sender, receiver


@pytest.fixture(scope="module")
def in_threads() -> Outcome:
    links: list[list[Link]] = [[], []]
    for capacity in (CAPACITY, 1):
        (down, down_end), (up, up_end) = channel(capacity), channel(capacity)
        links[0].append(Link(down, up_end, capacity))
        links[1].append(Link(up, down_end, capacity))
    return run_in_threads([Side(rank, *links[rank], print) for rank in (0, 1)])


@pytest.fixture(scope="module")
def in_processes(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_in_processes(shm_links, tmp_path_factory.mktemp("shm"))


@pytest.mark.parametrize("name", NAMES)
def test_conforms_in_threads(in_threads: Outcome, name: str) -> None:
    in_threads.check(name)


@pytest.mark.parametrize("name", NAMES)
def test_conforms_in_processes(in_processes: Outcome, name: str) -> None:
    in_processes.check(name)


def test_a_killed_peer_is_noticed(in_processes: Outcome) -> None:
    in_processes.check(KILLED, ranks=(0,))


def gradient(elements: int) -> TargetGradient:
    return TargetGradient(elements, 0, torch.arange(elements, dtype=torch.float32))


def test_no_file_system_sees_a_slot(ends: Ends) -> None:
    def mapped(what: str) -> int:
        return sum(what in line for line in Path("/proc/self/maps").read_text().splitlines())

    in_dev_shm = mapped("/dev/shm")
    sender, receiver = ends
    sender.send(gradient(10), 0.0)
    receiver.recv(0.0)
    assert (mapped("/dev/shm"), mapped("/memfd:dni_async slot (deleted)")) == (in_dev_shm, 2)


def test_a_slot_grows_with_its_messages(ends: Ends) -> None:
    sender, receiver = ends
    for elements in (1, 5000, 100, 6000, 40_000):
        assert sender.ready()
        sender.send(gradient(elements), 0.0)
        assert_same(receiver.recv(0.0), gradient(elements))
        receiver.release()
    assert 160_000 <= sender.held_bytes() <= 160_000 + PAGE  # one slot: never two messages in flight


def test_a_tensor_outlives_its_replaced_slot(ends: Ends) -> None:
    sender, receiver = ends
    sender.send(gradient(10), 0.0)
    kept = receiver.recv(0.0)
    receiver.release()
    sender.send(gradient(100_000), 0.0)
    receiver.recv(0.0)
    assert torch.equal(kept.grad, gradient(10).grad)  # nobody wrote to the old slot


def test_the_receiver_reads_in_place(ends: Ends) -> None:
    sender, receiver = ends
    addresses = set()
    for _ in range(4):
        assert sender.ready()
        sender.send(gradient(10), 0.0)
        addresses.add(receiver.recv(0.0).grad.data_ptr())
        receiver.release()
    assert len(addresses) == 1


def test_sending_in_inference_mode(ends: Ends) -> None:
    sender, receiver = ends
    for inference in (True, False, True):
        with torch.inference_mode(inference):
            sender.send(gradient(10) if inference else gradient(11), 0.0)
        receiver.recv(0.0).grad.requires_grad_()
        receiver.release()


def test_unread_credits_do_not_hide_messages() -> None:
    """A sender that leaves without reading its credits resets the connection; its messages still count."""
    sender, receiver = channel(3)
    with receiver:
        for i in range(3):
            sender.send(message(i), 0.0)
        receiver.recv(0.0)
        receiver.release()
        sender.close()
        assert receiver.peer_gone()
        for i in (1, 2):
            assert_same(receiver.recv(0.0), message(i))
            receiver.release()
        with pytest.raises(PeerGone):
            receiver.recv(1.0)


def test_a_closed_receiver_is_a_gone_peer(ends: Ends) -> None:
    sender, receiver = ends
    sender.send(gradient(3), 0.0)
    receiver.close()
    assert sender.peer_gone()
    for call in (sender.ready, lambda: sender.send(gradient(3), 1.0)):
        with pytest.raises(PeerGone):
            call()


@pytest.mark.parametrize("hello", [b"", b"x", b"0" * 32 + b"\1\0\0\0", b"0" * 5000])
def test_a_stranger_is_turned_away(hello: bytes) -> None:
    listener = ShmListener(1)
    name = listener.address.partition("/")[0]
    stranger = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with stranger:
        stranger.connect(f"\0{name}")
        stranger.send(hello)
        with connect(listener.address, 1, 1, 1.0) as sender, listener.accept(5.0) as receiver:
            sender.send(gradient(1), 0.0)
            assert_same(receiver.recv(0.0), gradient(1))
        assert stranger.recv(1) == b""


def test_another_user_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = ShmListener(1)
    with connect(listener.address, 1, 1, 1.0):
        monkeypatch.setattr(shm.os, "getuid", lambda: os.geteuid() + 1)
        with pytest.raises(TransportTimeout, match="stage 1 did not connect"):
            listener.accept(0.1)
    with pytest.raises(TransportError, match="another user"):
        connect(listener.address, 1, 1, 1.0)
    listener.close()


def test_nobody_listens() -> None:
    listener = ShmListener(1)
    listener.close()
    with pytest.raises(PeerGone, match="does not listen"):
        connect(listener.address, 1, 1, 1.0)


@pytest.mark.parametrize("capacity", [0, shm.MAX_CAPACITY + 1])
def test_capacity_has_bounds(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"capacity is {capacity}"):
        connect("nowhere/", 1, capacity, 1.0)


def test_the_largest_capacity_fits_the_socket() -> None:
    sender, receiver = channel(shm.MAX_CAPACITY)
    with sender, receiver:
        for i in range(shm.MAX_CAPACITY):
            sender.send(Mark(MarkKind.REPORT, i, 0), 1.0)
        for _ in range(shm.MAX_CAPACITY):
            receiver.recv(0.0)
            receiver.release()
        assert sender.ready()


GOOD = encode(Activation(0, 0, torch.zeros(4), torch.zeros(4)))[0]


@pytest.mark.parametrize(
    "packet",
    [
        b"short",
        b"\0" * shm._PACKET,
        shm._PLACE.pack(9, 1) + GOOD,
        shm._PLACE.pack(0, 1) + GOOD,
        shm._PLACE.pack(0, 1) + GOOD + b"more",
    ],
)
def test_a_bad_packet_is_refused(ends: Ends, packet: bytes) -> None:
    sender, receiver = ends
    sender._socket.send(packet)
    with pytest.raises(WireError):
        receiver.recv(1.0)


def test_a_payload_beyond_its_slot_is_refused(ends: Ends) -> None:
    sender, receiver = ends
    sender.send(gradient(1), 0.0)
    receiver.recv(0.0)
    sender._socket.send(shm._PLACE.pack(0, 1) + encode(gradient(PAGE))[0])
    with pytest.raises(WireError, match="payload of"):
        receiver.recv(1.0)


def test_a_file_that_could_shrink_is_refused(ends: Ends) -> None:
    sender, receiver = ends
    for descriptor in (os.memfd_create("soft", os.MFD_ALLOW_SEALING), os.open("/dev/null", os.O_RDWR)):
        socket.send_fds(sender._socket, [shm._PLACE.pack(0, 1) + GOOD], [descriptor])
        os.close(descriptor)
        with pytest.raises(TransportError):
            receiver.recv(1.0)


@pytest.mark.parametrize("credit", [b"x", shm._CREDIT.pack(7), shm._CREDIT.pack(0)])
def test_a_bad_credit_is_refused(ends: Ends, credit: bytes) -> None:
    sender, receiver = ends
    sender.send(gradient(1), 0.0)
    receiver._socket.send(credit)
    with pytest.raises(TransportError, match="credit"):
        sender.ready()


class TestAMessageWhoseCopyIsUnderWay:
    @pytest.fixture
    def copies(self, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> list[Copying]:
        """All copies that were begun, each under way until it is told otherwise."""
        begun: list[Copying] = []

        def copy_out(places: Sequence[torch.Tensor], tensors: Sequence[torch.Tensor]) -> Copying:
            begun.append(copy_late(places, tensors))
            return begun[-1]

        monkeypatch.setattr(ends[0], "copy_out", copy_out)
        return begun

    def test_leaves_when_it_is_done(self, ends: Ends, copies: list[Copying]) -> None:
        sender, receiver = ends
        sender.send(gradient(10), 0.0)
        assert not receiver.poll()
        assert sender.ready()
        assert not receiver.poll()
        copies[0].finished = True
        assert sender.ready()
        assert_same(receiver.recv(0.0), gradient(10))

    def test_does_not_overtake(self, ends: Ends, copies: list[Copying]) -> None:
        sender, receiver = ends
        sender.send(gradient(10), 0.0)
        sender.send(gradient(11), 0.0)
        copies[1].finished = True
        assert not sender.ready()
        assert not receiver.poll()
        copies[0].finished = True
        sender.ready()
        assert [receiver.recv(0.0).grad.numel() for _ in range(2)] == [10, 11]

    def test_is_seen_off_before_the_sender_sleeps(self, ends: Ends, copies: list[Copying]) -> None:
        sender, receiver = ends
        sender.send(gradient(10), 0.0)
        sender.flush(5.0)
        assert receiver.poll()

    def test_is_seen_off_before_waiting_for_its_slot(self, ends: Ends, copies: list[Copying]) -> None:
        sender, receiver = ends
        for elements in (10, 11):
            sender.send(gradient(elements), 0.0)
        with pytest.raises(TransportTimeout):
            sender.send(gradient(12), 0.1)
        assert receiver.poll()

    def test_arrives_though_the_sender_is_closed(self, ends: Ends, copies: list[Copying]) -> None:
        sender, receiver = ends
        sender.send(gradient(10), 0.0)
        sender.close()
        assert_same(receiver.recv(0.0), gradient(10))
        with pytest.raises(PeerGone):
            receiver.poll()

    def test_and_never_done_is_not_waited_for_for_ever(self, ends: Ends, copies: list[Copying]) -> None:
        sender, _ = ends
        sender.send(gradient(10), 0.0)
        copies[0].query = lambda: False  # type: ignore[method-assign]
        with pytest.raises(TransportTimeout, match="was not done in"):
            sender.flush(0.01)
