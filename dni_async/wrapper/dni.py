"""`DNI(net)`: decoupled training in an ordinary loop, drop-in for pytorch-dni."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from dni_async.errors import UserError
from dni_async.optim import optimizer_factory
from dni_async.wrapper.interface import Interface, move_state
from dni_async.wrapper.layers import choose, walk
from dni_async.wrapper.layout import FormatFn
from dni_async.wrapper.maker import Maker
from dni_async.wrapper.updates import Updates


class DNI(nn.Module):
    """Trains `network` with synthetic gradients (Jaderberg et al. 2017, section 2.1).

        net = DNI(net)
        for x, y in batches:
            loss = criterion(net(x), y)
            loss.backward()              # SG networks learn, weights move, gradients are cleared

    The gradient that flows back into a wrapped layer is (1 - λ) SG + λ target, where the target is what
    the layer's output gets from the layers above. The layer below gets this layer's backward of the mix, so
    targets are exact at the last wrapped layer and bootstrapped below.

    DNI itself steps the weights at the end of `loss.backward()` and clears the gradients, so an `opt.step()`
    afterwards finds none.

    network: any module; one that is wrapped already is unwrapped first.
    dni_network: class of the SG networks, called with input_size, hidden_size, output_size and
        `dni_params`; None for the measured default, whose settings (`SGConfig`) are then `dni_params`.
    optim: the optimizer of the network's weights, whose settings and schedule then hold; None: Adam, 1e-3.
    grad_optim, grad_lr: optimizer of the SG networks (any name of torch.optim) and its learning rate;
        None for the measured one.
    hidden_size: hidden units of the SG networks, if they have any (the default for features has none);
        None: 10 for a given class, else the measured ones.
    λ, or lambda_: 0 synthetic only, 1 backprop exactly, between them the mix; -1 is pytorch-dni's
        other way to say 0.
    recursive: wrap every leaf module that has parameters; False: the network is one layer.
    skip_last_layer: not the last leaf, whose gradient is exact without an SG network.
    format_fn: (output, module) -> the tensor of a module's output that is the interface; by default
        the first one.
    gpu_id: move the network to this GPU; -1: it stays, and SG networks follow its layers.
    layers: names of the modules to wrap instead (`named_modules`).
    unlock: "update" runs a layer's backward and update right after its own forward, before the layers
        above run, with the synthetic gradient alone.
    update_weights: False leaves the gradients in `.grad` for an optimizer of your own.

    Raises UserError (a ValueError) for arguments that it cannot use.
    """

    def __init__(
        self,
        network: nn.Module,
        dni_network: type[nn.Module] | None = None,
        dni_params: dict[str, Any] | None = None,
        optim: Optimizer | None = None,
        grad_optim: str = "adam",
        grad_lr: float | None = 0.001,
        hidden_size: int | None = None,
        λ: float = 0.5,
        recursive: bool = True,
        skip_last_layer: bool = True,
        format_fn: FormatFn | None = None,
        gpu_id: int = -1,
        *,
        lambda_: float | None = None,
        layers: Sequence[str] | None = None,
        unlock: str | None = None,
        update_weights: bool = True,
        label_size: int = 0,
    ) -> None:
        super().__init__()
        mix = check_lambda(λ if lambda_ is None else lambda_, unlock)
        check_given(network, dni_params, optim, unlock, update_weights)
        while isinstance(network, DNI):
            network = network.remove()
        self.network = to_gpu(network, gpu_id)
        modules = dict(walk(network, stop=DNI))
        chosen = choose(modules, recursive, skip_last_layer, layers)
        maker = Maker(
            network=dni_network,
            params=dict(dni_params or {}),
            hidden_size=hidden_size,
            optimizer=grad_optim,
            lr=grad_lr,
            label_size=label_size,
            layers=len(chosen),
        )
        self._own_optimizer = optim is None
        if update_weights and optim is None:
            own = [p for module in modules.values() for p in module.parameters(recurse=False)]
            optim = optimizer_factory("adam", 1e-3)(list(dict.fromkeys(own)))
        self._shared = Updates(mix, unlock == "update", optim if update_weights else None)
        for module in modules.values():
            unhook(module)
        self.interfaces = nn.ModuleDict()
        for name, module in chosen.items():
            interface = Interface(name or "network", maker, self._shared, format_fn)
            interface.attach(module)
            self.interfaces[(name or "network").replace(".", "/")] = interface

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the wrapped network returns for these arguments."""
        self._shared.settle()
        return self.network(*args, **kwargs)

    def dni_stats(self, reset: bool = False) -> dict[str, dict[str, Any]]:
        """Returns, by layer, relative_error |g - t| / |t| and cosine of predictions and targets (over every
        eighth batch since the start or the last `reset`), and the updates of weights and SG network."""
        stats = {interface.name: interface.stats() for interface in self._interfaces()}
        if reset:
            for interface in self._interfaces():
                if interface.synthesizer is not None:
                    interface.synthesizer.new_epoch()
        return stats

    def reset_hidden(self) -> None:
        """Reset the hidden state of recurrent SG networks, at the start of a sequence."""
        for interface in self._interfaces():
            interface.reset_hidden()

    def remove(self) -> nn.Module:
        """Remove all hooks and return the network."""
        for interface in self._interfaces():
            interface.remove()
        return self.network

    def _interfaces(self) -> list[Interface]:
        return [interface for interface in self.interfaces.values() if isinstance(interface, Interface)]

    def _apply(self, fn: Any, recurse: bool = True) -> DNI:
        super()._apply(fn, recurse)
        if self._own_optimizer and self._shared.optimizer is not None:
            move_state(self._shared.optimizer)
        return self


