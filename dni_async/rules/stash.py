"""Weight stashing: batches that wait for their gradient, with the weights of their forward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dni_async.errors import StageError


@dataclass(slots=True)
class Waiting:
    """One batch between its forward and its backward."""

    x: Tensor
    """(B, ...) the stage's input, in memory of its own: a leaf, whose gradient is sent upstream."""
    h: Tensor
    """(B, ...) the stage's output, with its graph."""
    version: int
    """Optimizer steps that the stage had taken at the forward."""
    weights: Weights
    storages: dict[int, int]
    """Address -> bytes of what the graph keeps, except the layers' own parameters and buffers."""


class Stash:
    """At most `capacity` batches by step, whose graphs see the weights of their forward.

        forward 7   forward 8   target 7: backward        update        target 8: backward
        weights v                reads the weights in      v -> v + 1,   reads the copy of v
        (no copy)   (no copy)    place                     copies v for 8

    An optimizer changes weights in place, and autograd refuses a backward through changed weights. So the
    graph keeps a reference instead of each weight (`saved_tensors_hooks`), and before an update the weights
    that waiting graphs refer to are copied once. With one batch in flight there are none.

    Only what autograd saves is stashed: a layer that runs forward again in its backward (activation
    checkpointing), or an `autograd.Function` that keeps weights outside `save_for_backward`, sees newer
    weights.
    """

    def __init__(self, capacity: int) -> None:
        assert capacity > 0, f"a stash needs room (capacity {capacity})"
        self.capacity = capacity
        self.most_bytes = 0
        """The most bytes that were held at once."""
        self._waiting: dict[int, Waiting | None] = {}
        self._weights: Weights | None = None
        self._storages: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def has_room(self) -> bool:
        """Whether one more batch may go forward."""
        return len(self._waiting) < self.capacity

    def forward(self, layers: nn.Module, x: Tensor) -> Tensor:
        """Return `layers(x)`, (B, ...), with a graph that can wait; pass the result to `put`."""
        if self._weights is None or self._weights.are_copied:
            self._weights = Weights(layers)
        self._storages = {}
        with torch.autograd.graph.saved_tensors_hooks(*self._weights.hooks(self._storages)):
            return layers(x)

    def put(self, step: int, version: int, x: Tensor, h: Tensor) -> None:
        """Keep the batch `step`, whose `forward` was the last one: x (B, ...), h (B, ...)."""
        assert self.has_room and step not in self._waiting and self._weights is not None
        for tensor in (x, h):
            self._weights.count(tensor, self._storages)
        self._waiting[step] = Waiting(x, h, version, self._weights, self._storages)
        self.most_bytes = max(self.most_bytes, self.held_bytes())

    def put_nothing(self, step: int) -> None:
        """Take the place of the batch `step`, which was skipped, and whose target will come in its turn."""
        assert self.has_room and step not in self._waiting
        self._waiting[step] = None

    def pop(self, step: int) -> Waiting | None:
        """Remove and return the batch `step`; None after `put_nothing`.

        Raises StageError if it is not the oldest: targets come in the order of batches, so one got lost.
        """
        oldest = next(iter(self._waiting), None)
        if oldest != step:
            lost = "no batch waits for it" if oldest is None else f"that of step {oldest} is missing"
            raise StageError(f"the target of step {step} came, and {lost}")
        return self._waiting.pop(step)

    def check_answered(self, steps: int) -> None:
        """Raises StageError if a batch before number `steps` still waits: its target got lost."""
        oldest = next(iter(self._waiting), steps)
        if oldest < steps:
            raise StageError(f"the target of step {oldest} never came")

    def before_update(self) -> None:
        """Copy the weights that waiting graphs refer to, because the weights are about to change."""
        if any(w.weights is self._weights for w in self._graphs()):
            self.copy_weights()
            self.most_bytes = max(self.most_bytes, self.held_bytes())
        self._weights = None

    def copy_weights(self) -> None:
        """Copy the weights that the last forward has used, if they are not copied yet."""
        if self._weights is not None and not self._weights.are_copied:
            self._weights.copy()

    def held_bytes(self) -> int:
        """Return the bytes held now: inputs, outputs, what autograd saved, and copies of weights."""
        versions = {id(w.weights): w.weights for w in self._graphs()}
        graphs = sum(sum(w.storages.values()) for w in self._graphs())
        return graphs + sum(weights.copied_bytes() for weights in versions.values())

    def _graphs(self) -> list[Waiting]:
        return [waiting for waiting in self._waiting.values() if waiting is not None]


class Weights:
    """The trainable parameters of `layers` at one version; after `copy` they may change."""

    def __init__(self, layers: nn.Module) -> None:
        parameters = list(layers.parameters())
        self._trainable = {_address(p): p.untyped_storage() for p in parameters if p.requires_grad}
        self._own = {_address(t) for t in (*parameters, *layers.buffers())}
        self._used: set[int] = set()
        self._copies: dict[int, torch.UntypedStorage] = {}
        self.are_copied = False

    def hooks(
        self, storages: dict[int, int]
    ) -> tuple[Callable[[Tensor], _Saved], Callable[[_Saved], Tensor]]:
        """Return (pack, unpack) for the graph of one batch, whose own memory is counted in `storages`."""

        def pack(tensor: Tensor) -> _Saved:
            self.count(tensor, storages)
            address = _address(tensor)
            if address in self._trainable:
                self._used.add(address)
            # detached: a graph that held its own output through a hook would never be freed
            return _Saved(tensor.detach(), tensor._version, address)

        return pack, self._unpack

    def count(self, tensor: Tensor, storages: dict[int, int]) -> None:
        """Count the memory of a tensor (any shape) that a graph keeps, unless it is the layers' own."""
        address = _address(tensor)
        if address not in self._own:
            storages[address] = tensor.untyped_storage().nbytes() if address else 0

    def copy(self) -> None:
        """Copy the parameters that graphs refer to, by storage, since parameters may share one."""
        self._copies = {address: self._trainable[address].clone() for address in self._used}
        self.are_copied = True

    def copied_bytes(self) -> int:
        """Return the bytes of the copies."""
        return sum(copy.nbytes() for copy in self._copies.values())

    def _unpack(self, saved: _Saved) -> Tensor:
        tensor, copy = saved.tensor, self._copies.get(saved.address)
        if copy is not None:
            return tensor.new_empty(0).set_(copy, tensor.storage_offset(), tensor.shape, tensor.stride())
        if tensor._version != saved.version:  # autograd does not check this when there are hooks
            shape = tuple(tensor.shape)
            raise StageError(
                f"a tensor {shape} that the backward needs was changed in place after the forward"
            )
        return tensor


@dataclass(slots=True)
class _Saved:
    """What autograd keeps in place of a tensor."""

    tensor: Tensor
    version: int
    address: int


def _address(tensor: Tensor) -> int:
    """Return the address of the tensor's memory; 0 if there is none (empty, or a layout without storage)."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0
