from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from dni_async.errors import StageError
from dni_async.learning_rates import schedule_factor
from dni_async.messages import Activation, Marker, MarkerKind, Message, TargetGradient
from dni_async.networks.factory import build_auxiliary, build_synthesizer, resolve
from dni_async.networks.settings import LocalConfig, SGConfig
from dni_async.optim import Updater, optimizer_factory
from dni_async.rules import DelayedRule, DniRule, FrozenRule, LocalRule
from dni_async.rules.base import Rule
from dni_async.stage.simulation import Move, Order, Simulation, downstream_first, upstream_first
from dni_async.stage.stage import Stage
from tests.support.stages import (
    CLASSES,
    FEATURES,
    WIDTH,
    MakeUpdater,
    accuracy,
    adam,
    backprop,
    batches,
    clone_state,
    oracle_pipeline,
    pipeline,
    same_bits,
    script,
    show,
    state_of,
    synthesizer,
    with_stop,
)

SIZES = (30, 30, 30, 30, 17)
CUTS = [(), (2,), (1, 3)]


def by_choices(choices: list[int]) -> Order:
    """Takes the possible moves by these numbers, over and over."""
    ring = deque(choices)

    def order(moves: list[Move]) -> Move:
        ring.rotate(-1)
        return moves[ring[-1] % len(moves)]

    return order


def targets_last(moves: list[Move]) -> Move:
    """As far ahead as the queues allow; targets only when nothing else is possible."""
    return min(moves, key=lambda move: (move[1] == "target", move[0]))


