from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from dni_async.messages import Activation, Message, TargetGradient
from dni_async.stage.stage import Stage
from tests.support.clocks import Clock
from tests.support.stages import CLASSES, FEATURES, WIDTH, batches, pipeline, show
from workers.runtime.emulation import Emulator, flop_clock, make_probe, overrun_warning
from workers.runtime.probe import Probe

FLOP_PER_S = 1e-9
"""One floating-point operation per second, so that clocks show FLOPs."""

B = 6
FORWARD = 2 * B * WIDTH * WIDTH
PREDICT = 2 * B * WIDTH * (WIDTH + CLASSES)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def emulator(
    clock: Clock, gflops: float = FLOP_PER_S, overshoot: float = 1.0, warmup: int = 0
) -> tuple[Emulator, list[float]]:
    """One whose sleeps move the clock, by `overshoot` times what was asked; and the sleeps asked for."""
    asked: list[float] = []

    def sleep(seconds: float) -> None:
        asked.append(seconds)
        clock.now += seconds * overshoot

    return Emulator(gflops, warmup, clock=clock, sleep=sleep), asked


def product(rows: int = 2, inner: int = 3, columns: int = 5) -> Tensor:
    """60 FLOPs unless said otherwise."""
    return torch.ones(rows, inner) @ torch.ones(inner, columns)


def work(
    probe: Probe, clock: Clock, sections: list[tuple[str, Callable[[], object], float]], **begin
) -> None:
    """A message whose sections do something and take so many seconds."""
    probe.begin(0, **({"training": True, "work": "batch"} | begin))
    for kind, compute, seconds in sections:
        compute()
        clock.now += seconds
        probe.mark(kind)
    probe.end()


class TestPace:
    def test_the_diagram(self, clock: Clock) -> None:
        probe, asked = emulator(clock)
        work(
            probe,
            clock,
            [
                ("forward", product, 10.0),
                ("backward", lambda: product(4), 30.0),
                ("update", lambda: None, 5.0),
            ],
        )
        clock.now += 7
        probe.begin(1, True)
        assert list(probe.events) == [
            ("forward", 0.0, 60.0, 0),
            ("backward", 60.0, 180.0, 0),
            ("update", 180.0, 185.0, 0),
            ("wait", 185.0, 192.0, 1),
        ]
        assert asked == [50.0, 90.0]

    def test_only_compute_is_held_back(self, clock: Clock) -> None:
        probe, asked = emulator(clock)
        work(probe, clock, [(kind, product, 1.0) for kind in ("send", "load", "wait")])
        assert (asked, clock.now) == ([], 3.0)

    def test_sleeps_that_last_too_long_are_made_up_for(self, clock: Clock) -> None:
        probe, _ = emulator(clock, overshoot=1.2)
        for step in range(1, 9):
            work(probe, clock, [("forward", product, 10.0), ("backward", product, 20.0)])
            assert 0 <= clock.now - step * 120 <= 0.2 * 60
        assert probe.stats()["emulation_overrun"] == 0

    def test_in_real_time(self) -> None:
        probe = Emulator(FLOP_PER_S * 60 / 4e-3)
        start = time.perf_counter()
        for _ in range(10):
            work(probe, Clock(), [("forward", product, 0.0)])
        assert time.perf_counter() - start >= 40e-3
        assert probe.totals["forward"] >= 40e-3


class TestCounting:
    def test_the_same_work_is_counted_once_and_runs_free_of_the_counter_then(self, clock: Clock) -> None:
        probe, _ = emulator(clock)
        modes = []

        def spy() -> None:
            product()
            modes.append(_get_current_dispatch_mode())

        for _ in range(3):
            work(probe, clock, [("forward", spy, 0.0)])
            modes.append(_get_current_dispatch_mode())
        assert modes[0] is not None and modes[1:] == [None] * 5
        assert clock.now == 3 * 60

    def test_other_work_is_counted_anew(self, clock: Clock) -> None:
        probe, _ = emulator(clock)
        for name, rows in (("batch", 2), ("last batch", 1), ("batch", 2), ("last batch", 1)):
            work(probe, clock, [("forward", lambda rows=rows: product(rows), 0.0)], work=name)
        assert clock.now == 60 + 30 + 60 + 30

    def test_work_without_an_end_ends_with_the_next_work(self, clock: Clock) -> None:
        probe, _ = emulator(clock)
        probe.begin(0, True, work="batch")
        product()
        probe.mark("forward")
        probe.begin(1, True, work=None)
        assert _get_current_dispatch_mode() is None
        assert clock.now == 60

    def test_what_the_first_of_its_kind_did_not_do_counts_none(self, clock: Clock) -> None:
        probe, _ = emulator(clock)
        work(probe, clock, [("sg", product, 0.0)])
        work(probe, clock, [("sg", product, 0.0), ("sg", product, 20.0)])
        assert clock.now == 60 + 60 + 20
        assert probe.overrun == 20


