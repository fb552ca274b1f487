"""Results of a GPU that come late (support/fake_gpu)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from dni_async.errors import UserError
from dni_async.nonfinite import FiniteChecks
from tests.support.channels import shm_channel
from tests.support.fake_gpu import FakeGpu
from tests.support.loops import run_stages
from tests.support.stages import batches, pipeline, same_bits, state_of, with_stop
from workers.runtime import deferred_checks
from workers.runtime import loop as loop_module
from workers.runtime.deferred_checks import DeferredChecks
from workers.transport.base import Receiver, Sender
from workers.transport.cuda_copies import copy_out


class Everywhere(FakeGpu):
    """A GPU on which every tensor is."""

    def holds(self, tensor: Tensor) -> bool:
        return True


class TestResults:
    @pytest.fixture
    def gpu(self) -> Everywhere:
        return Everywhere(computes_at_once=False)

    @pytest.fixture
    def checks(self, gpu: Everywhere) -> DeferredChecks:
        stage = pipeline()[0]
        stage.checks = FiniteChecks(deferred=True)
        self.stage = stage
        return DeferredChecks(stage, gpu, 5.0)

    def begin(self, checks: DeferredChecks, step: int, value: float) -> None:
        self.stage.checks.check("activation", [torch.tensor([value])])
        checks.begin(step)

    def test_are_not_waited_for(self, gpu: Everywhere, checks: DeferredChecks) -> None:
        gpu.default.add(lambda: False)  # a computation that never ends
        for step in range(10):
            self.begin(checks, step, math.nan)

    def test_that_are_there_end_the_run_and_name_their_step(
        self, gpu: Everywhere, checks: DeferredChecks
    ) -> None:
        self.begin(checks, 0, 1.0)
        self.begin(checks, 1, math.nan)
        with pytest.raises(UserError, match=r"in step 1, the activation has NaN .* --on-nonfinite skip"):
            for step in range(2, 99):
                self.begin(checks, step, 1.0)

    def test_are_all_there_after_waiting(self, checks: DeferredChecks) -> None:
        for step in range(5):
            self.begin(checks, step, 1.0)
        checks.wait()
        self.begin(checks, 5, math.inf)
        with pytest.raises(UserError, match="in step 5"):
            checks.wait()

    def test_are_waited_for_when_too_many_are_on_their_way(
        self, gpu: Everywhere, checks: DeferredChecks, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(deferred_checks, "_MOST", 3)
        for step in range(50):
            self.begin(checks, step, 1.0)
        assert len(checks._waiting) <= 3


def late_shm(capacity: int, sender_stage: int, receiver_stage: int) -> tuple[Sender, Receiver]:
    sender, receiver = shm_channel(capacity, sender_stage, receiver_stage)
    sender.copy_out = partial(copy_out, accelerator=Everywhere())  # type: ignore[attr-defined]
    return sender, receiver


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every stage has a GPU to which what it receives is copied late; it computes with it at once."""
    monkeypatch.setattr(loop_module, "accelerator_of", lambda device: FakeGpu())
    yield


def test_stages_on_gpus_learn_what_stages_on_the_cpu_learn_to_the_bit(gpus: None) -> None:
    wanted, found = pipeline(cut=(1, 2, 3)), pipeline(cut=(1, 2, 3))
    for stage in found:
        stage.checks = stage.rule.checks = FiniteChecks(deferred=True)
    run_stages(wanted, with_stop(batches([8] * 12)), shm_channel, lockstep=1)
    gpu = torch.device("meta")  # which is not the CPU
    run_stages(found, with_stop(batches([8] * 12)), late_shm, lockstep=1, device=gpu)
    assert same_bits(state_of(wanted), state_of(found))


def test_a_bad_value_on_a_gpu_ends_the_run_before_a_marker_is_answered(gpus: None) -> None:
    stages = pipeline(cut=(2,))
    for stage in stages:
        stage.checks = stage.rule.checks = FiniteChecks(deferred=True)
    messages = batches([8] * 4)
    messages[3].h[0, 0] = math.nan  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"in step 3, the activation has NaN or infinite values"):
        run_stages(stages, with_stop(messages), late_shm, device=torch.device("meta"))
