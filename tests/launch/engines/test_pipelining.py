"""GPipe and 1F1B train as sequential backprop does, on every sample."""

import json
import signal

import pytest
import torch
from torch import nn

from launch.config.train import TrainConfig
from launch.engines.backprop import Backprop
from launch.report.weights import load_all
from tests.support.baselines import backprop, check_end_of_others, check_same_training
from tests.support.forks import Job
from tests.support.tiny_task import CLASSES, FEATURES, Tiny, context_of, plain_layers
from tests.support.token_task import Tokens
from tests.support.tree_tasks import TREE_TASKS
from workers.coordination.collectives import Peers


def in_place_layers():
    """A first layer in each stage that overwrites its input, and an output that is not contiguous."""
    return [
        nn.Linear(FEATURES, 8),
        nn.Sequential(nn.ReLU(inplace=True), nn.Unflatten(1, (2, 4))),
        nn.Sequential(Transposed(), nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(8, CLASSES)),
    ]


class Transposed(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


# last batch of 50: 2 rows, of 55: 7 rows (prime), of 49: a single row
@pytest.mark.parametrize(
    ("engine", "stages", "count", "rows", "make"),
    [
        ("gpipe", 2, 4, 50, plain_layers),
        ("gpipe", 3, 2, 55, in_place_layers),
        ("1f1b", 2, 8, 55, plain_layers),
        ("1f1b", 3, 4, 49, plain_layers),
        ("1f1b", 3, 0, 64, in_place_layers),
        ("gpipe", 2, 8, 50, None),
        ("zb", 3, 4, 55, in_place_layers),
        pytest.param("zb", 2, 8, 50, None, marks=pytest.mark.slow),
        pytest.param("zb", 3, 0, 64, plain_layers, marks=pytest.mark.slow),
    ],
)
def test_the_weights_are_those_of_sequential_backprop(engine, stages, count, rows, make, tmp_path):
    task = Tiny(make, train=rows, test=21) if make else Tokens(rows, 21)
    config = TrainConfig.of(
        engine=engine,
        micro_batches=count,
        batch_size=16,
        epochs=2,
        seed=3,
        optimizer="sgd",
        lr=0.5,
        clip_norm=0.2 if engine == "gpipe" else None,  # the norm of all stages together
        ema=0.9 if rows == 55 else None,
    )
    with Job(config, task, stages, tmp_path) as job:
        assert job.statuses() == [0] * stages, job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    assert summary["micro_batches"] == count or (not count and summary["micro_batches"] in (4, 8))
    assert [stage["samples"] for stage in summary["stages"]] == [2 * rows] * stages
    check_same_training(summary, load_all(job.out, stages), task, config, rows, 21)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_half_precision_a_single_micro_batch_trains_as_sequential_backprop(precision, tmp_path):
    """With whole batches the operations are those of backprop."""
    task = Tiny(in_place_layers, train=49, test=21)
    config = TrainConfig.of(
        engine="gpipe", micro_batches=1, batch_size=16, epochs=2, optimizer="sgd", lr=0.5, precision=precision
    )
    with Job(config, task, 2, tmp_path) as job:
        assert job.statuses() == [0, 0], job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    check_same_training(summary, load_all(job.out, 2), task, config, 49, 21)
    in_fp32, _ = backprop(task, config.changed(precision="fp32"))
    assert not torch.equal(in_fp32["0.weight"], load_all(job.out, 2)["0.weight"])


def test_a_deterministic_run_takes_the_most_micro_batches_whatever_the_clock_says(tmp_path):
    config = TrainConfig.of(engine="gpipe", batch_size=16, epochs=1, deterministic=True)
    with Job(config, Tiny(plain_layers), 2, tmp_path) as job:
        assert job.statuses() == [0, 0], job.lines()
    assert json.loads((job.out / "summary.json").read_text())["micro_batches"] == 8


def normed_layers():
    hidden = [nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.BatchNorm1d(FEATURES)) for _ in range(2)]
    return [*hidden, nn.Linear(FEATURES, CLASSES)]


