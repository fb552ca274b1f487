from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni_async.errors import StageError
from dni_async.rules.stash import Stash
from tests.support.stages import FEATURES, WIDTH

ROWS = 6
FLOAT = 4


def linear() -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))


def norm() -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(inplace=True))


def conv() -> nn.Sequential:
    return nn.Sequential(
        nn.Unflatten(1, (1, 3, 4)), nn.Conv2d(1, 3, 3, padding=1), nn.MaxPool2d(2), nn.Flatten()
    )


def channels_last() -> nn.Sequential:
    return conv().to(memory_format=torch.channels_last)


class Tied(nn.Module):
    """The same weight twice, once transposed, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.frozen = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.frozen(torch.tanh(self.layer(x)))
        return self.layer(F.linear(hidden, self.layer.weight.T))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.core = nn.LSTM(4, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.core(x.view(len(x), 3, 4))[0][:, -1]


class Flat(nn.Module):
    """Two parameters in one piece of memory."""

    def __init__(self) -> None:
        super().__init__()
        memory = torch.randn(2, FEATURES)
        self.scale, self.shift = nn.Parameter(memory[0]), nn.Parameter(memory[1])

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.scale) * self.shift + self.shift


MODULES: list[Callable[[], nn.Module]] = [linear, norm, conv, channels_last, Tied, Recurrent, Flat]


def xs(count: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return (torch.randn(ROWS, FEATURES, generator=generator) for _ in range(count))


def reference(layers: nn.Module, ahead: int, steps: int) -> list[Tensor]:
    """Gradients at the inputs and final weights, with a whole copy of the layers for every batch."""
    optimizer = torch.optim.Adam([p for p in layers.parameters() if p.requires_grad], lr=0.05, fused=True)
    waiting, gradients = [], []

    def answer() -> None:
        then, x = waiting.pop(0)
        x = x.clone().requires_grad_()
        h = then(x)
        h.backward(torch.ones_like(h))
        for parameter, old in zip(layers.parameters(), then.parameters(), strict=True):
            parameter.grad = old.grad
        optimizer.step()
        optimizer.zero_grad()
        gradients.append(x.grad)

    for x in xs(steps):
        waiting.append((copy.deepcopy(layers), x))
        layers(x)  # moves running statistics
        if len(waiting) == ahead:
            answer()
    while waiting:
        answer()
    return [*gradients, *layers.state_dict().values()]


def stashed(layers: nn.Module, stash: Stash, steps: int) -> list[Tensor]:
    """The same through a stash."""
    optimizer = torch.optim.Adam([p for p in layers.parameters() if p.requires_grad], lr=0.05, fused=True)
    gradients, oldest = [], itertools.count()

    def answer() -> None:
        batch = stash.pop(next(oldest))
        batch.h.backward(torch.ones_like(batch.h))
        stash.before_update()
        optimizer.step()
        optimizer.zero_grad()
        gradients.append(batch.x.grad)

    for step, x in enumerate(xs(steps)):
        x = x.clone().requires_grad_()
        stash.put(step, 0, x, stash.forward(layers, x))
        if not stash.has_room:
            answer()
    while len(stash):
        answer()
    return [*gradients, *layers.state_dict().values()]


@pytest.mark.parametrize("ahead", [1, 2, 4])
@pytest.mark.parametrize("make", MODULES, ids=lambda make: make.__name__)
def test_gradients_are_those_at_the_weights_of_the_forward(make: Callable[[], nn.Module], ahead: int) -> None:
    results = []
    for run in (lambda layers: reference(layers, ahead, 7), lambda layers: stashed(layers, Stash(ahead), 7)):
        torch.manual_seed(0)
        results.append(run(make()))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_autograd_alone_refuses_what_the_stash_makes_possible() -> None:
    layers, (x,) = linear(), xs(1)
    h = layers(x)
    with torch.no_grad():
        layers[2].weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h.sum().backward()


class TestCopies:
    def steps(self, stash: Stash, layers: nn.Module, order: str) -> None:
        """f: forward, b: backward of the oldest and an update."""
        new, oldest = itertools.count(), itertools.count()
        for move in order:
            if move == "f":
                (x,) = xs(1)
                stash.put(next(new), 0, x, stash.forward(layers, x))
            else:
                batch = stash.pop(next(oldest))
                batch.h.sum().backward()
                stash.before_update()
                with torch.no_grad():
                    for parameter in layers.parameters():
                        parameter.add_(0.1)

    def copied(self, stash: Stash) -> int:
        return stash.held_bytes() - sum(sum(w.storages.values()) for w in stash._waiting.values())

    @pytest.mark.parametrize(
        ("order", "versions"),
        [
            ("fff", 0),  # the weights are still those
            ("fb", 0),
            ("fbf", 0),
            ("ffb", 1),
            ("fffb", 1),  # one copy for both that wait
            ("fffbf", 1),
            ("fffbfb", 2),
            ("fffbfbb", 1),
            ("fffbfbbb", 0),
        ],
    )
    def test_weights_are_copied_once_per_version_that_waits(self, order: str, versions: int) -> None:
        """Only those that a graph asks for: of `linear`, whose input wants no gradient, the second weight."""
        stash = Stash(4)
        self.steps(stash, linear(), order)
        assert self.copied(stash) == versions * WIDTH * WIDTH * FLOAT

    def test_a_weight_that_is_frozen_is_never_copied(self) -> None:
        layers, stash = linear(), Stash(4)
        layers[2].weight.requires_grad_(False)
        (x,) = xs(1)
        for step in range(2):
            stash.put(step, 0, x, stash.forward(layers, x))
        stash.pop(0)
        stash.before_update()
        assert self.copied(stash) == 0


class TestBytes:
    def test_input_output_and_what_autograd_saved_count_once_and_parameters_not(self) -> None:
        """x, the first Linear's output (which ReLU needs not), ReLU's output, the last Linear's output."""
        layers, stash, (x,) = linear(), Stash(2), xs(1)
        stash.put(0, 0, x, stash.forward(layers, x))
        assert stash.held_bytes() == ROWS * (FEATURES + WIDTH + WIDTH) * FLOAT
        stash.put(1, 0, x.clone(), stash.forward(layers, x))
        held = 2 * ROWS * (FEATURES + WIDTH + WIDTH) * FLOAT + ROWS * FEATURES * FLOAT
        assert stash.held_bytes() == held == stash.most_bytes

    def test_held_bytes_do_not_count_the_buffers_of_layers(self) -> None:
        layers, stash, (x,) = nn.BatchNorm1d(FEATURES), Stash(1), xs(1)
        stash.put(0, 0, x, stash.forward(layers, x))
        statistics = 2 * FEATURES * FLOAT  # the batch's mean and deviation
        assert stash.held_bytes() == 2 * ROWS * FEATURES * FLOAT + statistics

    def test_the_most_that_was_held_stays_known(self) -> None:
        stash = Stash(3)
        stashed(linear(), stash, 6)
        assert stash.held_bytes() == 0
        copies = 2 * (FEATURES * WIDTH + WIDTH * WIDTH) * FLOAT  # of the two versions before the current one
        assert stash.most_bytes == 3 * ROWS * (FEATURES + WIDTH + WIDTH) * FLOAT + copies

    def test_held_bytes_are_freed_with_the_batch(self) -> None:
        layers, stash, (x,) = linear(), Stash(1), xs(1)
        stash.put(0, 0, x, stash.forward(layers, x))
        batch = stash.pop(0)
        assert (len(stash), stash.held_bytes()) == (0, 0)
        batch.h.sum().backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            batch.h.sum().backward()