orders = st.lists(st.integers(0, 11), min_size=1, max_size=40)
ORDERS: dict[str, Order] = {
    "upstream first": upstream_first,
    "downstream first": downstream_first,
    "targets last": targets_last,
    "whatever is in the middle": lambda moves: moves[len(moves) // 2],
}


class TestMoves:
    def test_the_diagram(self) -> None:
        """(0,a) (0,a) (1,a) (0,t): stage 0 runs one batch ahead of its first target."""
        simulation = Simulation(pipeline(cut=(2,)))
        simulation.activations[0].extend(batches([4, 4]))
        queues = []
        for move in ((0, "activation"), (0, "activation"), (1, "activation"), (0, "target")):
            assert move in simulation.possible()
            simulation.move(move)
            queues.append(",".join(show(m) for m in (*simulation.activations[1], *simulation.targets[0])))
        assert queues == ["A0", "A0,A1", "A1,T0", "A1"]

    def test_a_stage_waits_for_room_below_but_never_with_a_target(self) -> None:
        simulation = Simulation(pipeline(cut=(2,)), capacity=2)
        simulation.activations[0].extend(batches([4] * 5))
        for _ in range(2):
            simulation.move((0, "activation"))
        assert simulation.possible() == [(1, "activation")]
        simulation.move((1, "activation"))
        assert simulation.possible() == [(0, "target"), (0, "activation"), (1, "activation")]

    @pytest.mark.parametrize(
        ("order", "chosen"),
        [
            (upstream_first, [(0, "target"), (0, "activation")]),
            (downstream_first, [(1, "target"), (2, "activation")]),
        ],
    )
    def test_the_orders_choose_targets_first_and_then_one_end(self, order: Order, chosen: list[Move]) -> None:
        activations: list[Move] = [(1, "activation"), (0, "activation"), (2, "activation")]
        targets: list[Move] = [(1, "target"), (0, "target")]
        assert [order(activations + targets), order(activations)] == chosen

    @pytest.mark.parametrize(("order", "longest"), [(upstream_first, 3), (downstream_first, 1)])
    def test_queues_grow_to_the_capacity_or_one_batch_is_in_flight(self, order: Order, longest: int) -> None:
        simulation, seen = Simulation(pipeline(cut=(1, 2)), capacity=3), []

        def watching(moves: list[Move]) -> Move:
            seen.append(max(len(queue) for queue in simulation.activations[1:]))
            return order(moves)

        simulation.run(with_stop(batches([4] * 8)), watching)
        assert max(seen) == longest

    def test_the_moves_are_recorded(self) -> None:
        simulation = Simulation(pipeline(cut=(2,))).run(batches([4, 4]), downstream_first)
        one_batch = [(0, "activation"), (1, "activation"), (0, "target")]
        assert simulation.moves == one_batch * 2

    def test_the_same_order_gives_the_same_bits_and_another_order_others(self) -> None:
        states = []
        for order in (upstream_first, upstream_first, downstream_first):
            stages = pipeline(cut=(1, 2))
            Simulation(stages).run(with_stop(batches(SIZES)), order)
            states.append(state_of(stages))
        once, again, other = states
        assert same_bits(once, again)
        assert not same_bits(once, other)


def sgd(module: nn.Module) -> Updater:
    return Updater(optimizer_factory("sgd", 0.1, momentum=0.9)(list(module.parameters())))


def clipped(module: nn.Module) -> Updater:
    """Clipping is by the norm of one stage's gradient, so the reference clips stage by stage."""
    return Updater(optimizer_factory("adam", 1e-2)(list(module.parameters())), clip_norm=0.05)


def scheduled(module: nn.Module) -> Updater:
    optimizer = optimizer_factory("adamw", 1e-2)(list(module.parameters()))
    return Updater(optimizer, schedule_factor("cosine", len(SIZES)), clip_norm=0.5)


class TestTransparency:
    """With the exact gradient, a decoupled run equals sequential backprop to the bit."""

    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("cut", CUTS)
    def test_in_any_order_with_batch_norm_adam_and_a_short_last_batch(
        self, cut: tuple[int, ...], order: str
    ) -> None:
        messages = batches(SIZES)
        stages = oracle_pipeline(cut)
        Simulation(stages).run(with_stop(messages), ORDERS[order])
        assert same_bits(state_of(stages), backprop(messages))

    @settings(max_examples=12, deadline=None, database=None)
    @given(orders, st.sampled_from(CUTS), st.integers(1, 5))
    def test_in_drawn_orders(self, choices: list[int], cut: tuple[int, ...], capacity: int) -> None:
        messages = batches(SIZES)
        stages = oracle_pipeline(cut)
        Simulation(stages, capacity).run(with_stop(messages), by_choices(choices))
        assert same_bits(state_of(stages), backprop(messages))

    @pytest.mark.parametrize("make_updater", [sgd, clipped, scheduled])
    def test_with_momentum_clipping_and_a_schedule(self, make_updater: MakeUpdater) -> None:
        messages, cut = batches(SIZES), (1, 3)
        stages = oracle_pipeline(cut, make_updater)
        Simulation(stages).run(with_stop(messages))
        wanted = backprop(messages, cut, make_updater)
        assert same_bits(state_of(stages), wanted)
        plain = backprop(messages)
        assert not same_bits(wanted, plain)

    def test_with_evaluation_batches_and_markers_in_between(self) -> None:
        messages = batches(SIZES)
        between = [*batches([7], train=False), Marker(MarkerKind.EPOCH, 2, 0)]
        stages = oracle_pipeline((1, 3))
        Simulation(stages).run(with_stop([*messages[:2], *between, *messages[2:]]))
        assert same_bits(state_of(stages), backprop(messages))

    def test_when_targets_get_lost(self) -> None:
        messages = batches(SIZES)
        stages = oracle_pipeline((1, 3))
        Simulation(stages, keep=lambda target: target.step % 2 == 0).run(with_stop(messages))
        assert same_bits(state_of(stages), backprop(messages))

    def test_with_a_first_layer_in_place_and_a_stage_without_parameters(self) -> None:
        def layers() -> list[nn.Module]:
            torch.manual_seed(0)
            pool = nn.Sequential(nn.Unflatten(1, (1, 12)), nn.MaxPool1d(2), nn.Flatten())
            return [nn.Linear(FEATURES, 12), nn.ReLU(inplace=True), pool, nn.Linear(6, CLASSES)]

        def make(module: nn.Module) -> Updater:
            return adam(module) if list(module.parameters()) else Updater(None)

        messages = batches(SIZES)
        stages = oracle_pipeline((1, 2, 3), make, layers())
        Simulation(stages).run(with_stop(messages))
        assert same_bits(state_of(stages), backprop(messages, (), make, layers()))
        assert [stage.version for stage in stages] == [5, 5, 5, 5]

    def test_with_convolutions_the_oracle_equals_backprop(self) -> None:
        def layers() -> list[nn.Module]:
            torch.manual_seed(0)
            first = nn.Sequential(nn.Unflatten(1, (1, 3, 4)), nn.Conv2d(1, 3, 3, padding=1))
            second = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(inplace=True))
            return [first, second, nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))]

        messages = batches(SIZES)
        stages = oracle_pipeline((1, 2), adam, layers())
        Simulation(stages).run(with_stop(messages))
        assert same_bits(state_of(stages), backprop(messages, (), adam, layers()))

    def test_an_inexact_gradient_breaks_transparency(self) -> None:
        messages = batches(SIZES)
        stages = pipeline((1, 3))
        Simulation(stages).run(with_stop(messages))
        assert not same_bits(state_of(stages), backprop(messages))


