"""Labels that are ignored count for nothing, under every rule, and a batch without others does no harm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni_async.errors import UserError
from dni_async.messages import Marker, MarkerKind
from dni_async.stage.simulation import downstream_first
from launch.config.train import TrainConfig
from launch.job.partition_plan import make_plan
from tests.support.baselines import backprop
from tests.support.tiny_task import Tiny, data_of, simulated
from tests.support.token_task import Tokens

SETTINGS = {"batch_size": 2, "epochs": 6, "cut": "1,2", "lr": 1e-2}


def weights(stages: list) -> dict[str, Tensor]:
    layers = nn.Sequential(*(layer for stage in stages for layer in stage.layers))
    return layers.state_dict()


def results(markers: list[Marker]) -> list[dict[str, Any]]:
    """Of the end of each epoch, without the speed."""
    found = [marker.body["result"] for marker in markers if marker.kind is MarkerKind.EPOCH]
    return [{k: v for k, v in result.items() if k != "samples_per_s"} for result in found]


@pytest.mark.parametrize("settings", [{"rule": "delayed", "stash": 1}, {"rule": "oracle"}])
def test_exact_rules_train_as_backprop_does_to_the_bit(settings: dict[str, Any]) -> None:
    config = TrainConfig.of(**SETTINGS, **settings)
    stages, markers = simulated(Tokens(), config, 3)
    wanted, wanted_markers = backprop(Tokens(), config)
    assert all(torch.equal(value, wanted[name]) for name, value in weights(stages).items())
    assert results(markers) == results(wanted_markers)


@pytest.mark.parametrize("rule", ["dni", "cdni", "local", "delayed", "frozen"])
def test_every_rule_learns_and_scores_the_labels_that_count(rule: str) -> None:
    task, config = Tokens(), TrainConfig.of(**SETTINGS, rule=rule)
    stages, markers = simulated(task, config, 3, downstream_first)
    x, y = task.data()[1].tensors
    network = nn.Sequential(*(layer for stage in stages for layer in stage.layers)).eval()
    first, *_, last = results(markers)
    valid = y != -100
    right = (network(x).argmax(-1) == y)[valid].float().mean()
    loss = nn.functional.cross_entropy(network(x)[valid], y[valid].long())
    assert last["test_loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert last["test_accuracy"] == pytest.approx(right.item())
    assert (last["tested"], last["tested_labels"], last["scores"]) == (21, int(valid.sum()), int(valid.sum()))
    assert last["loss"] < first["loss"] < 1.2
    assert last["test_accuracy"] > (0.5 if rule == "frozen" else 0.7)


class AllIgnored(Tiny):
    ignore_index = 1

    def data(self, root=None):
        train, test = super().data()
        test.tensors[1].fill_(1)
        return train, test


def test_a_set_without_a_label_that_counts_is_refused() -> None:
    task, config = AllIgnored(), TrainConfig.of(batch_size=16)
    with pytest.raises(UserError) as error:
        make_plan(config, task, data_of(task, config), 2)
    assert str(error.value) == (
        "all labels of the test set are 1, the task's ignore_index, which loss and metric leave out; "
        "check the task's data"
    )