class TestOverrun:
    def test_overrun_is_the_share_of_time_beyond_the_flops(self, clock: Clock) -> None:
        probe, asked = emulator(clock)
        work(
            probe,
            clock,
            [("forward", product, 90.0), ("update", lambda: None, 10.0), ("wait", product, 50.0)],
        )
        assert asked == []
        assert probe.stats()["emulation_overrun"] == (30 + 10) / 100
        work(probe, clock, [("forward", product, 0.0), ("update", lambda: None, 40.0)])
        assert probe.stats()["emulation_overrun"] == (30 + 10 + 40) / 200

    def test_the_warm_up_and_evaluations_do_not_count(self, clock: Clock) -> None:
        probe, _ = emulator(clock, warmup=1)
        work(probe, clock, [("forward", product, 90.0)])
        probe.step_done()
        work(probe, clock, [("evaluate", product, 90.0)], training=False, work="test")
        assert probe.stats()["emulation_overrun"] == 0
        work(probe, clock, [("forward", product, 75.0)])
        probe.step_done()
        assert probe.stats()["emulation_overrun"] == 15 / 75

    @pytest.mark.parametrize(("shares", "told"), [([0.05, 0.0], None), ([0.01, 0.06, 0.2], ("20%", "2"))])
    def test_a_machine_that_does_not_keep_up_is_reported(
        self, shares: list[float], told: tuple[str, str] | None
    ) -> None:
        stages = [{"index": i, "emulation_overrun": share} for i, share in enumerate(shares)]
        assert overrun_warning(stages) == (
            told
            and "this machine does not keep up with the devices that it emulates: "
            f"{told[0]} of stage {told[1]}'s time is work that took longer than there; lower --emulate-gflops"
        )


class TestStage:
    """Layers of 14 units with BN and ReLU, batch 6; SG networks linear with 5 labels."""

    def handled(
        self, stage: Stage, probe: Emulator, clock: Clock, message: Message
    ) -> list[tuple[str, float]]:
        """What leaves when, since the message was taken up; and the end."""
        stage.on_phase_end, start = probe.mark, clock.now
        probe.begin(message.step, True, work=type(message))
        seen = [(show(out), clock.now - start) for out in stage.on(message)]
        probe.end()
        return [*seen, ("end", clock.now - start)]

    @pytest.mark.parametrize("again", [False, True])
    def test_messages_leave_when_the_emulated_device_would_send_them(self, clock: Clock, again: bool) -> None:
        stage, (probe, _) = pipeline()[1], emulator(clock)
        h, y = torch.randn(B, WIDTH), torch.arange(B) % CLASSES
        target = TargetGradient(0, 0, torch.randn(B, WIDTH))
        for _ in range(1 + again):
            leaving = self.handled(stage, probe, clock, Activation(0, 0, h, y))
            learning = self.handled(stage, probe, clock, target)
        after_backward = FORWARD + PREDICT + 2 * FORWARD
        assert leaving == [("A0", FORWARD), ("T0", after_backward), ("end", after_backward)]
        assert learning == [("end", 2 * PREDICT)]

    def test_the_first_stage_needs_no_gradient_at_its_input(self, clock: Clock) -> None:
        stage, (probe, _) = pipeline()[0], emulator(clock)
        leaving = self.handled(stage, probe, clock, batches([B])[0])
        forward = 2 * B * FEATURES * WIDTH
        assert leaving == [("A0", forward), ("end", forward + PREDICT + forward)]

    def test_the_last_stage_sends_its_target_behind_loss_and_backward(self, clock: Clock) -> None:
        stage, (probe, _) = pipeline()[2], emulator(clock)
        message = Activation(0, 0, torch.randn(B, WIDTH), torch.arange(B) % CLASSES)
        flops = 3 * (FORWARD + 2 * B * WIDTH * CLASSES)
        assert self.handled(stage, probe, clock, message) == [("T0", flops), ("end", flops)]

    def test_an_evaluated_batch_leaves_behind_its_forward(self, clock: Clock) -> None:
        stage, (probe, _) = pipeline()[1], emulator(clock)
        message = Activation(0, 0, torch.randn(B, WIDTH), torch.arange(B) % CLASSES, train=False)
        assert self.handled(stage, probe, clock, message) == [("E0", FORWARD), ("end", FORWARD)]


def test_convolutions_and_their_backward_are_counted() -> None:
    with flop_clock(FLOP_PER_S) as clock:
        x = torch.randn(2, 3, 5, 5, requires_grad=True)
        h = torch.nn.Conv2d(3, 4, 3, padding=1)(x)
        forward = clock()
        h.sum().backward()
        assert forward == 2 * (2 * 25 * 4) * (3 * 9)
        assert clock() == 3 * forward


def test_the_flop_clock_shows_seconds() -> None:
    with flop_clock(3.0) as clock:
        product()
        assert clock() == 60 / 3e9


def test_a_probe_emulates_only_when_asked() -> None:
    cpu = torch.device("cpu")
    assert type(make_probe(None, 3, cpu, 1.0)) is Probe
    made = make_probe(2.0, 3, cpu, 1.0)
    assert isinstance(made, Emulator) and made.flops_per_s == 2e9