class TestCounts:
    @settings(max_examples=15, deadline=None, database=None)
    @given(orders, st.lists(st.integers(2, 9), max_size=8), st.integers(1, 4))
    def test_every_sample_is_trained_on_by_every_stage_and_every_target_arrives(
        self, choices: list[int], sizes: list[int], capacity: int
    ) -> None:
        stages = pipeline(cut=(1, 2))
        simulation = Simulation(stages, capacity).run(with_stop(batches(sizes)), by_choices(choices))
        assert [stage.samples for stage in stages] == [sum(sizes)] * 3
        assert [stage.steps for stage in stages] == [len(sizes)] * 3
        assert [stage.targets_sent for stage in stages] == [0, len(sizes), len(sizes)]
        assert [stage.targets_received for stage in stages] == [len(sizes), len(sizes), 0]
        assert [len(stage.rule.predictor.pending) for stage in stages[:2]] == [0, 0]
        assert [stage.rule.predictor.pending.unmatched for stage in stages[:2]] == [0, 0]
        [stop] = simulation.markers
        assert [stop.body[str(i)] for i in range(3)] == [stage.stats() for stage in stages]
        assert all(stage.done for stage in stages)

    @pytest.mark.parametrize("order", ORDERS)
    def test_the_epochs_mean_is_over_exactly_its_batches(self, order: str) -> None:
        """However the stages interleave, a marker parts the batches before it from those after."""
        messages = batches([30, 17, 30, 30])
        assert all(isinstance(m, Activation) for m in messages)
        source: list[Message] = []
        for epoch in (0, 1):
            source += [*messages[2 * epoch : 2 * epoch + 2], *batches([20], train=False)]
            source.append(Marker(MarkerKind.EPOCH, 2 * epoch + 2, epoch))
        stages = oracle_pipeline((1, 3))
        simulation = Simulation(stages).run(source, ORDERS[order])
        wanted = self.losses(messages)
        assert [marker.epoch for marker in simulation.markers] == [0, 1]
        assert [marker.body["result"]["tested"] for marker in simulation.markers] == [20, 20]
        assert [marker.body["2"]["samples"] for marker in simulation.markers] == [47, 107]
        assert [marker.body["result"]["loss"] for marker in simulation.markers] == pytest.approx(
            [(30 * wanted[0] + 17 * wanted[1]) / 47, (wanted[2] + wanted[3]) / 2]
        )

    def losses(self, messages: list[Message]) -> list[float]:
        [stage] = pipeline(cut=())
        seen = []
        for step, message in enumerate(messages):
            list(stage.on(message))
            list(stage.on(Marker(MarkerKind.REPORT, step, 0)))
            seen.append(stage.rule.result()["loss"])
            stage.rule.new_epoch()
        return seen

    def test_the_first_batch_moves_no_stage_below_the_last(self) -> None:
        """An untrained SG network predicts nothing, rather than noise."""
        stages = pipeline(cut=(1, 2))
        before = [clone_state(stage.layers) for stage in stages]
        Simulation(stages).run(batches([30]))
        moved = [
            any(not torch.equal(state[name], p) for name, p in stage.layers.named_parameters())
            for stage, state in zip(stages, before, strict=True)
        ]
        assert moved == [False, False, True]


