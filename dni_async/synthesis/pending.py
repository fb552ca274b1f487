"""Predictions that wait for their target gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dni_async.state.state_dict import State


@dataclass(slots=True)
class PendingPrediction:
    """One batch as the SG network saw it."""

    h: Tensor
    """(B, ...) the stage's output, detached."""
    labels: Tensor | None
    """(B, C) labels, or (B, ...) class indices, that the SG network was conditioned on."""
    version: int
    """Optimizer steps the stage had taken when it predicted."""
    hidden: Any = None
    """The hidden state of a recurrent SG network before it predicted, in nested tensors."""
    share: float = 1.0
    """Of the batch's labels that the mean loss is over; with 0 there is nothing to learn."""
    nbytes: int = field(init=False)
    """Bytes of these tensors."""

    def __post_init__(self) -> None:
        self.nbytes = sum(tensor.nbytes for tensor in tensors((self.h, self.labels, self.hidden)))

    def state_dict(self) -> State:
        """Return the batch without the hidden state: a resumed recurrent network begins a new sequence."""
        return {"h": self.h, "labels": self.labels, "version": self.version, "share": self.share}

    def part(self, samples: slice) -> PendingPrediction:
        """Return some samples of the batch, without the hidden state."""
        labels = None if self.labels is None else self.labels[samples]
        return PendingPrediction(self.h[samples], labels, self.version, share=self.share)

    @classmethod
    def from_state(cls, state: State, device: torch.device) -> PendingPrediction:
        """Return the batch on `device`."""
        labels = None if state["labels"] is None else state["labels"].to(device)
        return cls(state["h"].to(device), labels, state["version"], share=state.get("share", 1.0))


class PendingPredictions:
    """Pending predictions by step, at most `capacity`. When full, the oldest one is dropped and counted.

    put 7      put 8       put 9 (capacity 2)    pop 8       pop 7
    {7}   ->   {7, 8}  ->  {8, 9}, dropped 1  -> {9}    ->   None, unmatched 1
    """

    def __init__(self, capacity: int) -> None:
        assert capacity > 0, f"room for one prediction is needed (capacity {capacity})"
        self.capacity = capacity
        self.dropped = 0
        """Predictions that were dropped before their target came."""
        self.unmatched = 0
        """Targets whose prediction was not there."""
        self.held_bytes = 0
        """The bytes of all remembered tensors."""
        self._pending: dict[int, PendingPrediction] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def put(self, step: int, pending: PendingPrediction) -> None:
        """Remember the batch `step`, in place of one of the same number; when full, drop the oldest."""
        self.discard(step)
        if len(self._pending) >= self.capacity:
            self.discard(next(iter(self._pending)))
            self.dropped += 1
        self._pending[step] = pending
        self.held_bytes += pending.nbytes

    def pop(self, step: int) -> PendingPrediction | None:
        """Remove and return the batch `step`; None if it is not there."""
        pending = self.discard(step)
        self.unmatched += pending is None
        return pending

    def discard(self, step: int) -> PendingPrediction | None:
        """Remove the batch `step` and return it; None, uncounted, if it is not there."""
        pending = self._pending.pop(step, None)
        self.held_bytes -= pending.nbytes if pending else 0
        return pending

    def clear(self) -> None:
        """Forget all predictions, without counting them."""
        self._pending.clear()
        self.held_bytes = 0

    def state_dict(self) -> State:
        """Return all predictions, oldest first, and the counts."""
        pending = [{"step": step} | entry.state_dict() for step, entry in self._pending.items()]
        return {"pending": pending, "dropped": self.dropped, "unmatched": self.unmatched}

    def load_state_dict(self, state: State, device: torch.device) -> None:
        """Take up what `state_dict` returned, on `device`; without room for all, the newest."""
        self.clear()
        self.dropped, self.unmatched = state["dropped"], state["unmatched"]
        for entry in state["pending"]:
            self.put(entry["step"], PendingPrediction.from_state(entry, device))


def some_samples(samples: int, share: float, generator: torch.Generator) -> slice:
    """Return which samples make up a share of a batch: at least one, neighbours, from a random one on."""
    count = max(1, int(samples * share))
    start = int(torch.randint(samples - count + 1, (), generator=generator))
    return slice(start, start + count)


def in_own_memory(labels: Tensor, y: Any) -> Tensor:
    """Return the labels, cloned if they share memory with y: that of a message belongs to the transport, and
    they outlive it."""
    address = labels.untyped_storage().data_ptr()
    shared = any(address == given.untyped_storage().data_ptr() for given in tensors(y))
    return labels.clone() if shared else labels


def tensors(nested: Any) -> Iterator[Tensor]:
    """Yield all tensors in nested tuples, lists and mappings."""
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, Mapping):
        yield from tensors(list(nested.values()))
    elif isinstance(nested, tuple | list):
        for part in nested:
            yield from tensors(part)
