"""Where the linear SG network is the best that was measured: in batch-normalised chains of layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

_KEEP = (nn.ReLU, nn.Dropout, nn.Identity)
"""What may follow a BatchNorm1d in a batch-normalised output."""


def batch_normalised(layers: Sequence[nn.Module]) -> list[bool]:
    """Whether the output of each layer is batch-normalised, in a network without residual connections.

        Linear, BatchNorm1d, ReLU | Linear, BatchNorm1d, ReLU | Linear       True, True, False
        Linear | ResidualBlock | ResidualBlock | BatchNorm1d, Linear         all False

    Such an output ends in BatchNorm1d, with at most ReLU and Dropout behind it. The network must be a chain:
    nothing but `nn.Sequential` around torch's own modules, since a module of any other class may add its
    input to its output. Grouping and flattening make no difference.
    """
    chain = all(map(_is_chain, layers))
    normalised, found = False, []
    for layer in layers:
        for module in _leaves(layer):
            normalised = isinstance(module, nn.BatchNorm1d) or (normalised and isinstance(module, _KEEP))
        found.append(chain and normalised)
    return found


def _is_chain(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Sequential):
        return type(layer).forward is nn.Sequential.forward and all(map(_is_chain, layer))
    return type(layer).__module__.startswith("torch.nn.modules.") and not list(layer.children())


def _leaves(layer: nn.Module) -> Iterator[nn.Module]:
    return (part for part in layer.modules() if not isinstance(part, nn.Sequential))
