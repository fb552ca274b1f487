"""What flies in an outbox survives the process that sent it. A process is a call of `open` here."""

from __future__ import annotations

import os
import signal

from workers.copies import DONE
from workers.recovery.outbox import Outbox
from workers.transport.packets import PACKET_BYTES, PLACE
from workers.transport.pool import Flying
from workers.transport.slots import PAGE


def packet(index: int, generation: int, stamp: int) -> bytes:
    return PLACE.pack(index, generation, stamp).ljust(PACKET_BYTES, b".")


def send(outbox: Outbox, stamp: int, need: int = 1, leaves: bool = True) -> int:
    """Let a message fly, of bytes `stamp`; the index of its slot."""
    index, generation, slot = outbox.fit(need)
    slot._map[:need] = bytes([stamp]) * need
    message = Flying(index, packet(index, generation, stamp), DONE)
    outbox.fly(message)
    if leaves:
        outbox.leaves(message)
    return index


def stamps(outbox: Outbox) -> list[int]:
    return [PLACE.unpack_from(message.packet)[2] for message in outbox.flying]


def after_a_kill(outbox: Outbox) -> Outbox:
    """The outbox as the next process finds it."""
    outbox.open(pin=False)
    return outbox


def opened(capacity: int = 3) -> Outbox:
    outbox = Outbox(capacity)
    outbox.open(pin=False)
    return outbox


def test_a_new_one_is_empty() -> None:
    outbox = opened()
    assert not outbox.flying
    assert outbox.has_room()
    assert outbox.held_bytes() == 0


def test_what_left_flies_again_in_the_same_order_and_slots() -> None:
    outbox = opened()
    send(outbox, 1), send(outbox, 2)
    outbox.land(1)
    used = [send(outbox, 3), send(outbox, 4)]
    again = after_a_kill(outbox)
    assert stamps(again) == [2, 3, 4]
    assert [message.index for message in again.flying][1:] == used
    assert [again.slot(message.index)._map[0] for message in again.flying] == [2, 3, 4]
    assert all(message.copied.query() and message.logged for message in again.flying)
    assert not again.has_room()


def test_what_never_left_does_not() -> None:
    """Its tensors may not be in the slot; who was handling its cause will handle it again."""
    outbox = opened()
    send(outbox, 1)
    send(outbox, 2, leaves=False)
    again = after_a_kill(outbox)
    assert stamps(again) == [1]
    assert again.has_room()


def test_a_message_that_was_released_comes_again_until_its_slot_is_used() -> None:
    outbox = opened(2)
    send(outbox, 1), send(outbox, 2)
    outbox.land(2)
    send(outbox, 3)
    assert stamps(after_a_kill(outbox)) == [1, 3]


def test_after_many_kills_the_order_is_still_that_of_sending() -> None:
    outbox, sent = opened(3), 0
    for _ in range(5):
        while outbox.has_room():
            send(outbox, sent := sent + 1)
        assert stamps(outbox) == [sent - 2, sent - 1, sent]
        outbox = after_a_kill(outbox)
        assert stamps(outbox) == [sent - 2, sent - 1, sent]
        outbox.land(2)


def test_a_message_that_is_sent_again_is_logged_once() -> None:
    outbox = opened(2)
    send(outbox, 1), send(outbox, 2)
    again = after_a_kill(outbox)
    again.leaves(again.flying[0])
    assert stamps(after_a_kill(again)) == [1, 2]


def test_a_log_that_was_being_written_counts_for_nothing() -> None:
    outbox = opened(2)
    send(outbox, 1), send(outbox, 2)
    outbox._log[:8] = bytes(8)  # the first thing that `leaves` does
    assert stamps(after_a_kill(outbox)) == [2]


def test_slots_grow_in_place_and_the_next_process_knows_their_generation() -> None:
    outbox = opened(1)
    for stamp, need in ((1, 1), (2, PAGE + 1)):
        send(outbox, stamp, need)
        outbox.land(1)
    send(outbox, 3, 2 * PAGE)
    again = after_a_kill(outbox)
    (message,) = again.flying
    assert again.slot(0).size == 2 * PAGE
    assert again.slot(0)._map[2 * PAGE - 1] == 3
    assert PLACE.unpack_from(message.packet)[1] == 2
    again.land(1)
    assert again.fit(1)[1] == 2


def test_the_next_connection_is_passed_every_slot() -> None:
    outbox = opened(2)
    send(outbox, 1)
    slot = outbox.slot(0)
    slot.forget_descriptor()
    outbox.renew()
    assert slot.descriptor >= 0
    assert os.fstat(slot.descriptor).st_ino == os.fstat(outbox._files[0]).st_ino
    slot.drop()


def test_a_forked_process_that_is_killed_leaves_its_messages() -> None:
    outbox = Outbox(2)
    sender = os.fork()
    if sender == 0:
        outbox.open(pin=False)
        send(outbox, 7)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(sender, 0)
    outbox.open(pin=False)
    assert stamps(outbox) == [7]
    assert outbox.slot(outbox.flying[0].index)._map[0] == 7