class TestStaleness:
    def staleness(self, stages: list[Stage]) -> list[tuple[float, int]]:
        stats = [stage.rule.stats() for stage in stages[:-1]]
        return [(s["staleness_mean"], s["staleness_max"]) for s in stats]

    def test_a_scripted_order_gives_these_numbers(self) -> None:
        """Stage 0 runs three batches ahead and falls back.

        version of stage 0 when   A0 A1 A2   T0     T1     A3   T2     T3
        it predicted / it got t    0  1  2   3-0=3  3-1=2  3    4-2=2  4-3=1
        """
        forward: Move = (0, "activation")
        loss: Move = (1, "activation")
        target: Move = (0, "target")
        order = script(
            *(forward, forward, forward, loss, target, loss, target, forward, loss, target, loss, target)
        )
        stages = pipeline(cut=(2,))
        Simulation(stages).run(batches([4] * 4), order)
        assert self.staleness(stages) == [((3 + 2 + 2 + 1) / 4, 3)]

    @pytest.mark.parametrize(
        ("ahead", "late"),
        [
            (1, [1, 1, 1, 1, 1, 1, 1, 1]),
            (2, [2, 2, 2, 2, 2, 2, 2, 1]),
            (3, [3, 3, 3, 3, 3, 3, 2, 1]),
            (6, [6, 6, 6, 5, 4, 3, 2, 1]),
        ],
    )
    def test_running_d_batches_ahead_makes_targets_d_steps_late(self, ahead: int, late: list[int]) -> None:
        """Until the source runs dry: then stage 0 has nothing left to run ahead with."""
        stages = pipeline(cut=(2,))
        Simulation(stages, capacity=ahead).run(batches([4] * 8))
        assert self.staleness(stages) == [(sum(late) / 8, ahead)]

    def test_one_batch_in_flight_makes_targets_one_step_late(self) -> None:
        stages = pipeline(cut=(1, 2))
        Simulation(stages).run(batches([4] * 5), downstream_first)
        assert self.staleness(stages) == [(1.0, 1), (1.0, 1)]

    def test_targets_in_reverse_order_are_one_to_n_steps_late(self) -> None:
        stages = pipeline(cut=(2,))
        simulation = Simulation(stages, capacity=8)
        simulation.run(batches([4] * 8), reversing(simulation))
        assert self.staleness(stages) == [((1 + 8) / 2, 8)]


def reversing(simulation: Simulation) -> Order:
    """Targets last, and the newest of them first."""

    def order(moves: list[Move]) -> Move:
        for queue in simulation.targets:
            gradients = sorted((m for m in queue if isinstance(m, TargetGradient)), key=lambda t: -t.step)
            others = [m for m in queue if not isinstance(m, TargetGradient)]
            queue.clear()
            queue.extend([*gradients, *others])
        return targets_last(moves)

    return order


