"""The examples of pytorch-dni's README as they stand there (its typos mended) run and learn.

https://github.com/ixaxaar/pytorch-dni; `dni` is `dni_async` here.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

from dni_async import DNI, DNINetwork, LinearDNI

IMAGE, CLASSES, EPOCHS = 6, 10, 120
OPT_STEP = pytest.mark.parametrize("opt_step", [False, True])


def images() -> tuple[Tensor, Tensor]:
    """(64, 6, 6) and classes that a linear map of the pixels tells."""
    torch.manual_seed(0)
    x = torch.randn(64, IMAGE, IMAGE)
    return x, (x.flatten(1) @ torch.randn(IMAGE * IMAGE, CLASSES)).argmax(1)


class WhateverNetwork(nn.Module):
    """Can be anything extending nn.Module."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(IMAGE * IMAGE, hidden), nn.Linear(hidden, hidden)
        self.c = nn.Linear(hidden, CLASSES)

    def forward(self, x: Tensor, negative_slope: float = 0.0) -> Tensor:
        h = F.leaky_relu(self.a(x.flatten(1)), negative_slope)
        output: Tensor = self.c(F.leaky_relu(self.b(h), negative_slope))
        return output


def business_as_usual(
    net: nn.Module, opt: optim.Optimizer, criterion: Any, opt_step: bool, *args: Any
) -> list[float]:
    input, target_output = images()
    losses = []
    for _ in range(EPOCHS):
        opt.zero_grad()
        output = net(input, *args)
        loss = criterion(output, target_output)
        loss.backward()
        if opt_step:
            opt.step()
        losses.append(loss.item())
    return losses


def sg_updates(net: nn.Module) -> list[int]:
    wrappers = [module for module in net.modules() if isinstance(module, DNI)]
    return [row["sg_updates"] for wrapper in wrappers for row in wrapper.dni_stats().values()]


@OPT_STEP
def test_tldr_every_leaf_module(opt_step: bool) -> None:
    torch.manual_seed(0)
    net: nn.Module = WhateverNetwork(hidden=32)
    opt = optim.Adam(net.parameters(), lr=0.001)

    # use DNI to optimize this network
    net = DNI(net, grad_optim="adam", grad_lr=0.0001)

    losses = business_as_usual(net, opt, nn.CrossEntropyLoss(), opt_step, 0.1)
    assert losses[-1] < 0.2 * losses[0]
    assert min(sg_updates(net)) >= EPOCHS


class Net(nn.Module):
    """Which layers to use DNI for is the parameter `dni_layers`."""

    def __init__(self, num_layers: int = 3, hidden_size: int = 256, dni_layers: Any = ()) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.hidden_size = hidden_size

        self.net = [
            self.dni(self.layer(IMAGE * IMAGE if level == 0 else hidden_size, hidden_size))
            if level in dni_layers
            else self.layer(IMAGE * IMAGE if level == 0 else hidden_size, hidden_size)
            for level in range(self.num_layers)
        ]
        self.final = self.layer(hidden_size, 10)

        # bind layers to this class (so that they're searchable by pytorch)
        for ctr, n in enumerate(self.net):
            setattr(self, "layer" + str(ctr), n)

    def layer(self, input_size: int, hidden_size: int) -> nn.Module:
        return nn.Sequential(nn.Linear(input_size, hidden_size), nn.BatchNorm1d(hidden_size))

    # create a DNI wrapper layer, recursive=False implies treat this layer as a leaf module
    def dni(self, layer: nn.Module) -> nn.Module:
        return DNI(layer, hidden_size=256, grad_optim="adam", grad_lr=0.0001, recursive=False)

    def forward(self, x: Tensor) -> Tensor:
        output = x.view(-1, IMAGE * IMAGE)
        for layer in self.net:
            output = F.relu(layer(output))
        output = self.final(output)
        return F.log_softmax(output, dim=-1)


