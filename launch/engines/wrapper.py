"""The library's wrapper in the textbook loop: every layer decoupled, all in one process.

`dni-local` and `cdni-local` show what decoupling costs and gains within one process; they are the `DNI(net)`
and `CDNI(net)` that a notebook uses.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from dni_async.boundary import Boundary, Extras
from dni_async.errors import UserError
from dni_async.messages import Marker, MarkerKind, Message
from dni_async.networks.factory import label_size_of
from dni_async.wrapper import CDNI, DNI
from launch.engines.backprop import Backprop
from launch.engines.baseline_loop import run_loop
from launch.job.context import RankContext
from launch.report.recorder import Recorder
from workers.coordination.collectives import Peers
from workers.runtime.precision import sequential


class DniLocal(Backprop):
    """Backprop's loop, in which every layer of the task but the last learns from synthetic gradients alone.

    The optimizer of the weights, its schedule and clipping are those of every engine; SG networks are
    those of `--sg`. Their work is part of forward (predict) and backward (learn).
    """

    def __init__(self, context: RankContext, peers: Peers) -> None:
        super().__init__(context, peers)
        assert isinstance(self.module, nn.Sequential)
        network = self._packed(self.module)
        if self.config.sg.gate:
            raise UserError(f"sg.gate is for stages, which {self.config.engine} has none of; leave it out")
        sg = asdict(self.config.sg)
        settings: dict[str, Any] = {
            "grad_optim": sg.pop("optimizer"),
            "grad_lr": sg.pop("lr"),
            "dni_params": sg,
            "λ": 0.0,
            "layers": inner_layers(network),
            "update_weights": False,
        }
        if self.config.engine == "cdni-local":
            label_size = label_size_of(self.task.condition, self.data.sample()[1])
            self.dni: DNI = CDNI(network, label_size=label_size, **settings)
        else:
            self.dni = DNI(network, **settings)
        self.interfaces: dict[str, dict[str, Any]] = {}

    @override
    def step(self, x: Any, y: Any) -> None:
        if isinstance(self.dni, CDNI):
            self.dni.register_labels(
                self.task.condition(y), classes=self.task.classes is not None and not self.task.multi_label
            )
        super().step(x, y)

    @override
    def forward(self, x: Any) -> Any:
        if self.module is self.dni.network:
            return self.dni(x)
        h, extras = self.dni(self.inputs.pack(x))
        return self.outputs.unpack(h, extras)

    def _packed(self, module: nn.Sequential) -> nn.Sequential:
        """Return the layers with h and extras between them where they return several tensors, so that each
        has one interface, h."""
        plan = self._context.plan
        boundaries = [plan.boundary(i) for i in range(len(module) + 1)]
        self.outputs = boundaries[-1]
        if all(boundary.is_tensor for boundary in boundaries):
            return module
        packed = [
            Packed(layer, *pair) for layer, pair in zip(module, itertools.pairwise(boundaries), strict=True)
        ]
        return sequential(packed, self.config.runtime.precision)

    @override
    def on(self, message: Message, *others: Any) -> None:
        if isinstance(message, Marker) and message.kind in (MarkerKind.EPOCH, MarkerKind.EVALUATION):
            self.interfaces = self.dni.dni_stats(reset=message.kind is MarkerKind.EPOCH)
        super().on(message, *others)

    @override
    def stats(self) -> dict[str, Any]:

        def mean(key: str) -> float | None:
            known = [row[key] for row in self.interfaces.values() if row[key] is not None]
            return sum(known) / len(known) if known else None

        return super().stats() | {
            "interfaces": self.interfaces,
            "sg_relative_error": mean("relative_error"),
            "sg_cosine": mean("cosine"),
        }


class Packed(nn.Module):
    """A layer from (h, extras) to (h, extras)."""

    def __init__(self, layer: nn.Module, takes: Boundary, returns: Boundary) -> None:
        super().__init__()
        self.layer, self.takes, self.returns = layer, takes, returns

    def forward(self, packed: tuple[Tensor, Extras]) -> tuple[Tensor, Extras]:
        """Return the output, packed."""
        return self.returns.pack(self.layer(self.takes.unpack(*packed)))


def inner_layers(layers: Iterable[nn.Module]) -> list[str]:
    """Return the names of the layers to decouple: all that have parameters but the last, whose gradient is
    exact."""
    names = [str(i) for i, layer in enumerate(layers) if any(True for _ in layer.parameters())]
    if len(names) < 2:
        raise UserError(f"{len(names)} of the task's layers have parameters; decoupling needs two")
    return names[:-1]


def run(context: RankContext, recorder: Recorder | None) -> nn.Module:
    """Train the network in one process, with a synthetic gradient behind each layer; returns it."""
    return run_loop(context, recorder, DniLocal)
