"""DDP: the gradient is that of the whole batch, whatever its rows."""

import json
import signal

import pytest
import torch

from launch.config.train import TrainConfig
from launch.report.weights import load_all
from tests.support.baselines import backprop, check_end_of_others, check_same_training
from tests.support.forks import Job
from tests.support.tiny_task import Tiny, five_layers, plain_layers
from tests.support.token_task import Tokens
from tests.support.tree_tasks import TREE_TASKS


# rows of each rank in the last batch: 49 = 3 * 16 + 1 -> 1, 0, 0;   50 -> 1, 1, 0;   55 -> 3, 2, 2
@pytest.mark.parametrize(
    ("task", "rows"),
    [*((Tiny(plain_layers, train=rows, test=17), rows) for rows in (49, 50, 55)), (Tokens(50, 17), 50)],
    ids=["49 rows", "50 rows", "55 rows", "ignored labels"],
)
def test_the_weights_are_those_of_sequential_backprop(task, rows, tmp_path):
    config = TrainConfig.of(
        engine="ddp",
        batch_size=16,
        epochs=2,
        seed=3,
        optimizer="sgd",
        lr=0.5,
        ema=0.9 if rows == 55 else None,
    )
    with Job(config, task, 3, tmp_path) as job:
        assert job.statuses() == [0] * 3, job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    check_same_training(summary, load_all(job.out, 1), task, config, rows, 17)
    assert sum(stage["samples"] for stage in summary["stages"]) == 2 * rows
    assert [stage["steps"] for stage in summary["stages"]] == [8] * 3
    assert all(0 < stage["utilisation"] < 1 and stage["wait_s"] > 0 for stage in summary["stages"])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_half_precision_it_trains_almost_as_backprop_does(precision, tmp_path):
    task = Tiny(plain_layers, train=50)
    config = TrainConfig.of(
        engine="ddp", batch_size=16, epochs=2, optimizer="sgd", lr=0.5, precision=precision
    )
    with Job(config, task, 2, tmp_path) as job:
        assert job.statuses() == [0, 0], job.lines()
    weights, (alone, _) = load_all(job.out, 1), backprop(task, config)
    for name, value in alone.items():
        torch.testing.assert_close(weights[name], value, rtol=0.02, atol=0.01)


def detached_layers():
    first, *others = plain_layers()
    return [first, Detach(), *others]


class Detach(torch.nn.Module):
    def forward(self, x):
        return x.detach()


def test_layers_that_no_gradient_reaches_keep_their_weights(tmp_path):
    task = Tiny(detached_layers, train=50, test=17)
    config = TrainConfig.of(engine="ddp", batch_size=16, epochs=2, seed=3, optimizer="sgd", lr=0.5)
    with Job(config, task, 3, tmp_path) as job:
        assert job.statuses() == [0] * 3, job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    check_same_training(summary, load_all(job.out, 1), task, config, 50, 17)


def test_a_part_of_one_row_under_batch_norm_is_refused_before_the_start(tmp_path):
    config = TrainConfig.of(engine="ddp", batch_size=16)
    with Job(config, Tiny(five_layers, train=51), 2, tmp_path) as job:
        assert job.statuses() == [2, 2]
    assert len(job.lines()) == 1 and "leaves one of 2 processes a part of one sample" in job.lines()[0]


def test_a_loss_out_of_bounds_ends_all_ranks_with_the_line_of_backprop(tmp_path):
    config = TrainConfig.of(engine="ddp", batch_size=16, lr=1e30)
    with Job(config, Tiny(plain_layers), 2, tmp_path) as job:
        statuses = job.statuses()
    assert set(statuses) <= {1, 2} and 2 in statuses
    assert len(job.lines()) == 1, job.lines()
    assert "(ddp), at step" in job.lines()[0] and "the loss is" in job.lines()[0]


@pytest.mark.parametrize(("victim", "how"), [(0, signal.SIGKILL), (1, signal.SIGKILL), (2, signal.SIGSTOP)])
def test_a_rank_that_is_killed_or_hangs_ends_the_others_in_time(victim, how, tmp_path):
    check_end_of_others("ddp", victim, how, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "masked",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("skips", "two inputs", "multi label")),
    ],
)
def test_layers_that_exchange_trees_train_as_in_sequential_backprop(name, tmp_path):
    """The last batch has rows for two of three ranks."""
    config = TrainConfig.of(engine="ddp", batch_size=16, epochs=2, optimizer="sgd", lr=0.5)
    with Job(config, TREE_TASKS[name], 3, tmp_path) as job:
        assert job.statuses() == [0] * 3, job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    check_same_training(summary, load_all(job.out, 1), TREE_TASKS[name], config, 50, 20)
