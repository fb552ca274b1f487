"""NaN and infinite values are found, and a batch that brings them is as if it had never been."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni_async.errors import UserError
from dni_async.messages import Activation, Marker, MarkerKind, Message, TargetGradient
from dni_async.networks.factory import build_auxiliary
from dni_async.networks.settings import LocalConfig
from dni_async.nonfinite import NonFinite, all_finite, check_finite, check_loss
from dni_async.rules import DelayedRule, DniRule, FrozenRule
from dni_async.rules.base import Rule
from dni_async.rules.local import LocalRule
from dni_async.stage.simulation import Simulation, downstream_first, upstream_first
from dni_async.stage.stage import Stage
from dni_async.state.state_dict import copied
from tests.support.stages import (
    CLASSES,
    WIDTH,
    accuracy,
    batches,
    fcn,
    pipeline,
    same_bits,
    state_of,
    synthesizer,
    with_stop,
)
from tests.support.states import same_state

BAD = 3
"""Number of the batch that brings NaN."""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_one_bad_element_is_found(value: float, dtype: torch.dtype) -> None:
    good, bad = torch.randn(3, 4).to(dtype), torch.randn(5, 2).to(dtype)
    assert all_finite([good, bad])
    bad[4, 1] = value
    assert not all_finite([good, bad]) and not all_finite([bad])


def test_two_infinities_do_not_hide_each_other() -> None:
    assert not all_finite([torch.tensor([math.inf, -math.inf])])


def test_large_values_are_not_infinite_though_their_sum_is() -> None:
    assert all_finite([torch.full((4,), 3e38), torch.full((4,), 6e4, dtype=torch.float16)])


@pytest.mark.parametrize("tensor", [torch.empty(0, 3), torch.arange(4), torch.tensor([True])], ids=str)
def test_finite_values_and_integers_are_accepted(tensor: Tensor) -> None:
    assert all_finite([]) and all_finite([tensor])


def test_sparse_gradients_are_checked() -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.tensor([1.0]), (4,), check_invariants=True)
    assert all_finite([sparse])
    assert not all_finite([sparse * math.inf])


def test_errors_name_what_is_not_finite_and_what_to_do() -> None:
    mend = "lower --lr or set --clip-norm, and check the data"
    with pytest.raises(NonFinite, match=f"^the gradient has NaN or infinite values; {mend}$"):
        check_finite("gradient", [torch.tensor(math.nan)])
    with pytest.raises(NonFinite, match=f"^the loss is inf; {mend}$"):
        check_loss(math.inf)
    assert check_loss(0.5) == 0.5


# --- stages


class Poison(nn.Module):
    """Lets everything through and, from one training batch on for `times` of them, brings NaN."""

    def __init__(self, where: str = "forward", at: int = BAD, times: int = 1) -> None:
        super().__init__()
        self.where, self.bad, self.count = where, range(at, at + times), 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        now, self.count = self.count in self.bad, self.count + 1
        if now and self.where == "forward":
            return x * math.nan
        if now and x.requires_grad:
            x = x.clone()
            x.register_hook(lambda grad: grad * math.nan)
        return x


def local_rule() -> LocalRule:
    head, optimizer = build_auxiliary(LocalConfig(), (WIDTH,), (CLASSES,))
    return LocalRule(head, optimizer, F.cross_entropy, accuracy)


RULES: dict[str, Callable[[], Rule]] = {
    "dni": lambda: DniRule(synthesizer(guarded=True, replay=1)),
    "delayed": lambda: DelayedRule(3),
    "local": local_rule,
    "frozen": FrozenRule,
}
SIZES = [8] * 8


def stages_of(
    rule: str, skip: bool = True, poison: Poison | None = None, at: int = 1, first: bool = False
) -> list[Stage]:
    """Three stages; `poison` stands behind (or before) the layers of stage `at`."""
    torch.manual_seed(0)
    stages = pipeline((1, 2), RULES[rule], layers=fcn())
    for stage in stages:
        stage.skip_nonfinite = skip
    if poison is not None:
        stages[at].layers.insert(0 if first else len(stages[at].layers), poison)
    return stages


def poisoned(messages: list[Message], value: float = math.nan) -> list[Message]:
    """The same batches, one with a bad value in it."""
    bad = messages[BAD]
    assert isinstance(bad, Activation)
    bad.h[2, 5] = value
    return messages


def run(stages: list[Stage], messages: list[Message], order=downstream_first) -> Simulation:
    return Simulation(stages).run(with_stop(messages), order)


def learned(stages: list[Stage]) -> list[object]:
    """All that a run goes on from, counts aside."""
    states = [copied(stage.state_dict()) for stage in stages]
    return [{key: s[key] for key in ("layers", "optimizer", "version", "rule")} for s in states]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("rule", RULES)
def test_a_batch_with_a_bad_value_in_it_is_as_if_it_had_never_been(rule: str, value: float) -> None:
    """To the bit: weights, running means of batch norm, optimizers, SG networks, heads, means of the loss."""
    with_it, without = stages_of(rule), stages_of(rule)
    run(with_it, poisoned(batches(SIZES), value))
    run(without, [message for message in batches(SIZES) if message.step != BAD])
    assert all(same_state(a, b) for a, b in zip(learned(with_it), learned(without), strict=True))
    assert [stage.skipped for stage in with_it] == [1, 1, 1]
    assert [stage.steps for stage in with_it] == [8, 8, 8]
    assert [stage.samples for stage in with_it] == [64, 56, 56]


@pytest.mark.parametrize("order", [downstream_first, upstream_first])
@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("rule", ["dni", "delayed", "local"])
def test_wherever_nan_occurs_every_message_still_arrives_in_order(
    rule: str, where: str, at: int, order: Callable
) -> None:
    stages = stages_of(rule, poison=Poison(where), at=at)
    with torch.no_grad():  # a stage without a gradient has no NaN in it either
        for stage in stages[:-1]:
            if isinstance(stage.rule, DniRule):
                for parameter in stage.rule.predictor.network.parameters():
                    parameter.normal_()
    seen: list[tuple[int, int]] = []
    for stage in stages[:-1]:
        on_target = stage.on_target
        stage.on_target = lambda target, i=stage.index, on=on_target: (
            seen.append((i, target.step)) or on(target)
        )
    done = run(stages, batches(SIZES), order)
    assert done.markers[-1].kind is MarkerKind.STOP
    assert [stage.steps for stage in stages] == [8, 8, 8]
    assert stages[at].skipped == 1 and stages[at].version == 7
    assert all(tensor.isfinite().all() for tensor in state_of(stages))
    if rule != "local":
        for i in (0, 1):
            assert [step for stage, step in seen if stage == i] == list(range(8))
        assert [stage.targets_received for stage in stages] == [8, 8, 0]
    lower = [stage.skipped for stage in stages[:at]]
    upper = [stage.skipped for stage in stages[at + 1 :]]
    # forward: nobody behind has the batch; backward: whoever waits for its gradient gets none
    assert upper == [1 if where == "forward" else 0] * len(upper)
    assert lower == [1 if rule == "delayed" else 0] * len(lower)


def test_an_sg_network_does_not_learn_from_a_target_that_is_bad() -> None:
    stage = stages_of("dni")[0]
    assert isinstance(stage.rule, DniRule)
    list(stage.on(batches([8])[0]))
    before = copied(stage.rule.predictor.state_dict())
    list(stage.on(TargetGradient(0, 0, torch.full((8, WIDTH), math.nan))))
    after = copied(stage.rule.predictor.state_dict())
    assert same_state(before["network"], after["network"]) and same_state(
        before["optimizer"], after["optimizer"]
    )
    assert after["recent"] == []  # nothing to replay
    assert (stage.targets_received, stage.targets_skipped, stage.skipped) == (1, 1, 0)


def test_a_prediction_that_is_bad_updates_nothing_and_downstream_learns_all_the_same() -> None:
    stages = stages_of("dni")
    rule = stages[0].rule
    assert isinstance(rule, DniRule)
    with torch.no_grad():
        rule.predictor.network.output.bias.fill_(math.nan)
    before = [value.clone() for value in stages[0].layers.parameters()]
    run(stages, batches(SIZES))
    assert same_bits(before, list(stages[0].layers.parameters()))
    assert [stage.skipped for stage in stages] == [8, 0, 0]
    assert [stage.version for stage in stages] == [0, 8, 8]


def test_counts_of_skipped_batches_are_on_every_marker_and_in_checkpoints() -> None:
    stages = stages_of("dni")
    messages = poisoned(batches(SIZES))
    messages.append(Marker(MarkerKind.CHECKPOINT, 8, 1))
    kept = []
    stages[1].save_checkpoint = lambda step, part: kept.append(part) or {}
    marker = run(stages, messages).markers[0]
    assert [marker.body[str(i)]["skipped"] for i in range(3)] == [1, 1, 1]
    assert [marker.body[str(i)]["targets_skipped"] for i in range(3)] == [1, 1, 0]
    again = stages_of("dni")[1]
    again.load_state_dict(kept[0])
    assert (again.skipped, again.targets_skipped) == (1, 1)


@pytest.mark.parametrize(
    ("where", "rule", "at", "what"),
    [
        ("forward", "dni", 0, "the activation has NaN or infinite values"),
        ("forward", "frozen", 0, "the activation has NaN or infinite values"),
        ("forward", "dni", 2, "the loss is nan"),
        ("backward", "dni", 2, "the gradient has NaN or infinite values"),
        ("backward", "delayed", 1, "the gradient has NaN or infinite values"),
    ],
)
def test_without_on_nonfinite_skip_the_run_stops_and_names_the_cause(
    where: str, rule: str, at: int, what: str
) -> None:
    stages = stages_of(rule, skip=False, poison=Poison(where), at=at)
    with pytest.raises(UserError, match=f"^{what}; .* without such batches by --on-nonfinite skip$"):
        run(stages, batches(SIZES))
    assert all(tensor.isfinite().all() for stage in stages for tensor in stage.layers.parameters())


def test_a_skipped_batch_leaves_a_local_head_unchanged() -> None:
    rule = local_rule()
    before = copied(rule.state_dict())
    with pytest.raises(NonFinite, match=r"^the local loss is nan; lower --lr or --local\.lr"):
        rule.gradient(0, 0, torch.full((8, WIDTH), math.nan), torch.arange(8) % CLASSES)
    assert same_state(before, copied(rule.state_dict()))
