"""Layers that have more than weights: numbers to report, and a state that goes on from batch to batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from dni_async.state.state_dict import State


class StatefulModule(nn.Module):
    """A layer whose own numbers go into the report of its stage, and whose state goes into checkpoints."""

    def stats(self) -> dict[str, float | None]:
        """Since the epoch began; None for what is not known."""
        return {}

    def new_epoch(self) -> None:
        """Start these over."""
        return

    def running_state(self) -> State:
        """What it goes on from in a resumed run, its weights aside."""
        return {}

    def load_running_state(self, state: State) -> None:
        """Go on from there."""
        return


def collect_stats(layers: nn.Module) -> dict[str, Any]:
    """What the layers report; where several report the same, the largest number."""
    found: dict[str, Any] = {}
    for _, layer in _stateful(layers):
        for name, value in layer.stats().items():
            known = [number for number in (found.get(name), value) if number is not None]
            found[name] = max(known, default=None)
    return found


def reset_epoch_stats(layers: nn.Module) -> None:
    """An epoch begins."""
    for _, layer in _stateful(layers):
        layer.new_epoch()


def running_states(layers: nn.Module) -> State:
    """The states of all such layers, by names like those of weights."""
    return {f"{name}.{_SUFFIX}": layer.running_state() for name, layer in _stateful(layers)}


def load_running_states(layers: nn.Module, states: Mapping[str, State]) -> None:
    """Take up what `running_states` gave. Raises KeyError when it is of other layers."""
    for name, layer in _stateful(layers):
        layer.load_running_state(states[f"{name}.{_SUFFIX}"])


_SUFFIX = "running"


def _stateful(layers: nn.Module) -> Iterator[tuple[str, StatefulModule]]:
    return ((name, module) for name, module in layers.named_modules() if isinstance(module, StatefulModule))
