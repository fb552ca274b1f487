"""What all ranks must agree on before the start."""

import itertools
import threading

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import TensorDataset

from dni_async.boundary import TENSOR
from dni_async.errors import StageError, UserError
from dni_async.networks.settings import SGConfig
from dni_async.partition.from_module import from_module
from dni_async.recurrent.stateful_rnn import StatefulRNN
from launch.config.task import TaskConfig
from launch.config.train import TrainConfig
from launch.job import stage_costs
from launch.job.layers import build_layers
from launch.job.partition_plan import PartitionPlan, broadcast_error, broadcast_plan, make_plan
from tests.support.stages import costs
from tests.support.tiny_task import Tiny, data_of, plain_layers
from workers.coordination.rendezvous import Rendezvous
from workers.failure.errors import AlreadyReported


def drawn(task=None, stages=2, **settings):
    config = TrainConfig.of(**{"batch_size": 16, "cut": "2"} | settings)
    task = task or Tiny()
    return make_plan(config, task, data_of(task, config), stages)


def refusal(task=None, stages=2, **settings):
    with pytest.raises(UserError) as error:
        drawn(task, stages, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_cut_by_hand_is_taken_as_it_is():
    tensor = TENSOR.state_dict()
    plan = drawn(cut="2,4", stages=3)
    names = [boundary.pop("name") for boundary in [*plan.boundaries, plan.targets]]
    assert names[:2] == ["batch of task Tiny", "layer 0 (Sequential)"]
    assert plan == PartitionPlan(
        bounds=[(0, 2), (2, 4), (4, 5)],
        shapes=[(8,), (8,), (7,), (7,), (3,)],
        dtypes=["float32"] * 5,
        costs=[],
        label_size=3,
        steps_per_epoch=4,
        train_samples=50,
        test_samples=20,
        boundaries=[{key: value for key, value in tensor.items() if key != "name"}] * 6,
        extras=[[]] * 6,
        targets={key: value for key, value in tensor.items() if key != "name"},
    )


def test_an_automatic_cut_balances_what_was_measured(monkeypatch):
    measured = costs([4.0, 2.0, 2.0, 2.0, 2.0], [1.0] * 4)
    monkeypatch.setattr(stage_costs, "measure_costs", lambda *args, **kwargs: measured)
    plan = drawn(cut="")
    assert plan.bounds == [(0, 2), (2, 5)]
    assert plan.costs == [4 + 2 + 1, 2 + 2 + 2]
    three = drawn(cut="", stages=3)
    assert three.bounds == [(0, 1), (1, 3), (3, 5)]
    assert three.costs == [4 + 1, 2 + 2 + 1, 2 + 2]


def test_an_automatic_cut_leaves_no_stage_without_weights(monkeypatch):
    """A ReLU that costs as much as the linear layer before it would be the second stage of three."""
    measured = costs([4.0, 4.0, 1.0, 1.0, 1.0], [0.0] * 4)
    monkeypatch.setattr(stage_costs, "measure_costs", lambda *args, **kwargs: measured)
    assert drawn(cut="", stages=3).bounds == [(0, 2), (2, 4), (4, 5)]


def test_a_model_that_cannot_be_split_is_bad_input():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    said = refusal(Tiny(lambda: from_module(model, ["blocks.*"])))
    assert said == "Sequential has no submodule blocks.*; split points are names such as 0, 1"


def tied_layers():
    layers = [nn.Linear(6, 6) for _ in range(4)]
    layers[2].weight = layers[1].weight
    return [*layers, nn.Linear(6, 3)]


def test_an_automatic_cut_divides_no_layers_that_share_weights(monkeypatch):
    """Layers 1 and 2 belong together; between them would be the best cut."""
    measured = costs([4.0, 3.0, 3.0, 3.0, 3.0], [0.0] * 4)
    monkeypatch.setattr(stage_costs, "measure_costs", lambda *args, **kwargs: measured)
    assert drawn(cut="").bounds == [(0, 2), (2, 5)]
    assert drawn(Tiny(tied_layers), cut="").bounds == [(0, 3), (3, 5)]
    assert "1.weight and 2.weight are one tensor" in refusal(Tiny(tied_layers), cut="2")
    assert "cut only at 1, 3, 4" in refusal(Tiny(tied_layers), cut="", stages=5)


@pytest.mark.parametrize("rule", ["dni", "cdni", "delayed", "local", "frozen", "oracle"])
def test_costs_are_measured_for_every_rule(rule):
    plan = drawn(cut="", stages=3, rule=rule)
    assert len(plan.costs) == 3 and all(cost > 0 for cost in plan.costs)
    flat = [i for first, end in plan.bounds for i in range(first, end)]
    assert flat == [0, 1, 2, 3, 4] and len(plan.bounds) == 3


@pytest.mark.parametrize(
    ("rule", "measured"),
    [("dni", 4), ("cdni", 4), ("local", 4), ("delayed", 0), ("frozen", 0), ("oracle", 0)],
)
def test_a_rule_is_measured_where_it_has_a_network(rule, measured, monkeypatch):
    seen = []

    def measure(layers, x, y, *, rule, **settings):
        made = [rule(i) for i in range(4)]
        seen.extend(one for one in made if one is not None)
        return costs([1.0] * 5, [1.0] * 4)

    monkeypatch.setattr(stage_costs, "measure_costs", measure)
    drawn(cut="", rule=rule)
    assert len(seen) == measured


def test_interfaces_that_are_alike_share_one_rule_so_it_is_measured_once():
    """The layers have outputs of 8, 7, 7 and 6 features; only two of them are of the same shape."""
    layers = [nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 7), nn.Linear(7, 6), nn.Linear(6, 3)]
    config, shapes = TrainConfig.of(rule="cdni"), [(8,), (7,), (7,), (6,), (3,)]
    rules = stage_costs.rules_to_measure(config, Tiny(), layers, shapes, 3, 2, torch.device("cpu"))
    made = [rules(i) for i in (0, 1, 2, 3, 1)]
    assert made[1] is made[2] is made[4]
    assert len({id(rule) for rule in made}) == 3