class TestOrder:
    def full(self) -> Stash:
        stash, (x,) = Stash(2), xs(1)
        for step in (7, 8):
            assert stash.has_room
            stash.put(step, step, x, stash.forward(nn.Identity(), x))
        assert not stash.has_room
        return stash

    def test_batches_come_out_as_they_went_in(self) -> None:
        stash = self.full()
        assert [stash.pop(7).version, stash.pop(8).version] == [7, 8]
        assert stash.has_room

    def test_a_target_that_overtakes_means_that_one_is_lost(self) -> None:
        with pytest.raises(StageError, match=r"the target of step 8 came, and that of step 7 is missing"):
            self.full().pop(8)

    def test_a_target_without_a_batch_is_an_error(self) -> None:
        with pytest.raises(StageError, match=r"the target of step 3 came, and no batch waits for it"):
            Stash(2).pop(3)

    def test_a_batch_without_its_target_at_the_end_is_an_error(self) -> None:
        stash = self.full()
        stash.check_answered(7)
        with pytest.raises(StageError, match=r"the target of step 7 never came"):
            stash.check_answered(8)
        stash.pop(7)
        stash.check_answered(8)
        Stash(1).check_answered(100)


def test_a_change_in_place_that_autograd_would_refuse_is_refused() -> None:
    class Grows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(FEATURES))
            self.register_buffer("scale", torch.ones(FEATURES))

        def forward(self, x: Tensor) -> Tensor:
            self.scale.mul_(2.0)
            return x * self.weight * self.scale

    layers, stash = Grows(), Stash(2)
    (x,) = xs(1)
    for step in range(2):
        stash.put(step, 0, x, stash.forward(layers, x))
    with pytest.raises(StageError, match=r"a tensor \(12,\) that the backward needs was changed in place"):
        stash.pop(0).h.sum().backward()
