"""What depth costs each rule: a residual network on real MNIST, all stages in one process.

No clock decides here. The floors are the numbers of docs/BENCHMARKS.md and docs/LOG.md, with room for other
releases of torch.

make test-slow
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dni_async.networks.settings import SGConfig
from launch.config.train import TrainConfig
from launch.job.in_process import train_in_process
from tasks.registry import create

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NOISE = 0.0025
"""How much accuracies of equal runs differ by chance."""


@pytest.fixture(autouse=True)
def one_thread():
    """Waiting threads of small products make a busy machine slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def accuracy(root: Path, subset: int, **settings: Any) -> float:
    shared = {"batch_size": 128, "epochs": 3, "schedule": "linear", "deterministic": True}
    task_args = (f"subset={subset}",)
    config = TrainConfig.of(
        task="mnist-residual", task_args=task_args, data_root=str(root), **shared | settings
    )
    return train_in_process(config, create(config.task.name, task_args))["test_metric"]


@pytest.mark.parametrize("stages", [4, 16])
def test_no_rule_by_default_is_below_stages_that_never_learn(data_root: Path, stages: int) -> None:
    found = {
        rule: accuracy(data_root, 10_000, rule=rule, stages=stages)
        for rule in ("frozen", "cdni", "local", "delayed")
    }
    frozen = found.pop("frozen")
    assert min(found.values()) >= frozen - (NOISE if stages == 4 else 0.0), (frozen, found)
    assert found["delayed"] >= frozen + (0.015 if stages == 4 else 0.025), (frozen, found)


@pytest.mark.parametrize(("stages", "floor"), [(8, 0.964), (16, 0.962)])
def test_delayed_gradients_learn_like_backprop_at_a_rate_divided_by_the_delay(
    data_root: Path, stages: int, floor: float
) -> None:
    """Backprop reaches 97.0 %; with its rate and momentum delayed gradients reach 95.4 and 93.6 %."""
    settings = {"rule": "delayed", "stages": stages}
    assert accuracy(data_root, 20_000, **settings) >= floor
    plain = accuracy(data_root, 20_000, delay_rate=0.0, delay_beta1=0.9, **settings)
    assert plain <= floor - 0.005


def test_error_feedback_corrects_late_gradients(data_root: Path) -> None:
    settings = {"rule": "delayed", "stages": 16, "delay_correction": "error-feedback"}
    assert accuracy(data_root, 20_000, **settings) >= 0.963


def test_the_gate_keeps_a_linear_network_on_a_residual_stream_above_frozen_stages(data_root: Path) -> None:
    found = {
        gate: accuracy(data_root, 10_000, stages=16, sg=SGConfig(kind="linear", gate=gate))
        for gate in (False, True)
    }
    frozen = accuracy(data_root, 10_000, rule="frozen", stages=16)
    assert found[False] < frozen < found[True] + NOISE
