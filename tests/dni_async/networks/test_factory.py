from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni_async.errors import UserError
from dni_async.messages import TargetGradient
from dni_async.networks import (
    RNNDNI,
    ConvSG,
    DNINetwork,
    FeatureHeadSG,
    HeadSG,
    LeastSquaresSG,
    LinearSG,
    MlpSG,
    TokenHeadSG,
)
from dni_async.networks.factory import (
    Flattened,
    build_auxiliary,
    build_network,
    build_synthesizer,
    label_size_of,
    measurable,
    parameters_of,
    resolve,
)
from dni_async.networks.settings import LocalConfig, SGConfig
from dni_async.synthesis.synthesizer import Synthesizer
from tests.support.stages import CLASSES, clone_state, one_hot, synthesizer


def decided(
    shape: tuple[int, ...],
    stages: int,
    conditional: bool = True,
    batch_normalised: bool = False,
    **asked: Any,
) -> dict[str, Any]:
    return asdict(resolve(SGConfig(**asked), shape, stages, conditional, True, batch_normalised))


@pytest.mark.parametrize(
    ("shape", "stages", "conditional", "kind", "rank", "hidden", "layers", "lr", "replay"),
    [
        ((64,), 2, True, "linear", 0, 64, 1, 1e-3, 0),
        ((64,), 3, True, "linear", 0, 64, 1, 1e-3, 2),
        ((64,), 6, False, "linear", 0, 64, 1, 1e-3, 2),
        ((256,), 2, True, "linear", 64, 256, 1, 1e-3, 0),
        ((257,), 2, True, "linear", 64, 257, 1, 1e-3, 0),
        ((1000,), 3, True, "linear", 64, 1000, 1, 1e-3, 2),
        ((7, 64), 3, False, "linear", 0, 64, 1, 1e-3, 2),
        ((16, 8, 8), 2, True, "head", 0, 32, 1, 3e-3, 0),
        ((16, 8, 8), 3, False, "conv", 64, 16, 2, 1e-3, 0),
    ],
)
def test_the_defaults_of_batch_normalised_activations(
    shape: tuple[int, ...],
    stages: int,
    conditional: bool,
    kind: str,
    rank: int,
    hidden: int,
    layers: int,
    lr: float,
    replay: int,
) -> None:
    wanted = {"kind": kind, "rank": rank, "hidden": hidden, "layers": layers, "lr": lr, "replay": replay}
    assert decided(shape, stages, conditional, batch_normalised=True) == OTHERS | wanted


OTHERS = {
    "gate": False,
    "negatives": 0,
    "match": None,
    "memory": None,
    "optimizer": "adam",
    "replay_window": 16,
    "units": "sample",
}


@pytest.mark.parametrize(
    ("shape", "hidden"),
    [((64,), None), ((256,), None), ((7, 64), None), ((16, 8, 8), 32), ((64, 8, 8), 32), ((4, 8, 8), 8)],
)
@pytest.mark.parametrize("stages", [2, 5])
def test_class_labels_get_a_head_by_default(shape: tuple[int, ...], hidden: int | None, stages: int) -> None:
    wanted = {"kind": "head", "rank": 0, "hidden": hidden, "layers": 1, "lr": 3e-3, "replay": 0}
    assert decided(shape, stages) == OTHERS | wanted


