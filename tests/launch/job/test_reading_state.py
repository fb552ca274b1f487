"""States of loaders, of whatever form, are kept in checkpoints."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch

from dni_async.errors import UserError
from launch.job.reading_state import restored, storable
from workers.checkpoint.state_file import from_bytes, to_bytes


@pytest.mark.parametrize(
    "value",
    [None, 3, "a", (1, (2, [3])), b"\x00\xff", {0: "a", (1, 2): "b"}, {"a": {"b": ()}}, [{}, {1: {}}], b""],
    ids=str,
)
def test_what_a_checkpoint_has_kept_is_what_was_put_in(value: Any) -> None:
    back = restored(from_bytes(to_bytes({"data": storable(value)}))["data"])
    assert back == value and type(back) is type(value)


def test_tensors_and_arrays_are_kept() -> None:
    state = {"tensor": torch.arange(3), "array": numpy.arange(3), "scalar": numpy.int64(3)}
    back = restored(from_bytes(to_bytes({"data": storable(state)}))["data"])
    assert torch.equal(back["tensor"], state["tensor"]) and back["array"].tolist() == [0, 1, 2]
    assert type(back["array"]) is numpy.ndarray and back["scalar"] == 3


def test_an_object_is_refused_by_the_checkpoint() -> None:
    with pytest.raises(UserError, match="state/data/place is a object, which a checkpoint cannot keep"):
        to_bytes({"data": storable({"place": object()})})
