"""Inputs that a module keeps stay as they are over shared memory, and cost nothing where none is kept."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor, nn

from dni_async.rules import DelayedRule, DniRule, FrozenRule
from dni_async.stage.stage import Stage
from tests.support.channels import CHANNELS
from tests.support.loops import run_stages
from tests.support.stages import batches, oracle_pipeline, pipeline, synthesizer, with_stop
from workers.transport.slots import Slot
from workers.transport.wire import TensorSpec

SIZES = (30,) * 12
CUT = (1, 3)


class Keeping(nn.Module):
    """The identity; logs its inputs, as a module that plots activations does."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.copies: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        self.copies.append(x.detach().clone())
        return x * 1.0


@pytest.mark.parametrize("lockstep", [0, 1])
def test_inputs_that_a_module_keeps_do_not_change(lockstep: int) -> None:
    stages = pipeline((2,))
    keeping = Keeping()
    stages[1].layers.insert(0, keeping)  # type: ignore[operator]
    run_stages(stages, with_stop(batches(SIZES)), CHANNELS["shm"], capacity=2, lockstep=lockstep)
    assert len(keeping.seen) == len(SIZES)
    for seen, copy in zip(keeping.seen, keeping.copies, strict=True):
        assert torch.equal(seen, copy)


def stages_of(rule: str) -> list[Stage]:
    if rule == "oracle":
        return oracle_pipeline(CUT)
    rules = {"dni": lambda: DniRule(synthesizer()), "delayed": lambda: DelayedRule(2), "frozen": FrozenRule}
    return pipeline(CUT, rule=rules[rule])


@pytest.mark.parametrize("lockstep", [0, 2])
@pytest.mark.parametrize("rule", ["dni", "delayed", "frozen", "oracle"])
def test_no_slot_is_copied_where_nothing_is_kept(
    rule: str, lockstep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[Slot] = []
    monkeypatch.setattr(Slot, "leave_to_holders", lambda slot: copies.append(slot))
    run_stages(stages_of(rule), with_stop(batches(SIZES)), CHANNELS["shm"], capacity=2, lockstep=lockstep)
    assert copies == []


def test_that_test_would_see_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[Slot] = []
    monkeypatch.setattr(Slot, "leave_to_holders", lambda slot: copies.append(slot))
    stages = pipeline((2,))
    stages[1].layers.insert(0, Keeping())  # type: ignore[operator]
    run_stages(stages, with_stop(batches(SIZES)), CHANNELS["shm"])
    assert copies


def test_a_kept_input_keeps_no_descriptor_open() -> None:
    """A process may have 1,024 open files, as a rule, and a module may keep more inputs than that."""
    slot = Slot.create(1000)
    spec = TensorSpec(torch.float32, (4,), 0, 16)
    before, kept = open_descriptors(), []
    for number in range(50):
        (place,) = slot.places((spec,))
        place.fill_(number)
        kept += slot.lend((spec,))
        slot.leave_to_holders()
    assert open_descriptors() == before
    assert [tensor.tolist() for tensor in kept] == [[number] * 4 for number in range(50)]
    slot.close()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