@pytest.mark.parametrize(
    ("asked", "shape"),
    [
        ({"kind": "mlp", "hidden": 9, "layers": 3, "lr": 0.5, "replay": 0, "rank": 0}, (64,)),
        ({"kind": "least-squares", "memory": 9, "replay": 1}, (64,)),
        ({"kind": "linear", "rank": 0, "replay": 4, "hidden": 5, "layers": 1, "lr": 2e-3}, (1000,)),
        ({"kind": "conv", "hidden": 9, "layers": 1, "lr": 0.5, "replay": 1, "rank": 0}, (16, 8, 8)),
    ],
)
def test_given_settings_are_not_replaced_by_defaults(asked: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert asked.items() <= decided(shape, 3, **asked).items()


def test_least_squares_replay_nothing_since_they_forget_nothing_at_once() -> None:
    assert decided((64,), 6, kind="least-squares")["replay"] == 0


def test_real_valued_labels_get_no_head() -> None:
    for shape, kind in (((16, 8, 8), "conv"), ((64,), "linear")):
        assert resolve(SGConfig(), shape, 3, conditional=True, classes=False).kind == kind


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"kind": "rnn"},
            "unknown SG network (rnn); use one of auto, linear, least-squares, mlp, conv, head, "
            "token-head, token-attention, or your own as my_pkg.my_sg:MySG",
        ),
        ({"units": "metres"}, "unknown gradient units (metres); use one of sample, rms, none"),
        ({"rank": -1}, "sg.rank is -1; it must be at least 0"),
        ({"hidden": 0}, "sg.hidden is 0; it must be at least 1"),
        ({"layers": 0}, "sg.layers is 0; it must be at least 1"),
        ({"replay": -1}, "sg.replay is -1; it must be at least 0"),
        ({"replay_window": 0}, "sg.replay-window is 0; it must be at least 1"),
        ({"memory": 0}, "sg.memory is 0; it must be at least 1"),
        ({"lr": 0.0}, "sg.lr is 0.0; it must be positive"),
        ({"lr": -1.0}, "sg.lr is -1.0; it must be positive"),
    ],
)
def test_impossible_settings_are_the_users_to_mend(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        SGConfig(**asked)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("kind", "shape", "conditional", "classes", "message"),
    [
        ("conv", (64,), True, True, "SG network conv needs activations"),
        ("head", (7, 64), False, True, "SG network head needs class labels"),
        ("head", (16, 8, 8), False, True, "SG network head needs class labels"),
        ("head", (16, 8, 8), True, False, "SG network head needs class labels"),
        ("token-head", (64,), True, True, r"token-head needs activations \(B, T, D\), not \('B', 64\)"),
        ("token-head", (7, 64), True, False, "SG network token-head needs class labels"),
    ],
)
def test_a_network_that_does_not_fit_the_cut_is_the_users_to_mend(
    kind: str, shape: tuple[int, ...], conditional: bool, classes: bool, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        resolve(SGConfig(kind=kind), shape, 3, conditional, classes)
    assert "use" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "shape", "network"),
    [
        ("linear", (12,), LinearSG),
        ("linear", (7, 12), LinearSG),
        ("least-squares", (12,), LeastSquaresSG),
        ("least-squares", (7, 12), LeastSquaresSG),
        ("mlp", (12,), MlpSG),
        ("conv", (3, 6, 5), ConvSG),
        ("head", (3, 6, 5), HeadSG),
        ("head", (7, 12), TokenHeadSG),
        ("token-head", (7, 12), TokenHeadSG),
        ("linear", (3, 6, 5), Flattened),
        ("mlp", (3, 6, 5), Flattened),
    ],
)
def test_each_kind_builds_its_network_and_predicts_in_the_shape_of_h(
    kind: str, shape: tuple[int, ...], network: type[nn.Module]
) -> None:
    config = resolve(SGConfig(kind=kind), shape, 3, True, True)
    built = build_network(config, shape, CLASSES)
    assert type(built) is network
    labels = one_hot(torch.arange(4))
    assert built.synthesize(torch.randn(4, *shape), labels).shape == (4, *shape)


