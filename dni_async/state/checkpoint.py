"""A consistent cut through all stages (Chandy and Lamport 1985), and its use with another partition.

The CHECKPOINT marker goes down behind batch 7, so every stage is copied when it has seen batches 0 to 7 and
no others. Targets for these batches that are still under way are copied as they come: they are the state of
the channel. When the marker is back, none are left, and the stage's part is whole. No stage waits.

    stage 0   A7  marker  A8   T6  A9  T7  T8  marker     part: state behind A7, and T6, T7
                  copy       +       +       keep
    stage 1   A6  A7  marker  A8                        part: state behind A7 (the last stage has no targets)
                      copy, keep

A rule that keeps graphs cannot be copied while a batch waits: such a stage takes no more activations until
the marker is back, and is copied then, when no batch waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from dni_async.messages import TargetGradient
from dni_async.optim import AVERAGE, Updater
from dni_async.state.module_state import load_running_states, running_states
from dni_async.state.state_dict import State, copied, renumbered

Bounds = tuple[int, int]
"""(first, end) layer of a stage."""


@dataclass(slots=True)
class Part:
    """One stage's part of the checkpoint of a step, while it is being made."""

    step: int
    """Training batches that the state has seen."""
    state: State | None
    """None until it is copied."""
    targets: list[State] = field(default_factory=list)
    epoch_over: bool = False
    """Whether an EPOCH marker has come back since the copy: the means over the epoch start over."""

    def on_target(self, target: TargetGradient) -> None:
        """Copy a target that was under way when the state was copied."""
        if self.state is not None and target.step < self.step:
            saved = {"step": target.step, "version": target.version, "grad": target.grad}
            saved["trust"] = target.trust
            self.targets.append(copied(saved))

    def whole(self) -> State:
        """Return the whole part, when the marker is back."""
        assert self.state is not None
        return self.state | {"targets": self.targets, "epoch_over": self.epoch_over}


class Parts:
    """One stage's parts of the checkpoints whose marker is on its way.

    Args:
        state: returns the stage's state as it is now.
        copy_late: copy the state when the marker is back, not when it goes down; until then the stage takes
            no activation.
    """

    def __init__(self, state: Callable[[], State], *, copy_late: bool = False) -> None:
        self._state, self._copy_late = state, copy_late
        self._made: deque[Part] = deque()

    @property
    def blocking(self) -> bool:
        """Whether the stage must take no activation, because a part has still to be copied."""
        return self._copy_late and bool(self._made)

    def begin(self, step: int) -> None:
        """Called when the marker of a checkpoint goes down: start a part with the state as it is now."""
        self._made.append(Part(step, None if self._copy_late else copied(self._state())))

    def on_target(self, target: TargetGradient) -> None:
        """Called when a target comes: it belongs to the parts that were copied before it."""
        for part in self._made:
            part.on_target(target)

    def on_epoch(self) -> None:
        """Called when an EPOCH marker is back: means that were copied before start over."""
        for part in self._made:
            part.epoch_over = part.state is not None

    def whole(self, step: int) -> State | None:
        """Return the part of a checkpoint whose marker is back; None if its process has died."""
        if not self._made or self._made[0].step != step:
            return None
        part = self._made.popleft()
        if part.state is None:
            part.state = copied(self._state())
        return part.whole()


def targets_under_way(part: State, device: torch.device | None = None) -> list[TargetGradient]:
    """Return the targets that a stage must handle first when it resumes from this part."""
    return [
        TargetGradient(t["step"], t["version"], t["grad"].to(device), t.get("trust", 1.0))
        for t in part["targets"]
    ]


def recut(
    parts: Mapping[int, State], bounds: Sequence[Bounds], first: int, end: int, accumulate: int = 1
) -> State:
    """Return the part of a stage with layers `first` to `end` (exclusive), from parts of another cut.

    Weights (the best ones, too), optimizer state and the state of layers follow their layers. The part has no
    state of the rule, since an SG network belongs to its interface, no random numbers and no targets.

    Args:
        parts: by stage, at least those that hold one of these layers.
        bounds: of all stages of the cut of `parts`.
        accumulate: batches that make one update.
    """
    counts = next(iter(parts.values()))["counts"]
    version = max(part["version"] for part in parts.values()) or counts["steps"] // accumulate  # 0: frozen
    state: State = {"version": version, "rule": None, "random": None}
    state |= {"targets": [], "epoch_over": False}
    state["counts"] = {name: counts[name] for name in ("steps", "samples")}
    best = ["best"] if "best" in next(iter(parts.values())) else []
    accumulated = max(part.get("accumulated", 0) for part in parts.values())
    if accumulated:
        state["accumulated"] = accumulated
    for key in ("layers", "running", "optimizer", *(["gradients"] if accumulated else []), *best):
        whole = uncut(parts, bounds, key)
        mine = {name: value for name, value in whole.items() if first <= int(name.partition(".")[0]) < end}
        state[key] = renumbered(mine, -first)
    if best:
        state["patience"] = next(iter(parts.values()))["patience"]  # all stages decide alike
    return state


def uncut(parts: Mapping[int, State], bounds: Sequence[Bounds], key: str = "layers") -> State:
    """Return the weights of these parts, or another entry by layer, by name in
    nn.Sequential(*task.layers())."""
    whole: State = {}
    for stage in sorted(parts):
        whole |= renumbered(parts[stage].get(key, {}), bounds[stage][0])
    return whole


def averages(parts: Mapping[int, State], bounds: Sequence[Bounds]) -> State:
    """Return the averages of the weights of these parts by name as in `uncut`; {} where none were made."""
    states = uncut(parts, bounds, "optimizer")
    return {name: state[AVERAGE] for name, state in states.items() if AVERAGE in state}


def weights_state(layers: nn.Module, updater: Updater | None) -> State:
    """Return weights, buffers, state of layers and of the optimizer, by name in `layers`."""
    kept: State = updater.state_dict() if updater else {"version": 0, "parameters": []}
    names = _trainable(layers)
    optimizer = dict(zip(names, kept["parameters"], strict=False))  # a frozen stage has none
    state = {"layers": dict(layers.state_dict()), "running": running_states(layers)}
    state |= {"optimizer": optimizer, "version": kept["version"]}
    if "scaler" in kept:
        state["scaler"] = kept["scaler"]
    if "accumulated" in kept:
        state |= {"accumulated": kept["accumulated"]}
        state |= {"gradients": dict(zip(names, kept["gradients"], strict=False))}
    return state


def load_weights_state(layers: nn.Module, updater: Updater | None, state: State) -> None:
    """Take up what `weights_state` returned; a parameter that the optimizer did not know starts afresh."""
    layers.load_state_dict(state["layers"])
    load_running_states(layers, state["running"])
    if updater is not None:
        names, gradients = _trainable(layers), state.get("gradients", {})
        updater.load_state_dict(
            {
                "version": state["version"],
                "scaler": state.get("scaler"),
                "parameters": [state["optimizer"].get(name, {}) for name in names],
                "accumulated": state.get("accumulated", 0),
                "gradients": [gradients.get(name) for name in names],
            }
        )


def _trainable(layers: nn.Module) -> list[str]:
    """Return the names of the parameters in an updater of these layers, in its order."""
    return [name for name, parameter in layers.named_parameters() if parameter.requires_grad]
