"""From a plan to a stage."""

import pytest
import torch
from torch import nn

from dni_async.errors import UserError
from dni_async.messages import Activation, TargetGradient
from dni_async.networks import FeatureHeadSG, LinearSG
from dni_async.networks.settings import LocalConfig, SGConfig
from dni_async.rules import CdniRule, DelayedRule, DniRule, FrozenRule, LocalRule, LossRule, OracleRule
from dni_async.stage.simulation import downstream_first, upstream_first
from dni_async.synthesis.oracle import Oracle
from dni_async.synthesis.synthesizer import Synthesizer
from launch.config.optimizer import OptimizerConfig
from launch.config.task import TaskConfig
from launch.config.train import TrainConfig
from launch.job.layers import build_layers
from launch.job.partition_plan import make_plan
from launch.job.stage_factory import build_stage, build_updater, schedule_of
from tests.support.tiny_task import Tiny, data_of, five_layers, plain_layers, simulated

OPTIMIZER = "muon" if hasattr(torch.optim, "Muon") else "adamw"
CPU = torch.device("cpu")
CUTS = {1: "", 2: "2", 3: "1,3", 4: "1,2,3"}


def planned(stages, make=five_layers, **settings):
    config = TrainConfig.of(**{"batch_size": 16, "epochs": 2, "cut": CUTS[stages]} | settings)
    task = Tiny(make)
    return config, task, make_plan(config, task, data_of(task, config), stages)


def built(stages, order=None, **settings):
    config, task, plan = planned(stages, **settings)
    parts = {i: build_stage(config, task, plan, i, CPU)[0] for i in order or range(stages)}
    return [parts[i] for i in range(stages)]


def trained(stages, order=upstream_first, **settings):
    """The stages after two epochs of `Tiny`."""
    config, task, _ = planned(stages, **settings)
    return simulated(task, config, stages, order)[0]


def weights(stages):
    return [tensor.clone() for stage in stages for tensor in stage.layers.state_dict().values()]


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("rule", ["dni", "cdni", "delayed", "local", "frozen", "oracle"])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_the_stages_together_start_as_the_uncut_network(stages, rule):
    whole = nn.Sequential(*build_layers(Tiny(), TaskConfig(seed=5))).state_dict()
    assert equal(weights(built(stages, rule=rule, seed=5)), list(whole.values()))


@pytest.mark.parametrize(
    ("stages", "names"),
    [
        (1, [["0 Sequential", "1 ReLU", "2 Linear", "3 Dropout", "4 Linear"]]),
        (2, [["0 Sequential", "1 ReLU"], ["2 Linear", "3 Dropout", "4 Linear"]]),
        (3, [["0 Sequential"], ["1 ReLU", "2 Linear"], ["3 Dropout", "4 Linear"]]),
    ],
)
def test_layers_keep_their_numbers_in_the_whole_network(stages, names):
    config, task, plan = planned(stages)
    assert [build_stage(config, task, plan, i, CPU)[1] for i in range(stages)] == names


@pytest.mark.parametrize(
    ("rule", "below", "targets"),
    [
        ("dni", DniRule, True),
        ("cdni", CdniRule, True),
        ("oracle", OracleRule, True),
        ("delayed", DelayedRule, True),
        ("local", LocalRule, False),
        ("frozen", FrozenRule, False),
    ],
)
def test_the_last_stage_has_the_loss_and_all_others_the_rule(rule, below, targets):
    stages = built(3, rule=rule)
    assert [stage.index for stage in stages] == [0, 1, 2]
    assert [type(stage.rule) for stage in stages] == [below, below, LossRule]
    assert [stage.send_targets for stage in stages] == [False, targets, targets]


@pytest.mark.parametrize("rule", ["dni", "cdni", "delayed", "local", "frozen", "oracle"])
def test_one_stage_has_the_loss_alone(rule):
    (stage,) = built(1, rule=rule)
    assert isinstance(stage.rule, LossRule) and not stage.send_targets


@pytest.mark.parametrize(
    ("rule", "every"), [("dni", 4), ("cdni", 4), ("delayed", 1), ("oracle", 1), ("local", 1)]
)
def test_only_an_sg_network_can_do_without_targets(rule, every):
    assert [stage.target_every for stage in built(3, rule=rule, target_every=4)] == [every] * 3


@pytest.mark.parametrize(
    ("rule", "label_size", "kinds"),
    [("dni", 0, (LinearSG, LinearSG)), ("cdni", 3, (LinearSG, FeatureHeadSG))],
)
def test_the_sg_network_fits_its_cut(rule, label_size, kinds):
    """The first cut is behind batch norm and ReLU, the second behind a linear layer and dropout."""
    first, second, _ = built(3, rule=rule)
    for stage, width, kind in ((first, 8, kinds[0]), (second, 7, kinds[1])):
        assert isinstance(stage.rule.predictor, Synthesizer)
        network = stage.rule.predictor.network
        assert isinstance(network, kind)
        assert (network.input_size, network.output_size) == (width, width)
        labels = torch.zeros(4, label_size) if label_size else None
        assert network.synthesize(torch.randn(4, width), labels).shape == (4, width)
        assert (stage.rule.predictor.condition is not None) == (rule == "cdni")