def test_emulated_devices_are_cut_by_counted_flops():
    """Batch 16, widths 6 8 7 6 5 3: a layer costs 2 products forward and 4 backward, the first one 2."""
    plan = drawn(Tiny(plain_layers), cut="", stages=2, rule="frozen", emulate_gflops=1e-9)
    forwards = [2 * 16 * a * b for a, b in itertools.pairwise([6, 8, 7, 6, 5, 3])]
    layers = [2 * forwards[0], *(3 * flops for flops in forwards[1:])]
    assert plan.bounds == [(0, 2), (2, 5)]
    assert plan.costs == [sum(layers[:2]), sum(layers[2:])]


def test_deterministic_runs_are_cut_by_flops_so_the_same_command_gives_the_same_cut():
    emulated, deterministic = (
        drawn(Tiny(plain_layers), cut="", stages=3, **settings)
        for settings in ({"emulate_gflops": 1.0}, {"deterministic": True})
    )
    assert deterministic == emulated


def test_the_sg_network_counts_on_emulated_devices():
    """Batch 16, linear and full, 3 labels: one prediction, another one and as much again to learn."""
    sg = SGConfig(kind="linear", replay=0)
    frozen, cdni = (
        drawn(Tiny(plain_layers), cut="", stages=5, rule=rule, sg=sg, emulate_gflops=1e-9).costs
        for rule in ("frozen", "cdni")
    )
    wanted = [3 * 2 * 16 * width * (width + 3) for width in (8, 7, 6, 5)]
    assert [b - a for a, b in zip(frozen, cdni, strict=True)] == [*wanted, 0]


def test_a_rank_above_the_width_of_an_interface_that_is_not_cut_is_no_error():
    """The layers have outputs of 8, 7, 6 and 5 features, and the cut is after the first one."""
    sg = SGConfig(kind="linear", rank=8)
    plan = drawn(Tiny(plain_layers), cut="", stages=2, rule="cdni", sg=sg, emulate_gflops=1.0)
    assert plan.shapes[:4] == [(8,), (7,), (6,), (5,)]
    assert plan.bounds == [(0, 1), (1, 5)]


def test_learning_from_one_target_in_four_costs_the_sg_network_a_quarter():
    costs = [
        drawn(
            Tiny(plain_layers), cut="", stages=5, sg=SGConfig(replay=0), emulate_gflops=1e-9, **settings
        ).costs
        for settings in ({"rule": "frozen"}, {"rule": "cdni"}, {"rule": "cdni", "target_every": 4})
    ]
    for frozen, always, sometimes in list(zip(*costs, strict=True))[:-1]:
        assert sometimes - frozen == pytest.approx((always - frozen) * (1 + 2 / 4) / 3)


def test_one_stage_needs_no_measurement(monkeypatch):
    monkeypatch.setattr(stage_costs, "measure_costs", None)
    plan = drawn(cut="", stages=1)
    assert plan.bounds == [(0, 5)] and plan.costs == []


def test_more_stages_than_layers_are_refused():
    assert refusal(cut="", stages=6) == "6 stages cannot share 5 layers; use 1 to 5 stages"


def test_a_cut_must_make_as_many_stages_as_run():
    assert refusal(cut="2,4", stages=2) == "cut 2,4 makes 3 stages, but 2 run; change one of them"
    assert refusal(cut="2", stages=1) == "cut 2 makes 2 stages, but 1 run; change one of them"