@OPT_STEP
def test_custom_layers(opt_step: bool) -> None:
    torch.manual_seed(0)
    net = Net(num_layers=3, dni_layers=[1, 2, 3])
    start = [p.clone() for p in net.final.parameters()]

    # use the gradient descent to optimize layers not optimized by DNI
    opt = optim.Adam(net.final.parameters(), lr=0.001)

    losses = business_as_usual(net, opt, nn.NLLLoss(), opt_step)
    assert losses[-1] < (0.1 if opt_step else 0.5) * losses[0]
    assert len(sg_updates(net)) == 2 and min(sg_updates(net)) == EPOCHS
    moved = [not torch.equal(p, q) for p, q in zip(net.final.parameters(), start, strict=True)]
    assert moved == [opt_step] * len(moved)  # what is not wrapped is the user's


class MyCustomDNI(DNINetwork):
    def __init__(
        self, input_size: int, hidden_size: int, output_size: int, num_layers: int = 2, bias: bool = True
    ) -> None:
        super().__init__(input_size, hidden_size, output_size)

        self.input_size = input_size
        self.hidden_size = hidden_size * 4
        self.output_size = output_size
        self.num_layers = num_layers
        self.bias = bias

        self.net = [
            self.layer(input_size if level == 0 else self.hidden_size, self.hidden_size)
            for level in range(self.num_layers)
        ]

        # bind layers to this class (so that they're searchable by pytorch)
        for ctr, n in enumerate(self.net):
            setattr(self, "layer" + str(ctr), n)

        # final layer (yeah, no kidding)
        self.final = nn.Linear(self.hidden_size, output_size)

    def layer(self, input_size: int, hidden_size: int) -> nn.Module:
        return nn.Linear(input_size, hidden_size)

    def forward(self, input: Tensor, hidden: Any) -> tuple[Tensor, Any]:  # type: ignore[override]
        output = input
        for layer in self.net:
            output = F.relu(layer(output))
        output = self.final(output)

        return output, None


@OPT_STEP
def test_a_custom_dni_network(opt_step: bool) -> None:
    torch.manual_seed(0)
    net: nn.Module = WhateverNetwork(hidden=32)
    opt = optim.Adam(net.parameters(), lr=0.001)

    # use DNI to optimize this network with MyCustomDNI, pass custom params to the DNI nets
    net = DNI(
        net,
        grad_optim="adam",
        grad_lr=0.0001,
        dni_network=MyCustomDNI,
        dni_params={"num_layers": 3, "bias": True},
    )

    losses = business_as_usual(net, opt, nn.CrossEntropyLoss(), opt_step, 0.1)
    assert losses[-1] < 0.75 * losses[0]
    made = net.interfaces["a"].network
    assert made.num_layers == 3 and made.hidden_size == 40
    assert sg_updates(net) == [EPOCHS, EPOCHS]


def test_every_argument_of_dni_is_taken_by_position_in_the_old_order() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    own = optim.SGD(network.parameters(), lr=0.25)

    def identity(output: Tensor, module: nn.Module) -> Tensor:
        return output

    net = DNI(network, LinearDNI, {"num_layers": 1}, own, "sgd", 0.5, 3, 0.25, True, False, identity, -1)
    net(torch.randn(4, 2)).sum().backward()
    assert list(net.dni_stats()) == ["0", "1"]
    synthesizer = net.interfaces["0"].synthesizer
    assert type(synthesizer.network) is LinearDNI and len(synthesizer.network.body) == 2
    assert synthesizer.network.body[0].out_features == 4 * 3
    assert type(synthesizer.optimizer) is optim.SGD and synthesizer.optimizer.param_groups[0]["lr"] == 0.5
    assert net._shared.optimizer is own and net._shared.mix == 0.25
    assert net.interfaces["0"]._format is identity


def test_the_old_names_come_with_a_star() -> None:
    names: dict[str, Any] = {}
    exec("from dni_async import *", names)
    assert names.keys() >= {
        "DNI",
        "CDNI",
        "DNINetwork",
        "LinearDNI",
        "LinearSigmoidDNI",
        "LinearBatchNormDNI",
        "RNNDNI",
        "Conv2dDNI",
    }
