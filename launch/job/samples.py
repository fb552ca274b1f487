"""What data sets and their samples must be; the checks raise UserError in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_structure
from torch.utils.data import Dataset, IterableDataset, default_collate

from dni_async.errors import UserError
from dni_async.trees import describe_tree

WANTED = "give tensors, arrays or numbers, in tuples, lists or dicts of the same form and shapes"


def check_set(name: str, dataset: Dataset[Any]) -> None:
    """Check that a data set, such as the "training" set, is map-style and has samples."""
    if isinstance(dataset, IterableDataset):
        kind = type(dataset).__name__
        raise UserError(
            f"the {name} set is an IterableDataset ({kind}), which cannot be shuffled and resumed; "
            "give a map-style data set, with __len__ and __getitem__"
        )
    if not size(dataset):
        raise UserError(f"the {name} set is empty; check the task's data")


def size(dataset: Dataset[Any]) -> int:
    """Return the number of samples in a map-style data set. Raises UserError for another."""
    if not hasattr(dataset, "__len__"):
        raise UserError(f"data set {type(dataset).__name__} has no length; give a map-style data set")
    return len(dataset)


def stack(samples: Sequence[Any]) -> Any:
    """Return a batch of these samples: the tree of one of them, with tensors (B, ...).

    Raises:
        UserError: they differ in form, or have something else than tensors, arrays and numbers.
    """
    try:
        batch = default_collate(list(samples))
    except Exception as error:  # shapes or forms that differ, or a type that torch does not know
        raise UserError(f"{_odd(samples) or _cause(error)}; {WANTED}") from error
    if not all(isinstance(leaf, Tensor) for leaf in tree_leaves(batch)):
        raise UserError(f"{_odd(samples) or _cause()}; {WANTED}")
    return batch


def _odd(samples: Sequence[Any]) -> str:
    """Return words about the first sample of another form than that of sample 0, or with a wrong value."""
    form = tree_structure(samples[0])
    for sample in samples:
        right = (Tensor, numpy.ndarray, numpy.generic, int, float)
        if tree_structure(sample) != form or not all(isinstance(leaf, right) for leaf in tree_leaves(sample)):
            return f"a sample is {describe_tree(sample)}"
    return ""


def _cause(error: Exception | None = None) -> str:
    words = f" ({(str(error) or type(error).__name__).splitlines()[0]})" if error else ""
    return f"samples do not make a batch{words}"
