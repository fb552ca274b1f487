from __future__ import annotations

import os
import socket

import psutil
import pytest
import torch

from tests.support.clocks import Clock
from workers.runtime.probe import COMPUTE, Probe, Throughput, process_metadata, warmup_steps

DIAGRAM = "wait | forward | send | backward | send | update | wait | sg | wait"
"""As in the docstring of workers/runtime/probe.py."""


def play(probe: Probe, clock: Clock, pieces: list[tuple[str, float]]) -> None:
    """Each piece of work takes so many seconds."""
    for kind, seconds in pieces:
        clock.now += seconds
        probe.mark(kind)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def probe(clock: Clock) -> Probe:
    """One that is in training already."""
    probe = Probe(clock=clock)
    probe.begin(0, training=True)
    return probe


def test_a_restarted_stage_continues_with_the_totals_and_the_warm_up(clock: Clock) -> None:
    first, second = Probe(2, clock=clock), Probe(2, clock=clock)
    for _ in range(2):
        first.step_done()
    first.begin(2, training=True)
    play(first, clock, [("forward", 5.0)])
    second.load_state_dict(first.state_dict())
    second.step_done()
    assert second.totals == {"wait": 0.0, "forward": 5.0}


class TestTiling:
    def test_the_diagram(self, probe: Probe, clock: Clock) -> None:
        play(probe, clock, [(kind, i + 1.0) for i, kind in enumerate(DIAGRAM.split(" | "))])
        assert list(probe.events) == [
            ("wait", 0.0, 1.0, 0),
            ("forward", 1.0, 3.0, 0),
            ("send", 3.0, 6.0, 0),
            ("backward", 6.0, 10.0, 0),
            ("send", 10.0, 15.0, 0),
            ("update", 15.0, 21.0, 0),
            ("wait", 21.0, 28.0, 0),
            ("sg", 28.0, 36.0, 0),
            ("wait", 36.0, 45.0, 0),
        ]

    def test_the_totals_add_up_to_the_wall_clock(self, probe: Probe, clock: Clock) -> None:
        play(probe, clock, [(kind, i + 1.0) for i, kind in enumerate(DIAGRAM.split(" | "))])
        assert probe.totals == {"wait": 17, "forward": 2, "send": 8, "backward": 4, "update": 6, "sg": 8}
        assert sum(probe.totals.values()) == clock.now == 45

    def test_the_time_before_a_message_goes_to_waiting_or_loading(self, probe: Probe, clock: Clock) -> None:
        clock.now = 2.0
        probe.begin(1, training=True)
        clock.now = 5.0
        probe.begin(2, training=True, before="load")
        assert list(probe.events) == [("wait", 0.0, 2.0, 1), ("load", 2.0, 5.0, 2)]

    def test_only_training_counts_and_everything_is_an_event(self, probe: Probe, clock: Clock) -> None:
        play(probe, clock, [("forward", 1.0)])
        clock.now += 1.0
        probe.begin(7, training=False)
        play(probe, clock, [("evaluate", 5.0)])
        assert probe.totals == {"wait": 0.0, "forward": 1.0}
        assert [(kind, step) for kind, _, _, step in probe.events] == [
            ("forward", 0),
            ("wait", 7),
            ("evaluate", 7),
        ]

    def test_a_very_short_event_counts_and_is_not_kept(self, probe: Probe, clock: Clock) -> None:
        play(probe, clock, [("send", 4e-6), ("send", 6e-6)])
        assert len(probe.events) == 1
        assert probe.totals["send"] == pytest.approx(10e-6)

    def test_events_are_bounded_and_the_last_are_kept(self, clock: Clock) -> None:
        probe = Probe(limit=3, clock=clock)
        for step in range(10):
            clock.now += 1.0
            probe.begin(step, training=True)
        assert [step for *_, step in probe.events] == [7, 8, 9]
        assert probe.totals == {"wait": 10.0}

    def test_the_timeline_is_in_microseconds_with_durations(self, probe: Probe, clock: Clock) -> None:
        play(probe, clock, [("forward", 1.5), ("send", 0.25)])
        assert probe.timeline() == [["forward", 0.0, 1.5e6, 0], ["send", 1.5e6, 0.25e6, 0]]