def test_a_cut_behind_the_last_layer_is_refused():
    assert "cut 5 is not increasing between 1 and 4 (the model has 5 layers)" in refusal(cut="5")


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Flat(nn.Module):
    def forward(self, x):
        raise AssertionError


def layers(*made):
    return Tiny(lambda: list(made))


def test_a_layer_that_does_not_fit_is_named():
    line = refusal(layers(nn.Linear(6, 8), nn.ReLU(), nn.Linear(9, 3)))
    assert line.startswith("layer 2 does not take what comes before it, (16, 8) (mat1 and mat2 shapes")


def test_a_layer_that_fails_without_a_word_is_named():
    line = refusal(layers(nn.Linear(6, 8), Flat(), nn.Linear(8, 3)))
    assert line == "layer 1 does not take what comes before it, (16, 8) (AssertionError)"


def test_a_layer_that_does_not_take_a_tuple_is_named():
    line = refusal(layers(nn.Linear(6, 8), Pair(), nn.Linear(8, 3)))
    assert line.startswith("layer 2 does not take what comes before it, (tensor, tensor) (linear(): ")


class Nothing(nn.Module):
    def forward(self, x):
        return [None, len(x)]


def test_a_layer_must_return_a_tensor():
    line = refusal(layers(nn.Linear(6, 8), Nothing(), nn.Linear(8, 3)))
    assert line == "layer 1 (Nothing) returned [None, 16], without a tensor (B, ...); return one"


@pytest.mark.parametrize("made", [[], ["Linear"]])
def test_a_task_must_give_layers(made):
    assert refusal(Tiny(lambda: made)) == "task Tiny: layers() must give a list of nn.Module, at least one"


@pytest.mark.parametrize("cut", ["", "2"])
@pytest.mark.parametrize(("samples", "batch_size"), [(50, 7), (33, 16), (1, 16), (50, 1)])
def test_batch_norm_cannot_end_on_one_sample(samples, batch_size, cut):
    line = refusal(Tiny(train=samples), batch_size=batch_size, cut=cut)
    assert line == (
        f"batch size {batch_size} leaves a last batch of one sample (of {samples}), "
        "which batch norm cannot train on; choose another --batch-size"
    )


def test_there_is_one_evaluation_a_step_at_most():
    assert drawn(batch_size=16, evaluations=4).steps_per_epoch == 4
    line = refusal(Tiny(), batch_size=16, evaluations=5)
    assert line == ("5 evaluations do not fit into an epoch of 4 steps; lower --evaluations or --batch-size")


def with_maps():
    return [nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(24, 3)]


@pytest.mark.parametrize("make", [plain_layers, with_maps])
def test_without_batch_norm_or_with_maps_one_sample_is_enough(make):
    assert drawn(Tiny(make), batch_size=7).steps_per_epoch == 8


@pytest.mark.parametrize("rule", ["dni", "cdni", "local"])
def test_sg_networks_between_feature_maps_count_in_the_cut(rule):
    plan = drawn(Tiny(with_maps), cut="", rule=rule, emulate_gflops=1e-9)
    assert len(plan.bounds) == 2 and min(plan.costs) >= 0 < max(plan.costs)


def test_looking_for_one_sample_leaves_the_statistics_alone():
    made = with_maps()
    drawn(Tiny(lambda: made), batch_size=7)
    norm = made[2]
    assert norm.num_batches_tracked == 0 and torch.equal(norm.running_mean, torch.zeros(4))


@pytest.mark.parametrize(
    ("rule", "stages", "label_size"), [("cdni", 2, 3), ("dni", 2, 0), ("frozen", 2, 0), ("cdni", 1, 0)]
)
def test_labels_count_for_cdni_alone(rule, stages, label_size):
    assert drawn(rule=rule, stages=stages, cut="").label_size == label_size


class Odd(Tiny):
    """Its labels are floats, which nothing could condition on."""

    classes = None

    def condition(self, y):
        raise AssertionError("nobody should ask")

    def loss(self, output, y):
        return (output.mean(1) - y).square().mean()

    def metric(self, output, y):
        return -(output.mean(1) - y).square()

    def data(self, root=None):
        return tuple(TensorDataset(torch.randn(n, 6), torch.randn(n)) for n in (50, 20))


def test_one_stage_never_asks_for_the_condition():
    assert drawn(Odd(), stages=1, cut="", rule="cdni").bounds == [(0, 5)]


def test_labels_outside_the_classes_are_refused():
    class Wrong(Tiny):
        def data(self, root=None):
            return tuple(TensorDataset(torch.randn(n, 6), torch.full((n,), 3)) for n in (50, 20))

    with pytest.raises(UserError, match=r"labels of torch.int64 from 3 to 3 do not fit 3 classes; use"):
        drawn(Wrong(), stages=2)


