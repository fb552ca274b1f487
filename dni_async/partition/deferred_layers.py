"""The layers of a network, of which a process gives memory only to those that it needs.

layers       0    1    2    3        seed of each: from the run's seed and its number
build(0, 2)  real real meta meta     the same initial values as in build(0, 4)
using(2)     ...  ...  real meta     until the end of the `with` block
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from dni_async.partition.deferred_init import Key, Recorder, Reference, reference_to

Memo = dict[int, Any]
"""By id: a tensor without memory, and what takes its place."""


def seed_of_layer(seed: int, layer: int) -> int:
    """Return the seed of the initial values of a layer, in a run with this seed."""
    return int(numpy.random.SeedSequence([seed % 2**32, layer]).generate_state(1)[0])


class DeferredLayers:
    """Layers in order, without memory until they are built.

    Every layer draws its initial values from a seed of its own, so they do not depend on which layers a
    process builds. Layers whose construction needs values at once (`item()`, a generator of its own) are
    built whole, in every process alike.

    Args:
        make: returns the layers; called with torch's generator seeded by `seed`, twice if they cannot be
            deferred.
        seed: of the run.

    Attributes:
        structure: all layers, of which only those that were built have memory.
        deferred: whether the others have none.
    """

    def __init__(self, make: Callable[[], Sequence[nn.Module]], seed: int) -> None:
        self._seed = seed
        self._recorder = Recorder()
        self.deferred = True
        try:
            with _seeded(seed):
                before = torch.get_rng_state()
                with self._recorder:
                    self.structure = list(make())
                self.deferred = torch.equal(
                    before, torch.get_rng_state()
                )  # else it drew, or seeded, for itself
        except Exception:  # bad input fails below, too
            self.deferred = False
        if not self.deferred:
            with _seeded(seed):
                self.structure = list(make())
            return
        self._references = [self._references_of(layer) for layer in self.structure]
        self._owners: dict[int, int] = {}
        """Operation -> the first layer that needs it, whose seed it has."""
        self._needed = []
        for number, references in enumerate(self._references):
            needed = self._recorder.needed_for({reference.key for _, reference in references.values()})
            self._needed.append(needed)
            for operation in needed:
                self._owners.setdefault(operation, number)

    def __len__(self) -> int:
        return len(self.structure)

    def build(self, first: int, end: int) -> list[nn.Module]:
        """Give memory and initial values to the layers from `first` to before `end`, and return them."""
        layers = self.structure[first:end]
        if self.deferred:
            _replace(layers, self._values(range(first, end)))
        return layers

    def is_temporary(self, number: int) -> bool:
        """Whether the parameters of a layer have no memory beyond its iteration."""
        known = self._references[number] if self.deferred else {}
        return all(id(parameter) in known for parameter in self.structure[number].parameters())

    def __iter__(self) -> Iterator[nn.Module]:
        """Yield the layers with initial values; each loses its memory with the next, unless it was built."""
        for number in range(len(self)):
            with self._using(number) as layer:
                yield layer

    @contextmanager
    def _using(self, number: int) -> Iterator[nn.Module]:
        layer = self.structure[number]
        there = {id(tensor) for tensor in _tensors(layer)}
        values = self._values([number]) if self.deferred else {}
        memo = {key: value for key, value in values.items() if key in there}
        back = {id(value): self._references[number][key][0] for key, value in memo.items()}
        _replace([layer], memo)
        try:
            yield layer
        finally:
            _replace([layer], back)

    def _references_of(self, layer: nn.Module) -> dict[int, tuple[Tensor, Reference]]:
        """Return the tensors of a layer that have no memory, by id."""
        return {
            id(tensor): (tensor, reference_to(tensor))
            for tensor in _tensors(layer)
            if self._recorder.knows(tensor)
        }

    def _values(self, numbers: Sequence[int]) -> Memo:
        """Return tensors with initial values for those without memory of some layers."""
        owners: set[int] = set()
        more = set(numbers)
        while more - owners:  # an owner's operations may read what those of another have made
            owners |= more
            more = {self._owners[operation] for owner in owners for operation in self._needed[owner]}
        storages: dict[Key, torch.UntypedStorage] = {}
        for owner in sorted(owners):
            with _seeded(seed_of_layer(self._seed, owner)):
                self._recorder.replay([op for op, layer in self._owners.items() if layer == owner], storages)
        memo: Memo = {}
        for number in numbers:
            for key, (tensor, reference) in self._references[number].items():
                memo.setdefault(key, _like(tensor, reference.of(storages)))
        return memo


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator inside, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
        yield


def _like(tensor: Tensor, value: Tensor) -> Tensor:
    """Return the value as a parameter with the attributes of `tensor` if that is one."""
    if not isinstance(tensor, nn.Parameter):
        return value
    parameter = type(tensor)(value, requires_grad=tensor.requires_grad)
    parameter.__dict__.update(tensor.__dict__)
    return parameter


def _tensors(layer: nn.Module) -> Iterator[Tensor]:
    """Yield parameters, buffers and tensors that are attributes, of all modules in a layer."""
    for module in layer.modules():
        attributes = [value for name, value in vars(module).items() if name != "_modules"]
        yield from (leaf for leaf in tree_leaves(attributes) if isinstance(leaf, Tensor))


def _holds_any(value: Any, memo: Memo) -> bool:
    return any(id(leaf) in memo for leaf in tree_leaves(value))


def _replace(layers: Sequence[nn.Module], memo: Memo) -> None:
    """Put the values of `memo` in the place of the tensors in all modules of these layers."""

    def new(leaf: Any) -> Any:
        return memo.get(id(leaf), leaf)

    if not memo:
        return
    for layer in layers:
        for module in layer.modules():
            for name, value in list(vars(module).items()):
                if name in ("_parameters", "_buffers"):
                    value.update({key: new(tensor) for key, tensor in value.items()})
                elif name != "_modules" and _holds_any(value, memo):
                    vars(module)[name] = tree_map(new, value)
