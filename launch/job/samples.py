"""What data sets and their samples must be; the checks raise UserError in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy
from torch import Tensor, tensor
from torch.utils._pytree import tree_leaves, tree_structure
from torch.utils.data import IterableDataset, default_collate

from dni_async.errors import UserError, cause_of
from dni_async.trees import describe_tree

WANTED = "give tensors, arrays or numbers, in tuples, lists or dicts of the same form and shapes"


def is_loader(dataset: Any) -> bool:
    """Whether it makes batches by itself, as torch's DataLoader and torchdata's StatefulDataLoader do."""
    return hasattr(dataset, "__iter__") and hasattr(dataset, "collate_fn")


def is_stream(dataset: Any) -> bool:
    """Whether its samples, or the batches of a loader, come one after the other and have no numbers."""
    if isinstance(dataset, IterableDataset) or is_loader(dataset):
        return True
    return hasattr(dataset, "__iter__") and not hasattr(dataset, "__getitem__")


def check_set(name: str, dataset: Any) -> None:
    """Check that a data set, such as the "training" set, can be read, and has samples if it is map-style."""
    if not is_stream(dataset) and not size(dataset):
        raise UserError(f"the {name} set is empty; check the task's data")


def size(dataset: Any) -> int:
    """Return the number of samples in a map-style data set. Raises UserError for another."""
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise UserError(
            f"data set {type(dataset).__name__} cannot be read; give a map-style or an iterable data set, or "
            "a DataLoader"
        )
    return len(dataset)


def known_size(dataset: Any) -> int | None:
    """Return the number of samples, None where only reading would show it."""
    return None if is_stream(dataset) else size(dataset)


def stack(samples: Sequence[Any], collate: Callable[[list[Any]], Any] | None = None) -> Any:
    """Return a batch of these samples: the tree of one of them, with tensors (B, ...).

    Args:
        collate: makes it; by default torch's `default_collate`.

    Raises:
        UserError: they differ in form, or have something else than tensors, arrays and numbers.
    """
    if collate is not None:
        batch = collate(list(samples))
        if not all(isinstance(leaf, Tensor) for leaf in tree_leaves(batch)):
            raise UserError(f"collate of the task returned {describe_tree(batch)}; return a tree of tensors")
        return batch
    try:
        samples = [_with_tensors(sample) for sample in samples]
        batch = default_collate(samples)
    except Exception as error:  # shapes or forms that differ, or a type that torch does not know
        raise UserError(f"{_odd(samples) or _cause(error)}; {WANTED}") from error
    if not all(isinstance(leaf, Tensor) for leaf in tree_leaves(batch)):
        raise UserError(f"{_odd(samples) or _cause()}; {WANTED}")
    return batch


def _with_tensors(sample: Any) -> Any:
    """Return the sample with a tensor for each list of numbers in it, such as the token ids of a text: torch
    would make a tensor of each place in the list."""
    if isinstance(sample, dict):
        return {name: _as_tensor(value) for name, value in sample.items()}
    return tuple(map(_as_tensor, sample)) if type(sample) is tuple else sample


def _as_tensor(value: Any) -> Any:
    return tensor(value) if isinstance(value, list) and _has_numbers_only(value) else value


def _has_numbers_only(values: list[Any]) -> bool:
    if all(isinstance(value, int | float) for value in values):
        return True
    return all(isinstance(value, list) and _has_numbers_only(value) for value in values)


def _odd(samples: Sequence[Any]) -> str:
    """Return words about the first sample of another form than that of sample 0, or with a wrong value."""
    form = tree_structure(samples[0])
    for sample in samples:
        right = (Tensor, numpy.ndarray, numpy.generic, int, float)
        if tree_structure(sample) != form or not all(isinstance(leaf, right) for leaf in tree_leaves(sample)):
            return f"a sample is {describe_tree(sample)}"
    return ""


def _cause(error: Exception | None = None) -> str:
    words = f" ({cause_of(error)})" if error else ""
    padding = "; pad those of different lengths in collate() of the task" if "equal size" in words else ""
    return f"samples do not make a batch{words}{padding}"