class CDNI(DNI):
    """Conditional DNI (paper, section 2.1.1): SG networks see the labels, too.

        net = CDNI(net, label_size=10)
        for x, y in batches:
            net.register_labels(y)
            loss = criterion(net(x), y)
            loss.backward()

    label_size: number of classes, or columns of real-valued labels. The rest as for `DNI`.
    """

    def __init__(self, network: nn.Module, *args: Any, label_size: int, **settings: Any) -> None:
        if label_size < 1:
            raise UserError(f"label_size is {label_size}; give the number of classes")
        self.label_size = label_size
        super().__init__(network, *args, label_size=label_size, **settings)

    def register_labels(self, labels: Tensor, classes: bool = False) -> None:
        """Set the labels of the next batches: classes (B) or (B, T), or floats (B, label_size).

        classes: whether floats are one-hot classes (for images, the default SG network depends on it).
        """
        labels = torch.as_tensor(labels)
        if not labels.is_floating_point() and labels.numel():
            low, high = (int(value) for value in labels.aminmax())
            if low < 0 or high >= self.label_size:
                wrong = low if low < 0 else high
                raise UserError(
                    f"label {wrong} is outside the classes 0 to {self.label_size - 1}; "
                    "change label_size or the data"
                )
        self._shared.classes = classes or not labels.is_floating_point()
        if not labels.is_floating_point():
            labels = F.one_hot(labels.long(), self.label_size).float()
        if labels.shape[-1] != self.label_size or labels.ndim < 2:
            raise UserError(
                f"labels have the shape {tuple(labels.shape)}; give classes (B) as integers, "
                f"or floats {('B', self.label_size)}"
            )
        self._shared.labels = labels.detach()


def check_lambda(λ: float, unlock: str | None) -> float:
    """Return the share of the target in the mix."""
    if unlock not in (None, "update"):
        raise UserError(f'unlock is {unlock!r}; use None or "update"')
    if not isinstance(λ, int | float):
        raise UserError(f"λ is {λ!r}; give a number")
    if λ != -1 and not 0 <= λ <= 1:
        raise UserError(f"λ is {λ}; it must be 0 (synthetic) to 1 (backprop), or -1 for 0")
    if unlock and λ == 1:
        raise UserError('λ=1 waits for the true gradient; with unlock="update" nobody waits, use λ=0')
    return max(λ, 0.0)


def check_given(network: Any, dni_params: Any, optim: Any, unlock: str | None, update_weights: bool) -> None:
    """Raises UserError for arguments that `DNI` cannot use."""
    if unlock and not update_weights:
        raise UserError('unlock="update" updates the weights; use it with update_weights=True')
    if not isinstance(network, nn.Module):
        raise UserError(f"network is {network!r}; give a torch.nn.Module")
    if not isinstance(dni_params, dict | None):
        raise UserError(f"dni_params is {dni_params!r}; give a dict of the SG networks' arguments")
    if optim is not None and not isinstance(optim, Optimizer):
        raise UserError(f"optim is {optim!r}; give an optimizer of torch.optim, or None")


def to_gpu(network: nn.Module, gpu_id: int) -> nn.Module:
    """Return the network, moved to the GPU `gpu_id` unless that is -1."""
    if gpu_id == -1:
        return network
    if not 0 <= gpu_id < torch.cuda.device_count():
        raise UserError(
            f"gpu_id is {gpu_id}, and there are {torch.cuda.device_count()} GPUs; use -1 for none"
        )
    return network.cuda(gpu_id)


def unhook(module: nn.Module) -> None:
    """Remove the interface of another wrapper from the module: a layer has one interface."""
    for hook in list(module._forward_hooks.values()):  # torch has no public list of hooks
        interface = getattr(hook, "__self__", None)
        if isinstance(interface, Interface):
            interface.remove()
