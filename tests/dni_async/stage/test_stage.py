from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dni_async.messages import Activation, Marker, MarkerKind, Message, TargetGradient
from dni_async.networks import LinearSG
from dni_async.optim import Updater
from dni_async.rules import DelayedRule, DniRule, FrozenRule, Rule
from dni_async.stage.simulation import Simulation
from dni_async.stage.stage import Stage
from tests.support.stages import (
    CLASSES,
    FEATURES,
    WIDTH,
    accuracy,
    adam,
    batches,
    clone_state,
    loss_rule,
    one_hot,
    pipeline,
    synthesizer,
    with_stop,
)


def changed(stage: Stage, before: dict[str, Tensor]) -> bool:
    return any(not torch.equal(before[name], p) for name, p in stage.layers.named_parameters())


def one_batch(rows: int = 30, train: bool = True) -> Activation:
    [message] = batches([rows], train)
    assert isinstance(message, Activation)
    return message


def a_stage(
    layers: nn.Module, width: int = WIDTH, rule: str = "dni", updater: Updater | None = None
) -> Stage:
    """A stage in the middle, of any layers."""
    chosen = loss_rule() if rule == "loss" else DniRule(synthesizer(LinearSG(width, width)))
    return Stage(1, layers, chosen, updater or Updater(None), send_targets=True)


def tensors(messages: list[Message]) -> list[Tensor]:
    return [m.h if isinstance(m, Activation) else m.grad for m in messages if not isinstance(m, Marker)]


class TestOneTrainingBatch:
    """forward -> Activation | gradient, backward -> TargetGradient | optimizer step"""

    def trained(self) -> Stage:
        """The middle stage, its SG network no longer at zero."""
        stage = pipeline()[1]
        with torch.no_grad():
            for parameter in stage.rule.predictor.network.parameters():
                parameter.normal_()
        return stage

    def message(self) -> Activation:
        return Activation(7, 3, torch.randn(30, WIDTH), torch.arange(30) % CLASSES)

    def test_the_activation_leaves_before_the_backward(self) -> None:
        stage = self.trained()
        before = clone_state(stage.layers)
        work = stage.on(self.message())
        first = next(work)
        assert isinstance(first, Activation)
        assert not changed(stage, before)
        assert [p for p in stage.layers.parameters() if p.grad is not None] == []
        assert len(stage.rule.predictor.pending) == 0

    def test_the_target_leaves_before_the_update(self) -> None:
        stage = self.trained()
        before = clone_state(stage.layers)
        work = stage.on(self.message())
        next(work)
        second = next(work)
        assert isinstance(second, TargetGradient)
        assert not changed(stage, before)
        assert [p for p in stage.layers.parameters() if p.grad is None] == []
        assert stage.version == 0
        assert next(work, "the end") == "the end"
        assert changed(stage, before)
        assert stage.version == 1
        assert [p for p in stage.layers.parameters() if p.grad is not None] == []

    def test_messages_carry_step_labels_and_the_version_before_the_update(self) -> None:
        stage, message = self.trained(), self.message()
        for version in (0, 1):
            activation, target = list(stage.on(message))
            assert isinstance(activation, Activation)
            assert isinstance(target, TargetGradient)
            assert (activation.step, activation.version, activation.train) == (7, version, True)
            assert (target.step, target.version) == (7, version)
            assert torch.equal(activation.y, message.y)
            assert activation.h.shape == target.grad.shape == (30, WIDTH)
            assert not activation.h.requires_grad
            assert not target.grad.requires_grad

    def test_the_target_is_the_prediction_pulled_back_through_the_layers(self) -> None:
        stage, message = self.trained(), self.message()
        work = stage.on(message)
        activation = next(work)
        assert isinstance(activation, Activation)
        prediction = stage.rule.predictor.network.synthesize(activation.h, one_hot(message.y)) / 30
        x = message.h.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(stage.layers(x), x, prediction)
        [target] = list(work)
        assert isinstance(target, TargetGradient)
        torch.testing.assert_close(target.grad, wanted)

    def test_the_message_stays_as_it_was(self) -> None:
        message = self.message()
        before = message.h.clone()
        list(self.trained().on(message))
        assert torch.equal(message.h, before)
        assert not message.h.requires_grad
        assert message.h.grad is None

    def test_a_late_target_trains_the_sg_network_and_not_the_layers(self) -> None:
        stage = self.trained()
        activation, _ = list(stage.on(self.message()))
        assert isinstance(activation, Activation)
        layers, network = clone_state(stage.layers), clone_state(stage.rule.predictor.network)
        assert list(stage.on(TargetGradient(7, 0, torch.randn_like(activation.h)))) == []
        assert not changed(stage, layers)
        assert not torch.equal(network["output.weight"], stage.rule.predictor.network.output.weight)
        assert stage.targets_received == 1
        assert stage.rule.stats()["staleness_max"] == 1

    def test_on_phase_end_is_called_for_every_phase_in_order(self) -> None:
        noticed: list[str] = []
        stage = self.trained()
        stage.on_phase_end = noticed.append
        for message in stage.on(self.message()):
            noticed.append(type(message).__name__)
        assert noticed == ["forward", "Activation", "sg", "backward", "TargetGradient", "update"]


