from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni_async.messages import Marker, MarkerKind, Message
from dni_async.optim import AVERAGE, Updater, optimizer_factory
from dni_async.rules import DniRule
from dni_async.stage.simulation import Simulation
from dni_async.state.checkpoint import averages, recut
from dni_async.state.state_dict import copied
from dni_async.weight_average import WeightAverage
from tests.support.stages import batches, fcn, groups, pipeline, same_bits, state_of, synthesizer

SIZES = (20, 20, 20, 20)


def averaging(module: nn.Module, ema: float | None = 0.5) -> Updater:
    return Updater(optimizer_factory("adam", 1e-2)(list(module.parameters())), ema=ema)


def test_the_average_is_the_textbook_recursion() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    average = WeightAverage([weight], 0.25)
    wanted = 1.0
    for update, value in enumerate([2.0, -3.0, 7.0], 1):
        weight.data.fill_(value)
        average.update(update)
        decay = min(0.25, (1 + update) / (10 + update))
        wanted = decay * wanted + (1 - decay) * value
        assert average.averages[0].item() == pytest.approx(wanted)
    with average.applied():
        assert weight.item() == pytest.approx(wanted)
    assert weight.item() == 7.0


def test_an_error_inside_the_block_leaves_the_weights_as_they_were() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    average = WeightAverage([weight], 0.5)
    weight.data.fill_(3.0)
    with pytest.raises(ZeroDivisionError), average.applied():
        _ = 1 / 0
    assert weight.item() == 3.0 and average.averages[0].item() == 1.0


def test_a_saved_average_continues_and_one_that_was_not_saved_starts_from_the_weights() -> None:
    module, resumed, later = (nn.Linear(2, 2) for _ in range(3))
    updater = averaging(module)
    for _ in range(3):
        module(torch.ones(1, 2)).sum().backward()
        updater.step()
    state = copied(updater.state_dict())
    resumed.load_state_dict(module.state_dict())
    later.load_state_dict(module.state_dict())
    second, third = averaging(resumed), averaging(later, None)
    second.load_state_dict(state)
    assert updater.average and second.average
    assert same_bits(second.average.averages, updater.average.averages)
    third.load_state_dict(state)
    assert all(AVERAGE not in saved for saved in third.state_dict()["parameters"])
    second.load_state_dict(third.state_dict())
    assert same_bits(second.average.averages, list(resumed.parameters()))  # type: ignore[arg-type]


def run(ema: float | None) -> Simulation:
    """Three stages that train, evaluate, train and evaluate again."""
    train, test = batches(SIZES), batches((30, 30), train=False, seed=2)
    source: list[Message] = [*train[:2], *test, Marker(MarkerKind.EVALUATION, 2, 1)]
    source += [*train[2:], *test, Marker(MarkerKind.EPOCH, 4, 1), Marker(MarkerKind.STOP, 4, 1)]
    stages = pipeline(rule=lambda: DniRule(synthesizer()), make_updater=lambda m: averaging(m, ema))
    return Simulation(stages).run(source)


def averaged_loss(simulation: Simulation) -> float:
    """The test loss of the averages."""
    model = nn.Sequential(*groups(fcn(), (1, 2))).eval()
    for module, stage in zip(model, simulation.stages, strict=True):
        with stage.averaged():
            module.load_state_dict(stage.layers.state_dict())
    losses = [F.cross_entropy(model(m.h), m.y).item() for m in batches((30, 30), train=False, seed=2)]
    return sum(losses) / 2


def test_evaluations_use_the_average_and_training_does_not_know_of_it() -> None:
    averaged, plain = run(0.9), run(None)
    assert same_bits(state_of(averaged.stages), state_of(plain.stages))
    (_, last, _), (_, other, _) = averaged.markers, plain.markers
    assert last.body["result"]["test_loss"] == pytest.approx(averaged_loss(averaged), rel=1e-5)
    assert last.body["result"]["test_loss"] != other.body["result"]["test_loss"]


def test_averages_follow_their_layers_when_the_network_is_cut_otherwise() -> None:
    stages = run(0.9).stages
    parts = {i: copied(stage.state_dict()) for i, stage in enumerate(stages)}
    bounds = [(0, 1), (1, 2), (2, 4)]
    whole: dict[str, Tensor] = averages(parts, bounds)
    model = nn.Sequential(*fcn())
    assert whole.keys() == dict(model.named_parameters()).keys()
    part = recut(parts, bounds, 1, 4)
    for name, state in part["optimizer"].items():
        number, _, rest = name.partition(".")
        assert torch.equal(state[AVERAGE], whole[f"{int(number) + 1}.{rest}"])
