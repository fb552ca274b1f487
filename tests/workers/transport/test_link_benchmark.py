from __future__ import annotations

import multiprocessing
import threading
import time

import pytest
import torch

from dni_async.errors import StageError
from tests.support.channels import Copying, shm_channel
from tests.support.forks import TEST_TIMEOUT_S, context
from workers.transport.base import Waitable, wait_any
from workers.transport.link_benchmark import _turn, ping
from workers.transport.link_cost import Line, fit
from workers.transport.links import Link

SIZES = (1024, 1 << 20, 1 << 22)


@pytest.mark.parametrize(("start", "per_byte"), [(1e-4, 1e-9), (0.0, 1e-9), (1e-3, 0.0)])
def test_a_line_through_exact_points_is_found(start: float, per_byte: float) -> None:
    line = Line(start, per_byte)
    found = fit(SIZES, [line(size) for size in SIZES])
    assert found.start == pytest.approx(start, abs=1e-9)
    assert found.per_byte == pytest.approx(per_byte, abs=1e-15)


def test_small_messages_count_as_much_as_large_ones() -> None:
    """Twice too long for 4 MiB must not make 1 KiB free of charge."""
    found = fit(SIZES, [1e-4, 1.1e-4, 2e-2])
    assert found(1024) == pytest.approx(1e-4, rel=0.5)


def test_neither_number_is_negative() -> None:
    assert fit(SIZES, [3e-4, 2e-4, 1e-4]).per_byte == 0.0
    assert fit(SIZES, [1e-9, 1e-3, 1e-2]).start >= 0.0
    assert fit([64], [2.0])(64) == 2.0
    assert fit(SIZES, [0.0, 0.0, 0.0]) == Line(0.0, 0.0)


def test_two_processes_measure_a_message_over_every_transport() -> None:
    found = ping(["shm"], sizes=SIZES, repeats=3, timeout=TEST_TIMEOUT_S, context=context())
    assert set(found.links) == {"shm", "dist"}
    for cost in found.links.values():
        assert all(line.start >= 0 and line.per_byte >= 0 for line in (cost.send, cost.latency))
        whole = cost.send(1 << 22) + cost.latency(1 << 22)
        assert 0 < whole < 1.0
        assert whole > cost.send(1024) + cost.latency(1024)
    assert 0 < found.all_reduce(1 << 20) < 1.0
    assert set(found.arrival) == {"shm", "dist"}
    assert all(len(seconds) == len(SIZES) and min(seconds) > 0 for seconds in found.arrival.values())
    assert multiprocessing.active_children() == []


def test_a_message_is_measured_whose_copy_from_a_gpu_takes_its_time() -> None:
    """The sender sleeps until its credit is back: what waits for its copy has to leave before."""
    sender, receiver = shm_channel(1)
    sender.copy_out = lambda places, tensors: Copying(patience=5)  # type: ignore[attr-defined]
    cpu, times = torch.device("cpu"), []

    def wait(end: Waitable) -> None:
        assert wait_any([end], TEST_TIMEOUT_S)

    def turn(rank: int) -> None:
        times.append(_turn(Link(sender, receiver), rank, 64, cpu, TEST_TIMEOUT_S, wait))

    other = threading.Thread(target=turn, args=(1,))
    other.start()
    turn(0)
    other.join(TEST_TIMEOUT_S)
    assert sorted(map(len, times)) == [2, 3]
    sender.close()
    receiver.close()


def test_processes_that_do_not_answer_are_given_up_at_the_deadline() -> None:
    with pytest.raises(StageError) as error:
        ping(["shm"], timeout=0.01, context=context())
    assert str(error.value) == "measuring messages took longer than 0.01 s; raise --timeout"


def test_an_unknown_transport_fails_without_hanging() -> None:
    with pytest.raises(StageError, match="measuring messages failed"):
        ping(["pigeon"], sizes=(64,), repeats=1, timeout=TEST_TIMEOUT_S, context=context())


def test_a_process_that_dies_is_noticed_at_once() -> None:
    begun = time.monotonic()
    with pytest.raises(StageError, match="measuring messages failed"):
        ping(["shm"], sizes=(-4,), repeats=1, timeout=2 * TEST_TIMEOUT_S, context=context())
    assert time.monotonic() - begun < TEST_TIMEOUT_S
