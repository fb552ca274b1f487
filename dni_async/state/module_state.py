"""Layers with more than weights: numbers to report, and a state that lasts from batch to batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from dni_async.state.state_dict import State


class StatefulModule(nn.Module):
    """A layer that adds numbers to the report of its stage, and its state to checkpoints."""

    def stats(self) -> dict[str, float | None]:
        """Return numbers since the epoch began; None for what is not known."""
        return {}

    def new_epoch(self) -> None:
        """Reset the numbers that `stats` returns; called when an epoch begins."""

    def running_state(self) -> State:
        """Return what a resumed run needs beside the weights."""
        return {}

    def load_running_state(self, state: State) -> None:
        """Take up what `running_state` returned."""


def collect_stats(layers: nn.Module) -> dict[str, Any]:
    """Return what the layers report; of a number that several report, the largest."""
    found: dict[str, Any] = {}
    for _, layer in _stateful(layers):
        for name, value in layer.stats().items():
            known = [number for number in (found.get(name), value) if number is not None]
            found[name] = max(known, default=None)
    return found


def reset_epoch_stats(layers: nn.Module) -> None:
    """Start the numbers of all layers over."""
    for _, layer in _stateful(layers):
        layer.new_epoch()


def running_states(layers: nn.Module) -> State:
    """Return the states of all such layers, by names like those of weights."""
    return {f"{name}.{_SUFFIX}": layer.running_state() for name, layer in _stateful(layers)}


def load_running_states(layers: nn.Module, states: Mapping[str, State]) -> None:
    """Take up what `running_states` returned. Raises KeyError if it is of other layers."""
    for name, layer in _stateful(layers):
        layer.load_running_state(states[f"{name}.{_SUFFIX}"])


_SUFFIX = "running"


def _stateful(layers: nn.Module) -> Iterator[tuple[str, StatefulModule]]:
    return ((name, module) for name, module in layers.named_modules() if isinstance(module, StatefulModule))