def test_the_first_stage_sends_no_target_and_the_last_no_activation() -> None:
    first, middle, last = pipeline(cut=(1, 2))
    [activation] = list(first.on(one_batch()))
    assert isinstance(activation, Activation)
    activation, target = list(middle.on(activation))
    assert isinstance(activation, Activation)
    assert isinstance(target, TargetGradient)
    [target] = list(last.on(activation))
    assert isinstance(target, TargetGradient)
    assert [stage.is_last for stage in (first, middle, last)] == [False, False, True]
    assert [stage.targets_sent for stage in (first, middle, last)] == [0, 1, 1]


class TestTargetEvery:
    """Of one step in so many the target is a gradient."""

    def last(self, every: int) -> tuple[Stage, list[TargetGradient]]:
        stage = pipeline(cut=(2,))[-1]
        stage.target_every = every
        sent = [stage.on(Activation(step, 0, *hidden(step), train=True)) for step in range(7)]
        return stage, [target for messages in sent for target in messages]

    def test_batches_without_target_send_a_target_of_no_rows(self) -> None:
        _, targets = self.last(3)
        assert [(target.step, len(target.grad)) for target in targets] == [
            (0, 5), (1, 0), (2, 0), (3, 5), (4, 0), (5, 0), (6, 5),
        ]  # fmt: skip

    def test_with_sporadic_targets_the_learned_and_sent_targets_are_the_same(self) -> None:
        (always, all_targets), (sometimes, targets) = self.last(1), self.last(3)
        assert not changed(sometimes, dict(always.layers.named_parameters()))
        for i in (0, 3, 6):
            assert torch.equal(all_targets[i].grad, targets[i].grad)

    def test_layers_that_give_their_input_no_gradient_send_a_target_of_zeros(self) -> None:
        class Detached(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x.detach())

        for rule in ("loss", "dni"):
            layers = Detached(WIDTH, CLASSES if rule == "loss" else WIDTH)
            stage = a_stage(layers, rule=rule, updater=adam(layers))
            before = clone_state(layers)
            message = Activation(0, 0, torch.randn(6, WIDTH), torch.arange(6) % CLASSES)
            target = list(stage.on(message))[-1]
            assert isinstance(target, TargetGradient)
            assert torch.equal(target.grad, torch.zeros(6, WIDTH))
            assert changed(stage, before) is (rule == "loss")  # an untrained SG network predicts zero

    def test_targets_that_were_not_wanted_are_not_missed(self) -> None:
        stages = pipeline()
        for stage in stages:
            stage.target_every = 3
        Simulation(stages).run(with_stop(batches([5] * 7)))
        for stage in stages[:-1]:
            synthesizer = stage.rule.predictor
            assert (stage.targets_received, stage.targets_skipped, synthesizer.updates) == (7, 0, 3)
            assert (len(synthesizer.pending), synthesizer.pending.unmatched) == (0, 0)

    def test_a_wanted_target_without_rows_is_counted(self) -> None:
        stage = pipeline()[0]
        stage.target_every = 3
        for step in (3, 4):
            list(stage.on(TargetGradient(step, 0, torch.empty(0, WIDTH))))
        assert stage.targets_skipped == 1