def test_the_auxiliary_head_maps_its_cut_to_the_networks_output():
    first, second, _ = built(3, rule="local", local=LocalConfig(hidden=9, lr=0.5))
    for stage, width in ((first, 8), (second, 7)):
        assert stage.rule.head(torch.randn(4, width)).shape == (4, 3)
        assert stage.rule.head[0].layers[0].out_features == 9
        assert stage.rule.optimizer.param_groups[0]["lr"] == 0.5
    assert not torch.equal(first.rule.head[0].layers[2].weight, second.rule.head[0].layers[2].weight)


@pytest.mark.parametrize(("stash", "capacities"), [(None, [4, 3, 2]), (1, [1, 1, 1]), (5, [5, 5, 5])])
def test_a_stash_has_room_for_as_many_batches_as_stages_lie_before_the_loss_or_as_said(stash, capacities):
    stages = built(4, rule="delayed", stash=stash)
    assert [stage.rule.stash.capacity for stage in stages[:-1]] == capacities


def test_pending_predictions_have_room_for_all_batches_in_flight():
    (first, _) = built(2, in_flight=3)
    assert first.rule.predictor.pending.capacity == 2 * 3 + 2


def test_frozen_stages_never_move_while_the_last_one_learns():
    before = built(3, rule="frozen")
    after = trained(3, rule="frozen")
    for first, second in zip(before[:-1], after[:-1], strict=True):
        same = zip(first.layers.parameters(), second.layers.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in same)
        assert second.version == 0 and second.steps == 8
    assert not equal(weights(before[-1:]), weights(after[-1:]))
    assert after[-1].version == 8


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(("rule", "targets"), [("dni", 8), ("cdni", 8), ("delayed", 8), ("local", 0)])
def test_decoupled_stages_learn(rule, targets, precision):
    before, after = (make(2, rule=rule, precision=precision) for make in (built, trained))
    for first, second in zip(before, after, strict=True):
        assert not equal(weights([first]), weights([second]))
        skipped = (
            second.updater.scaler.skipped if precision == "fp16" else 0
        )  # the first scale may be too large
        assert second.version + skipped == 8
    assert after[0].targets_received == targets


def test_in_bf16_activations_travel_in_half_the_bytes_and_weights_stay_in_fp32():
    first, _ = built(2, rule="delayed", make=plain_layers, precision="bf16")
    (message,) = first.on(Activation(0, 0, torch.randn(4, 6), torch.zeros(4, dtype=torch.long)))
    assert message.h.dtype is torch.bfloat16
    tuple(first.on(TargetGradient(0, 0, torch.randn(4, 7).bfloat16())))
    assert first.version == 1
    assert all(w.dtype is torch.float32 for w in first.layers.parameters())


@pytest.mark.parametrize(
    "settings", [{}, {"clip_norm": 0.05}, {"optimizer": "sgd", "schedule": "cosine"}, {"precision": "bf16"}]
)
@pytest.mark.parametrize("stages", [2, 3])
def test_the_oracle_agrees_with_every_target_however_late(stages, settings):
    common = {"rule": "oracle", "make": plain_layers, "lr": 0.1} | settings
    late = trained(stages, upstream_first, **common)
    prompt = trained(stages, downstream_first, **common)
    assert isinstance(late[0].rule.predictor, Oracle)
    assert equal(weights(late), weights(prompt))
    assert not equal(weights(late), weights(built(stages, **common)))


def sg_weights(stage):
    return list(stage.rule.predictor.network.state_dict().values())


@pytest.mark.parametrize("rule", ["dni", "cdni"])
def test_the_order_in_which_ranks_build_does_not_matter(rule):
    settings = {"rule": rule, "sg": SGConfig(kind="mlp")}  # the linear one starts at zero
    first = built(3, [0, 1, 2], **settings)
    torch.manual_seed(99)
    for order in ([2, 1, 0], [1, 2, 0]):
        other = built(3, order, **settings)
        assert equal(weights(first), weights(other))
        for a, b in zip(first[:-1], other[:-1], strict=True):
            assert equal(sg_weights(a), sg_weights(b))


def test_sg_networks_differ_between_stages_and_seeds():
    settings = {"make": plain_layers, "cut": "1,2", "sg": SGConfig(kind="mlp", hidden=5)}
    bias = [sg_weights(stage)[1] for seed in (0, 1) for stage in built(3, seed=seed, **settings)[:-1]]
    assert all(b.shape == (5,) for b in bias)
    assert len({str(b.tolist()) for b in bias}) == 4


def test_the_random_state_of_a_stage_depends_on_its_index_alone():
    config, task, plan = planned(3)

    def drawn(index):
        build_stage(config, task, plan, index, CPU)
        return torch.rand(4).tolist()

    first, second = drawn(0), drawn(1)
    assert first != second
    torch.manual_seed(99)
    assert (drawn(1), drawn(0)) == (second, first)


