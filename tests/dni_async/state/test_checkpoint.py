"""A checkpoint is a consistent cut in whatever order messages are delivered, and a run goes on from it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dni_async.errors import UserError
from dni_async.messages import Activation, Marker, MarkerKind, Message, TargetGradient
from dni_async.stage.simulation import Move, Order, Simulation
from dni_async.stage.stage import Stage
from dni_async.state.checkpoint import Part, Parts, recut, targets_under_way, uncut
from dni_async.state.state_dict import State, copied
from tests.support.rules import BOUNDS, CUT, RULES, scheduled
from tests.support.stages import (
    WIDTH,
    MakeUpdater,
    adam,
    batches,
    fcn,
    oracle_pipeline,
    pipeline,
    same_bits,
    state_of,
)

SIZES = (30, 30, 17, 30, 30, 30, 30, 12)
AT = 4
"""The step of the checkpoint."""

Kept = dict[int, State]


def a_run(checkpoint: bool = True) -> list[Message]:
    """Eight batches, and a checkpoint of the fourth."""
    messages = batches(SIZES)
    markers: list[Message] = [Marker(MarkerKind.CHECKPOINT, AT, 0)] if checkpoint else []
    return [*messages[:AT], *markers, *messages[AT:], Marker(MarkerKind.STOP, len(SIZES), 0)]


def keeping(stages: Sequence[Stage]) -> Kept:
    """Where the parts of the stages will be."""
    parts: Kept = {}
    for stage in stages:

        def keep(step: int, part: State, index: int = stage.index) -> dict[str, int]:
            assert step == AT
            parts[index] = part
            return {"kept": index}

        stage.save_checkpoint = keep
    return parts


def in_turn(simulation: Simulation, ahead: int) -> Order:
    """Lockstep: each stage takes batch s+ahead up right after the target of batch s."""

    def its_turn(move: Move) -> bool:
        stage = simulation.stages[move[0]]
        room = not stage.rule.capabilities.needs_targets or stage.steps - stage.targets_received < ahead
        return (move[1] == "activation") == (room and stage.has_room)

    return lambda moves: next(filter(its_turn, moves), moves[0])


def resumed(stages: list[Stage], parts: Kept, ahead: int) -> list[Stage]:
    """The stages, which have just been built, at the end of the run that goes on from the parts."""
    simulation = Simulation(stages, capacity=9)
    for stage in stages:
        stage.load_state_dict(parts[stage.index])
        simulation.targets[stage.index].extend(targets_under_way(parts[stage.index]))
    rest = [m for m in a_run(checkpoint=False) if not isinstance(m, Activation) or m.step >= AT]
    simulation.run(rest, in_turn(simulation, ahead))
    return stages


@pytest.mark.parametrize("make_updater", [adam, scheduled])
@pytest.mark.parametrize("ahead", [1, 3])
@pytest.mark.parametrize("rule", RULES)
def test_a_resumed_run_equals_the_uninterrupted_run_to_the_bit(
    rule: str, ahead: int, make_updater: MakeUpdater
) -> None:
    stages = pipeline(CUT, RULES[rule], make_updater)
    parts = keeping(stages)
    simulation = Simulation(stages, capacity=9)
    simulation.run(a_run(), in_turn(simulation, ahead))
    fresh = pipeline(CUT, RULES[rule], make_updater, layers=fcn(seed=7))
    assert not same_bits(state_of(fresh), state_of(stages))
    resumed(fresh, parts, ahead)
    assert same_bits(state_of(fresh), state_of(stages))
    assert [stage.stats() for stage in fresh] == [stage.stats() for stage in stages]


def test_targets_under_way_matter() -> None:
    """So the comparison above can fail."""
    stages = pipeline(CUT, RULES["cdni"])
    parts = keeping(stages)
    simulation = Simulation(stages, capacity=9)
    simulation.run(a_run(), in_turn(simulation, 3))
    assert [len(parts[i]["targets"]) for i in range(3)] == [2, 2, 0]
    without = {i: part | {"targets": []} for i, part in parts.items()}
    fresh = resumed(pipeline(CUT, RULES["cdni"]), without, 3)
    assert not same_bits(state_of(fresh), state_of(stages))


@pytest.mark.parametrize("rule", ["cdni", "local", "frozen"])
def test_a_checkpoint_changes_nothing_in_the_run(rule: str) -> None:
    states = []
    for checkpoint in (True, False):
        stages = pipeline(CUT, RULES[rule])
        simulation = Simulation(stages, capacity=9)
        simulation.run(a_run(checkpoint), in_turn(simulation, 3))
        states.append(state_of(stages))
    assert same_bits(*states)


@settings(max_examples=25, deadline=None, database=None)
@given(st.lists(st.integers(0, 11), min_size=1, max_size=40), st.sampled_from(["cdni", "delayed"]))
def test_in_any_order_every_part_has_seen_the_same_batches_and_all_their_targets(
    choices: list[int], rule: str
) -> None:
    ring = list(choices)

    def order(moves: list[Move]) -> Move:
        ring.append(ring.pop(0))
        return moves[ring[-1] % len(moves)]

    stages = pipeline(CUT, RULES[rule])
    parts = keeping(stages)
    simulation = Simulation(stages, capacity=3).run(a_run(), order)
    assert [marker.kind for marker in simulation.markers] == [MarkerKind.CHECKPOINT, MarkerKind.STOP]
    assert [simulation.markers[0].body[str(i)]["kept"] for i in range(3)] == [0, 1, 2]
    assert [parts[i]["counts"]["steps"] for i in range(3)] == [AT] * 3
    assert [parts[i]["version"] for i in range(3)] == [AT] * 3
    for i in (0, 1):
        late = [target["step"] for target in parts[i]["targets"]]
        assert parts[i]["counts"]["targets_received"] + len(late) == AT
        if rule == "delayed":
            assert late == []
        else:
            waiting = parts[i]["rule"]["predictor"]["pending"]["pending"]
            assert sorted(late) == sorted(entry["step"] for entry in waiting)


def test_a_part_keeps_targets_of_its_own_batches_only_and_copies_them() -> None:
    part, gradient = Part(4, {"version": 4}), torch.ones(2)
    for step in (2, 3, 4, 5):
        part.on_target(TargetGradient(step, 9, gradient))
    gradient.zero_()
    late = targets_under_way(part.whole())
    assert [(target.step, target.version) for target in late] == [(2, 9), (3, 9)]
    assert all(torch.equal(target.grad, torch.ones(2)) for target in late)


def test_a_part_is_the_state_when_the_marker_goes_down_or_when_it_is_back() -> None:
    for copy_late, wanted in ((False, [1.0, 2.0]), (True, [3.0, 3.0])):
        weight = torch.ones(1)
        parts = Parts(lambda weight=weight: {"weight": weight}, copy_late=copy_late)  # type: ignore[misc]
        for step in (4, 8):
            parts.begin(step)
            weight += 1
        parts.on_epoch()
        first, second = parts.whole(4), parts.whole(8)
        assert first and second and not parts._made
        assert [first["weight"].item(), second["weight"].item()] == wanted
        assert first["epoch_over"] is second["epoch_over"] is not copy_late


def test_a_part_that_was_never_begun_is_not_there() -> None:
    parts = Parts(dict)
    assert parts.whole(4) is None
    parts.begin(8)
    assert parts.whole(4) is None and parts._made
    assert parts.whole(8) == {"targets": [], "epoch_over": False}


def test_delayed_stages_take_no_activation_while_a_checkpoint_is_made() -> None:
    stage = pipeline(CUT, RULES["delayed"])[0]
    marker = Marker(MarkerKind.CHECKPOINT, 0, 0)
    assert stage.has_room
    assert list(stage.on(marker)) == [marker] and not stage.has_room
    marker.returning = True
    assert list(stage.on(marker)) == [marker] and stage.has_room


def test_several_checkpoints_may_be_under_way() -> None:
    stage, kept = pipeline(CUT)[0], []
    stage.save_checkpoint = lambda step, part: kept.append((step, part["counts"]["steps"])) or {}
    markers = [Marker(MarkerKind.CHECKPOINT, step, 0) for step in (1, 2)]
    for batch, marker in zip(batches([8, 8]), markers, strict=True):
        list(stage.on(batch))
        list(stage.on(marker))
    for marker in markers:
        marker.returning = True
        list(stage.on(marker))
    assert kept == [(1, 1), (2, 2)]


def test_an_oracle_keeps_no_checkpoint() -> None:
    with pytest.raises(UserError, match="rule oracle checks the pipeline and keeps no checkpoint"):
        Simulation(oracle_pipeline(CUT)).run(a_run())


@pytest.fixture
def parts() -> Kept:
    stages = pipeline(CUT, RULES["cdni"])
    kept = keeping(stages)
    Simulation(stages).run(a_run())
    return kept


@pytest.mark.parametrize("cut", [(), (2,), (3,), (1, 3), (1, 2, 3)])
def test_cut_otherwise_weights_and_optimizer_follow_their_layers(parts: Kept, cut: tuple[int, ...]) -> None:
    fresh = pipeline(cut, RULES["cdni"], layers=fcn(seed=7))
    before = [copied(stage.rule.state_dict()) for stage in fresh]
    for stage, (first, end) in zip(fresh, zip((0, *cut), (*cut, 4), strict=True), strict=True):
        stage.load_state_dict(recut(parts, BOUNDS, first, end))
        assert stage.steps == stage.version == AT and stage.samples == sum(SIZES[:AT])
        assert stage.targets_sent == (AT if stage.index else 0)
        assert stage.targets_received == (0 if stage.is_last else AT)
    whole = uncut(parts, BOUNDS)
    assert list(whole) == list(nn.Sequential(*fcn()).state_dict())
    assert same_bits(state_of(fresh), list(whole.values()))
    moments = uncut(parts, BOUNDS, "optimizer")
    for stage, first in zip(fresh, (0, *cut), strict=True):
        for name, row in stage.state_dict()["optimizer"].items():
            number, _, rest = name.partition(".")
            wanted = moments[f"{first + int(number)}.{rest}"]
            assert row.keys() == wanted.keys()
            assert all(torch.equal(row[key], wanted[key]) for key in row)
    for stage, rule in zip(fresh[:-1], before[:-1], strict=True):
        assert same_bits(
            list(stage.rule.state_dict()["predictor"]["network"].values()),
            list(rule["predictor"]["network"].values()),
        )


def test_a_recut_needs_only_the_parts_that_hold_its_layers(parts: Kept) -> None:
    state = recut({1: parts[1]}, BOUNDS, 1, 2)
    assert list(state["layers"]) == list(parts[1]["layers"])
    assert targets_under_way(state) == []


def test_a_recut_of_frozen_layers_counts_the_updates_that_others_made() -> None:
    stages = pipeline(CUT, RULES["frozen"])
    parts = keeping(stages)
    Simulation(stages).run(a_run())
    assert parts[0]["version"] == 0
    assert [recut({0: parts[0]}, BOUNDS, 0, 1, n)["version"] for n in (1, 2, 3)] == [AT, AT // 2, AT // 3]


def test_a_part_of_other_layers_is_refused(parts: Kept) -> None:
    with pytest.raises(RuntimeError, match="size mismatch"):
        pipeline(CUT)[0].load_state_dict(parts[1])


def test_means_of_an_epoch_that_ended_while_the_marker_was_under_way_are_reset() -> None:
    """EPOCH goes down in front of CHECKPOINT and comes back when the stage has been copied."""
    stages = pipeline(CUT, RULES["cdni"])
    kept = keeping(stages)
    for stage in stages[:-1]:
        stage.rule.predictor.agreement.add(torch.ones(1), torch.ones(1))  # the first targets may be zero
    messages = batches(SIZES)
    markers: list[Message] = [Marker(MarkerKind.EPOCH, AT, 1), Marker(MarkerKind.CHECKPOINT, AT, 1)]
    simulation = Simulation(stages, capacity=9)
    simulation.run([*messages[:AT], *markers, *messages[AT:]], in_turn(simulation, 3))
    for stage in stages:
        part, fresh = kept[stage.index], pipeline(CUT, RULES["cdni"])[stage.index]
        assert part["epoch_over"] is (not stage.is_last)
        fresh.load_state_dict(part)
        if stage.is_last:
            assert fresh.rule.result()["trained"] == 0
        else:
            assert part["rule"]["predictor"]["agreement"]["squared_target"] > 0
            assert fresh.rule.stats()["sg_cosine"] is None


class TestTakingOver:
    """A stage whose process died is gone on from with older weights and what was counted since."""

    @pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "delayed"])
    @pytest.mark.parametrize("index", [0, 2])
    def test_restored_counts_continue_and_updates_since_the_checkpoint_are_lost(
        self, rule: str, index: int
    ) -> None:
        stages = pipeline(CUT, RULES[rule])
        parts = keeping(stages)
        Simulation(stages, capacity=9).run(a_run())
        counters = json.loads(json.dumps(stages[index].counters()))
        fresh = pipeline(CUT, RULES[rule])[index]
        fresh.load_state_dict(parts[index])
        updates = 0 if rule == "frozen" and index == 0 else len(SIZES) - AT
        assert fresh.restore_counters(counters) == updates
        assert fresh.done
        assert json.loads(json.dumps(fresh.counters())) == counters
        assert {**fresh.stats(), "held_bytes": 0} == {**stages[index].stats(), "held_bytes": 0}

    def test_the_schedule_of_a_restored_stage_continues(self) -> None:
        stage, fresh = (pipeline(CUT, make_updater=scheduled)[0] for _ in range(2))
        for batch in batches(SIZES):
            list(stage.on(batch))
        fresh.restore_counters(stage.counters())
        assert fresh.version == len(SIZES)
        assert fresh.updater and stage.updater and fresh.updater.optimizer and stage.updater.optimizer
        rates = [updater.optimizer.param_groups[0]["lr"] for updater in (fresh.updater, stage.updater)]
        assert rates[0] == rates[1] < 0.1

    def test_targets_of_predictions_that_died_are_unmatched(self) -> None:
        stage, fresh = (pipeline(CUT, RULES["cdni"])[0] for _ in range(2))
        sent = [next(iter(list(stage.on(batch)))) for batch in batches(SIZES)[:2]]
        fresh.load_state_dict(copied(stage.state_dict()))  # its pending still knows both
        fresh.restore_counters(stage.counters())
        for message in sent:
            assert isinstance(message, Activation)
            list(fresh.on(TargetGradient(message.step, 0, torch.ones_like(message.h))))
        assert fresh.stats()["targets_unmatched"] == 2
        assert fresh.stats()["targets_received"] == 2
        assert fresh.stats()["sg_updates"] == 0

    def test_an_evaluation_that_was_under_way_goes_on(self) -> None:
        stage, fresh = (pipeline(CUT)[-1] for _ in range(2))
        halves = [
            Activation(number, 0, torch.randn(rows, WIDTH), torch.zeros(rows).long(), train=False)
            for number, rows in enumerate((5, 3))
        ]
        list(stage.on(halves[0]))
        fresh.restore_counters(stage.counters())
        list(fresh.on(halves[1]))
        (marker,) = fresh.on(Marker(MarkerKind.EPOCH, 0, 1))
        assert isinstance(marker, Marker)
        assert marker.body["result"]["tested"] == 8

    def test_a_part_that_died_is_not_kept_and_does_not_get_the_next_ones_place(self) -> None:
        stage, kept = pipeline(CUT)[0], []
        stage.save_checkpoint = lambda step, part: kept.append((step, part and part["counts"]["steps"])) or {}
        list(stage.on(Marker(MarkerKind.CHECKPOINT, 8, 0)))
        for step in (4, 8):
            list(stage.on(Marker(MarkerKind.CHECKPOINT, step, 0, returning=True)))
        assert kept == [(4, None), (8, 0)]
