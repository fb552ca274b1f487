"""What crosses between the layers of a task, and jobs whose layers and batches are trees of tensors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni_async.errors import UserError
from dni_async.messages import Marker, MarkerKind
from dni_async.rules.registry import RULES
from dni_async.trees import map_tensors
from launch.config.train import TrainConfig
from launch.job.run_through import bind, run_through
from tasks.base import Task
from tests.support.baselines import backprop
from tests.support.forks import Job
from tests.support.stages import same_bits
from tests.support.tiny_task import data_of, simulated
from tests.support.tree_nets import FEATURES
from tests.support.tree_tasks import TREE_TASKS, TreeTask
from workers.runtime.fault_injection import STRUCK, VARIABLE

SETTINGS: dict[str, Any] = {"batch_size": 8, "epochs": 3, "lr": 1e-2}


def weights(stages: list[Any]) -> dict[str, Tensor]:
    return nn.Sequential(*(layer for stage in stages for layer in stage.layers)).state_dict()


def results(markers: list[Marker]) -> list[dict[str, Any]]:
    found = [marker.body["result"] for marker in markers if marker.kind is MarkerKind.EPOCH]
    return [{k: v for k, v in result.items() if k != "samples_per_s"} for result in found]


class SeesItsDevice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        there = x.device.type == self.weight.device.type == "meta"
        return (x * self.weight).to(torch.bfloat16 if there else torch.float32)


def test_types_are_those_of_the_device_on_which_layers_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "cpu", lambda tensor: torch.zeros(tensor.shape, dtype=tensor.dtype))
    layers = [SeesItsDevice(), SeesItsDevice()]
    task, x = next(iter(TREE_TASKS.values())), torch.ones(2, 3)
    there = run_through(task, layers, x, device=torch.device("meta"))
    assert [h.dtype for h in there.h] == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert {h.device.type for h in there.h} == {"cpu"}
    assert [h.dtype for h in run_through(task, layers, x).h] == [torch.float32] * 3


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


class Fickle(nn.Module):
    """Returns a pair, and from its n-th training batch on a list."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.linear, self.left = nn.Linear(FEATURES, 8), batches

    def forward(self, x: Tensor) -> Any:
        self.left -= self.training
        pair = self.linear(x), x
        return pair if self.left > 0 else list(pair)


class WithFickle(TreeTask):
    """Layer 0 returns another structure at the n-th batch."""

    def layers(self) -> list[nn.Module]:
        return [Fickle(3), *super().layers()[1:]]


class Ragged(TreeTask):
    """The batches of some samples have no mask."""

    def batch(self, samples: Any) -> tuple[Any, Any]:
        inputs, targets = super().batch(samples)
        return (inputs, targets) if len(targets) == 8 else ({"ids": inputs["ids"]}, targets)


class WithoutTensors(TreeTask):
    def batch(self, samples: Any) -> tuple[Any, Any]:
        return {"ids": None, "rows": 3}, super().batch(samples)[1]


SAME = "was expected; return the same structure for every batch"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "line"),
    [
        (
            WithFickle(),
            "stage 0 (rank 0), at step 2: layer 0 (Fickle) returned [tensor, tensor] where (tensor, tensor) "
            f"{SAME}",
        ),
        (
            Ragged("masked"),
            "stage 0 (rank 0), after step 5: batch of task Ragged returned {ids: tensor} where "
            f"{{ids: tensor, mask: tensor}} {SAME}",
        ),
        (
            WithoutTensors(),
            "batch of task WithoutTensors returned {ids: None, rows: 3}, without a tensor (B, ...); "
            "return one",
        ),
    ],
    ids=["layer", "batch", "no tensor"],
)
def test_what_cannot_be_sent_ends_a_job_in_one_line_with_status_2(
    task: Task, line: str, tmp_path: Path
) -> None:
    with Job(TrainConfig.of(**SETTINGS, cut="1"), task, 2, tmp_path) as job:
        assert UserError.status in job.statuses(), job.lines()
    assert job.lines() == [f"dni-async: {line}"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TREE_TASKS)
@pytest.mark.parametrize(
    "settings",
    [
        {"wire": "int8", "transport": "tcp"},
        {"wire": "bf16"},
        {"precision": "bf16"},
        {"transport": "dist"},
        {"transport": "rpc", "trust_network": True},
        {"supervise": True, "out": "set by the job", "checkpoint_every": 5},
        {"deterministic": True},
        {"target_every": 2},
        {"compile": True},
    ],
    ids=str,
)
def test_settings_of_the_command_line_hold_for_layers_that_exchange_trees(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    struck = tmp_path / "struck"
    faults = {VARIABLE: "kill@1:20,kill@2:30", STRUCK: str(struck)} if "supervise" in settings else {}
    config = TrainConfig.of(**SETTINGS | {"epochs": 8}, rule="cdni", cut="1,3", **settings)
    with Job(config, TREE_TASKS[name], 3, tmp_path, **faults) as job:
        assert job.statuses() == [0] * 3, job.lines()
    assert len(list(struck.iterdir()) if faults else []) == (2 if faults else 0)
    summary = json.loads((job.out / "summary.json").read_text())
    first, *_, last = summary["epochs"]
    assert last["loss"] < first["loss"] and last["tested"] == 20


class NotFinite(TreeTask):
    """One sample in the third batch is NaN."""

    def batch(self, samples: Any) -> tuple[Any, Any]:
        self.batches = getattr(self, "batches", 0) + 1
        inputs, targets = super().batch(samples)
        if self.batches == 4:  # the first is the sample of the plan
            inputs = map_tensors(lambda t: t * math.nan if t.is_floating_point() else t, inputs)
        return inputs, targets


@pytest.mark.parametrize("rule", ["cdni", "delayed", "local", "frozen"])
@pytest.mark.parametrize("name", ["skips", "two inputs"])
def test_a_batch_of_trees_that_is_not_finite_is_skipped_by_all_stages(name: str, rule: str) -> None:
    config = TrainConfig.of(**SETTINGS, rule=rule, on_nonfinite="skip", cut="1,3")
    stages, markers = simulated(NotFinite(name), config, 3)
    assert [stage.skipped for stage in stages] == [1, 1, 1]
    assert results(markers)[-1]["tested"] == 20
    assert all(value.isfinite().all() for value in weights(stages).values())