def test_optimizer_and_settings_reach_the_updater():
    layer = nn.Linear(2, 2)
    config = TrainConfig.of(optimizer="sgd", lr=0.5, optimizer_args=("momentum=0.9", "nesterov=true"))
    updater = build_updater(config.optimizer, [("0", layer)], 10)
    assert isinstance(updater.optimizer, torch.optim.SGD)
    (group,) = updater.optimizer.param_groups
    assert (group["lr"], group["momentum"], group["nesterov"]) == (0.5, 0.9, True)
    assert group["params"][0] is layer.weight and group["params"][1] is layer.bias


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.75, 0.5, 0.25, 0.0]),
        ("step", [1.0, 1.0, 0.1, 0.01, 0.01]),
        ("cosine", [1.0, 0.853553, 0.5, 0.146447, 0.0]),
    ],
)
def test_a_schedule_moves_the_learning_rate(schedule, rates):
    layer = nn.Linear(2, 2)
    config = TrainConfig.of(optimizer="sgd", lr=1.0, schedule=schedule, milestones=(0.5, 0.75))
    updater = build_updater(config.optimizer, [("0", layer)], 4)
    seen = [updater.optimizer.param_groups[0]["lr"]]
    for _ in range(4):
        layer(torch.ones(1, 2)).sum().backward()
        updater.step()
        seen.append(updater.optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx(rates, abs=1e-6)


@pytest.mark.parametrize(("clip", "norm"), [(0.5, 0.5), (1000.0, 6.0), (None, 6.0)])
def test_clipping_bounds_the_step(clip, norm):
    layer = nn.Linear(4, 1, bias=False)
    before = layer.weight.detach().clone()
    updater = build_updater(OptimizerConfig(name="sgd", lr=1.0, clip_norm=clip), [("0", layer)], 1)
    layer(torch.full((1, 4), 3.0)).sum().backward()
    updater.step()
    assert (layer.weight - before).norm().item() == pytest.approx(norm, rel=1e-4)


def test_the_schedule_of_a_stage_spans_all_epochs():
    stages = trained(2, schedule="linear", optimizer="sgd", lr=1.0, rule="cdni")
    assert [stage.updater.optimizer.param_groups[0]["lr"] for stage in stages] == [0.0, 0.0]


def test_layers_without_parameters_count_their_steps():
    updater = build_updater(OptimizerConfig(), [("0", nn.ReLU())], 10)
    assert updater.optimizer is None
    updater.step()
    assert updater.version == 1


def test_parameters_of_a_pattern_have_settings_of_their_own_in_every_stage():
    groups = ("4.bias:lr=0.5", "BatchNorm1d.*:weight_decay=0")
    settings = {"optimizer": "adamw", "lr": 0.1, "param_groups": groups}
    first, second = built(2, **settings)
    norm = first.layers[0][1]
    own, rest = first.updater.optimizer.param_groups
    assert own["params"] == [norm.weight, norm.bias] and own["weight_decay"] == 0 and own["lr"] == 0.1
    assert rest["params"] == list(first.layers[0][0].parameters()) and rest["weight_decay"] == 0.01
    own, rest = second.updater.optimizer.param_groups
    assert own["params"] == [second.layers[2].bias] and own["lr"] == 0.5
    with pytest.raises(UserError, match=r"no parameter is left for 9\.\*"):
        planned(2, param_groups=("9.*:lr=1",))


def test_warm_up_is_a_share_of_all_updates():
    config = TrainConfig.of(optimizer="sgd", lr=1.0, warmup=0.5, accumulate=2, schedule="linear")
    factor = schedule_of(config.optimizer, 16)
    assert [factor(version) for version in range(9)] == [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25, 0]


@pytest.mark.parametrize("rule", ["oracle", "delayed", "cdni"])
def test_with_accumulation_all_stages_make_as_many_updates(rule):
    """4 batches an epoch, 2 epochs."""
    assert [stage.version for stage in trained(3, rule=rule, accumulate=3)] == [2, 2, 2]


def test_accumulation_with_an_oracle_is_that_of_backprop_to_the_bit():
    settings = {
        "make": plain_layers,
        "accumulate": 2,
        "optimizer": OPTIMIZER,
        "warmup": 0.25,
        "clip_norm": 9.0,
    }
    (whole,) = trained(1, **settings)
    assert equal(weights(trained(3, rule="oracle", **settings)), weights([whole]))


def test_weights_that_want_no_gradient_are_left_out():
    layer = nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    (group,) = build_updater(OptimizerConfig(), [("0", layer)], 10).optimizer.param_groups
    assert len(group["params"]) == 1 and group["params"][0] is layer.bias


def test_averaged_weights_of_stages_with_an_oracle_are_those_of_backprop_to_the_bit():
    settings = {"make": plain_layers, "ema": 0.9, "optimizer": OPTIMIZER}
    stages, whole = trained(3, rule="oracle", **settings), trained(1, **settings)
    averaged = []
    for parts in (stages, whole):
        for part in parts:
            part.updater.take_average()
        averaged.append(weights(parts))
    assert equal(*averaged)
    assert not equal(averaged[0], weights(trained(1, **settings | {"ema": None})))