class TestLostAndReordered:
    def test_lost_targets_are_missed_by_nobody(self) -> None:
        stages = pipeline(cut=(1, 2))
        simulation = Simulation(stages, keep=lambda target: target.step % 3 == 0)
        simulation.run(with_stop(batches([4] * 9)))
        assert [stage.targets_sent for stage in stages] == [0, 9, 9]
        assert [stage.targets_received for stage in stages] == [3, 3, 0]
        assert [len(stage.rule.predictor.pending) for stage in stages[:2]] == [6, 6]
        assert all(stage.done for stage in stages)
        assert all(stage.samples == 36 for stage in stages)

    def test_when_every_target_is_lost_pending_predictions_stay_bounded(self) -> None:
        stages = pipeline(cut=(2,), rule=lambda: DniRule(synthesizer(capacity=4, replay=2)))
        Simulation(stages, keep=lambda target: False).run(with_stop(batches([4] * 12)))
        sg = stages[0].rule.predictor
        assert (len(sg.pending), sg.pending.dropped, sg.pending.unmatched, sg.updates) == (4, 8, 0, 0)
        assert sg.held_bytes() == 4 * (4 * WIDTH + 4 * CLASSES) * 4

    def test_targets_that_come_after_their_entry_was_dropped_are_counted(self) -> None:
        """Ten predictions in a pending for four: T0 to T5 find nothing."""
        stages = pipeline(cut=(2,), rule=lambda: DniRule(synthesizer(capacity=4)))
        Simulation(stages, capacity=16).run(with_stop(batches([4] * 10)), targets_last)
        sg = stages[0].rule.predictor
        assert (sg.pending.dropped, sg.pending.unmatched, sg.updates, len(sg.pending)) == (6, 6, 4, 0)
        assert stages[0].stats()["targets_dropped"] == 6
        assert stages[0].targets_received == 10

    def test_reordered_targets_all_find_their_batch(self) -> None:
        stages = pipeline(cut=(1, 2))
        simulation = Simulation(stages, capacity=8)
        simulation.run(with_stop(batches([4] * 8)), reversing(simulation))
        for stage in stages[:2]:
            sg = stage.rule.predictor
            assert (sg.updates, sg.pending.unmatched, sg.pending.dropped, len(sg.pending)) == (8, 0, 0, 0)

    def test_an_oracle_agrees_with_reordered_targets(self) -> None:
        messages, stages = batches(SIZES), oracle_pipeline((1, 3))
        simulation = Simulation(stages, capacity=8)
        simulation.run(with_stop(messages), reversing(simulation))
        assert same_bits(state_of(stages), backprop(messages))

    @settings(max_examples=15, deadline=None, database=None)
    @given(orders, st.sets(st.integers(0, 9)), st.randoms(use_true_random=False))
    def test_whatever_happens_to_targets_the_run_ends_and_the_counts_add_up(
        self, choices: list[int], lost: set[int], random
    ) -> None:
        stages = pipeline(cut=(1, 2), rule=lambda: DniRule(synthesizer(capacity=3, replay=1)))
        simulation = Simulation(stages, keep=lambda target: target.step not in lost)
        inner = by_choices(choices)

        def order(moves: list[Move]) -> Move:
            for queue in simulation.targets:
                where = [i for i, m in enumerate(queue) if isinstance(m, TargetGradient)]
                if len(where) > 1:
                    a, b = random.sample(where, 2)
                    queue[a], queue[b] = queue[b], queue[a]
            return inner(moves)

        simulation.run(with_stop(batches([4] * 10)), order)
        assert all(stage.done and stage.samples == 40 for stage in stages)
        for stage in stages[:2]:
            pending = stage.rule.predictor.pending
            assert stage.targets_received == 10 - len(lost)
            assert stage.rule.predictor.updates == 2 * (stage.targets_received - pending.unmatched)
            assert len(pending) <= 3
            assert len(pending) + pending.dropped + (stage.targets_received - pending.unmatched) == 10