def test_a_loss_that_does_not_fit_the_outputs_is_refused():
    class Wrong(Tiny):
        classes = None

        def data(self, root=None):
            return tuple(TensorDataset(torch.randn(n, 6), torch.randn(n)) for n in (50, 20))

    with pytest.raises(
        UserError, match=r"the task's loss does not take outputs \(16, 3\) and labels \(16,\)"
    ):
        drawn(Wrong(), stages=2)


def test_a_metric_that_is_not_one_score_per_sample_is_refused():
    class Wrong(Tiny):
        def metric(self, output, y):
            return output.mean()

    with pytest.raises(UserError, match=r"the task's metric gives shape \(\); it must give \(16,\)"):
        drawn(Wrong(), stages=2)


def test_layers_start_from_the_same_weights_every_time():
    first, second = (nn.Sequential(*build_layers(Tiny(), TaskConfig(seed=3))).state_dict() for _ in range(2))
    other = nn.Sequential(*build_layers(Tiny(), TaskConfig(seed=4))).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["2.weight"], other["2.weight"])


def test_layers_that_carry_state_start_anew_with_each_epoch():
    layers = [nn.Sequential(StatefulRNN(nn.LSTM(2, 2))), nn.Linear(2, 2)]
    build_layers(Tiny(lambda: layers), TaskConfig(seed=0), 9)
    assert layers[0][0].sequence == 9


def two_ranks():
    store = dist.HashStore()
    return Rendezvous(0, 2, 0, 2, store), Rendezvous(1, 2, 1, 2, store)


def test_the_other_ranks_read_the_plan_that_rank_0_made():
    first, second = two_ranks()
    config, task = TrainConfig.of(batch_size=16), Tiny()
    own = broadcast_plan(first, config, task, data_of(task, config))
    assert len(own.bounds) == 2 and len(own.costs) == 2
    read = broadcast_plan(second, config, task, None)
    assert read == own
    assert all(isinstance(pair, tuple) for pair in [*read.bounds, *read.shapes])


def test_the_other_ranks_get_the_metadata_that_the_task_learned_from_the_data():
    class Sized(Tiny):
        def data(self, root=None):
            self.metadata = {"features": 6}
            return super().data(root)

        def layers(self):
            return [nn.Linear(self.metadata["features"], 8), nn.Linear(8, 3)]

    first, second = two_ranks()
    config, task, other = TrainConfig.of(batch_size=16, cut="1"), Sized(), Sized()
    assert broadcast_plan(first, config, task, data_of(task, config)).metadata == {"features": 6}
    broadcast_plan(second, config, other, None)
    assert other.metadata == {"features": 6} and len(build_layers(other, TaskConfig(seed=0))) == 2


def test_a_restarted_rank_0_takes_the_plan_that_it_had_made() -> None:
    first, _ = two_ranks()
    config, task = TrainConfig.of(batch_size=16, cut="2"), Tiny()
    drawn = broadcast_plan(first, config, task, data_of(task, config))
    later = config.changed(cut="3")  # as a cut by measured costs may be
    assert broadcast_plan(first, later, task, data_of(task, later)).bounds == drawn.bounds


def test_the_other_ranks_wait_for_the_plan_of_rank_0():
    first, second = two_ranks()
    config, task = TrainConfig.of(batch_size=16, cut="2"), Tiny()
    read = []
    waiting = threading.Thread(target=lambda: read.append(broadcast_plan(second, config, task, None)))
    waiting.start()
    own = broadcast_plan(first, config, task, data_of(task, config))
    waiting.join(20)
    assert read == [own]


@pytest.mark.parametrize(
    ("error", "line", "status"),
    [
        (UserError("no data"), "no data", 2),
        (StageError("no data"), "no data", 1),
        (OSError("no\n data"), "OSError: no data", 1),
    ],
)
def test_a_failure_of_rank_0_while_planning_ends_the_other_ranks_and_is_left_to_it_to_report(
    error, line, status
):
    first, second = two_ranks()
    broadcast_error(first, error)
    with pytest.raises(AlreadyReported) as failure:
        broadcast_plan(second, TrainConfig.of(), Tiny(), None)
    assert (str(failure.value), failure.value.status) == (line, status)


def test_all_ranks_start_at_the_step_that_rank_0_chose():
    first, second = two_ranks()
    config, task = TrainConfig.of(batch_size=16, cut="2"), Tiny()
    assert broadcast_plan(first, config, task, data_of(task, config), start=12).start == 12
    assert broadcast_plan(second, config, task, None).start == 12