def test_running_statistics_are_those_of_the_micro_batches_alone(tmp_path):
    """Neither the trials nor the set-up leave a trace in them."""
    task = Tiny(normed_layers, train=32, test=20)
    config = TrainConfig.of(engine="gpipe", batch_size=16, epochs=1, lr=1e-30, cut="2", seed=3)
    with Job(config, task, 2, tmp_path) as job:
        assert job.statuses() == [0, 0], job.lines()
    count = json.loads((job.out / "summary.json").read_text())["micro_batches"]
    context = context_of(task, TrainConfig.of(engine="backprop", batch_size=16, seed=3))
    model = Backprop(context, Peers(context.rendezvous)).module.train()
    with torch.no_grad():
        for x, _ in context.data.training(1):
            for part in x.tensor_split(count):
                model(part)
    weights = load_all(job.out, 2)
    for layer in (0, 1):
        torch.testing.assert_close(weights[f"{layer}.1.running_mean"], model[layer][1].running_mean)
        torch.testing.assert_close(weights[f"{layer}.1.running_var"], model[layer][1].running_var)
        assert weights[f"{layer}.1.num_batches_tracked"] == 2 * count


@pytest.mark.parametrize(
    ("engine", "count"),
    [
        pytest.param("gpipe", 1, marks=pytest.mark.slow),
        ("1f1b", 4),
        pytest.param("zb", 4, marks=pytest.mark.slow),
    ],
)
def test_emulated_stages_compute_as_long_as_their_operations_take_and_wait_in_the_bubble(
    engine, count, tmp_path
):
    rows, gflops = 512, 0.002
    config = TrainConfig.of(
        engine=engine, micro_batches=count, batch_size=rows, epochs=1, cut="3", emulate_gflops=gflops
    )
    with Job(config, Tiny(plain_layers, train=8 * rows, test=rows), 2, tmp_path) as job:
        assert job.statuses() == [0, 0], job.lines()
    stages = json.loads((job.out / "summary.json").read_text())["stages"]
    events = json.loads((job.out / "timeline.json").read_text())["traceEvents"]
    products = [FEATURES * 8 + 8 * 7 + 7 * 6, 6 * 5 + 5 * CLASSES]  # multiplications of a row, by stage
    no_gradient = [FEATURES * 8, 0]  # nobody asks for the gradient of the data
    for index, stage in enumerate(stages):
        flops = 8 * 2 * rows * (3 * products[index] - no_gradient[index])
        events_of = [e for e in events if e["tid"] == index and e["name"] in ("forward", "backward")]
        spent = sum(event["dur"] for event in events_of) / 1e6
        assert 0.99 <= spent / (flops / gflops / 1e9) < 2
        assert stage["wait_s"] > 0 and stage["held_bytes"] > 0
    if count == 1:  # never do two stages compute at once
        assert sum(stage["utilisation"] for stage in stages) <= 1.02


@pytest.mark.parametrize(
    ("ranks", "words", "settings"),
    [
        (6, "6 stages cannot share 5 layers", {}),
        (2, "micro-batches is 3; it must divide the batch of 16 rows, such as 2", {"micro_batches": 3}),
        (3, "1f1b takes at least one per stage, that is 3", {"micro_batches": 2}),
        (1, "engine 1f1b needs two processes or more", {}),
        (2, "rank 1 (1f1b), at step 1: the loss is", {"lr": 1e38, "optimizer": "sgd"}),
    ],
)
def test_bad_input_is_one_line_and_status_2(ranks, words, settings, tmp_path):
    config = TrainConfig.of(engine="1f1b", batch_size=16, **settings)
    with Job(config, Tiny(plain_layers), ranks, tmp_path) as job:
        statuses = job.statuses()
    assert set(statuses) <= {1, 2} and 2 in statuses
    assert len(job.lines()) == 1 and words in job.lines()[0], job.lines()