class TestDelayed:
    """The exact gradient, late: with one batch in flight that is backprop."""

    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("cut", CUTS)
    def test_a_stash_of_one_equals_backprop_to_the_bit_in_any_order(
        self, cut: tuple[int, ...], order: str
    ) -> None:
        messages = batches(SIZES)
        stages = pipeline(cut, lambda: DelayedRule(1))
        Simulation(stages).run(with_stop(messages), ORDERS[order])
        assert same_bits(state_of(stages), backprop(messages))

    def test_a_larger_stash_equals_backprop_while_one_batch_is_in_flight(self) -> None:
        messages = batches(SIZES)
        stages = pipeline((1, 3), lambda: DelayedRule(3))
        Simulation(stages).run(with_stop(messages), downstream_first)
        assert same_bits(state_of(stages), backprop(messages))
        assert [stage.rule.stats()["staleness_max"] for stage in stages[:2]] == [0, 0]

    def test_a_checkpoint_lets_its_batches_finish_and_so_changes_the_numbers_of_this_rule_alone(self) -> None:
        trained = []
        for rule in (lambda: DelayedRule(3), lambda: DniRule(synthesizer())):
            for kind in (MarkerKind.REPORT, MarkerKind.CHECKPOINT):
                messages = batches(SIZES)
                messages.insert(2, Marker(kind, 2, 0))
                stages = pipeline((1, 2), rule)
                Simulation(stages).run(with_stop(messages))
                trained.append(state_of(stages))
        assert not same_bits(trained[0], trained[1])
        assert same_bits(trained[2], trained[3])

    def test_with_more_batches_in_flight_the_numbers_differ(self) -> None:
        messages = batches(SIZES)
        stages = pipeline((1, 3), lambda: DelayedRule(3))
        Simulation(stages).run(with_stop(messages))
        assert not same_bits(state_of(stages), backprop(messages))

    @pytest.mark.parametrize("make_updater", [sgd, clipped, scheduled])
    def test_with_momentum_clipping_and_a_schedule(self, make_updater: MakeUpdater) -> None:
        messages, cut = batches(SIZES), (1, 3)
        stages = pipeline(cut, lambda: DelayedRule(1), make_updater)
        Simulation(stages).run(with_stop(messages))
        assert same_bits(state_of(stages), backprop(messages, cut, make_updater))

    def test_with_evaluation_batches_and_markers_in_between(self) -> None:
        messages = batches(SIZES)
        between = [*batches([7], train=False), Marker(MarkerKind.EPOCH, 2, 0)]
        stages = pipeline((1, 3), lambda: DelayedRule(1))
        Simulation(stages).run(with_stop([*messages[:2], *between, *messages[2:]]))
        assert same_bits(state_of(stages), backprop(messages))

    @settings(max_examples=20, deadline=None, database=None)
    @given(orders, st.integers(1, 4), st.integers(1, 3))
    def test_no_order_locks_up_and_no_stash_overflows(
        self, choices: list[int], stash: int, capacity: int
    ) -> None:
        stages = pipeline((1, 2, 3), lambda: DelayedRule(stash))
        inner, fullest = by_choices(choices), []

        def order(moves: list[Move]) -> Move:
            fullest.append(max(len(stage.rule.stash) for stage in stages[:-1]))
            return inner(moves)

        epoch = [*batches([4] * 6), *batches([5] * 3, train=False), Marker(MarkerKind.EPOCH, 6, 0)]
        simulation = Simulation(stages, capacity).run([*epoch, Marker(MarkerKind.STOP, 6, 0)], order)
        assert all(stage.done and stage.samples == 24 and stage.version == 6 for stage in stages)
        assert [stage.targets_received for stage in stages] == [6, 6, 6, 0]
        assert [marker.body["result"]["tested"] for marker in simulation.markers] == [15, 0]
        assert max(fullest) <= stash

    @pytest.mark.parametrize(
        ("stash", "late"),
        [(1, [0] * 8), (2, [0, *[1] * 7]), (3, [0, 1, *[2] * 6]), (5, [0, 1, 2, 3, *[4] * 4])],
    )
    def test_a_full_stash_of_d_makes_gradients_d_minus_1_steps_late(
        self, stash: int, late: list[int]
    ) -> None:
        stages = pipeline((2,), lambda: DelayedRule(stash))
        Simulation(stages, capacity=8).run(batches([4] * 8))
        stats = stages[0].rule.stats()
        assert (stats["staleness_mean"], stats["staleness_max"]) == (sum(late) / 8, max(late))

    @pytest.mark.parametrize(
        ("lost", "text"),
        [
            (2, "the target of step 3 came, and that of step 2 is missing"),
            (5, "the target of step 5 never came"),
        ],
    )
    def test_a_lost_target_is_an_error(self, lost: int, text: str) -> None:
        stages = pipeline((2,), lambda: DelayedRule(3))
        with pytest.raises(StageError, match=text):
            Simulation(stages, keep=lambda target: target.step != lost).run(with_stop(batches([4] * 6)))


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """The 8x8 digits of scikit-learn, shuffled: (1797, 64) in [0, 1] and (1797,)."""
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return torch.tensor(x, dtype=torch.float32)[order] / 16, torch.tensor(y)[order]