class TestWarmUp:
    def test_totals_begin_after_the_warm_up_and_events_before_it(self, clock: Clock) -> None:
        probe = Probe(warmup=2, clock=clock)
        probe.begin(0, training=True)
        seen = []
        for seconds in (100.0, 10.0, 1.0, 1.0):
            play(probe, clock, [("forward", seconds)])
            probe.step_done()
            seen.append(dict(probe.totals))
        assert seen == [{}, {}, {"forward": 1.0}, {"forward": 2.0}]
        assert len(probe.events) == 4

    @pytest.mark.parametrize(
        ("steps", "warmup"), [(1, 1), (4, 1), (7, 1), (8, 2), (39, 9), (40, 10), (1000, 10)]
    )
    def test_the_warm_up_is_ten_steps_or_a_quarter_of_a_short_epoch(self, steps: int, warmup: int) -> None:
        assert warmup_steps(steps) == warmup


class TestStats:
    def test_utilisation_is_the_share_of_computing(self, probe: Probe, clock: Clock) -> None:
        spent = {
            "forward": 1,
            "backward": 2,
            "update": 3,
            "sg": 4,
            "head": 5,
            "wait": 5,
            "send": 6,
            "load": 4,
        }
        play(probe, clock, [(kind, float(seconds)) for kind, seconds in spent.items()])
        assert probe.stats() == {
            "busy_s": 15.0,
            "wait_s": 5.0,
            "send_s": 6.0,
            "load_s": 4.0,
            "sg_s": 4.0,
            "head_s": 5.0,
            "utilisation": 0.5,
        }

    def test_every_kind_of_computing_is_busy(self, probe: Probe, clock: Clock) -> None:
        play(probe, clock, [(kind, 1.0) for kind in COMPUTE])
        assert (probe.stats()["busy_s"], probe.stats()["utilisation"]) == (6.0, 1.0)

    def test_without_any_work_there_is_no_utilisation(self, probe: Probe) -> None:
        assert probe.stats() == dict.fromkeys(probe.stats(), 0.0)


class TestThroughput:
    def test_throughput_counts_from_the_first_to_the_last_step_after_the_warm_up(self, clock: Clock) -> None:
        throughput = Throughput(2, clock)
        seen = []
        for now, samples in ((50.0, 32), (51.0, 32), (53.0, 32), (54.0, 16)):
            clock.now = now
            throughput.trained(samples)
            seen.append(throughput.per_second())
        assert seen == [None, None, 32 / 2, 48 / 3]

    def test_after_a_pause_throughput_skips_steps_again(self, clock: Clock) -> None:
        throughput = Throughput(2, clock)
        for now in (1.0, 2.0, 3.0):
            clock.now = now
            throughput.trained(10)
        throughput.pause()
        for now in (100.0, 100.1, 102.1):
            clock.now = now
            throughput.trained(10)
        assert (throughput.samples, throughput.seconds) == (20, pytest.approx(3.0))

    def test_at_least_one_step_is_skipped(self, clock: Clock) -> None:
        throughput = Throughput(0, clock)
        clock.now = 5.0
        throughput.trained(10)
        assert throughput.per_second() is None


def test_process_metadata_describes_this_process() -> None:
    metadata = process_metadata(torch.device("cpu"))
    assert "peak_gpu_bytes" not in metadata
    assert (metadata["pid"], metadata["host"]) == (os.getpid(), socket.gethostname())
    assert (
        psutil.Process().memory_info().rss * 0.8 < metadata["peak_rss_bytes"] < psutil.virtual_memory().total
    )
