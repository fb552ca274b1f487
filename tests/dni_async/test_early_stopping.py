"""Each stage keeps the weights of the best validation, by itself, and takes them up again to the bit."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from dni_async.early_stopping import Best, Patience
from dni_async.messages import EVALUATIONS, Activation, Marker, MarkerKind, Message
from dni_async.optim import Updater, optimizer_factory
from dni_async.stage.simulation import Move, Simulation
from dni_async.stage.stage import Stage
from dni_async.state.checkpoint import recut
from dni_async.state.state_dict import State
from tests.support.rules import BOUNDS, CUT, RULES
from tests.support.stages import batches, clone_state, fcn, numbered, pipeline

LOSSES = [3.0, 2.0, 2.0, math.nan, 2.5, 1.0]


class TestPatience:
    def judged(self, limit: int) -> tuple[list[bool], Patience]:
        patience = Patience(limit)
        return [patience.better(10 * i, loss) for i, loss in enumerate(LOSSES, 1)], patience

    def test_only_a_lower_loss_than_all_before_is_better(self) -> None:
        better, patience = self.judged(0)
        assert better == [True, True, False, False, False, True]
        assert (patience.loss, patience.best_at, patience.over) == (1.0, 60, False)

    @pytest.mark.parametrize(("limit", "last"), [(10, 30), (20, 40), (30, 50), (31, 60)])
    def test_patience_ends_when_the_best_is_too_long_ago_and_ignores_later_losses(
        self, limit: int, last: int
    ) -> None:
        better, patience = self.judged(limit)
        assert patience.last_at == last
        assert better[-1] is (last == 60)
        assert patience.over is (last < 60)

    def test_restored_patience_continues_its_count(self) -> None:
        patience, again = Patience(20), Patience(30)
        for at, loss in ((10, 2.0), (20, 3.0)):
            patience.better(at, loss)
        again.load_state_dict(json.loads(json.dumps(patience.state_dict())))
        assert again == Patience(30, 2.0, 10, 20)


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def disturb(module: nn.Module) -> None:
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor += 1


def equal(state: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


def test_weights_and_buffers_come_back_to_the_bit() -> None:
    module = layers()
    best, wanted = Best(module, Patience()), {}
    for at, loss in enumerate([3.0, 1.0, 2.0]):
        disturb(module)
        wanted[at] = clone_state(module)
        best.judge(at, loss)
    best.take_up()
    assert equal(clone_state(module), wanted[1])


def test_before_any_validation_the_weights_stay() -> None:
    module = layers()
    before = clone_state(module)
    Best(module, Patience()).take_up()
    assert equal(clone_state(module), before)


# --- in stages

EVERY, LIMIT = 2, 4
SIZES = (30, 17, 30, 30, 12, 30, 30, 30, 17, 30, 30, 30)


def hasty(module: nn.Module) -> Updater:
    """So that some validations are worse than the one before."""
    return Updater(optimizer_factory("adam", 0.1)(list(module.parameters())))


def a_run(checkpoint: int = 0) -> list[Message]:
    """A validation behind every second batch; then the test. checkpoint: behind which step there is one."""
    messages: list[Message] = []
    for step, batch in enumerate(batches(SIZES), 1):
        messages.append(batch)
        if step % EVERY == 0:
            kind = MarkerKind.EPOCH if step % 4 == 0 else MarkerKind.EVALUATION
            messages += [*batches([40, 9], train=False, seed=2), Marker(kind, 0, 0)]
        if step == checkpoint:
            messages.append(Marker(MarkerKind.CHECKPOINT, 0, 0))
    half_a_validation = batches([40], train=False, seed=2)
    messages += [*half_a_validation, Marker(MarkerKind.RESTORE, 0, 0), *batches([20, 5], train=False, seed=3)]
    return numbered([*messages, Marker(MarkerKind.STOP, 0, 0)])


class Run:
    """Stages with patience, the weights that each had at its validations, and parts of checkpoints."""

    def __init__(self, stages: Sequence[Stage], limit: int = LIMIT) -> None:
        self.stages = stages
        self.seen: list[dict[int, dict[str, Tensor]]] = [{} for _ in stages]
        self.parts: dict[int, State] = {}
        for stage in stages:
            stage.best = Best(stage.layers, Patience(limit))
            self._watch(stage)

    def _watch(self, stage: Stage) -> None:
        on_marker = stage.on_marker

        def watched(marker: Marker) -> Iterator[Message]:
            down = not marker.returning
            yield from on_marker(marker)
            if down and marker.kind in EVALUATIONS:
                self.seen[stage.index][marker.step] = clone_state(stage.layers)

        stage.on_marker = watched  # type: ignore[method-assign]
        stage.save_checkpoint = lambda step, part: self.parts.update({stage.index: part or {}}) or {}

    def through(self, messages: Sequence[Message], choices: Sequence[int] = (0,)) -> list[Marker]:
        """The markers that came back when possible moves were chosen like this."""
        ring = list(choices)

        def order(moves: list[Move]) -> Move:
            ring.append(ring.pop(0))
            return moves[ring[-1] % len(moves)]

        return Simulation(self.stages, capacity=3).run(messages, order).markers


def best_of(markers: Sequence[Marker]) -> int:
    """The step of the best validation: none was better in the next LIMIT steps."""
    losses = {
        marker.step: marker.body["result"]["test_loss"] for marker in markers if marker.kind in EVALUATIONS
    }
    best = min(losses)
    for step, loss in losses.items():
        if step - best > LIMIT:
            break
        best = step if loss < losses[best] else best
    return best


@settings(max_examples=16, deadline=None, database=None)
@given(
    st.lists(st.integers(0, 11), min_size=1, max_size=40),
    st.sampled_from(["cdni", "delayed", "local", "frozen"]),
)
def test_in_any_order_all_stages_take_up_their_weights_of_the_same_validation(
    choices: list[int], rule: str
) -> None:
    run = Run(pipeline(CUT, RULES[rule], hasty))
    markers = run.through(a_run(), choices)
    assert [marker.kind for marker in markers[-2:]] == [MarkerKind.RESTORE, MarkerKind.STOP]
    best = best_of(markers)
    for stage, seen in zip(run.stages, run.seen, strict=True):
        assert stage.best and stage.best.patience.best_at == best
        assert equal(clone_state(stage.layers), seen[best])
    assert markers[-1].body["result"]["test_loss"] == pytest.approx(
        loss_on_the_test_set(run.stages), rel=1e-5
    )


@torch.no_grad()
def loss_on_the_test_set(stages: Sequence[Stage]) -> float:
    """The mean loss of what the test batches of `a_run` give in the stages as they are."""
    x, y = (torch.cat(both) for both in zip(*((m.h, m.y) for m in to_test()), strict=True))
    for stage in stages:
        x = stage.layers.eval()(x)
    return F.cross_entropy(x, y).item()


def to_test() -> list[Activation]:
    return [message for message in batches([20, 5], train=False, seed=3) if isinstance(message, Activation)]


def test_the_best_validation_is_not_the_last_one() -> None:
    """So the comparison above can fail."""
    run = Run(pipeline(CUT, RULES["cdni"], hasty))
    best = best_of(run.through(a_run()))
    assert best < len(SIZES)
    assert not equal(run.seen[0][best], run.seen[0][len(SIZES)])


def test_a_stage_takes_no_activation_until_the_restore_marker_is_back() -> None:
    stage = Run(pipeline(CUT)).stages[0]
    marker = Marker(MarkerKind.RESTORE, 0, 0)
    assert list(stage.on(marker)) == [marker] and not stage.has_room
    marker.returning = True
    assert list(stage.on(marker)) == [marker] and stage.has_room


class TestCheckpoints:
    """A part has the best of the validations before it, and goes on from there."""

    AT = 6

    def kept(self, choices: Sequence[int]) -> tuple[Run, list[Marker]]:
        run = Run(pipeline(CUT, RULES["cdni"], hasty))
        return run, run.through(a_run(self.AT), choices)

    @settings(max_examples=8, deadline=None, database=None)
    @given(st.lists(st.integers(0, 11), min_size=1, max_size=40))
    def test_in_any_order_the_parts_agree(self, choices: list[int]) -> None:
        run, markers = self.kept(choices)
        before = [marker for marker in markers if marker.kind in EVALUATIONS and marker.step <= self.AT]
        best = best_of(before)
        for part, seen in zip((run.parts[i] for i in range(3)), run.seen, strict=True):
            assert part["counts"]["steps"] == self.AT
            assert (part["patience"]["best_at"], part["patience"]["last_at"]) == (best, self.AT)
            assert equal(part["best"], seen[best])

    def resumed(self, parts: dict[int, State]) -> Run:
        fresh = Run(pipeline(CUT, RULES["cdni"], hasty, layers=fcn(seed=7)))
        for stage in fresh.stages:
            stage.load_state_dict(parts[stage.index])
        return fresh

    def test_a_resumed_run_whose_validations_are_worse_takes_up_what_was_best_before(self) -> None:
        run, _ = self.kept([0])
        for part in run.parts.values():
            part["patience"]["loss"] = 0.0
        fresh = self.resumed(run.parts)
        end = Marker(MarkerKind.RESTORE, self.AT, 0)
        fresh.through([end])
        for stage in fresh.stages:
            assert equal(clone_state(stage.layers), run.parts[stage.index]["best"])

    def test_cut_otherwise_the_best_weights_follow_their_layers(self) -> None:
        run, _ = self.kept([0])
        (one,) = Run(pipeline((), layers=fcn(seed=7))).stages
        one.load_state_dict(recut(run.parts, BOUNDS, 0, 4))
        assert one.best
        assert one.best.patience.state_dict() == run.parts[0]["patience"]
        one.best.take_up()
        wanted = [tensor for i in range(3) for tensor in run.parts[i]["best"].values()]
        assert all(torch.equal(a, b) for a, b in zip(one.layers.state_dict().values(), wanted, strict=True))

    def test_a_part_of_a_run_without_validations_leaves_nothing_to_take_up(self) -> None:
        stage = pipeline(CUT)[0]
        parts: dict[str, Any] = {}
        stage.save_checkpoint = lambda step, part: parts.update(part or {}) or {}
        marker = Marker(MarkerKind.CHECKPOINT, 0, 0)
        list(stage.on(marker))
        marker.returning = True
        list(stage.on(marker))
        assert "best" not in parts
        fresh = Run(pipeline(CUT)).stages[0]
        fresh.load_state_dict(parts)
        assert fresh.best and fresh.best.weights == {} and fresh.best.patience == Patience(LIMIT)
