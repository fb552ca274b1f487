"""Stages that exchange trees: the bits of sequential backprop, and one line for what does not fit."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni_async.boundary import Boundary
from dni_async.errors import UserError
from dni_async.messages import Activation, Marker, MarkerKind
from dni_async.networks.factory import label_size_of
from dni_async.optim import Updater
from dni_async.rules import LossRule
from dni_async.rules.base import Rule
from dni_async.rules.context import RuleContext
from dni_async.rules.dni import DniRule
from dni_async.rules.oracle import OracleRule
from dni_async.rules.registry import RULES, build_rule
from dni_async.stage.simulation import Order, Simulation, downstream_first, upstream_first
from dni_async.stage.stage import Stage
from dni_async.synthesis.oracle import Oracle
from tests.support.stages import StepAll, adam, same_bits, state_of, synthesizer
from tests.support.tree_nets import CLASSES, TwoHeads
from tests.support.trees import (
    NETWORKS,
    Batch,
    batches_of,
    boundaries,
    loss,
    messages,
    metric,
    stages,
    two_losses,
    valid,
)

SIZES = [4, 4, 3, 4, 4, 1, 4]
CUTS = [(1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)]


def with_oracles(
    layers: list[nn.Module],
    cut: tuple[int, ...],
    batch: Batch,
    task_loss: Callable[[Any, Any], Tensor] = loss,
) -> list[Stage]:
    made = stages(layers, cut, batch, lambda *_: DniRule(synthesizer()), task_loss=task_loss)
    for stage in made[:-1]:
        replica = [copy.deepcopy(later.layers) for later in made[stage.index + 1 :]]
        updater = StepAll([adam(module) for module in replica])
        rule = OracleRule(Oracle(nn.Sequential(*replica), task_loss, updater, stage.returns))
        stage.rule = rule
    return made


def backprop(
    layers: list[nn.Module],
    cut: tuple[int, ...],
    data: list[Batch],
    task_loss: Callable[[Any, Any], Tensor] = loss,
) -> list[Tensor]:
    bounds = [0, *cut, len(layers)]
    model = nn.Sequential(*layers)
    groups = [nn.Sequential(*layers[a:b]) for a, b in itertools.pairwise(bounds)]
    updaters = [adam(group) for group in groups]
    for x, y in data:
        task_loss(model(x), y).backward()
        for updater in updaters:
            updater.step()
    return list(model.state_dict().values())


@pytest.mark.parametrize("order", [upstream_first, downstream_first])
@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_stages_that_exchange_trees_equal_backprop_to_the_bit(
    name: str, cut: tuple[int, ...], order: Order
) -> None:
    data = batches_of(name, SIZES)
    made = with_oracles(NETWORKS[name][0](), cut, data[0])
    Simulation(made).run(messages(data), order)
    assert same_bits(state_of(made), backprop(NETWORKS[name][0](), cut, data))


def test_longer_and_shorter_sequences_cross_the_same_boundary() -> None:
    data = batches_of("masked", SIZES)
    cropped = [
        ({key: value[:, : 2 + i % 4] for key, value in x.items()}, y[:, : 2 + i % 4])
        for i, (x, y) in enumerate(data)
    ]
    made = with_oracles(NETWORKS["masked"][0](), (1, 2), data[0])
    Simulation(made).run(messages(cropped))
    assert same_bits(state_of(made), backprop(NETWORKS["masked"][0](), (1, 2), cropped))


def test_a_batch_of_the_sizes_of_the_first_one_may_follow_one_of_other_sizes() -> None:
    """Sizes travel as an extra only where they differ from those of the example."""
    parts = [torch.zeros(2, 3, 4), torch.zeros(2, 5, 4)]
    boundary = Boundary.of([part.requires_grad_() for part in parts])
    seen: list[list[tuple[int, ...]]] = []

    def loss(output: list[Tensor], y: Tensor) -> Tensor:
        seen.append([tuple(part.shape) for part in output])
        return sum(part.sum() for part in output) * y.sum()

    stage = Stage(
        1, nn.Identity(), LossRule(loss, loss, boundary=boundary), Updater(None), send_targets=False
    )
    stage.takes = stage.returns = boundary
    for lengths in ((4, 4), (3, 5)):
        h, extras = boundary.pack([torch.ones(2, n, 4) for n in lengths])
        list(stage.on(Activation(0, 0, h, torch.ones(2), extras=extras)))
    assert seen == [[(2, 4, 4), (2, 4, 4)], [(2, 3, 4), (2, 5, 4)]]


def with_two_labels(data: list[Batch]) -> list[Batch]:
    generator = torch.Generator().manual_seed(3)
    return [(x, {"tokens": y, "sample": torch.randn(len(y), 2, generator=generator)}) for x, y in data]


@pytest.mark.parametrize("cut", [(1,), (1, 2)], ids=str)
def test_outputs_and_targets_may_be_trees_too(cut: tuple[int, ...]) -> None:
    data = with_two_labels(batches_of("masked", SIZES))

    def layers() -> list[nn.Module]:
        return [*NETWORKS["masked"][0]()[:-1], TwoHeads()]

    made = with_oracles(layers(), cut, data[0], two_losses)
    last = made[-1].rule
    assert isinstance(last, LossRule)
    last.metric = lambda output, y: (output["tokens"].argmax(-1) == y["tokens"])[valid(y["tokens"])].float()
    simulation = Simulation(made).run(messages(data))
    assert same_bits(state_of(made), backprop(layers(), cut, data, two_losses))
    simulation.run([*messages(data, train=False), Marker(MarkerKind.EVALUATION, len(data), 1)])
    result = simulation.markers[0].body["result"]
    assert result["tested"] == sum(SIZES) and 0 < result["test_accuracy"] < 1


def condition(y: Tensor) -> Tensor:
    counts = valid(y)
    return F.one_hot(y * counts, CLASSES).float() * counts.unsqueeze(-1)


def rule_named(name: str, output_shape: tuple[int, ...], labels: Tensor) -> Callable[..., Rule]:
    def build(index: int, boundary: Boundary, h: Tensor) -> Rule:
        context = RuleContext(
            shape=tuple(h.shape[1:]),
            output_shape=output_shape,
            loss=loss,
            metric=metric,
            valid=valid,
            condition=condition,
            label_size=label_size_of(condition, labels),
            classes=CLASSES,
            boundary=boundary,
            stash_capacity=3,
        )
        return build_rule(name, context)

    return build


@pytest.mark.parametrize("rule", [name for name in RULES if name != "oracle"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_rule_trains_stages_that_exchange_trees(name: str, rule: str) -> None:
    data = batches_of(name, [16] * 12)
    layers = NETWORKS[name][0]()
    before = [value.clone() for value in nn.Sequential(*layers).state_dict().values()]
    build = rule_named(rule, tuple(boundaries(layers, data[0])[1][-1].shape[1:]), data[0][1])
    made = stages(layers, (1, 2), data[0], build)
    simulation = Simulation(made).run(
        [*messages(data), *messages(data, train=False), Marker(MarkerKind.EPOCH, len(data), 1)]
    )
    result = simulation.markers[0].body["result"]
    assert result["trained"] == result["tested"] == 16 * 12
    updates = [stage.version for stage in made]
    assert updates == [12 * made[0].rule.capabilities.updates] * 2 + [12]
    trained = made if made[0].rule.capabilities.updates else made[-1:]
    moved = [not torch.equal(a, b) for a, b in zip(before, state_of(made), strict=True)]
    assert all(moved[len(moved) - len(state_of(trained)) :])


@pytest.mark.parametrize("rule", [name for name in RULES if name != "oracle"])
def test_every_rule_trains_on_sequences_of_changing_length(rule: str) -> None:
    data = batches_of("masked", [16] * 6)
    cropped = [
        ({key: value[:, : 2 + i % 4] for key, value in x.items()}, y[:, : 2 + i % 4])
        for i, (x, y) in enumerate(data)
    ]
    layers = NETWORKS["masked"][0]()
    build = rule_named(rule, tuple(boundaries(layers, data[0])[1][-1].shape[1:]), data[0][1])
    made = stages(layers, (1, 2), data[0], build)
    simulation = Simulation(made).run([*messages(cropped), Marker(MarkerKind.EPOCH, len(data), 1)])
    assert simulation.markers[0].body["result"]["trained"] == 16 * 6
    assert made[0].version == 6 * made[0].rule.capabilities.updates


class Fickle(nn.Module):
    """Returns a tuple, and from the given call on something else."""

    def __init__(self, then: Callable[[Tensor, Tensor], Any], calls: int) -> None:
        super().__init__()
        self.linear, self.then, self.calls = nn.Linear(6, 6), then, calls

    def forward(self, x: Tensor) -> Any:
        self.calls -= 1
        h = self.linear(x)
        return (h, x) if self.calls >= 0 else self.then(h, x)


class First(nn.Module):
    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        return inputs[0]


@pytest.mark.parametrize(
    ("then", "words"),
    [
        (lambda h, x: [h, x], r"returned \[tensor, tensor\] where \(tensor, tensor\) was expected"),
        (lambda h, x: h, r"returned a tensor where \(tensor, tensor\) was expected"),
        (lambda h, x: (h, None), r"returned \(tensor, None\) where \(tensor, tensor\) was expected"),
        (lambda h, x: (h, h), r"needs a gradient that needed none at the start"),
    ],
)
@pytest.mark.parametrize("train", [True, False])
def test_a_structure_that_changes_between_batches_ends_in_one_line(
    then: Callable[[Tensor, Tensor], Any], words: str, train: bool
) -> None:
    if not train and "gradient" in words:
        return  # an evaluation computes no gradient
    data = batches_of("skips", [4, 4, 4])
    layers = [Fickle(then, 2), First(), nn.Linear(6, CLASSES)]
    made = stages(layers, (1,), data[0], lambda *_: DniRule(synthesizer()))
    made[0].rule = OracleRule(
        Oracle(copy.deepcopy(made[1].layers), loss, adam(nn.Linear(1, 1)), made[0].returns)
    )
    with pytest.raises(UserError, match=words) as raised:
        for message in messages(data, train):
            list(made[0].on(message))
    assert str(raised.value).startswith("layer 0 (Fickle) returned") and "\n" not in str(raised.value)


def test_stages_that_keep_graphs_keep_extras_beyond_the_message() -> None:
    """The memory of a message is overwritten when its stage has handled it, as a transport does."""
    data = batches_of("masked", [4, 4, 4])
    layers = NETWORKS["masked"][0]()
    build = rule_named("delayed", (5, CLASSES), data[0][1])
    made = stages(layers, (1, 2), data[0], build)
    sent = []
    for message in messages(data):
        (out,) = made[0].on(message)
        assert isinstance(out, Activation)
        (following,) = made[1].on(out)
        sent.append(following)
        for tensor in (out.h, out.y, *out.extras):
            tensor.zero_()
    for message in sent:
        assert isinstance(message, Activation) and message.extras[0].any()
        *_, target = made[2].on(message)
        (_,) = made[1].on(target)
    assert made[1].version == 3 and all(p.isfinite().all() for p in made[1].layers.parameters())


def test_an_empty_message_has_no_extras_and_passes() -> None:
    data = batches_of("masked", [4, 4])
    layers = NETWORKS["masked"][0]()
    made = with_oracles(layers, (1, 2), data[0])
    message = messages(data)[0]
    assert isinstance(message, Activation) and message.extras
    empty = message.emptied(message.h)
    assert empty.extras == ()
    out = list(made[1].on(empty))
    assert [len(m.h if isinstance(m, Activation) else m.grad) for m in out] == [0, 0]  # type: ignore[union-attr]
