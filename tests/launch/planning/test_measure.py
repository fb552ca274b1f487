from __future__ import annotations

import pytest
import torch
from pytest import approx

from dni_async.networks.settings import SGConfig
from launch.config.plan import PlanConfig
from launch.planning import measure as module
from launch.planning.measure import gflop_per_batch, measure
from launch.planning.profile import Profile
from tasks.base import Task
from tests.support.tiny_task import Tiny, plain_layers
from tests.support.tree_tasks import TREE_TASKS
from workers.transport.link_cost import Line, LinkCost, Ping

LINK = LinkCost(Line(1, 2), Line(3, 4), Line(5, 6), Line(7, 8))
GLOO = LinkCost(Line(8, 7), Line(6, 5), Line(4, 3), Line(2, 1))


@pytest.fixture(autouse=True)
def _three_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROUNDS", 3)


def measured(task: Task, **settings: object) -> Profile:
    config = PlanConfig.of(**{"batch_size": 32} | settings)  # type: ignore[arg-type]
    return measure(config, task, lambda config: Ping({"shm": LINK, "dist": GLOO}, Line(9, 9), {}))


def test_a_tiny_task_is_measured_layer_by_layer() -> None:
    """6 -> 8 -> 7 -> 6 -> 5 -> 3, batch 32, Adam keeps two numbers per weight and a count per tensor."""
    found = measured(Tiny(plain_layers))
    assert [layer.name for layer in found.layers] == ["Sequential"] * 4 + ["Linear"]
    assert [layer.output_bytes for layer in found.layers] == [4 * 32 * n for n in (8, 7, 6, 5, 3)]
    assert found.layers[0].parameter_bytes == 4 * (6 * 8 + 8)
    assert found.layers[0].optimizer_bytes == 2 * 4 * (6 * 8 + 8) + 2 * 4
    for layer in found.layers:
        for cost in (layer.batch, layer.part):
            assert min(cost.forward, cost.backward, cost.update) > 0
    assert (found.batch_size, found.part_size) == (32, 4)
    assert found.load > 0 and found.label_bytes == 32 * 8 and found.condition_bytes == 32 * 3 * 4
    assert 0 < found.fixed.forward < 0.1
    assert (found.link, found.gloo, found.all_reduce) == (LINK, GLOO, Line(9, 9))


def test_every_rule_is_measured_at_every_interface_for_two_stages_and_for_more() -> None:
    found = measured(Tiny(plain_layers), sg=SGConfig(kind="linear"))
    for rule in ("dni", "cdni"):
        two, three = found.interfaces_of(rule, 2), found.interfaces_of(rule, 3)
        assert len(two) == len(three) == 4
        assert all(i.cost.predict > 0 and i.cost.train > 0 for i in two + three)
        assert all(i.replay_bytes == 0 for i in two)
        labels = 32 * 3 * 4 if rule == "cdni" else 0
        assert [i.replay_bytes for i in three] == [16 * (2 * 4 * 32 * n + labels) for n in (8, 7, 6, 5)]
    local = found.interfaces_of("local", 2)
    assert all(i.cost.predict > i.cost.train and i.replay_bytes == 0 and i.state_bytes > 0 for i in local)
    assert found.refused == {}
    assert found.interfaces_of("cdni", 2)[0].state_bytes > found.interfaces_of("dni", 2)[0].state_bytes > 0


def test_a_network_that_does_not_fit_is_noted_with_its_reason() -> None:
    found = measured(Tiny(plain_layers), sg=SGConfig(kind="conv"))
    assert found.refused["cdni"].startswith("SG network conv needs activations (B, C, H, W)")
    assert not any(key.startswith("cdni") for key in found.interfaces)


@pytest.mark.parametrize("name", ["masked", "two targets"])
def test_layers_that_exchange_trees_are_measured_by_the_tensor_that_gets_a_gradient(name: str) -> None:
    found = measured(TREE_TASKS[name], batch_size=16)
    assert [layer.name for layer in found.layers][:3] == ["Embed", "MaskedMean", "MaskedMean"]
    assert [layer.output_bytes for layer in found.layers][:3] == [4 * 16 * 5 * 8] * 3
    assert [layer.extra_bytes for layer in found.layers][:3] == [16 * 5] * 3  # the mask
    assert set(found.interfaces) == {f"{rule} {n}" for rule in ("dni", "cdni", "local") for n in (2, 3)}
    assert found.refused == {} and min(layer.part.forward for layer in found.layers) > 0


def test_an_average_of_the_weights_is_in_memory_beside_them() -> None:
    with_average, without = (measured(Tiny(plain_layers), ema=ema) for ema in (0.9, None))
    for a, b in zip(with_average.layers, without.layers, strict=True):
        assert a.optimizer_bytes == b.optimizer_bytes + b.parameter_bytes


def test_the_threads_of_the_process_are_as_before() -> None:
    before = torch.get_num_threads()
    measured(Tiny(plain_layers), threads=1 + before)
    assert torch.get_num_threads() == before


def test_on_an_emulated_device_a_section_lasts_flops_by_speed() -> None:
    """Layer 1 is 8 -> 7 with 32 samples: 2 x 32 x 8 x 7 operations forward, twice as many backward."""
    found = measured(Tiny(plain_layers), emulate_gflops=1e-6)
    assert found.emulated
    assert found.layers[1].batch.forward == approx(2 * 32 * 8 * 7 / 1e3)
    assert found.layers[1].batch.backward == approx(2 * found.layers[1].batch.forward)
    assert found.layers[1].part.forward == approx(found.layers[1].batch.forward / 8)
    assert 0 < found.layers[1].batch.update < 0.5
    assert found.interfaces_of("dni", 2)[0].cost.predict > 0.99 * 2 * 32 * 8 * 8 / 1e3


def test_operations_of_a_batch_are_counted() -> None:
    """Forward of 6 -> 8 -> 7 -> 6 -> 5 -> 3; backward twice that, but for the gradient at the input."""
    forward = 2 * 32 * (6 * 8 + 8 * 7 + 7 * 6 + 6 * 5 + 5 * 3)
    counted = gflop_per_batch(PlanConfig.of(batch_size=32), Tiny(plain_layers))
    assert counted * 1e9 == approx(3 * forward - 2 * 32 * 6 * 8)