def test_a_flattened_network_learns_as_the_one_inside() -> None:
    torch.manual_seed(0)
    inside = LinearSG(30, 30, CLASSES).double()
    h, target = torch.randn(4, 3, 2, 5).double(), torch.randn(4, 3, 2, 5).double()
    labels = one_hot(torch.arange(4)).double()
    inside.regress(h.flatten(1), labels, target.flatten(1))
    wanted = [p.grad.clone() for p in inside.parameters() if p.grad is not None]
    inside.zero_grad()
    prediction = Flattened(inside).regress(h, labels, target)
    assert prediction.shape == h.shape
    assert len(wanted) == 2
    for parameter, gradient in zip(inside.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LinearSG(24, 24, CLASSES),
        lambda: LeastSquaresSG(24, 24, CLASSES),
        lambda: FeatureHeadSG(24, CLASSES),
        lambda: RNNDNI(24, 6, 24, label_size=CLASSES),
    ],
    ids=["linear", "least squares", "head", "recurrent"],
)
def test_a_flattened_network_predicts_and_learns_to_the_bit_as_the_one_inside(
    make: Callable[[], DNINetwork],
) -> None:
    """Also by overridden methods: a fit in closed form, a step at the prediction, and a hidden state."""

    def train(shape: tuple[int, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(0)
        inside = make()
        sg = synthesizer(Flattened(inside) if len(shape) == 3 else inside, condition=one_hot)
        generator = torch.Generator().manual_seed(1)
        for step in range(6):
            h = torch.randn(4, 24, generator=generator).view(4, *shape)
            gradient = sg.predict(step, 0, h, torch.arange(4))
            sg.take(TargetGradient(step, 0, h.tanh()))
        return gradient.flatten(1), dict(inside.named_parameters())

    (wanted, weights), (gradient, found) = train((24,)), train((2, 3, 4))
    assert torch.equal(gradient, wanted)
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())


def build(
    shape: tuple[int, ...] = (400,), seed: int = 0, condition: Any = one_hot, **asked: Any
) -> Synthesizer:
    config = resolve(SGConfig(**asked), shape, 3, condition is not None, True, batch_normalised=True)
    return build_synthesizer(
        config, shape, label_size=CLASSES, condition=condition, pending_capacity=5, seed=seed
    )


@pytest.mark.parametrize("shape", [(400,), (3, 8, 8)])
def test_the_same_seed_gives_the_same_network(shape: tuple[int, ...]) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.rand(3)  # whatever happened before
        states.append(clone_state(build(shape, seed).network))
    once, again, other = states
    assert all(torch.equal(once[k], again[k]) for k in once)
    assert any(not torch.equal(once[k], other[k]) for k in once)


def test_building_leaves_the_global_random_numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the GPUs as well, which `fork_rng` on the CPU does not give back."""
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    state = torch.get_rng_state()
    build()
    assert torch.equal(torch.get_rng_state(), state)
    assert seeded == []


def test_the_settings_reach_the_synthesizer() -> None:
    sg = build(lr=0.25, optimizer="SGD", replay=3, replay_window=7, units="rms", rank=9)
    assert type(sg.optimizer) is torch.optim.SGD
    assert sg.optimizer.param_groups[0]["lr"] == 0.25
    assert {id(p) for p in sg.optimizer.param_groups[0]["params"]} == set(map(id, sg.network.parameters()))
    assert (sg.replay, sg._recent.maxlen, sg.scale.units, sg.pending.capacity) == (3, 7, "rms", 5)
    assert isinstance(sg.network, LinearSG)
    assert sg.network.output.in_features == 9 + CLASSES


def test_without_a_condition_the_network_has_no_labels() -> None:
    sg = build((12,), condition=None)
    assert isinstance(sg.network, LinearSG)
    assert sg.network.label_size == 0
    sg.predict(0, 0, torch.randn(3, 12), torch.arange(3))
    assert sg.take(TargetGradient(0, 0, torch.randn(3, 12))) == 0


@pytest.mark.parametrize(("units", "lr"), [("sample", 1e-3), ("rms", 1e-2)])
def test_a_built_synthesizer_learns_a_tiny_gradient(units: str, lr: float) -> None:
    sg = build((12,), units=units, lr=lr)
    h, y = torch.randn(6, 12), torch.arange(6) % CLASSES
    wanted = TargetGradient(0, 0, torch.full((6, 12), -1e-4))
    for _ in range(200):
        sg.predict(0, 0, h, y)
        sg.take(wanted)
    torch.testing.assert_close(sg.predict(0, 0, h, y), wanted.grad, rtol=0.1, atol=0)


def test_the_width_of_the_labels_is_what_the_condition_makes() -> None:
    assert label_size_of(one_hot, torch.tensor([0, 1])) == CLASSES
    assert label_size_of(lambda y: y, torch.zeros(4, 7)) == 7
    assert label_size_of(lambda y: y, torch.zeros(4, 5, 7)) == 7


@pytest.mark.parametrize("condition", [lambda y: y, lambda y: F.one_hot(y, 3), lambda y: y.float()])
def test_a_condition_that_gives_no_columns_of_floats_is_the_users_to_mend(condition: Any) -> None:
    with pytest.raises(UserError, match=r"condition\(y\) must give \(B, C\) floats"):
        label_size_of(condition, torch.tensor([0, 1, 2]))


def test_parameters_are_counted() -> None:
    assert parameters_of(nn.Linear(3, 4)) == 3 * 4 + 4
    assert parameters_of(nn.ReLU()) == 0


@pytest.mark.parametrize(
    ("shape", "hidden", "wanted"),
    [((64,), None, 128), ((7, 64), None, 128), ((64,), 9, 9), ((6, 8, 8), None, 12), ((64, 8, 8), None, 32)],
)
def test_the_auxiliary_head_has_128_units_or_twice_the_channels_up_to_32(
    shape: tuple[int, ...], hidden: int | None, wanted: int
) -> None:
    head, optimizer = build_auxiliary(LocalConfig(hidden=hidden), shape, (CLASSES,))
    assert next(m for m in head.modules() if isinstance(m, nn.Linear | nn.Conv2d)).weight.shape[0] == wanted
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["lr"] == 3e-3
    assert [p for group in optimizer.param_groups for p in group["params"]] == list(head.parameters())


def test_the_auxiliary_head_depends_on_its_seed_alone_and_draws_nothing_from_the_process() -> None:
    def head(seed: int) -> list[torch.Tensor]:
        return list(build_auxiliary(LocalConfig(), (8,), (3,), seed=seed)[0].parameters())

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = head(5)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, head(5), strict=True))
    assert not torch.equal(first[0], head(6)[0])


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"hidden": 0}, "local.hidden is 0; it must be at least 1"),
        ({"lr": 0.0}, "local.lr is 0.0; it must be positive and finite"),
        ({"lr": float("nan")}, "local.lr is nan; it must be positive and finite"),
    ],
)
def test_settings_of_the_auxiliary_head_are_checked(asked: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as error:
        LocalConfig(**asked)
    assert str(error.value) == line


@pytest.mark.parametrize("kind", ["linear", "head", "auto"])
def test_a_rank_above_the_width_is_the_users_to_mend(kind: str) -> None:
    with pytest.raises(UserError) as error:
        resolve(SGConfig(kind=kind, rank=33), (32,), stages=2, conditional=True, classes=True)
    assert str(error.value) == (
        "sg.rank is 33, and activations have 32 features; use at most 32, or 0 for full rank"
    )
    assert resolve(SGConfig(kind=kind, rank=32), (32,), stages=2, conditional=True, classes=True).rank == 32


@pytest.mark.parametrize(("classes", "negatives"), [(10, 0), (4096, 0), (4097, 1024), (50_000, 1024)])
def test_a_head_over_many_classes_computes_a_sample_of_them(classes: int, negatives: int) -> None:
    config = resolve(SGConfig(), (7, 32), 2, conditional=True, classes=True, class_count=classes)
    assert (config.kind, config.negatives) == ("head", negatives)
    network = build_network(config, (7, 32), classes)
    assert isinstance(network, TokenHeadSG)
    assert (0 if network.sampled is None else network.sampled.negatives) == negatives


def test_more_negatives_than_classes_are_the_users_to_mend() -> None:
    with pytest.raises(UserError) as error:
        resolve(SGConfig(negatives=10), (7, 32), 2, conditional=True, classes=True, class_count=10)
    assert str(error.value) == (
        "sg.negatives is 10, and there are 10 classes; use fewer, or 0 for all of them"
    )


def test_a_share_of_the_samples_to_match_is_a_setting() -> None:
    for match, share in ((None, 0.25), (0.0, 0.0), (0.5, 0.5)):
        config = resolve(SGConfig(match=match), (7, 32), 2, conditional=True, classes=True)
        assert build_network(config, (7, 32), CLASSES).learned_share == share


def test_a_network_that_learns_from_targets_alone_cannot_do_without_them() -> None:
    with pytest.raises(UserError) as error:
        resolve(SGConfig(kind="linear", match=0), (32,), 2, conditional=True, classes=True)
    assert str(error.value) == (
        "sg.match is 0, and SG network linear learns from targets alone; use a head, or a share above 0"
    )


@pytest.mark.parametrize("rank", [0, 3])
def test_a_head_of_low_rank_has_a_linear_layer_before_its_output(rank: int) -> None:
    config = resolve(SGConfig(rank=rank), (7, 32), 2, conditional=True, classes=True)
    network = build_network(config, (7, 32), CLASSES)
    assert isinstance(network, TokenHeadSG)
    shapes = [tuple(layer.weight.shape) for layer in network.head[1:]]
    assert shapes == ([(3, 32), (CLASSES, 3)] if rank else [(CLASSES, 32)])


@pytest.mark.parametrize("kind", ["mlp", "least-squares"])
def test_a_network_without_a_rank_takes_any_rank(kind: str) -> None:
    config = resolve(SGConfig(kind=kind, rank=64), (32,), stages=2, conditional=True, classes=True)
    build_network(config, (32,), CLASSES)


def test_a_head_for_one_feature_is_the_users_to_mend() -> None:
    for shape in ((1,), (7, 1)):
        with pytest.raises(UserError) as error:
            resolve(SGConfig(kind="head"), shape, stages=2, conditional=True, classes=True)
        assert str(error.value) == (
            "SG network head needs activations of at least 2 features, not 1; use linear"
        )
        assert measurable(SGConfig(kind="head"), shape).kind == "auto"
    for shape in ((2,), (1, 8, 8)):
        assert resolve(SGConfig(kind="head"), shape, 2, conditional=True, classes=True).kind == "head"
        assert measurable(SGConfig(kind="head"), shape).kind == "head"


@pytest.mark.parametrize("width", [1, 2])
def test_the_default_network_predicts_for_one_or_two_features_too(width: int) -> None:
    """The layer norm of a head would leave less than a tenth of it, so the stage upstream would not learn."""
    config = resolve(SGConfig(lr=1e-2), (width,), stages=2, conditional=True, classes=True)
    sg = build_synthesizer(config, (width,), label_size=CLASSES, condition=one_hot, pending_capacity=5)
    h, y = torch.randn(6, width, generator=torch.Generator().manual_seed(0)), torch.arange(6) % CLASSES
    target = TargetGradient(0, 0, torch.full((6, width), 0.1))
    for _ in range(200):
        gradient = sg.predict(0, 0, h, y)
        sg.take(target)
    torch.testing.assert_close(gradient, target.grad, rtol=0.1, atol=0)


def test_a_network_for_sequences_is_measured_on_sequences_alone() -> None:
    kinds = [measurable(SGConfig(kind="token-head"), shape).kind for shape in ((7, 8), (8,), (3, 8, 8))]
    assert kinds == ["token-head", "auto", "auto"]


def test_a_network_is_measured_with_a_rank_that_fits_the_activation() -> None:
    asked = SGConfig(kind="linear", rank=33)
    assert [measurable(asked, shape).rank for shape in ((64,), (7, 32), (2, 2, 8))] == [33, 32, 32]
    assert [measurable(SGConfig(rank=rank), (4,)).rank for rank in (None, 0)] == [None, 0]
