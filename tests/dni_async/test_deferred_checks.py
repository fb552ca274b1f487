"""Stages that never wait for their device: checks and losses are read later, with the same result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dni_async.messages import Message
from dni_async.networks import LinearSG
from dni_async.networks.factory import build_auxiliary
from dni_async.networks.settings import LocalConfig
from dni_async.nonfinite import FiniteChecks, NonFinite
from dni_async.rules import DelayedRule, DniRule, FrozenRule
from dni_async.rules.base import Rule
from dni_async.rules.local import LocalRule
from dni_async.stage.simulation import Simulation, upstream_first
from dni_async.stage.stage import Stage
from dni_async.state.state_dict import copied
from tests.support.stages import (
    CLASSES,
    WIDTH,
    accuracy,
    batches,
    pipeline,
    synthesizer,
    with_stop,
)
from tests.support.states import same_state

WAITS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
"""What makes the host wait until a device has computed a value."""


class Waits(TorchDispatchMode):
    """Counts the times that the host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in WAITS
        return func(*args, **(kwargs or {}))


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    """With `tolist`, which torch does without a dispatch on the CPU."""
    waits, tolist = Waits(), Tensor.tolist

    def counting(tensor: Tensor) -> Any:
        waits.count += 1
        return tolist(tensor)

    monkeypatch.setattr(Tensor, "tolist", counting)
    with waits:
        yield waits
    monkeypatch.undo()


def labels(y: Tensor) -> Tensor:
    """One-hot; `F.one_hot` looks at the labels, but not at those on a GPU."""
    return torch.eye(CLASSES)[y]


def local_rule() -> LocalRule:
    head, optimizer = build_auxiliary(LocalConfig(), (WIDTH,), (CLASSES,))
    return LocalRule(head, optimizer, F.cross_entropy, accuracy)


RULES: dict[str, Callable[[], Rule]] = {
    "cdni": lambda: DniRule(synthesizer(LinearSG(WIDTH, WIDTH, CLASSES), condition=labels)),
    "delayed": lambda: DelayedRule(3),
    "local": local_rule,
    "frozen": FrozenRule,
}


def stages_of(rule: str, deferred: bool) -> list[Stage]:
    torch.manual_seed(0)
    stages = pipeline((1, 2), RULES[rule])
    for stage in stages:
        stage.checks = stage.rule.checks = FiniteChecks(deferred)
    return stages


def run(stages: list[Stage], messages: list[Message]) -> Simulation:
    return Simulation(stages).run(messages, upstream_first)


@pytest.mark.parametrize("rule", RULES)
def test_no_stage_waits_for_its_device_in_training(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = stages_of(rule, deferred=True)
    run(stages, batches([8]))  # the first batch sets things up
    with counted(monkeypatch) as waits:
        run(stages, batches([8] * 20))
    assert waits.count == 0


def test_at_once_every_stage_waits_several_times_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = stages_of("cdni", deferred=False)
    with counted(monkeypatch) as waits:
        run(stages, batches([8] * 20))
    assert waits.count >= 20 * 5


@pytest.mark.parametrize("rule", RULES)
def test_a_stage_that_does_not_wait_learns_and_reports_the_same_to_the_bit(rule: str) -> None:
    states, bodies = [], []
    for deferred in (False, True):
        stages = stages_of(rule, deferred)
        ended = run(stages, with_stop([*batches([8] * 12), *batches([8] * 3, train=False)]))
        states.append([copied(stage.state_dict()) for stage in stages])
        bodies.append(ended.markers[-1].body)
    assert same_state(states[0], states[1])
    assert bodies[0] == bodies[1]


class TestAValueThatIsNotFinite:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_is_found_by_its_check(self, value: float) -> None:
        checks = FiniteChecks(deferred=True)
        checks.check("activation", [torch.ones(3)])
        checks.check("gradient", [torch.ones(2), torch.tensor([[1.0, value]])])
        checks.loss(torch.tensor(value))
        found = [(str(error), math.isfinite(largest)) for error, largest in checks.take()]
        assert [finite for _, finite in found] == [True, False, False]
        assert [error.split()[1] for error, _ in found] == ["activation", "gradient", "loss"]
        assert checks.take() == []

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
    def test_is_not_made_of_large_ones(self, dtype: torch.dtype) -> None:
        checks = FiniteChecks(deferred=True)
        large = torch.full((100,), min(torch.finfo(dtype).max, 3e38), dtype=dtype)
        checks.check("activation", [large, -large, torch.empty(0)])
        ((_, value),) = checks.take()
        assert math.isfinite(value)

    def test_is_raised_when_it_is_waited_for(self) -> None:
        checks = FiniteChecks(deferred=True)
        checks.loss(torch.tensor(1.0))
        checks.wait()
        checks.loss(torch.tensor(math.nan))
        with pytest.raises(NonFinite, match="the loss is NaN or infinite; lower --lr"):
            checks.wait()
        checks.wait()  # it was raised once

    def test_of_whole_numbers_there_is_none(self) -> None:
        checks = FiniteChecks(deferred=True)
        checks.check("activation", [torch.arange(5)])
        checks.check("activation", [torch.empty(0)])
        assert [float(value) for _, value in checks.take()] == [4.0]