class Failing(nn.Linear):
    """Does not work in the third step."""

    steps = 0

    def forward(self, x):
        self.steps += self.training
        if self.steps == 3:
            raise IndexError("no such row")
        return super().forward(x)


def failing_layers():
    return [nn.Linear(FEATURES, 8), Failing(8, CLASSES)]


def test_an_error_of_a_layer_is_told_in_its_own_words(tmp_path):
    config = TrainConfig.of(engine="gpipe", batch_size=16, micro_batches=1, cut="1")
    with Job(config, Tiny(failing_layers), 2, tmp_path) as job:
        assert job.statuses() == [1, 1]
        (line,) = job.lines()
        place = "(tests/launch/engines/test_pipelining.py:175 in forward())"
        assert line == f"dni-async: rank 1 (gpipe), at step 2: IndexError: no such row {place}"


class Product(torch.autograd.Function):
    """A product whose backward is wrong when it is called for a second time, as a split backward does."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        ctx.calls = 0
        return x @ weight.T

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        ctx.calls += 1
        return gradient @ weight, ctx.calls * gradient.T @ x


class Counting(nn.Linear):
    def forward(self, x):
        return Product.apply(x, self.weight)


def counting_layers():
    return [nn.Linear(FEATURES, 8), Counting(8, 8), nn.Linear(8, CLASSES)]


def test_zero_bubble_refuses_layers_whose_split_backward_has_other_gradients(tmp_path):
    config = TrainConfig.of(engine="zb", batch_size=16, micro_batches=2, cut="1")
    with Job(config, Tiny(counting_layers), 2, tmp_path) as job:
        assert job.statuses() == [2, 2]
        lines = job.lines()
    assert all("splits the backward of these layers and gets other gradients; use 1f1b" in x for x in lines)


@pytest.mark.parametrize(
    ("engine", "victim", "how"),
    [("gpipe", 1, signal.SIGKILL), ("1f1b", 0, signal.SIGKILL), ("1f1b", 2, signal.SIGSTOP)],
)
def test_a_rank_that_is_killed_or_hangs_ends_the_others_in_time(engine, victim, how, tmp_path):
    check_end_of_others(engine, victim, how, tmp_path)


@pytest.mark.parametrize(
    ("name", "engine", "cut"),
    [
        ("masked", "1f1b", "1,2"),
        pytest.param("masked", "gpipe", "2", marks=pytest.mark.slow),
        *(
            pytest.param(name, engine, cut, marks=pytest.mark.slow)
            for name in TREE_TASKS
            if name != "two targets"
            for engine, cut in (("1f1b", "2"), ("gpipe", "1,3"), ("zb", "1,2"))
        ),
    ],
)
def test_layers_that_exchange_trees_train_as_in_sequential_backprop(name, engine, cut, tmp_path):
    task = TREE_TASKS[name]
    stages = cut.count(",") + 2
    config = TrainConfig.of(
        engine=engine, micro_batches=4, batch_size=16, cut=cut, epochs=2, optimizer="sgd", lr=0.5
    )
    with Job(config, task, stages, tmp_path) as job:
        assert job.statuses() == [0] * stages, job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    check_same_training(summary, load_all(job.out, stages), task, config, 50, 20)


@pytest.mark.slow
def test_several_targets_train_in_parts_by_the_labels_of_the_first(tmp_path):
    """Their losses are means over different numbers of labels, so no weights of the parts would be exact."""
    config = TrainConfig.of(engine="1f1b", micro_batches=4, batch_size=16, cut="2", epochs=8, lr=1e-2)
    with Job(config, TREE_TASKS["two targets"], 2, tmp_path) as job:
        assert job.statuses() == [0, 0], job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    _, markers = backprop(TREE_TASKS["two targets"], config)
    wanted = markers[-2].body["result"]
    assert summary["final"]["test_loss"] == pytest.approx(wanted["test_loss"], rel=0.1)
