"""Times of a GPU that runs behind the host; a piece of work takes it a millisecond (support/fake_gpu)."""

from __future__ import annotations

import pytest

from tests.support.clocks import Clock
from tests.support.fake_gpu import FakeGpu
from workers.runtime.gpu_probe import GpuProbe
from workers.transport.base import TransportTimeout

MARK = 1
"""A mark is itself a piece of work."""


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu(computes_at_once=False)


def work(gpu: FakeGpu, pieces: int) -> None:
    for _ in range(pieces):
        gpu.default.add(lambda: True)


def step(gpu: FakeGpu, probe: GpuProbe, number: int) -> None:
    probe.begin(number, training=True)
    work(gpu, 3)
    probe.mark("forward")
    work(gpu, 5)
    probe.mark("backward")
    probe.step_done()


def test_the_time_of_the_gpu_counts_and_not_that_of_the_host(gpu: FakeGpu) -> None:
    clock = Clock()
    probe = GpuProbe(gpu, 5.0, clock=clock)
    clock.now = 7.0  # the host is done at once, or waits
    step(gpu, probe, 0)
    stats = probe.stats()
    assert stats["busy_s"] == pytest.approx((3 + 5 + 2 * MARK) / 1e3)
    assert stats["wait_s"] == pytest.approx(MARK / 1e3)
    assert [event[0] for event in probe.timeline()] == ["wait", "forward", "backward"]


def test_nothing_is_waited_for_while_the_gpu_is_behind(gpu: FakeGpu) -> None:
    probe, open_ = GpuProbe(gpu, 5.0), [False]
    gpu.default.add(lambda: open_[0])
    step(gpu, probe, 0)
    step(gpu, probe, 1)
    assert probe.totals == {} and list(probe.events) == []
    open_[0] = True
    assert probe.stats()["busy_s"] == pytest.approx(2 * (3 + 5 + 2 * MARK) / 1e3)
    assert [event[3] for event in probe.events] == [0, 0, 0, 1, 1, 1]


def test_steps_of_the_warm_up_do_not_count_although_they_are_read_later(gpu: FakeGpu) -> None:
    probe, open_ = GpuProbe(gpu, 5.0, warmup=2), [False]
    gpu.default.add(lambda: open_[0])
    for number in range(3):
        step(gpu, probe, number)
    open_[0] = True
    assert probe.stats()["busy_s"] == pytest.approx((3 + 5 + 2 * MARK) / 1e3)
    assert len(probe.timeline()) == 9


def test_a_gpu_that_hangs_is_given_up_at_the_deadline(gpu: FakeGpu) -> None:
    probe = GpuProbe(gpu, 0.02)
    gpu.default.add(lambda: False)
    probe.mark("forward")
    with pytest.raises(TransportTimeout, match=r"the work of the GPU was not done in 0\.02 s"):
        probe.stats()