def hidden(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(5, WIDTH, generator=generator), torch.arange(5) % CLASSES


def test_a_single_stage_sends_nothing_and_learns() -> None:
    [stage] = pipeline(cut=())
    before = clone_state(stage.layers)
    assert list(stage.on(one_batch())) == []
    assert changed(stage, before)


@pytest.mark.parametrize("train", [True, False])
def test_any_number_of_rows_works(train: bool) -> None:
    first, last = pipeline(cut=(2,))
    for rows in (30, 2, 17):
        [activation] = list(first.on(one_batch(rows, train)))
        assert isinstance(activation, Activation)
        assert activation.h.shape == (rows, WIDTH)
        list(last.on(activation))
    assert first.samples == last.samples == (49 if train else 0)


class TestEvaluation:
    def test_an_evaluation_batch_neither_updates_nor_predicts_a_gradient(self) -> None:
        for stage in pipeline(cut=(1,)):
            before = clone_state(stage.layers)
            rows = torch.randn(30, FEATURES if stage.index == 0 else WIDTH)
            sent = list(stage.on(Activation(0, 0, rows, torch.arange(30) % CLASSES, train=False)))
            assert len(sent) == (0 if stage.is_last else 1)
            assert all(isinstance(m, Activation) and not m.train for m in sent)
            assert all(torch.equal(before[k], v) for k, v in stage.layers.state_dict().items())
            assert (stage.steps, stage.samples, stage.version, stage.targets_sent) == (0, 0, 0, 0)

    def test_an_evaluation_batch_leaves_no_pending_prediction(self) -> None:
        stage = pipeline(cut=(1,))[0]
        list(stage.on(one_batch(train=False)))
        assert len(stage.rule.predictor.pending) == 0

    def test_evaluation_uses_the_running_statistics_and_restores_train_mode(self) -> None:
        stage = pipeline(cut=(1,))[0]
        list(stage.on(one_batch()))
        linear, norm, _ = stage.layers[0]
        message = one_batch(rows=3, train=False)
        [sent] = list(stage.on(message))
        assert isinstance(sent, Activation)
        z = (linear(message.h) - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        torch.testing.assert_close(sent.h, (z * norm.weight + norm.bias).relu().detach())
        assert not sent.h.requires_grad
        list(stage.on(one_batch()))
        assert all(module.training for module in stage.layers.modules())
        assert norm.num_batches_tracked == 2

    def test_the_last_stage_scores_an_evaluation_batch(self) -> None:
        [stage] = pipeline(cut=())
        message = one_batch(rows=17, train=False)
        list(stage.on(message))
        with torch.no_grad():
            score = accuracy(stage.layers.eval()(message.h), message.y).mean()
        assert stage.rule.result()["test_accuracy"] == pytest.approx(float(score))
        assert stage.rule.result()["tested"] == 17

    @pytest.mark.parametrize("rule", [FrozenRule, lambda: DniRule(synthesizer())])
    def test_a_frozen_stage_evaluates_alike(self, rule: Callable) -> None:
        stage = pipeline(cut=(1,), rule=rule)[0]
        message = one_batch(train=False)
        [sent] = list(stage.on(message))
        assert isinstance(sent, Activation)
        assert torch.equal(sent.h, stage.layers.eval()(message.h))


class TestMarks:
    def test_a_marker_passes_down_unchanged_and_the_last_stage_returns_it(self) -> None:
        first, last = pipeline(cut=(1,))
        marker = Marker(MarkerKind.REPORT, 5, 1)
        assert list(first.on(marker)) == [marker]
        assert (marker.returning, marker.body) == (False, {})
        assert list(last.on(marker)) == [marker]
        assert marker.returning
        assert set(marker.body) == {"result", "1"}
        assert list(first.on(marker)) == [marker]
        assert marker.body["0"] == first.stats()

    @pytest.mark.parametrize(
        ("kind", "done"), [(MarkerKind.REPORT, False), (MarkerKind.EPOCH, False), (MarkerKind.STOP, True)]
    )
    def test_a_stage_is_done_once_it_has_sent_the_stop_marker_back(
        self, kind: MarkerKind, done: bool
    ) -> None:
        first, last = pipeline(cut=(1,))
        marker = Marker(kind, 0, 0)
        list(first.on(marker))
        list(last.on(marker))
        assert (first.done, last.done) == (False, done)
        list(first.on(marker))
        assert first.done is done

    @pytest.mark.parametrize(
        ("kind", "cleared"), [(MarkerKind.REPORT, False), (MarkerKind.EPOCH, True), (MarkerKind.STOP, False)]
    )
    def test_only_the_epoch_marker_resets_running_means(self, kind: MarkerKind, cleared: bool) -> None:
        first, last = pipeline(cut=(1,))
        [activation] = list(first.on(one_batch()))
        [target] = list(last.on(activation))
        list(first.on(target))
        marker = Marker(kind, 1, 0)
        for stage in (first, last, first):
            list(stage.on(marker))
        assert marker.body["result"]["loss"] > 0
        assert marker.body["0"]["sg_relative_error"] == pytest.approx(1.0)
        assert (last.rule.result()["loss"] is None) is cleared
        assert (first.stats()["sg_relative_error"] is None) is cleared
        assert first.stats()["steps"] == last.stats()["steps"] == 1

    def test_an_evaluation_marker_resets_the_test_means_and_keeps_those_of_the_epoch(self) -> None:
        first, last = pipeline(cut=(1,))
        [activation] = list(first.on(one_batch()))
        [target] = list(last.on(activation))
        list(first.on(target))
        results = []
        for rows in (30, 17):
            [tested] = list(first.on(one_batch(rows, train=False)))
            list(last.on(tested))
            marker = Marker(MarkerKind.EVALUATION, 1, 0)
            for stage in (first, last, first):
                list(stage.on(marker))
            results.append(marker.body["result"])
        assert [result["tested"] for result in results] == [30, 17]
        assert results[0]["loss"] == results[1]["loss"] > 0
        assert first.stats()["sg_relative_error"] is not None


class TestMemory:
    """A transport may overwrite a message as soon as the stage has handled it."""

    @pytest.mark.parametrize(
        "first", [[nn.ReLU(inplace=True)], [nn.Flatten(), nn.Identity(), nn.Hardtanh(inplace=True)]]
    )
    @pytest.mark.parametrize("send_targets", [True, False])
    @pytest.mark.parametrize("frozen", [True, False])
    @pytest.mark.parametrize("train", [True, False])
    def test_a_first_layer_that_works_in_place_does_not_touch_the_message(
        self, first: list[nn.Module], send_targets: bool, frozen: bool, train: bool
    ) -> None:
        layers = nn.Sequential(*first, nn.Linear(FEATURES, WIDTH))
        rule = FrozenRule() if frozen else DniRule(synthesizer())
        stage = Stage(1, layers, rule, adam(layers), send_targets=send_targets and not frozen)
        message = one_batch(train=train)
        before = message.h.clone()
        sent = list(stage.on(message))
        assert torch.equal(message.h, before)
        assert len(sent) == 1 + (send_targets and not frozen and train)

    @pytest.mark.parametrize("train", [True, False])
    def test_a_function_that_works_in_place_does_not_touch_the_message(self, train: bool) -> None:
        class Relu(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x.relu_()

        layers = nn.Sequential(Relu(), nn.Linear(FEATURES, WIDTH))
        stage = Stage(1, layers, DniRule(synthesizer()), adam(layers), send_targets=True)
        for _ in range(2):  # the first batch shows it
            message = one_batch(train=train)
            before = message.h.clone()
            assert len(list(stage.on(message))) == 1 + train
            assert torch.equal(message.h, before)

    def test_layers_that_work_in_place_in_training_only_are_recognised_after_an_evaluation(self) -> None:
        class Noise(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x.mul_(2) if self.training else x

        layers = nn.Sequential(Noise(), nn.Linear(FEATURES, WIDTH))
        stage = Stage(1, layers, DniRule(synthesizer()), adam(layers), send_targets=False)
        for train in (False, True, True):
            message = one_batch(train=train)
            before = message.h.clone()
            list(stage.on(message))
            assert torch.equal(message.h, before)

    def test_working_in_place_changes_no_number(self) -> None:
        results = []
        for in_place in (True, False):
            torch.manual_seed(0)
            layers = nn.Sequential(nn.ReLU(inplace=in_place), nn.Linear(FEATURES, CLASSES))
            stage = a_stage(layers, rule="loss", updater=adam(layers))
            results.append((tensors(list(stage.on(one_batch()))), clone_state(layers)))
        (a, a_state), (b, b_state) = results
        assert len(a) == 1
        assert torch.equal(a[0], b[0])
        assert (a[0] == 0).any()
        assert all(torch.equal(a_state[k], b_state[k]) for k in a_state)

    @pytest.mark.parametrize("layers", [nn.Flatten(), nn.Identity(), nn.Sequential(nn.Flatten())])
    def test_a_stage_of_views_remembers_a_copy(self, layers: nn.Module) -> None:
        stage, message = a_stage(layers, FEATURES), one_batch()
        before = message.h.clone()
        list(stage.on(message))
        message.h.fill_(float("nan"))
        pending = stage.rule.predictor.pending.pop(0)
        assert pending is not None
        assert torch.equal(pending.h, before)

    @pytest.mark.parametrize("layers", [nn.Identity(), nn.Flatten(), nn.Linear(FEATURES, FEATURES)])
    @pytest.mark.parametrize("frozen", [True, False])
    @pytest.mark.parametrize("train", [True, False])
    def test_a_sent_activation_outlives_the_received_one(
        self, layers: nn.Module, frozen: bool, train: bool
    ) -> None:
        """The activation is still on its way when the transport takes its memory back."""
        rule = FrozenRule() if frozen else DniRule(synthesizer(LinearSG(FEATURES, FEATURES)))
        stage = Stage(0, layers, rule, Updater(None), send_targets=False)
        message = one_batch(train=train)
        wanted_h, wanted_y = layers(message.h).detach().clone(), message.y.clone()
        [sent] = list(stage.on(message))
        message.h.fill_(float("nan"))
        message.y.zero_()
        assert isinstance(sent, Activation)
        assert torch.equal(sent.h, wanted_h)
        assert torch.equal(sent.y, wanted_y)

    def test_an_ordinary_stage_remembers_what_it_sent_without_a_copy(self) -> None:
        stage = pipeline()[0]
        [activation] = list(stage.on(one_batch()))
        pending = stage.rule.predictor.pending.pop(0)
        assert pending is not None
        assert pending.h.data_ptr() == activation.h.data_ptr()


def test_a_stage_without_parameters_passes_gradients_up_and_counts_versions() -> None:
    stage = a_stage(nn.AvgPool1d(2), FEATURES // 2)
    with torch.no_grad():
        stage.rule.predictor.network.output.bias.fill_(30.0)
    for version in (0, 1):
        message = one_batch()
        pooled = message.h.view(30, FEATURES // 2, 2).mean(2)
        activation, target = list(stage.on(message))
        assert isinstance(activation, Activation)
        assert isinstance(target, TargetGradient)
        torch.testing.assert_close(activation.h, pooled)
        torch.testing.assert_close(target.grad, torch.full_like(message.h, 0.5))
        assert activation.version == version
    assert stage.version == 2


def test_a_first_stage_without_parameters_works() -> None:
    rule = DniRule(synthesizer(LinearSG(FEATURES // 2, FEATURES // 2)))
    stage = Stage(0, nn.MaxPool1d(2), rule, Updater(None), send_targets=False)
    [activation] = list(stage.on(one_batch()))
    assert isinstance(activation, Activation)
    assert activation.h.shape == (30, FEATURES // 2)
    assert stage.steps == 1


def test_whole_numbers_may_come_in() -> None:
    layers = nn.Embedding(20, WIDTH)
    stage = Stage(0, layers, DniRule(synthesizer()), adam(layers), send_targets=False)
    with torch.no_grad():
        stage.rule.predictor.network.output.bias.fill_(1.0)
    before = clone_state(layers)
    [activation] = list(stage.on(Activation(0, 0, torch.arange(4), torch.arange(4))))
    assert isinstance(activation, Activation)
    assert activation.h.shape == (4, WIDTH)
    assert changed(stage, before)


class Indices(nn.Module):
    """Whole numbers out of features, through which no gradient passes."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 10).long().clamp(0, 9)


@pytest.mark.parametrize(
    "rule", [lambda: DniRule(synthesizer(LinearSG(FEATURES, FEATURES))), lambda: DelayedRule(3)]
)
def test_whole_numbers_may_pass_a_cut(rule: Callable[[], Rule]) -> None:
    """Stage 1 sends whole numbers, and so learns nothing; stage 0 gets targets of zeros; stage 2 learns."""
    layers = [nn.Linear(FEATURES, FEATURES), Indices(), nn.EmbeddingBag(10, WIDTH), nn.Linear(WIDTH, CLASSES)]
    stages = pipeline(cut=(1, 2), rule=rule, layers=layers, make_updater=updater)
    before = [clone_state(stage.layers) for stage in stages]
    simulation = Simulation(stages).run(with_stop(batches([30, 30, 17])))
    assert [stage.version for stage in stages] == [3, 3, 3]
    assert [stage.targets_received for stage in stages] == [3, 3, 0]
    assert [stage.skipped + stage.targets_skipped for stage in stages] == [0, 0, 0]
    moved = [changed(stage, state) for stage, state in zip(stages, before, strict=True)]
    assert moved == [False, False, True]
    assert simulation.markers[0].kind is MarkerKind.STOP


def stage_of_whole_numbers(rule: Rule) -> Stage:
    return Stage(1, Indices(), rule, Updater(None), send_targets=True)


@pytest.mark.parametrize("empty_first", [True, False])
def test_a_stage_that_keeps_graphs_has_room_after_an_empty_batch_of_whole_numbers(empty_first: bool) -> None:
    """The target of the batch without rows frees its place, whichever batch came before it."""
    stage = stage_of_whole_numbers(DelayedRule(1))
    full, empty = one_batch(), one_batch().emptied(torch.zeros(0, FEATURES))
    for message in (empty, full) if empty_first else (full, empty):
        assert stage.has_room
        [activation] = list(stage.on(message))
        assert isinstance(activation, Activation)
        [answer] = list(stage.on(TargetGradient(message.step, 0, activation.h[:0])))
        assert isinstance(answer, TargetGradient)
        assert len(answer.grad) == len(message.h)
        assert answer.grad.dtype == torch.float32
    assert stage.has_room
    assert (stage.skipped, stage.version) == (1, 1)


def test_a_late_target_of_whole_numbers_does_not_count_as_skipped_in_a_restored_stage() -> None:
    stage = stage_of_whole_numbers(DniRule(synthesizer(LinearSG(FEATURES, FEATURES))))
    assert list(stage.on(TargetGradient(0, 0, torch.zeros(0, FEATURES, dtype=torch.long)))) == []
    assert (stage.targets_received, stage.targets_skipped) == (1, 0)


def updater(module: nn.Module) -> Updater:
    parameters = list(module.parameters())
    return adam(module) if parameters else Updater(None)


def test_a_report_has_the_counts_of_the_stage() -> None:
    first, last = pipeline(cut=(1,))
    for rows in (30, 17):
        [activation] = list(first.on(one_batch(rows)))
        [target] = list(last.on(activation))
        list(first.on(target))
    assert last.stats() == {
        "index": 1,
        "steps": 2,
        "samples": 47,
        "version": 2,
        "targets_sent": 2,
        "targets_received": 0,
        "skipped": 0,
        "targets_skipped": 0,
    }
    counts = {"index": 0, "steps": 2, "samples": 47, "version": 2, "targets_sent": 0, "targets_received": 2}
    assert counts.items() <= first.stats().items()


class TestDelayed:
    """The batch waits at the bar: forward -> Activation | ... target: backward -> TargetGradient | update"""

    def stage(self, layers: nn.Module | None = None, capacity: int = 2) -> Stage:
        layers = layers or nn.Linear(FEATURES, WIDTH)
        updater = adam(layers) if list(layers.parameters()) else Updater(None)
        return Stage(1, layers, DelayedRule(capacity), updater, send_targets=True)

    def test_the_target_leaves_before_the_update(self) -> None:
        stage = self.stage()
        [activation] = list(stage.on(one_batch()))
        assert isinstance(activation, Activation)
        assert (stage.steps, stage.samples, stage.version) == (1, 30, 0)
        before = clone_state(stage.layers)
        work = stage.on(TargetGradient(0, 0, torch.ones(30, WIDTH)))
        target = next(work)
        assert isinstance(target, TargetGradient)
        assert (target.step, target.version, stage.version) == (0, 0, 0)
        torch.testing.assert_close(target.grad, torch.ones(30, WIDTH) @ stage.layers.weight.detach())
        assert not changed(stage, before)
        assert next(work, "the end") == "the end"
        assert changed(stage, before)
        assert (stage.version, stage.targets_sent, stage.targets_received) == (1, 1, 1)
        assert [p for p in stage.layers.parameters() if p.grad is not None] == []

    def test_on_phase_end_is_called_for_every_phase_in_order(self) -> None:
        noticed: list[str] = []
        stage = self.stage()
        stage.on_phase_end = noticed.append
        for message in (one_batch(), TargetGradient(0, 0, torch.ones(30, WIDTH))):
            for sent in stage.on(message):
                noticed.append(type(sent).__name__)
        assert noticed == ["forward", "Activation", "backward", "TargetGradient", "update"]

    @pytest.mark.parametrize(
        "layers",
        [nn.Linear(FEATURES, WIDTH), nn.Sequential(nn.ReLU(inplace=True), nn.Linear(FEATURES, WIDTH))],
    )
    def test_a_received_activation_may_be_overwritten_before_the_backward(self, layers: nn.Module) -> None:
        results = []
        for overwrite in (False, True):
            stage, message = self.stage(copy.deepcopy(layers)), one_batch()
            list(stage.on(message))
            if overwrite:
                message.h.fill_(float("nan"))
                message.y.zero_()
            [target] = list(stage.on(TargetGradient(0, 0, torch.ones(30, WIDTH))))
            results.append([target.grad, *clone_state(stage.layers).values()])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))

    def test_a_gradient_sent_upstream_outlives_the_target(self) -> None:
        stage = self.stage(nn.Flatten())
        list(stage.on(one_batch()))
        message = TargetGradient(0, 0, torch.ones(30, FEATURES))
        [target] = list(stage.on(message))
        message.grad.fill_(float("nan"))
        assert torch.equal(target.grad, torch.ones(30, FEATURES))

    def test_a_first_stage_without_parameters_works(self) -> None:
        stage = Stage(0, nn.MaxPool1d(2), DelayedRule(1), Updater(None), send_targets=False)
        list(stage.on(one_batch()))
        assert list(stage.on(TargetGradient(0, 0, torch.ones(30, FEATURES // 2)))) == []
        assert (stage.version, stage.has_room) == (1, True)

    def test_evaluation_runs_with_the_weights_of_now_and_takes_no_room(self) -> None:
        stage = self.stage(capacity=2)
        for message in batches([30, 30]):
            list(stage.on(message))
        held = stage.rule.stash.held_bytes()
        message = one_batch(train=False)
        for _ in range(2):
            [sent] = list(stage.on(message))
            assert isinstance(sent, Activation)
            assert torch.equal(sent.h, stage.layers(message.h).detach())
            with torch.no_grad():
                stage.layers.bias.add_(1.0)
        assert (len(stage.rule.stash), stage.rule.stash.held_bytes()) == (2, held)

    def test_other_rules_always_have_room(self) -> None:
        assert all(stage.has_room for stage in pipeline())
