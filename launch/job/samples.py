"""What data sets and their samples must be; the checks raise UserError in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset, default_collate

from dni_async.errors import UserError

WANTED = "give pairs (x, y) of one tensor, array or number each"


def check_set(name: str, dataset: Dataset[Any]) -> None:
    """Check that a data set, such as the "training" set, is map-style and has samples, which are pairs."""
    if isinstance(dataset, IterableDataset):
        kind = type(dataset).__name__
        raise UserError(
            f"the {name} set is an IterableDataset ({kind}), which cannot be shuffled and resumed; "
            "give a map-style data set, with __len__ and __getitem__"
        )
    if not size(dataset):
        raise UserError(f"the {name} set is empty; check the task's data")
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) != 2:
        raise UserError(f"the {name} set has samples of {len(dataset.tensors)} tensors; give pairs (x, y)")


def size(dataset: Dataset[Any]) -> int:
    """Return the number of samples in a map-style data set. Raises UserError for another."""
    if not hasattr(dataset, "__len__"):
        raise UserError(f"data set {type(dataset).__name__} has no length; give a map-style data set")
    return len(dataset)


def stack(samples: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Return a batch x (B, ...), y (B, ...) of these samples."""
    for sample in samples:
        if not isinstance(sample, tuple | list) or len(sample) != 2:
            raise UserError(f"a sample is {_described(sample)}; {WANTED}")
        for name, value in zip("xy", sample, strict=True):
            if isinstance(value, Mapping | tuple | list | str | bytes) or value is None:
                raise UserError(f"the {name} of a sample is {_described(value)}; {WANTED}")
    try:
        x, y = default_collate([tuple(sample) for sample in samples])
    except (RuntimeError, TypeError) as error:  # shapes that differ, or a type that torch does not know
        cause = str(error).splitlines()[0]
        raise UserError(f"samples do not make a batch ({cause}); {WANTED}, all of one shape") from error
    return x, y


def _described(value: Any) -> str:
    """Return what a value is, such as "a dict (x, mask)"."""
    kind = f"a {type(value).__name__}"
    if isinstance(value, Mapping):
        return f"{kind} ({', '.join(map(str, value))})"
    return f"{kind} of {len(value)}" if isinstance(value, tuple | list) else kind
