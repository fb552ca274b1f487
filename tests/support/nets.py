"""Networks, data and loops for the tests of the wrapper."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni_async import CDNI, DNI, DNINetwork

FEATURES, WIDTH, CLASSES, BATCH = 6, 8, 3, 4


def mlp(seed: int = 0, inplace: bool = False) -> nn.Sequential:
    """Linear "0", ReLU, Linear "2", ReLU, Linear "4"."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(FEATURES, WIDTH),
        nn.ReLU(inplace),
        nn.Linear(WIDTH, WIDTH),
        nn.ReLU(inplace),
        nn.Linear(WIDTH, CLASSES),
    )


def cnn(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.Flatten(),
        nn.Linear(4 * 4 * 3, CLASSES),
    )


def batch(seed: int = 1, size: int = BATCH, shape: tuple[int, ...] = (FEATURES,)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, *shape, generator=generator)
    return x, torch.randint(0, CLASSES, (size,), generator=generator)


def train(
    net: nn.Module, steps: int = 3, *, opt: torch.optim.Optimizer | None = None, size: int = BATCH
) -> float:
    """The usual loop; the last loss."""
    loss = torch.zeros(())
    for step in range(steps):
        x, y = batch(step, size)
        if opt is not None:
            opt.zero_grad()
        if isinstance(net, CDNI):
            net.register_labels(y)
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        if opt is not None:
            opt.step()
    return loss.item()


def adam(net: nn.Module, lr: float = 1e-2) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=lr)


def values(net: nn.Module) -> list[Tensor]:
    return [value.clone() for value in net.state_dict().values()]


def weights(net: nn.Module) -> list[Tensor]:
    """Of the network alone, wrapped or not."""
    return values(net.network if isinstance(net, DNI) else net)


def sg_weights(net: DNI) -> list[Tensor]:
    return [p.detach().clone() for p in net.interfaces.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def hooks(net: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in net.modules())


class OldStyle(DNINetwork):
    """As a user of pytorch-dni writes one."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int, num_layers: int = 1) -> None:
        super().__init__(input_size, hidden_size, output_size)
        widths = [input_size, *[hidden_size] * num_layers]
        self.hidden_layers = nn.ModuleList([nn.Linear(a, b) for a, b in itertools.pairwise(widths)])
        self.final = nn.Linear(hidden_size, output_size)

    def forward(self, input, hidden):
        for layer in self.hidden_layers:
            input = F.relu(layer(input))
        return self.final(input), None


class Narrow(DNINetwork):
    """Gives one column too few."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__(input_size, hidden_size, output_size)
        self.output = nn.Linear(input_size, output_size - 1)

    def forward(self, input, hidden):
        return self.output(input), None
