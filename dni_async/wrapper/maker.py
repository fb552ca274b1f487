"""Makes the SG network of a wrapped layer: the measured default, or one of the user's class."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from dni_async.errors import UserError
from dni_async.networks.base import DNINetwork, along
from dni_async.networks.factory import build_network, resolve
from dni_async.networks.settings import SGConfig
from dni_async.optim import optimizer_factory
from dni_async.synthesis.pending import PendingPredictions
from dni_async.synthesis.scale import GradientScale
from dni_async.synthesis.synthesizer import Synthesizer

Shape = tuple[int, ...]

HIDDEN = 10
"""Default `hidden_size` of pytorch-dni."""


@dataclass(kw_only=True)
class Maker:
    """Makes the SG networks of one `DNI`, each at the first output of its layer."""

    network: type[nn.Module] | None
    """Called with input_size, hidden_size, output_size and `params`; None: the measured default."""
    params: dict[str, Any]
    """Of the network; for the default, settings of `SGConfig`."""
    hidden_size: int | None
    """Hidden units or channels; None: those of pytorch-dni, or the measured ones."""
    optimizer: str
    lr: float | None
    """None: the measured one."""
    label_size: int = 0
    """Columns that the networks are conditioned on; 0 for plain DNI."""
    layers: int = 1
    """Number of wrapped layers."""
    settings: SGConfig = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.optimizer, str):
            raise UserError(f"grad_optim is {self.optimizer!r}; give the name of an optimizer of torch.optim")
        optimizer_factory(self.optimizer, 1.0)  # raises for a name that torch does not know
        if self.lr is not None and not self.lr > 0:
            raise UserError(f"grad_lr is {self.lr}; it must be positive")
        if self.network is None:
            known = [f.name for f in fields(SGConfig)]
            if unknown := sorted(set(self.params) - set(known)):
                raise UserError(
                    f"the default SG network has no setting {unknown[0]}; give a dni_network that has, "
                    f"or use {', '.join(known)}"
                )
            self.settings = SGConfig(**{"hidden": self.hidden_size} | self.params)
        else:
            if not (isinstance(self.network, type) and issubclass(self.network, nn.Module)):
                raise UserError(f"dni_network is {self.network!r}; give a class, such as LinearDNI")
            self.settings = SGConfig()

    @property
    def time_first(self) -> bool:
        """Whether layers without `batch_first` have time first; SG networks always get the batch first."""
        return self.network is not None and self.params.get("batch_first") is False

    def make(self, shape: Shape, classes: bool, like: Tensor) -> Synthesizer:
        """Return a synthesizer for activations (B, *shape), with the dtype and device of `like`.

        classes: whether its labels are one-hot classes.
        """
        conditional = self.label_size > 0
        # features keep the linear network by default: a hook does not know the layers before and behind it
        settings = resolve(self.settings, shape, self.layers + 1, conditional, classes, batch_normalised=True)
        with torch.random.fork_rng(devices=[]):  # leaves the user's random numbers alone
            if self.network is None:
                network: DNINetwork = build_network(settings, shape, self.label_size)
            else:
                network = self._instance(shape)
        network = network.to(like.device, like.dtype)
        if next(network.parameters(), None) is None:
            raise UserError(f"SG network {type(network).__name__} has no parameters to learn with")
        assert settings.replay is not None
        return Synthesizer(
            network,
            self._optimizer(network, self.settings.lr or self.lr or settings.lr),
            PendingPredictions(1),
            condition=as_is if conditional else None,
            scale=GradientScale(settings.units),
            replay=settings.replay if self.network is None else 0,
            replay_window=settings.replay_window,
        )

    def _optimizer(self, network: nn.Module, lr: float | None) -> Optimizer:
        assert lr is not None
        return optimizer_factory(self.optimizer, lr)(list(network.parameters()))

    def _instance(self, shape: Shape) -> DNINetwork:
        assert self.network is not None
        size = shape[0] if feature_dim(self.network) == 1 and len(shape) == 3 else shape[-1]
        takes_labels = "labels" in inspect.signature(self.network.forward).parameters
        labels = {"label_size": self.label_size} if takes_labels and self.label_size else {}
        input_size = size if takes_labels else size + self.label_size
        hidden_size = HIDDEN if self.hidden_size is None else self.hidden_size
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "output_size": size}
        params = self.params | ({"batch_first": True} if self.time_first else {})
        try:
            network = self.network(**sizes, **labels, **params)
        except TypeError as error:
            raise UserError(f"{self.network.__name__} cannot be made ({error}); see dni_params") from error
        if isinstance(network, DNINetwork) and (takes_labels or not self.label_size):
            return network
        return Joined(network, **sizes)


def feature_dim(network: type[nn.Module]) -> int:
    """Return the dimension of h that the network's sizes count: 1 for (B, C, H, W), or -1."""
    return getattr(network, "feature_dim", -1)


def as_is(labels: Tensor) -> Tensor:
    """Return labels that are floats (B, C) already."""
    return labels


class Joined(DNINetwork):
    """Concatenates the labels to the input of a network whose `forward(input, hidden)` takes none."""

    def __init__(self, network: nn.Module, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__(input_size, hidden_size, output_size)
        self.network = network
        self.feature_dim = feature_dim(type(network))

    @override
    def forward(self, input: Tensor, hidden: Any = None, labels: Tensor | None = None) -> tuple[Tensor, Any]:
        if labels is not None and self.feature_dim == 1:
            labels = labels[:, :, None, None].expand(-1, -1, *input.shape[2:])
        elif labels is not None:
            labels = along(labels, input)
        joined = input if labels is None else torch.cat([input, labels], self.feature_dim)
        return self.network(joined, hidden)
