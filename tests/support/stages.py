"""Small models, batches and pipelines for the tests of the algorithm."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni_async.messages import EVALUATIONS, Activation, Marker, MarkerKind, Message, TargetGradient
from dni_async.networks import DNINetwork, LinearSG
from dni_async.optim import Updater, optimizer_factory
from dni_async.partition.costs import Costs, InterfaceCost, LayerCost
from dni_async.rules import DniRule, LossRule
from dni_async.rules.base import Rule
from dni_async.stage.simulation import Move
from dni_async.stage.stage import Stage
from dni_async.synthesis.oracle import Oracle
from dni_async.synthesis.pending import PendingPredictions
from dni_async.synthesis.synthesizer import Synthesizer

FEATURES, WIDTH, CLASSES = 12, 14, 5

MakeUpdater = Callable[[nn.Module], Updater]


def adam(module: nn.Module) -> Updater:
    return Updater(optimizer_factory("adam", 1e-2)(list(module.parameters())))


def accuracy(output: Tensor, y: Tensor) -> Tensor:
    return (output.argmax(1) == y).float()


def one_hot(y: Tensor) -> Tensor:
    return F.one_hot(y, CLASSES).float()


def loss_rule() -> LossRule:
    return LossRule(F.cross_entropy, accuracy)


def fcn(seed: int = 0) -> list[nn.Module]:
    """Three blocks of Linear, BN, ReLU and a readout."""
    torch.manual_seed(seed)
    widths = [FEATURES, WIDTH, WIDTH, WIDTH]
    blocks: list[nn.Module] = [
        nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()) for a, b in itertools.pairwise(widths)
    ]
    return [*blocks, nn.Linear(WIDTH, CLASSES)]


def groups(layers: Sequence[nn.Module], cut: Sequence[int]) -> list[nn.Module]:
    bounds = [0, *cut, len(layers)]
    return [nn.Sequential(*layers[a:b]) for a, b in itertools.pairwise(bounds)]


def batches(sizes: Iterable[int], train: bool = True, seed: int = 1) -> list[Message]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Activation(
            step,
            0,
            torch.randn(size, FEATURES, generator=generator),
            torch.randint(0, CLASSES, (size,), generator=generator),
            train,
        )
        for step, size in enumerate(sizes)
    ]


def with_stop(messages: list[Message]) -> list[Message]:
    trained = [message.step for message in messages if isinstance(message, Activation) and message.train]
    return [*messages, Marker(MarkerKind.STOP, trained[-1] + 1 if trained else 0, 0)]


def numbered(messages: list[Message]) -> list[Message]:
    """With steps as in a run: training batches through it, test batches from 0, markers by what is before."""
    trained = tested = 0
    for message in messages:
        message.step = trained
        if isinstance(message, Activation) and message.train:
            trained += 1
        elif isinstance(message, Activation):
            message.step, tested = tested, tested + 1
        elif isinstance(message, Marker) and message.kind in (*EVALUATIONS, MarkerKind.RESTORE):
            tested = 0
    return messages


def synthesizer(network: DNINetwork | None = None, capacity: int = 32, **settings: Any) -> Synthesizer:
    """Conditional and linear unless said otherwise."""
    if network is None:
        network = LinearSG(WIDTH, WIDTH, CLASSES)
        settings.setdefault("condition", one_hot)
    optimizer = optimizer_factory("adam", 1e-3)(list(network.parameters()))
    return Synthesizer(network, optimizer, PendingPredictions(capacity), **settings)


def costs(layers: list[float], interfaces: list[float]) -> Costs:
    """Of layers and of the SG network after each but the last."""
    return Costs(
        [LayerCost(cost / 4, cost / 2, cost / 4) for cost in layers],
        [InterfaceCost(cost / 4, cost * 3 / 4) for cost in interfaces],
    )


def pipeline(
    cut: Sequence[int] = (1, 2),
    rule: Callable[[], Rule] = lambda: DniRule(synthesizer()),
    make_updater: MakeUpdater = adam,
    layers: list[nn.Module] | None = None,
) -> list[Stage]:
    """The fcn (or `layers`) in stages: `rule` below, the loss at the end."""
    modules = groups(layers or fcn(), cut)
    rules = [rule() for _ in modules[:-1]]
    stages = [
        Stage(
            i, module, r, make_updater(module), send_targets=i > 0 and rules[i - 1].capabilities.needs_targets
        )
        for i, (module, r) in enumerate(zip(modules, [*rules, loss_rule()], strict=True))
    ]
    return stages


class StepAll(Updater):
    """One updater per stage, stepped together: what an oracle's replica of several stages needs."""

    def __init__(self, updaters: list[Updater]) -> None:
        super().__init__(None)
        self.updaters = updaters

    def step(self, rate: float = 1.0) -> None:
        for updater in self.updaters:
            updater.step(rate)


def oracle_pipeline(
    cut: Sequence[int], make_updater: MakeUpdater = adam, layers: list[nn.Module] | None = None
) -> list[Stage]:
    """As `pipeline`, with an oracle in the place of every synthesizer."""
    stages = pipeline(cut, lambda: DniRule(synthesizer()), make_updater, layers)
    for stage in stages[:-1]:
        replica = [copy.deepcopy(s.layers) for s in stages[stage.index + 1 :]]
        updater = StepAll([make_updater(module) for module in replica])
        stage.rule = DniRule(Oracle(nn.Sequential(*replica), F.cross_entropy, updater))
    return stages


def backprop(
    messages: Iterable[Message],
    cut: Sequence[int] = (),
    make_updater: MakeUpdater = adam,
    layers: list[nn.Module] | None = None,
) -> list[Tensor]:
    """The weights and buffers after ordinary training, with one optimizer per group of `cut`."""
    modules = groups(layers or fcn(), cut)
    updater = StepAll([make_updater(module) for module in modules])
    model = nn.Sequential(*modules)
    for message in messages:
        if isinstance(message, Activation) and message.train:
            F.cross_entropy(model(message.h), message.y).backward()
            updater.step()
    return list(model.state_dict().values())


def state_of(stages: Iterable[Stage]) -> list[Tensor]:
    """The weights and buffers of all stages, in the order of `backprop`."""
    return [value for stage in stages for value in stage.layers.state_dict().values()]


def same_bits(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def clone_state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def script(*moves: Move) -> Callable[[list[Move]], Move]:
    """An order that makes exactly these moves, each of which must be possible."""
    rest = iter(moves)

    def order(possible: list[Move]) -> Move:
        move = next(rest)
        assert move in possible, f"{move} is not possible (only {possible})"
        return move

    return order


def show(message: Message) -> str:
    """A7, T7, E7 (evaluation batch) or the name of the marker."""
    if isinstance(message, Marker):
        return message.kind.name
    if isinstance(message, TargetGradient):
        return f"T{message.step}"
    return f"{'A' if message.train else 'E'}{message.step}"
