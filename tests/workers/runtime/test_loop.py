"""The event loop, in threads and alone with a test for its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dni_async.errors import Late, StageError, UserError
from dni_async.messages import Activation, Marker, MarkerKind, Message, TargetGradient
from dni_async.rules import DelayedRule, DniRule, FrozenRule
from dni_async.stage.stage import Stage
from dni_async.state.checkpoint import targets_under_way
from dni_async.state.state_dict import State
from tests.support.channels import CHANNELS, GPU_LIKE, Copying, copy_late
from tests.support.clocks import Clock
from tests.support.loops import one_loop, record, run_stages, steps
from tests.support.stages import (
    FEATURES,
    WIDTH,
    adam,
    batches,
    fcn,
    numbered,
    oracle_pipeline,
    pipeline,
    same_bits,
    state_of,
    synthesizer,
    with_stop,
)
from workers.runtime import sleeping
from workers.runtime.loop import StageLoop
from workers.transport.base import Deadline, Doorbell, Receiver, Sender, wait_any

SIZES = (30, 30, 30, 30, 17)
STAGES = {1: (), 2: (2,), 3: (1, 3)}
"""Number of stages -> where the four layers are cut."""

over_every_channel = pytest.mark.parametrize("channel", CHANNELS)
over_gpu_like_channels_too = pytest.mark.parametrize("channel", GPU_LIKE)


def textbook(messages: list[Message]) -> list[torch.Tensor]:
    """The weights and buffers after the training loop that every tutorial shows."""
    model = nn.Sequential(*fcn())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, fused=True)
    for message in messages:
        assert isinstance(message, Activation)
        optimizer.zero_grad()
        F.cross_entropy(model(message.h), message.y).backward()
        optimizer.step()
    return list(model.state_dict().values())


def mark(kind: MarkerKind, step: int = 0) -> Marker:
    return Marker(kind, step, 0)


def mark_back(step: int) -> Marker:
    """STOP, turned round by the last stage."""
    return Marker(MarkerKind.STOP, step, 0, True, {"result": {}})


def a_target(step: int, rows: int = 30) -> TargetGradient:
    return TargetGradient(step, 0, torch.ones(rows, WIDTH))


def a_middle_batch(step: int, train: bool = True) -> Activation:
    """What the stage after a first group of layers gets."""
    return Activation(step, 0, torch.randn(30, WIDTH), torch.arange(30) % 5, train)


def a_middle_stage() -> Stage:
    return pipeline(cut=(1, 2))[1]


class TestTransparency:
    """With the exact gradient, a decoupled run equals backprop to the bit, over every transport."""

    def test_of_a_single_stage(self) -> None:
        stages = pipeline(STAGES[1])
        run_stages(stages, with_stop(batches(SIZES)))
        assert same_bits(state_of(stages), textbook(batches(SIZES)))

    @over_gpu_like_channels_too
    @pytest.mark.parametrize("capacity", [1, 2, 4])
    @pytest.mark.parametrize("count", [2, 3])
    def test_free_running(self, count: int, capacity: int, channel: str) -> None:
        stages = oracle_pipeline(STAGES[count])
        run_stages(stages, with_stop(batches(SIZES)), GPU_LIKE[channel], capacity, jitter=capacity)
        assert same_bits(state_of(stages), textbook(batches(SIZES)))

    @over_gpu_like_channels_too
    @pytest.mark.parametrize("ahead", [1, 2])
    @pytest.mark.parametrize("count", [2, 3])
    def test_in_lockstep(self, count: int, ahead: int, channel: str) -> None:
        stages = oracle_pipeline(STAGES[count])
        messages = with_stop(batches(SIZES))
        run_stages(stages, messages, GPU_LIKE[channel], capacity=ahead, lockstep=ahead, jitter=ahead)
        assert same_bits(state_of(stages), textbook(batches(SIZES)))

    @over_every_channel
    @pytest.mark.parametrize("lockstep", [0, 1])
    @pytest.mark.parametrize("count", [2, 3])
    def test_of_delayed_gradients_with_one_batch_in_flight(
        self, count: int, lockstep: int, channel: str
    ) -> None:
        stages = pipeline(STAGES[count], rule=lambda: DelayedRule(1))
        messages = with_stop(batches(SIZES))
        run_stages(stages, messages, CHANNELS[channel], capacity=2, lockstep=lockstep, jitter=count)
        assert same_bits(state_of(stages), textbook(batches(SIZES)))

    def test_a_wrong_gradient_breaks_transparency(self) -> None:
        stages = pipeline(STAGES[2])
        run_stages(stages, with_stop(batches(SIZES)))
        assert not same_bits(state_of(stages), textbook(batches(SIZES)))


class TestLockstep:
    """Batch s+n is taken up exactly after the target of batch s."""

    @pytest.mark.parametrize(
        ("ahead", "order"),
        [
            (1, "A0 T0 A1 T1 A2 T2 A3 T3 A4 T4 STOP STOP'"),
            (2, "A0 A1 T0 A2 T1 A3 T2 A4 T3 STOP T4 STOP'"),
            (3, "A0 A1 A2 T0 A3 T1 A4 T2 STOP T3 T4 STOP'"),
        ],
    )
    def test_the_order_is_literally_this(self, ahead: int, order: str) -> None:
        for jitter, channel in enumerate(CHANNELS.values()):
            stages = pipeline(cut=(1, 2))
            run = run_stages(stages, with_stop(batches(SIZES)), channel, ahead, jitter=jitter, lockstep=ahead)
            assert [" ".join(handled) for handled in run.handled] == [order, order, "A0 A1 A2 A3 A4 STOP"]

    @pytest.mark.parametrize("ahead", [1, 2])
    def test_two_runs_give_the_same_bits(self, ahead: int) -> None:
        states = []
        for jitter, channel in enumerate(CHANNELS.values()):
            stages = pipeline(cut=(1, 2))
            run_stages(stages, with_stop(batches(SIZES)), channel, ahead, jitter=jitter, lockstep=ahead)
            states.append(state_of(stages))
        assert same_bits(*states)

    @pytest.mark.parametrize("stashes", [(2, 2), (3, 3), (3, 2)])
    @pytest.mark.parametrize("ahead", [2, 9])
    def test_two_runs_with_delayed_gradients_give_the_same_bits(
        self, stashes: tuple[int, ...], ahead: int
    ) -> None:
        states = []
        for jitter, channel in enumerate(CHANNELS.values()):
            rules = iter(map(DelayedRule, stashes))
            stages = pipeline(cut=(1, 2), rule=lambda rules=rules: next(rules))
            run_stages(stages, with_stop(batches(SIZES)), channel, ahead, jitter=jitter, lockstep=ahead)
            states.append(state_of(stages))
        assert same_bits(*states)
        assert not same_bits(states[0], textbook(batches(SIZES)))

    def test_batches_in_flight_change_the_numbers(self) -> None:
        states = []
        for ahead in (1, 2):
            stages = pipeline(cut=(1, 2))
            run_stages(stages, with_stop(batches(SIZES)), capacity=ahead, lockstep=ahead)
            states.append(state_of(stages))
        assert not same_bits(*states)

    @pytest.mark.parametrize("ahead", [1, 2])
    @over_every_channel
    def test_any_number_of_markers_may_be_under_way_during_an_evaluation(
        self, ahead: int, channel: str
    ) -> None:
        train = batches(SIZES[:3])
        tests = [m for test in batches([9] * 6, train=False) for m in (test, mark(MarkerKind.REPORT))]
        messages = [*train, mark(MarkerKind.REPORT), *tests, mark(MarkerKind.EPOCH), *batches([30])]
        stages = pipeline(cut=(1, 2))
        messages = numbered([*messages, mark(MarkerKind.STOP)])
        run = run_stages(stages, messages, CHANNELS[channel], ahead, lockstep=ahead)
        assert [m.kind.name for m in run.markers] == ["REPORT"] * 7 + ["EPOCH", "STOP"]

    def test_a_rule_without_targets_runs_free(self) -> None:
        stages = pipeline(cut=(1, 2), rule=FrozenRule)
        run = run_stages(stages, with_stop(batches(SIZES)), lockstep=1)
        assert run.handled[0] == ["A0", "A1", "A2", "A3", "A4", "STOP", "STOP'"]


class TestResumed:
    """From a checkpoint behind the third of five batches."""

    at = 3

    def interrupted(self, channel: str, **settings) -> tuple[list[Stage], dict[int, State]]:
        """The stages at the end of the run, and their parts of the checkpoint."""
        messages = batches(SIZES)
        messages.insert(self.at, mark(MarkerKind.CHECKPOINT, self.at))
        stages, parts = pipeline(cut=(1, 2)), {}
        for stage in stages:
            stage.save_checkpoint = lambda step, part, index=stage.index: parts.update({index: part}) or {}
        run_stages(stages, with_stop(messages), CHANNELS[channel], **settings)
        return stages, parts

    def resumed(self, parts: dict[int, State], channel: str, **settings) -> tuple[list[Stage], list[str]]:
        """The stages at the end of the run that goes on from there, and what the first one handled."""
        stages = pipeline(cut=(1, 2), layers=fcn(seed=7))
        for stage in stages:
            stage.load_state_dict(parts[stage.index])
        under_way = {i: targets_under_way(part) for i, part in parts.items()}
        messages = with_stop(batches(SIZES))[self.at :]
        run = run_stages(stages, messages, CHANNELS[channel], under_way=under_way, **settings)
        return stages, run.handled[0]

    @over_every_channel
    @pytest.mark.parametrize(
        ("ahead", "order"),
        [
            (1, "A3 T3 A4 T4 STOP STOP'"),
            (2, "A3 T2 A4 T3 STOP T4 STOP'"),
            (3, "A3 T1 A4 T2 STOP T3 T4 STOP'"),
        ],
    )
    def test_in_lockstep_a_resumed_loop_equals_the_uninterrupted_one_to_the_bit(
        self, ahead: int, order: str, channel: str
    ) -> None:
        settings = {"capacity": ahead, "lockstep": ahead}
        stages, parts = self.interrupted(channel, **settings, jitter=1)
        fresh, handled = self.resumed(parts, channel, **settings, jitter=2)
        assert " ".join(handled) == order
        assert same_bits(state_of(fresh), state_of(stages))

    @over_every_channel
    def test_running_free_targets_that_were_under_way_come_first(self, channel: str) -> None:
        _, parts = self.interrupted(channel, jitter=3)
        late = [f"T{target['step']}" for target in parts[0]["targets"]]
        fresh, handled = self.resumed(parts, channel, jitter=4)
        assert handled[: len(late) + 1] == [*late, "A3"]
        assert [stage.samples for stage in fresh] == [sum(SIZES)] * 3
        assert [stage.targets_received for stage in fresh] == [5, 5, 0]


class Chatty(Receiver):
    """Wakes its stage all the time, and has no message: a broken or hostile peer."""

    peer = 0

    def __init__(self) -> None:
        self.bell = Doorbell()
        self.bell.ring()

    def fileno(self) -> int:
        return self.bell.fileno()

    def peer_gone(self) -> bool:
        return False

    def poll(self) -> bool:
        return False

    def recv(self, timeout: float) -> Message:
        raise AssertionError

    def release(self) -> None:
        raise AssertionError

    def close(self) -> None:
        self.bell.close()


def test_news_that_brings_no_message_does_not_put_the_deadline_off() -> None:
    with one_loop(a_middle_stage(), timeout=0.3) as (loop, _):
        loop.channels.activations_in.close()
        loop.channels.activations_in = Chatty()
        with pytest.raises(Late, match=r"nothing came from .* for 0\.3 s"):
            loop.run()


class TestWhatComesNext:
    def test_a_target_goes_before_the_next_batch(self) -> None:
        stage = pipeline(cut=(2,))[0]
        handled = record(stage)
        with one_loop(stage, batches(SIZES), capacity=4) as (loop, far):
            assert loop.step() and loop.step()
            far.targets_in.send(a_target(0), 0.0)
            far.targets_in.send(a_target(1), 0.0)
            for _ in range(3):
                assert loop.step()
        assert handled == ["A0", "A1", "T0", "T1", "A2"]

    @over_every_channel
    @pytest.mark.parametrize("capacity", [1, 3])
    def test_a_stalled_neighbour_gets_no_more_than_the_capacity(self, channel: str, capacity: int) -> None:
        stage = pipeline(cut=(2,))[0]
        with one_loop(stage, batches([4] * 9), CHANNELS[channel], capacity) as (loop, far):
            assert steps(loop) == capacity
            for count in (capacity + 1, capacity + 2):
                far.activations_out.recv(1.0)
                assert steps(loop) == 0  # lent is not given back
                far.activations_out.release()
                assert steps(loop) == 1
                assert loop.channels.activations_out.sent == stage.steps == count

    @over_every_channel
    def test_targets_are_taken_when_the_way_down_is_full_and_batches_are_not(self, channel: str) -> None:
        stage = a_middle_stage()
        handled = record(stage)
        with one_loop(stage, (), CHANNELS[channel], capacity=1) as (loop, far):
            far.activations_in.send(a_middle_batch(0), 1.0)
            assert steps(loop) == 1
            far.targets_out.recv(1.0)
            far.targets_out.release()
            far.activations_in.send(a_middle_batch(1), 1.0)
            assert steps(loop) == 0
            far.targets_in.send(a_target(0), 0.0)
            assert steps(loop) == 1
        assert handled == ["A0", "T0"]

    @over_every_channel
    def test_nothing_is_taken_when_the_way_up_is_full(self, channel: str) -> None:
        stage = a_middle_stage()
        handled = record(stage)
        with one_loop(stage, (), CHANNELS[channel], capacity=1) as (loop, far):
            far.activations_in.send(a_middle_batch(0), 1.0)
            assert steps(loop) == 1
            far.activations_out.recv(1.0)
            far.activations_out.release()
            far.activations_in.send(a_middle_batch(1), 1.0)
            far.targets_in.send(a_target(0), 1.0)
            assert steps(loop) == 0
            far.targets_out.recv(1.0)
            far.targets_out.release()
            assert steps(loop) == 2
        assert handled == ["A0", "T0", "A1"]

    @over_every_channel
    def test_a_full_stash_takes_targets_only(self, channel: str) -> None:
        """Not even a marker or an evaluation batch: the way in is in order, and a target will come."""
        stage = pipeline(cut=(2,), rule=lambda: DelayedRule(2))[0]
        handled = record(stage)
        source = [*batches([30] * 3), mark(MarkerKind.EPOCH, 3), *batches([30], train=False)]
        with one_loop(stage, source, CHANNELS[channel], capacity=9, timeout=5.0) as (loop, far):
            assert steps(loop) == 2
            for step, handled_now in ((0, 2), (1, 3)):
                far.targets_in.send(a_target(step), 1.0)
                loop._wait(Deadline(loop.timeout))
                for _ in range(handled_now):
                    assert loop.step()
                assert loop.stage.has_room is (step == 1)
        assert handled == ["A0", "A1", "T0", "A2", "T1", "EPOCH", "E0"]

    @over_every_channel
    def test_a_credit_that_comes_between_looking_and_sleeping_is_not_missed(self, channel: str) -> None:
        stage = pipeline(cut=(2,))[0]
        with one_loop(stage, batches(SIZES), CHANNELS[channel], capacity=1, timeout=5.0) as (loop, far):
            assert steps(loop) == 1
            far.activations_out.recv(1.0)
            far.activations_out.release()
            loop._wait(Deadline(loop.timeout))
            assert steps(loop) == 1

    @over_gpu_like_channels_too
    @pytest.mark.parametrize("lockstep", [0, 1, 9])
    @pytest.mark.parametrize("stashes", [(), (1, 1, 1), (4, 3, 2)])
    def test_four_stages_with_room_for_one_message_each_do_not_lock_up(
        self, channel: str, stashes: tuple[int, ...], lockstep: int
    ) -> None:
        several = [
            m
            for epoch in range(3)
            for m in (
                *batches([6] * 8),
                mark(MarkerKind.REPORT),
                *batches([5] * 4, train=False),
                mark(MarkerKind.REPORT),
                mark(MarkerKind.EPOCH),
            )
        ]
        rules = iter([DelayedRule(n) for n in stashes] or [DniRule(synthesizer()) for _ in range(3)])
        stages = pipeline(cut=(1, 2, 3), rule=lambda: next(rules))
        messages, channels = numbered([*several, mark(MarkerKind.STOP)]), GPU_LIKE[channel]
        run = run_stages(stages, messages, channels, capacity=1, jitter=0, lockstep=lockstep)
        assert len(run.markers) == 10
        assert [stage.samples for stage in stages] == [144] * 4


class TestCopiesOfAGpu:
    """Messages whose copies into the slots are under way."""

    def test_an_activation_leaves_while_its_batch_still_trains(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stage, copies, seen = pipeline(cut=(2,))[0], [], {}
        with one_loop(stage, batches(SIZES), CHANNELS["shm"], timeout=5.0) as (loop, far):
            stage.on_phase_end = loop._on_phase_end  # as on a GPU

            def copy_out(places: list[torch.Tensor], tensors: list[torch.Tensor]) -> Copying:
                copies.append(copy_late(places, tensors))
                copies[-1].query = lambda: copies[-1].finished  # type: ignore[method-assign]
                return copies[-1]

            def mark(kind: str) -> None:
                seen[kind] = far.activations_out.poll()
                for copying in copies:
                    copying.finished = copying.finished or kind == "sg"

            monkeypatch.setattr(loop.channels.activations_out, "copy_out", copy_out)
            monkeypatch.setattr(loop.probe, "mark", mark)
            loop.step()
        assert (seen["sg"], seen["backward"]) == (False, True)

    def test_a_stage_without_work_handles_news_before_its_copies_are_done(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stage = pipeline(cut=(2,))[0]
        with one_loop(stage, batches([30] * 2), CHANNELS["shm"], 1, timeout=5.0) as (loop, far):
            copying = Copying(patience=10**9)
            monkeypatch.setattr(loop.channels.activations_out, "copy_out", lambda *_: copying)
            assert steps(loop) == 1
            far.targets_in.send(a_target(0), 1.0)
            loop._wait(Deadline(5.0))  # the copy never ends
            assert loop.step()
            copying.finished = True


class TestWaiting:
    """A stage that can do nothing sleeps, and says after its deadline for whom."""

    def test_a_stage_that_reads_a_batch_says_that_its_data_set_is_at_work(self) -> None:
        said: list[str] = []

        def slowly() -> Iterator[Message]:
            for message in batches([30] * 2):
                said.append(loop.describe_activity())
                yield message

        with one_loop(pipeline(cut=(2,))[0], slowly()) as (loop, _):
            assert loop.step() and loop.step()
            said.append(loop.describe_activity())
        reading = "reading a batch of the data set"
        assert said == [
            f"stage 0 (rank 0), before the first step, {reading}",
            f"stage 0 (rank 0), after step 0, {reading}",
            "stage 0 (rank 0), after step 1, waiting",
        ]

    @pytest.fixture
    def waits(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """The seconds of every sleep, with short slices."""
        seen: list[float] = []

        def counting(channels: list[Sender], timeout: float, eager: bool) -> bool:
            seen.append(timeout)
            return wait_any(channels, timeout, eager)

        monkeypatch.setattr(sleeping, "wait_any", counting)
        monkeypatch.setattr(sleeping, "PEER_CHECK_INTERVAL_S", 0.1)
        return seen

    @over_every_channel
    def test_for_a_stalled_neighbour_the_loop_sleeps_without_spinning(
        self, channel: str, waits: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looks = []
        step = StageLoop.step
        monkeypatch.setattr(StageLoop, "step", lambda loop: looks.append(1) or step(loop))
        stage = pipeline(cut=(2,))[0]
        with (
            one_loop(stage, batches(SIZES), CHANNELS[channel], timeout=0.25) as (loop, _),
            pytest.raises(StageError) as error,
        ):
            loop.run()
        assert str(error.value) == ("stage 0 (rank 0), after step 1: nothing came from stage 1 for 0.25 s")
        assert len(looks) == 3  # two batches, then no room
        assert 1 <= len(waits) <= 4 and max(waits) <= 0.1  # slices, of which a loaded machine makes fewer

    @pytest.mark.parametrize(
        ("index", "who", "begin"),
        [
            (1, "stage 0 and stage 2", "stage 1 (rank 1), before the first step"),
            (2, "stage 1", "stage 2 (rank 2), before the first step"),
        ],
    )
    @over_every_channel
    def test_for_the_first_message(
        self, channel: str, index: int, who: str, begin: str, waits: list[float]
    ) -> None:
        with (
            one_loop(pipeline(cut=(1, 2))[index], (), CHANNELS[channel], timeout=0.12) as (loop, _),
            pytest.raises(StageError) as error,
        ):
            loop.run()
        assert str(error.value).startswith(f"{begin}: nothing came from {who} for 0.12 s")
        assert len(waits) <= 3

    def test_for_room_above(self, waits: list[float]) -> None:
        with one_loop(a_middle_stage(), capacity=1, timeout=0.12) as (loop, far):
            far.activations_in.send(a_middle_batch(0), 1.0)
            with pytest.raises(StageError, match=r"^stage 1 .*, after step 0: nothing came from stage 0 for"):
                loop.run()

    def test_in_lockstep_for_a_target(self, waits: list[float]) -> None:
        stage = pipeline(cut=(2,))[0]
        with (
            one_loop(stage, batches(SIZES), capacity=4, timeout=0.12, lockstep=3) as (loop, _),
            pytest.raises(StageError, match="after step 2: nothing came from stage 1 for"),
        ):
            loop.run()


class TestNeighboursThatLeave:
    @over_every_channel
    @pytest.mark.parametrize(("first", "when"), [([], "before the first step"), ([0], "after step 0")])
    @pytest.mark.parametrize("side", ["up", "down"])
    def test_are_named_with_the_step(
        self, side: str, first: list[int], when: str, channel: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with one_loop(a_middle_stage(), (), CHANNELS[channel], timeout=5.0) as (loop, far):
            for step in first:
                far.activations_in.send(a_middle_batch(step), 1.0)
            steps(loop)
            gone, ends = {
                "up": (0, (far.activations_in, far.targets_out)),
                "down": (2, (far.activations_out, far.targets_in)),
            }[side]
            for end in ends:
                end.close()
            with pytest.raises(StageError) as error:
                loop.run()
        assert str(error.value) == f"stage {gone} (rank {gone}) is gone; stage 1 noticed {when}"

    @over_every_channel
    def test_are_noticed_by_a_stage_that_waits_for_the_other_one(
        self, channel: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sleeping, "PEER_CHECK_INTERVAL_S", 0.05)
        with one_loop(a_middle_stage(), (), CHANNELS[channel], capacity=1, timeout=5.0) as (loop, far):
            far.activations_in.send(a_middle_batch(0), 1.0)
            assert steps(loop) == 1  # and now the way up is full
            far.activations_out.close()
            far.targets_in.close()
            with pytest.raises(StageError) as error:
                loop.run()
        assert str(error.value) == "stage 2 (rank 2) is gone; stage 1 noticed after step 0"

    @over_every_channel
    def test_in_the_middle_of_a_step(self, channel: str) -> None:
        stage = pipeline(cut=(2,))[0]
        with one_loop(stage, batches(SIZES), CHANNELS[channel], timeout=5.0) as (loop, far):
            stage.layers.register_forward_hook(lambda *_: far.activations_out.close())
            with pytest.raises(StageError) as error:
                loop.run()
        assert str(error.value) == "stage 1 (rank 1) is gone; stage 0 noticed at step 0"

    @over_every_channel
    def test_may_leave_downstream_once_they_have_the_stop_marker(self, channel: str) -> None:
        first, last = pipeline(cut=(2,))
        with one_loop(first, with_stop(batches([9])), CHANNELS[channel], timeout=5.0) as (loop, far):
            assert steps(loop) == 2
            for _ in range(2):
                for out in last.on(far.activations_out.recv(1.0)):
                    far.targets_in.send(out, 1.0)
                far.activations_out.release()
            far.close()
            loop.run()
        assert (first.done, first.targets_received) == (True, 1)

    @over_every_channel
    def test_downstream_may_be_gone_for_long_while_the_stop_marker_waits_for_room_upstream(
        self, channel: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sleeping, "PEER_CHECK_INTERVAL_S", 0.05)
        with one_loop(a_middle_stage(), (), CHANNELS[channel], capacity=1, timeout=0.12) as (loop, far):
            markers: list[Message] = []
            for kind in (MarkerKind.REPORT, MarkerKind.STOP):
                far.activations_in.send(mark(kind), 1.0)
                assert steps(loop) == 1
                markers.append(far.activations_out.recv(1.0))
                far.activations_out.release()
            for returned, taken in zip(markers, [1, 0], strict=True):
                assert isinstance(returned, Marker)
                returned.returning = True
                far.targets_in.send(returned, 1.0)
                assert steps(loop) == taken
            far.activations_out.close()
            far.targets_in.close()
            with pytest.raises(StageError, match="nothing came from stage 0 for"):
                loop.run()
            far.targets_out.recv(1.0)
            far.targets_out.release()
            loop.run()
        assert loop.stage.done


class TestTrouble:
    def test_a_loss_that_is_not_a_number_is_the_users_to_mend(self) -> None:
        messages = batches(SIZES)
        assert isinstance(messages[3], Activation)
        messages[3].h.fill_(float("nan"))
        [stage] = pipeline(cut=())
        with one_loop(stage, with_stop(messages)) as (loop, _), pytest.raises(UserError) as error:
            loop.run()
        assert str(error.value) == (
            "stage 0 (rank 0), at step 3: the loss is nan; lower --lr or set --clip-norm, and check the data"
            ", or go on without such batches by --on-nonfinite skip"
        )

    @pytest.mark.parametrize("ahead", [0, 1, 3])
    @pytest.mark.parametrize("rule", [lambda: DniRule(synthesizer()), lambda: DelayedRule(2)])
    def test_a_batch_that_is_skipped_keeps_nobody_waiting(self, rule: Callable, ahead: int) -> None:
        """Free-running and in lockstep, with room for one message."""
        messages = batches(SIZES)
        assert isinstance(messages[3], Activation)
        messages[3].h.fill_(float("nan"))
        stages = pipeline((1, 2), rule)
        for stage in stages:
            stage.skip_nonfinite = True
        ran = run_stages(stages, with_stop(messages), capacity=1, lockstep=ahead)
        counts = [ran.markers[-1].body[str(i)] for i in range(3)]
        assert [count["skipped"] for count in counts] == [1, 1, 1]
        assert [count["targets_received"] for count in counts] == [len(SIZES), len(SIZES), 0]

    @pytest.mark.parametrize(
        ("trouble", "text"),
        [
            (RuntimeError("out of memory"), "out of memory"),
            (ValueError("bad value"), "bad value"),
            (TypeError("bad type"), "bad type"),
            (IndexError("Target 5 is out of bounds."), "IndexError: Target 5 is out of bounds."),
            (KeyError("name"), "KeyError: 'name'"),
        ],
    )
    def test_an_error_in_a_layer_names_stage_and_step(self, trouble: Exception, text: str) -> None:
        class Fails(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                if len(x) == 17:
                    raise trouble
                return x

        layers = nn.Sequential(Fails(), nn.Linear(FEATURES, WIDTH))
        stage = Stage(0, layers, DniRule(synthesizer()), adam(layers), send_targets=False)
        with one_loop(stage, batches(SIZES), capacity=9) as (loop, _):
            with pytest.raises(StageError) as error:
                loop.run()
            assert error.value.__cause__ is trouble
        assert str(error.value) == f"stage 0 (rank 0), at step 4: {text}"

    def test_a_label_outside_the_classes_names_stage_and_step(self) -> None:
        [message] = batches([9])
        assert isinstance(message, Activation)
        message.y[2] = 99
        with (
            one_loop(pipeline(cut=())[0], [message]) as (loop, _),
            pytest.raises(StageError, match=r"^stage 0 \(rank 0\), at step 0: IndexError: Target 99"),
        ):
            loop.run()

    @pytest.mark.parametrize("rule", [lambda: DniRule(synthesizer()), lambda: DelayedRule(2)])
    def test_a_lost_target_ends_the_run(self, rule: Callable) -> None:
        stage = pipeline(cut=(2,), rule=rule)[0]
        with one_loop(stage, batches(SIZES), capacity=2) as (loop, far):
            assert steps(loop) == 2
            far.targets_in.send(a_target(1), 1.0)
            with pytest.raises(StageError) as error:
                loop.run()
        assert str(error.value) == (
            "stage 0 (rank 0), at step 1: the target of step 1 came where that of step 0 was due: "
            "that one got lost or was overtaken"
        )

    @over_every_channel
    def test_a_full_book_of_predictions_drops_the_oldest_batch_and_the_marker_says_so(
        self, channel: str
    ) -> None:
        """Four batches are on the way, two are remembered."""
        stage = pipeline(cut=(2,), rule=lambda: DniRule(synthesizer(capacity=2)))[0]
        markers: list[Marker] = []
        with one_loop(stage, with_stop(batches(SIZES[:4])), CHANNELS[channel], capacity=6) as (loop, far):
            loop.channels.targets_out._report = markers.append
            assert steps(loop) == 5
            for step in range(4):
                far.targets_in.send(a_target(step), 1.0)
            far.targets_in.send(mark_back(4), 1.0)
            loop.run()
        assert markers[0].body["0"]["targets_dropped"] == 2
        assert markers[0].body["0"]["targets_received"] == 4
        assert stage.rule.predictor.updates == 2

    def test_a_user_error_stays_one(self) -> None:
        [stage] = pipeline(cut=())
        stage.layers.register_forward_hook(lambda *_: (_ for _ in ()).throw(UserError("mend it")))
        with (
            one_loop(stage, batches(SIZES)) as (loop, _),
            pytest.raises(UserError, match=r"^stage 0 \(rank 0\), at step 0: mend it$"),
        ):
            loop.run()


@pytest.fixture(scope="module")
def markers() -> list[Marker]:
    """What came back of two batches, REPORT, three batches, two test batches, EPOCH, STOP."""
    messages = [
        *batches(SIZES[:2]),
        mark(MarkerKind.REPORT, 2),
        *batches(SIZES)[2:],
        *batches([40, 9], train=False),
        mark(MarkerKind.EPOCH, 5),
        mark(MarkerKind.STOP, 5),
    ]
    return run_stages(pipeline(cut=(1, 2)), messages, metadata=lambda: {"pid": 7}).markers


class TestMarks:
    def test_all_markers_come_back_in_order(self, markers: list[Marker]) -> None:
        assert [(m.kind.name, m.step, m.returning) for m in markers] == [
            ("REPORT", 2, True),
            ("EPOCH", 5, True),
            ("STOP", 5, True),
        ]

    def test_every_marker_carries_the_stats_of_every_stage_and_the_result(
        self, markers: list[Marker]
    ) -> None:
        for returned in markers:
            assert set(returned.body) == {"0", "1", "2", "result"}
            for stage in "012":
                assert {"steps", "samples", "busy_s", "wait_s", "utilisation"} <= set(returned.body[stage])
                assert returned.body[stage]["pid"] == 7

    def test_messages_sent_before_a_marker_are_counted_on_it(self, markers: list[Marker]) -> None:
        for returned, (steps_done, samples) in zip(markers, [(2, 60), (5, 137), (5, 137)], strict=True):
            stages = [returned.body[key] for key in "012"]
            if returned.kind is not MarkerKind.REPORT:  # upper stages have gone on by the time it is back
                assert [s["steps"] for s in stages] == [steps_done] * 3
                assert [s["samples"] for s in stages] == [samples] * 3
            assert stages[2]["samples"] == samples
            assert stages[0]["targets_received"] == stages[1]["targets_sent"] >= steps_done
            assert stages[1]["targets_received"] == stages[2]["targets_sent"] == steps_done

    def test_the_epochs_result_is_of_the_whole_test_set(self, markers: list[Marker]) -> None:
        assert [m.body["result"]["tested"] for m in markers] == [0, 49, 0]
        assert 0 <= markers[1].body["result"]["test_accuracy"] <= 1

    def test_only_the_last_marker_carries_the_timelines(self, markers: list[Marker]) -> None:
        for returned in markers:
            for stage in "012":
                assert ("timeline" in returned.body[stage]) is (returned.kind is MarkerKind.STOP)

    def test_the_last_stages_samples_per_second_by_its_clock(self) -> None:
        [stage] = pipeline(cut=())
        clock = Clock()
        stage.layers.register_forward_hook(lambda *_: setattr(clock, "now", clock.now + 2.0))
        markers: list[Marker] = []
        messages = [
            *batches([30]),
            mark(MarkerKind.REPORT),
            *batches([30, 17]),
            *batches([50], train=False),
            *batches([30, 13]),
            mark(MarkerKind.STOP),
        ]
        with one_loop(stage, numbered(messages), clock=clock) as (loop, _):
            loop.channels.targets_out._report = markers.append
            loop.run()
        found = [m.body["result"]["samples_per_s"] for m in markers]
        assert found == [None, (30 + 17 + 13) / 6]  # the first after the start and a pause do not count


class TestTime:
    """Every moment belongs to one kind of work; see the diagram of the probe."""

    def kinds(self, loop: StageLoop) -> list[str]:
        return [event[0] for event in loop.probe.events]

    def test_of_a_stage_between_two_others(self) -> None:
        with one_loop(a_middle_stage(), clock=Clock(tick=1.0)) as (loop, far):
            far.activations_in.send(a_middle_batch(0), 1.0)
            steps(loop)
            far.targets_in.send(a_target(0), 1.0)
            steps(loop)
            kinds = self.kinds(loop)
        assert " ".join(kinds) == "wait forward send sg backward send update wait sg"

    def test_of_the_first_stage(self) -> None:
        stage = pipeline(cut=(2,))[0]
        with one_loop(stage, batches([9]), clock=Clock(tick=1.0)) as (loop, _):
            assert loop.step()
            kinds = self.kinds(loop)
        assert " ".join(kinds) == "wait load forward send sg backward update"

    def test_of_the_last_stage(self) -> None:
        with one_loop(pipeline(cut=(1,))[1], clock=Clock(tick=1.0)) as (loop, far):
            far.activations_in.send(a_middle_batch(0), 1.0)
            far.activations_in.send(a_middle_batch(0, train=False), 1.0)
            steps(loop)
            kinds = self.kinds(loop)
        assert " ".join(kinds) == "wait forward backward backward send update wait evaluate"

    def test_training_steps_count_for_the_warm_up_and_evaluations_do_not(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done: list[int] = []
        with one_loop(pipeline(cut=(1,))[1], capacity=4) as (loop, far):
            monkeypatch.setattr(loop.probe, "step_done", lambda: done.append(loop.probe.step))
            for step, train in ((0, True), (0, False), (1, True)):
                far.activations_in.send(a_middle_batch(step, train), 1.0)
            steps(loop)
        assert done == [0, 1]

    def test_loading_is_told_apart_from_waiting(self) -> None:
        clock = Clock()

        def slowly():
            for message in batches([9, 9]):
                clock.now += 3.0
                yield message

        with one_loop(pipeline(cut=(2,))[0], slowly(), clock=clock) as (loop, _):
            clock.now += 1.0
            assert loop.step()
            clock.now += 1.0
            assert loop.step()
            stats = loop.probe.stats()
        assert (stats["load_s"], stats["wait_s"], stats["busy_s"]) == (6.0, 1.0, 0.0)


def test_tensors_are_moved_to_where_the_layers_are() -> None:
    devices = []
    stage = a_middle_stage()
    stage.on = lambda message: iter(devices.append(message.h.device.type) or ())  # type: ignore
    for device in (None, torch.device("cpu"), torch.device("meta")):
        with one_loop(stage, device=device) as (loop, far):
            far.activations_in.send(a_middle_batch(0), 1.0)
            assert steps(loop) == 1
    assert devices == ["cpu", "cpu", "meta"]
