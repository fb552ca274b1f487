"""The shared-memory transport: the conformance suite in threads and in processes, and its own promises."""

import os
import socket
import stat
import threading
import time
from pathlib import Path

import pytest
import torch

from dni_async.messages import Marker, MarkerKind, TargetGradient
from tests.support.channels import shm_channel
from tests.support.conformance_messages import assert_same, message
from tests.support.conformance_runs import Outcome, over_channels
from tests.support.conformance_tests import ConformanceTests
from tests.support.gradients import ShmPair, gradient
from tests.support.transport_processes import run_in_processes, shm_links
from workers.transport import base, packets, shm
from workers.transport.base import PeerGone, TransportError, TransportTimeout
from workers.transport.shm import ShmListener, connect
from workers.transport.shm_sender import ShmSender
from workers.transport.slots import PAGE


@pytest.fixture(scope="module")
def in_threads() -> Outcome:
    return over_channels(shm_channel)


@pytest.fixture(scope="module")
def in_processes(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_in_processes(shm_links, tmp_path_factory.mktemp("shm"))


class TestConformance(ConformanceTests):
    pass


def test_no_file_system_sees_a_slot(ends: ShmPair) -> None:
    def mapped(what: str) -> int:
        return sum(what in line for line in Path("/proc/self/maps").read_text().splitlines())

    in_dev_shm, slots = mapped("/dev/shm"), mapped("/memfd:dni_async slot (deleted)")
    sender, receiver = ends
    sender.send(gradient(10), 0.0)
    receiver.recv(0.0)
    assert (mapped("/dev/shm"), mapped("/memfd:dni_async slot (deleted)")) == (in_dev_shm, slots + 2)


def test_a_slot_can_be_opened_by_its_owner_only(ends: ShmPair) -> None:
    ends[0].send(gradient(10), 0.0)
    slots = [path for path in Path("/proc/self/map_files").iterdir() if "dni_async slot" in os.readlink(path)]
    assert slots and all(stat.S_IMODE(os.stat(path).st_mode) == 0o600 for path in slots)


def test_a_slot_grows_with_its_messages(ends: ShmPair) -> None:
    sender, receiver = ends
    for elements in (1, 5000, 100, 6000, 40_000):
        assert sender.ready()
        sender.send(gradient(elements), 0.0)
        assert_same(receiver.recv(0.0), gradient(elements))
        receiver.release()
    assert 160_000 <= sender.held_bytes() <= 160_000 + PAGE  # one slot: never two messages in flight


def test_a_tensor_outlives_its_replaced_slot(ends: ShmPair) -> None:
    sender, receiver = ends
    sender.send(gradient(10), 0.0)
    kept = receiver.recv(0.0)
    receiver.release()
    sender.send(gradient(100_000), 0.0)
    receiver.recv(0.0)
    assert torch.equal(kept.grad, gradient(10).grad)  # nobody wrote to the old slot


def test_the_receiver_reads_in_place(ends: ShmPair) -> None:
    sender, receiver = ends
    addresses = set()
    for _ in range(4):
        assert sender.ready()
        sender.send(gradient(10), 0.0)
        addresses.add(receiver.recv(0.0).grad.data_ptr())
        receiver.release()
    assert len(addresses) == 1


def test_a_tensor_of_inference_mode_can_be_sent(ends: ShmPair) -> None:
    sender, receiver = ends
    for inference in (True, False, True):
        with torch.inference_mode(inference):
            sender.send(gradient(10) if inference else gradient(11), 0.0)
        receiver.recv(0.0).grad.requires_grad_()
        receiver.release()


def test_unread_credits_do_not_hide_messages() -> None:
    """A sender that leaves without reading its credits resets the connection; its messages still count."""
    sender, receiver = shm_channel(3)
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


def test_a_closed_receiver_is_a_gone_peer(ends: ShmPair) -> None:
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
        monkeypatch.setattr(packets.os, "getuid", lambda: os.geteuid() + 1)
        with pytest.raises(TransportTimeout, match="stage 1 did not connect"):
            listener.accept(0.1)
    with pytest.raises(TransportError, match="another user"):
        connect(listener.address, 1, 1, 1.0)
    listener.close()


def test_an_address_without_listener_is_refused() -> None:
    listener = ShmListener(1)
    listener.close()
    with pytest.raises(PeerGone, match="does not listen"):
        connect(listener.address, 1, 1, 1.0)


@pytest.mark.parametrize("capacity", [0, base.MAX_CAPACITY + 1])
def test_capacity_has_bounds(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"capacity is {capacity}"):
        connect("nowhere/", 1, capacity, 1.0)


def test_the_largest_capacity_fits_the_socket() -> None:
    sender, receiver = shm_channel(base.MAX_CAPACITY)
    with sender, receiver:
        for i in range(base.MAX_CAPACITY):
            sender.send(Marker(MarkerKind.REPORT, i, 0), 1.0)
        for _ in range(base.MAX_CAPACITY):
            receiver.recv(0.0)
            receiver.release()
        assert sender.ready()


class TestATensorThatSomebodyKeeps:
    """A module that logs its inputs, a cache, a hook: what it keeps does not change."""

    @pytest.mark.parametrize("elements", [3, 5000])
    def test_has_its_content_for_ever(self, ends: ShmPair, elements: int) -> None:
        sender, receiver = ends
        kept = []
        for i in range(8):
            assert sender.ready()
            sender.send(TargetGradient(i, 0, torch.full((elements,), float(i))), 0.0)
            message = receiver.recv(0.0)
            kept.append(message.grad[1:] if i % 2 else message.grad)  # a view keeps it as well
            del message
            receiver.release()
        assert all(torch.equal(tensor, torch.full_like(tensor, i)) for i, tensor in enumerate(kept))

    def test_outlives_the_channel(self, ends: ShmPair) -> None:
        sender, receiver = ends
        for _ in range(2):
            sender.send(gradient(10), 0.0)
        first, second = receiver.recv(0.0).grad, receiver.recv(0.0).grad
        receiver.release()
        receiver.close()
        sender.close()
        assert torch.equal(first, gradient(10).grad) and torch.equal(second, gradient(10).grad)

    def test_leaves_the_slot_in_use_at_another_address(self, ends: ShmPair) -> None:
        sender, receiver = ends
        sender.send(gradient(10), 0.0)
        kept = receiver.recv(0.0).grad
        receiver.release()
        assert sender.ready()
        sender.send(gradient(11), 0.0)
        message = receiver.recv(0.0)
        assert message.grad.data_ptr() != kept.data_ptr()
        assert_same(message, gradient(11))
        assert sender.held_bytes() == PAGE  # still one slot

    def test_leaves_no_memory_behind(self, ends: ShmPair) -> None:
        sender, receiver = ends

        def mappings() -> int:
            return len(Path("/proc/self/maps").read_text().splitlines())

        before = None
        for i in range(60):
            assert sender.ready()
            sender.send(gradient(5000), 0.0)
            kept = receiver.recv(0.0)
            receiver.release()
            del kept
            if i == 10:
                before = mappings()
        assert before is not None and mappings() <= before + 3


def test_a_full_queue_is_not_taken_for_an_absent_listener() -> None:
    """Strangers may fill it; who listens is there, and turns them away when it looks."""
    listener = ShmListener(1)
    name = listener.address.partition("/")[0]
    strangers: list[socket.socket] = []
    try:
        while True:
            stranger = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            strangers.append(stranger)
            stranger.setblocking(False)
            try:
                stranger.connect(f"\0{name}")
            except BlockingIOError:
                break
            stranger.send(b"let me in")
        with pytest.raises(TransportTimeout, match=r"stage 1 took no connection in 0\.05 s"):
            connect(listener.address, 1, 1, 0.05)
        connected: list[ShmSender] = []
        connecting = threading.Thread(target=lambda: connected.append(connect(listener.address, 1, 1, 20.0)))
        connecting.start()
        with listener.accept(20.0) as receiver:
            connecting.join(20.0)
            with connected[0] as sender:
                sender.send(gradient(1), 0.0)
                assert_same(receiver.recv(0.0), gradient(1))
    finally:
        for stranger in strangers:
            stranger.close()
        listener.close()


def test_connections_of_another_user_are_dropped_without_waiting_for_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listener = ShmListener(1)
    name = listener.address.partition("/")[0]
    strangers = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(100)]
    try:
        for stranger in strangers:
            stranger.connect(f"\0{name}")
        monkeypatch.setattr(packets.os, "getuid", lambda: os.geteuid() + 1)
        begin = time.monotonic()
        assert listener.admit(0.0) is None
        assert time.monotonic() - begin < shm.HELLO_TIMEOUT_S
        assert all(stranger.recv(1) == b"" for stranger in strangers)
    finally:
        for stranger in strangers:
            stranger.close()
        listener.close()
