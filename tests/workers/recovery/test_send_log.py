"""What flies in an send_log survives the process that sent it. A process is a call of `open` here."""

from __future__ import annotations

import os
import signal

from workers.recovery.send_log import SendLog
from workers.runtime.accelerator import DONE
from workers.transport.packets import PACKET_BYTES, PLACE
from workers.transport.pool import InFlight
from workers.transport.slots import PAGE


def packet(index: int, generation: int, stamp: int) -> bytes:
    return PLACE.pack(index, generation, stamp).ljust(PACKET_BYTES, b".")


def send(send_log: SendLog, stamp: int, need: int = 1, sent: bool = True) -> int:
    """Let a message fly, of bytes `stamp`; the index of its slot."""
    index, generation, slot = send_log.reserve(need)
    slot._map[:need] = bytes([stamp]) * need
    message = InFlight(index, packet(index, generation, stamp), DONE, need)
    send_log.commit(message)
    if sent:
        send_log.on_send(message)
    return index


def stamps(send_log: SendLog) -> list[int]:
    return [PLACE.unpack_from(message.packet)[2] for message in send_log.in_flight]


def after_a_kill(send_log: SendLog) -> SendLog:
    """The send_log as the next process finds it."""
    send_log.recover(pin=False)
    return send_log


def recovered(capacity: int = 3) -> SendLog:
    send_log = SendLog(capacity)
    send_log.recover(pin=False)
    return send_log


def test_a_new_send_log_is_empty() -> None:
    send_log = recovered()
    assert not send_log.in_flight
    assert send_log.has_room()
    assert send_log.held_bytes() == 0


def test_a_message_that_is_sent_again_has_the_payload_that_it_had() -> None:
    send_log = recovered()
    send(send_log, 1, need=3), send(send_log, 2, need=2 * PAGE)
    again = after_a_kill(send_log)
    assert [bytes(again.payload(message)) for message in again.in_flight] == [b"\1" * 3, b"\2" * 2 * PAGE]


def test_messages_that_were_sent_are_sent_again_in_the_same_order_and_slots() -> None:
    send_log = recovered()
    send(send_log, 1), send(send_log, 2)
    send_log.release(1)
    used = [send(send_log, 3), send(send_log, 4)]
    again = after_a_kill(send_log)
    assert stamps(again) == [2, 3, 4]
    assert [message.index for message in again.in_flight][1:] == used
    assert [again.slot(message.index)._map[0] for message in again.in_flight] == [2, 3, 4]
    assert all(message.copied.query() and message.logged for message in again.in_flight)
    assert not again.has_room()


def test_messages_that_were_never_sent_are_not_sent_again() -> None:
    """Its tensors may not be in the slot; who was handling its cause will handle it again."""
    send_log = recovered()
    send(send_log, 1)
    send(send_log, 2, sent=False)
    again = after_a_kill(send_log)
    assert stamps(again) == [1]
    assert again.has_room()


def test_a_message_that_was_released_comes_again_until_its_slot_is_used() -> None:
    send_log = recovered(2)
    send(send_log, 1), send(send_log, 2)
    send_log.release(2)
    send(send_log, 3)
    assert stamps(after_a_kill(send_log)) == [1, 3]


def test_after_many_kills_the_order_is_still_that_of_sending() -> None:
    send_log, sent = recovered(3), 0
    for _ in range(5):
        while send_log.has_room():
            send(send_log, sent := sent + 1)
        assert stamps(send_log) == [sent - 2, sent - 1, sent]
        send_log = after_a_kill(send_log)
        assert stamps(send_log) == [sent - 2, sent - 1, sent]
        send_log.release(2)


def test_a_message_that_is_sent_again_is_logged_once() -> None:
    send_log = recovered(2)
    send(send_log, 1), send(send_log, 2)
    again = after_a_kill(send_log)
    again.on_send(again.in_flight[0])
    assert stamps(after_a_kill(again)) == [1, 2]


def test_an_entry_whose_write_was_interrupted_is_ignored() -> None:
    send_log = recovered(2)
    send(send_log, 1), send(send_log, 2)
    send_log._log[:8] = bytes(8)  # the first thing that `on_send` does
    assert stamps(after_a_kill(send_log)) == [2]


def test_slots_grow_in_place_and_the_next_process_knows_their_generation() -> None:
    send_log = recovered(1)
    for stamp, need in ((1, 1), (2, PAGE + 1)):
        send(send_log, stamp, need)
        send_log.release(1)
    send(send_log, 3, 2 * PAGE)
    again = after_a_kill(send_log)
    (message,) = again.in_flight
    assert again.slot(0).size == 2 * PAGE
    assert again.slot(0)._map[2 * PAGE - 1] == 3
    assert PLACE.unpack_from(message.packet)[1] == 2
    again.release(1)
    assert again.reserve(1)[1] == 2


def test_the_next_connection_is_passed_every_slot() -> None:
    send_log = recovered(2)
    send(send_log, 1)
    slot = send_log.slot(0)
    slot.forget_descriptor()
    send_log.on_connect()
    assert slot.descriptor >= 0
    assert os.fstat(slot.descriptor).st_ino == os.fstat(send_log._files[0]).st_ino
    slot.close()


def test_a_forked_process_that_is_killed_leaves_its_messages() -> None:
    send_log = SendLog(2)
    sender = os.fork()
    if sender == 0:
        send_log.recover(pin=False)
        send(send_log, 7)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(sender, 0)
    send_log.recover(pin=False)
    assert stamps(send_log) == [7]
    assert send_log.slot(send_log.in_flight[0].index)._map[0] == 7
