"""A consistent cut through all stages (Chandy and Lamport 1985), and how it is cut otherwise.

The CHECKPOINT marker goes down behind batch 7, so every stage is copied when it has seen batches 0 to 7 and
no other. Targets for these batches that are still under way are copied as they come: they are what was in the
channel. When the marker is back there are none left, and the stage's part is whole. Nobody waits.

    stage 0   A7  marker  A8   T6  A9  T7  T8  marker     part: state behind A7, and T6, T7
                  copy       +       +       keep
    stage 1   A6  A7  marker  A8                        part: state behind A7 (the last stage has no targets)
                      copy, keep

Under rule `delayed` a batch that waits is a graph, which cannot be copied: there the stage takes no more
activations until the marker is back, and is copied then, when nothing waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from dni_async.messages import TargetGradient
from dni_async.optim import Updater
from dni_async.state.module_state import load_running_states, running_states
from dni_async.state.state_dict import State, copied, renumbered

Bounds = tuple[int, int]
"""(first, end) layer of a stage."""


@dataclass(slots=True)
class Part:
    """One stage's part of the checkpoint of a step, while it is made."""

    step: int
    """Training batches that the state has seen."""
    state: State | None
    """None until it is copied."""
    targets: list[State] = field(default_factory=list)
    epoch_over: bool = False
    """Whether an EPOCH marker that was under way has come back since: the running means start over."""

    def on_target(self, target: TargetGradient) -> None:
        """Keep a target that was under way when the state was copied."""
        if self.state is not None and target.step < self.step:
            told = {"step": target.step, "version": target.version, "grad": target.grad}
            self.targets.append(copied(told))

    def whole(self) -> State:
        """The part, when the marker is back."""
        assert self.state is not None
        return self.state | {"targets": self.targets, "epoch_over": self.epoch_over}


class Parts:
    """One stage's parts of the checkpoints whose marker went down and is not back.

    state: gives the stage's state, as it is now. copy_late: when the marker is back, not when it goes down;
    the stage takes no activation meanwhile.
    """

    def __init__(self, state: Callable[[], State], *, copy_late: bool = False) -> None:
        self._state, self._copy_late = state, copy_late
        self._made: deque[Part] = deque()

    def __len__(self) -> int:
        return len(self._made)

    @property
    def blocking(self) -> bool:
        """Whether the stage must take no activation, because a part has still to be copied."""
        return self._copy_late and bool(self._made)

    def begin(self, step: int) -> None:
        """The marker of a checkpoint goes down: what the stage is now, is its part."""
        self._made.append(Part(step, None if self._copy_late else copied(self._state())))

    def on_target(self, target: TargetGradient) -> None:
        """A target has come: it belongs to the parts that were copied before it."""
        for part in self._made:
            part.on_target(target)

    def on_epoch(self) -> None:
        """An EPOCH marker is back: means that were copied before start over."""
        for part in self._made:
            part.epoch_over = part.state is not None

    def whole(self, step: int) -> State | None:
        """The part of a checkpoint whose marker is back; None if it was begun in a process that has died."""
        if not self._made or self._made[0].step != step:
            return None
        part = self._made.popleft()
        if part.state is None:
            part.state = copied(self._state())
        return part.whole()


def targets_under_way(part: State, device: torch.device | None = None) -> list[TargetGradient]:
    """The targets that a stage shall be given first when it goes on from this part."""
    return [TargetGradient(t["step"], t["version"], t["grad"].to(device)) for t in part["targets"]]


def recut(parts: Mapping[int, State], bounds: Sequence[Bounds], first: int, end: int) -> State:
    """The part of a stage with the layers from `first` to before `end`, out of parts that were cut otherwise.

    Weights (the best ones, too), optimizer state and what layers carry from batch to batch follow their
    layers. There is no rule's state, as an SG network belongs to its interface, no random numbers, and no
    target under way.

    parts: by stage, at least those that hold one of these layers. bounds: of all stages of that cut.
    """
    counts = next(iter(parts.values()))["counts"]
    state: State = {"version": counts["steps"], "rule": None, "random": None}
    state |= {"targets": [], "epoch_over": False}
    state["counts"] = {name: counts[name] for name in ("steps", "samples")}
    best = ["best"] if "best" in next(iter(parts.values())) else []
    for key in ("layers", "running", "optimizer", *best):
        whole = uncut(parts, bounds, key)
        mine = {name: value for name, value in whole.items() if first <= int(name.partition(".")[0]) < end}
        state[key] = renumbered(mine, -first)
    if best:
        state["patience"] = next(iter(parts.values()))["patience"]  # all stages decide alike
    return state


def uncut(parts: Mapping[int, State], bounds: Sequence[Bounds], key: str = "layers") -> State:
    """The weights of these parts, or what else belongs to layers, by their names in
    nn.Sequential(*task.layers())."""
    whole: State = {}
    for stage in sorted(parts):
        whole |= renumbered(parts[stage][key], bounds[stage][0])
    return whole


def weights_state(layers: nn.Module, updater: Updater | None) -> State:
    """Weights and buffers, what layers carry from batch to batch, and what the optimizer keeps, by their
    names in `layers`."""
    kept: State = updater.state_dict() if updater else {"version": 0, "parameters": []}
    optimizer = dict(zip(_trainable(layers), kept["parameters"], strict=False))  # a frozen stage keeps none
    state = {"layers": dict(layers.state_dict()), "running": running_states(layers)}
    return state | {"optimizer": optimizer, "version": kept["version"]}


def load_weights_state(layers: nn.Module, updater: Updater | None, state: State) -> None:
    """Take up what `weights_state` gave; a parameter that the optimizer did not know starts anew."""
    layers.load_state_dict(state["layers"])
    load_running_states(layers, state["running"])
    if updater is not None:
        parameters = [state["optimizer"].get(name, {}) for name in _trainable(layers)]
        updater.load_state_dict({"version": state["version"], "parameters": parameters})


def _trainable(layers: nn.Module) -> list[str]:
    """Names of the parameters that an updater of these layers has, in its order."""
    return [name for name, parameter in layers.named_parameters() if parameter.requires_grad]