class TestLearning:
    """Three stages of two narrow layers each on real digits: 1500 to train, 297 to test."""

    width, epochs, batch = 16, 5, 32

    def source(self, digits: tuple[Tensor, Tensor]) -> Iterator[Message]:
        x, y = digits
        generator = torch.Generator().manual_seed(1)
        step = 0
        for epoch in range(self.epochs):
            for rows in torch.randperm(1500, generator=generator).split(self.batch):
                yield Activation(step, 0, x[rows], y[rows])
                step += 1
            yield Activation(0, 0, x[1500:], y[1500:], train=False)
            yield Marker(MarkerKind.EPOCH, step, epoch)
        yield Marker(MarkerKind.STOP, step, self.epochs)

    def layers(self) -> list[nn.Module]:
        torch.manual_seed(0)
        widths = [64, *[self.width] * 6]
        blocks: list[nn.Module] = [
            nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())
            for a, b in itertools.pairwise(widths)
        ]
        return [*blocks, nn.Linear(self.width, 10)]

    def run(self, digits: tuple[Tensor, Tensor], rule: Callable[[], Rule]) -> Simulation:
        def make(module: nn.Module) -> Updater:
            return Updater(optimizer_factory("adam", 3e-3)(list(module.parameters())))

        stages = pipeline((2, 4), rule, make, self.layers())
        return Simulation(stages, capacity=4).run(self.source(digits))

    def cdni(self) -> DniRule:
        shape = (self.width,)
        return DniRule(
            build_synthesizer(
                resolve(SGConfig(), shape, 3, conditional=True, classes=True),
                shape,
                label_size=10,
                condition=lambda y: F.one_hot(y, 10).float(),
                pending_capacity=16,
            )
        )

    def accuracies(self, simulation: Simulation) -> list[float]:
        return [m.body["result"]["test_accuracy"] for m in simulation.markers if m.kind is MarkerKind.EPOCH]

    def test_decoupled_stages_learn_what_frozen_ones_cannot(self, digits: tuple[Tensor, Tensor]) -> None:
        decoupled = self.run(digits, self.cdni)
        frozen = self.run(digits, FrozenRule)
        accuracies = self.accuracies(decoupled)
        assert len(accuracies) == self.epochs
        assert accuracies[-1] > 0.75
        assert accuracies[-1] > self.accuracies(frozen)[-1] + 0.3
        report = decoupled.markers[-1].body
        assert [report[str(i)]["samples"] for i in range(3)] == [1500 * self.epochs] * 3
        assert [report[str(i)]["staleness_max"] for i in range(2)] == [4, 4]
        assert [report[str(i)]["targets_dropped"] for i in range(2)] == [0, 0]

    @pytest.mark.parametrize("rule", ["delayed", "local"])
    def test_delayed_and_local_stages_learn_what_frozen_ones_cannot(
        self, digits: tuple[Tensor, Tensor], rule: str
    ) -> None:
        trained = self.run(digits, {"delayed": lambda: DelayedRule(4), "local": self.local}[rule])
        assert self.accuracies(trained)[-1] > 0.75
        report = trained.markers[-1].body
        assert [report[str(i)]["samples"] for i in range(3)] == [1500 * self.epochs] * 3
        targets = 0 if rule == "local" else self.epochs * 47
        assert [report[str(i)]["targets_sent"] for i in range(3)] == [0, targets, targets]

    def local(self) -> LocalRule:
        return LocalRule(*build_auxiliary(LocalConfig(), (self.width,), (10,)), F.cross_entropy, accuracy)


class TestInStep:
    def test_the_diagram(self) -> None:
        """Tick 1 (0,a); 2 (0,a) (1,a); 3 (0,t) (1,a): what is sent in a tick is handled in a later one."""
        simulation = Simulation(pipeline(cut=(2,))).run_in_step(batches([4] * 3))
        forward: Move = (0, "activation")
        loss: Move = (1, "activation")
        target: Move = (0, "target")
        assert simulation.moves == [forward, forward, loss, target, loss, target, forward, loss, target]

    def test_delayed_gradients_come_as_late_as_the_stash_allows(self) -> None:
        stages = pipeline((1, 2, 3), lambda: DelayedRule(4))
        for i, stage in enumerate(stages[:-1]):
            stage.rule = DelayedRule(4 - i)
        Simulation(stages).run_in_step(with_stop(batches([4] * 20)))
        assert [stage.rule.stats()["staleness_max"] for stage in stages[:-1]] == [3, 2, 1]
        assert all(stage.done and stage.version == 20 for stage in stages)
