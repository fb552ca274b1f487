"""What crosses between the layers of a task, and jobs whose layers and batches are trees of tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni_async.errors import UserError
from dni_async.messages import Marker, MarkerKind
from dni_async.rules.registry import RULES
from launch.config.train import TrainConfig
from launch.job.run_through import bind, run_through
from tasks.base import Task
from tests.support.baselines import backprop
from tests.support.stages import same_bits
from tests.support.tiny_task import data_of, simulated
from tests.support.tree_tasks import TREE_TASKS, TreeTask

SETTINGS: dict[str, Any] = {"batch_size": 8, "epochs": 3, "lr": 1e-2}


def weights(stages: list[Any]) -> dict[str, Tensor]:
    return nn.Sequential(*(layer for stage in stages for layer in stage.layers)).state_dict()


def results(markers: list[Marker]) -> list[dict[str, Any]]:
    found = [marker.body["result"] for marker in markers if marker.kind is MarkerKind.EPOCH]
    return [{k: v for k, v in result.items() if k != "samples_per_s"} for result in found]


@pytest.mark.parametrize("cut", ["2", "1,3"])
@pytest.mark.parametrize("settings", [{"rule": "delayed", "stash": 1}, {"rule": "oracle"}], ids=str)
@pytest.mark.parametrize("name", TREE_TASKS)
def test_exact_rules_train_trees_as_backprop_does_to_the_bit(
    name: str, settings: dict[str, Any], cut: str
) -> None:
    task, config = TREE_TASKS[name], TrainConfig.of(**SETTINGS, **settings, cut=cut)
    stages, markers = simulated(task, config, cut.count(",") + 2)
    wanted, wanted_markers = backprop(task, config)
    assert [key for key, value in weights(stages).items() if not torch.equal(value, wanted[key])] == []
    assert results(markers) == results(wanted_markers)


@pytest.mark.parametrize("rule", [name for name in RULES if name != "oracle"])
@pytest.mark.parametrize("name", TREE_TASKS)
def test_every_rule_trains_tasks_of_trees(name: str, rule: str) -> None:
    config = TrainConfig.of(**SETTINGS | {"epochs": 6}, rule=rule)
    _, markers = simulated(TREE_TASKS[name], config, 2)
    first, *_, last = results(markers)
    assert last["tested"] == 20 and last["loss"] < first["loss"]


class OutputWithMask(TreeTask):
    def layers(self) -> list[nn.Module]:
        return [*super().layers()[:-1], _WithMask()]


class _WithMask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)

    def forward(self, inputs: Any) -> Any:
        return self.linear(inputs[0]), inputs[1]


def test_rule_local_refuses_an_output_that_needs_no_gradient() -> None:
    task = OutputWithMask("masked")
    task.loss = lambda output, y: Task.loss(task, output[0], y)  # type: ignore[method-assign]
    task.metric = lambda output, y: Task.metric(task, output[0], y)  # type: ignore[method-assign]
    _, markers = simulated(task, TrainConfig.of(**SETTINGS, rule="cdni"), 2)
    assert results(markers)[-1]["tested"] == 20
    with pytest.raises(UserError, match="rule local trains heads with an output like that of the network"):
        simulated(task, TrainConfig.of(**SETTINGS, rule="local"), 2)


@pytest.mark.parametrize("name", TREE_TASKS)
def test_a_bound_layer_runs_alone_from_h_to_h(name: str) -> None:
    task = TREE_TASKS[name]
    layers = task.layers()
    x, y = data_of(task, TrainConfig.of(**SETTINGS)).sample()
    crossings = run_through(task, layers, x)
    for layer, before, after in zip(bind(layers, crossings), crossings.h[:-1], crossings.h[1:], strict=True):
        assert same_bits([layer.eval()(before)], [after])
    output = nn.Sequential(*layers).eval()(x)
    assert torch.equal(crossings.packed(task.loss)(crossings.h[-1], y), task.loss(output, y))


class TooMany(TreeTask):
    def layers(self) -> list[nn.Module]:
        return [_Many(), _First()]


class _Many(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        return self.linear(x), [x] * 15


class _First(nn.Module):
    def forward(self, inputs: Any) -> Tensor:
        return inputs[0]


def test_more_extras_than_a_message_has_room_for_are_refused() -> None:
    with pytest.raises(UserError, match=r"^layer 0 \(_Many\) returned 15 tensors beside .* at most 14"):
        simulated(TooMany(), TrainConfig.of(**SETTINGS), 2)
