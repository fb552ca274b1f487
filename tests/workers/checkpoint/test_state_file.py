"""A state survives the way through a file to the bit."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load, save

from dni_async.errors import UserError
from dni_async.state.state_dict import State, copied
from tests.support.states import same_state
from workers.checkpoint.state_file import from_bytes, label_of, to_bytes

STATE: State = {
    "layers": {"0.weight": torch.randn(3, 2), "0.count": torch.tensor(7), "empty": torch.empty(0, 4)},
    "rows": [
        {"step": 3, "h": torch.randn(2, 2).bfloat16()},
        {"step": 4, "h": torch.zeros(1, dtype=torch.bool)},
    ],
    "random": torch.get_rng_state(),
    "half": torch.randn(2).half(),
    "numbers": [1, -2.5, 1e-300, 0.1 + 0.2, True, None, "text", 2**62],
    "nothing": {},
    "none": [],
}


def test_a_state_comes_back_as_it_was() -> None:
    assert same_state(from_bytes(to_bytes(STATE)), STATE)


def test_a_file_has_a_label_or_none() -> None:
    data = to_bytes(STATE, "step 7")
    assert label_of(data) == "step 7" and same_state(from_bytes(data), STATE)
    assert label_of(to_bytes(STATE)) == label_of(save({}, {"state": "{}"})) == ""
    no_tensors, no_state = b"\x02" + bytes(7) + b"{}", save({"a": torch.ones(1)})
    for foreign in (b"", b"x" * 100, no_tensors, no_state, save({}, {"state": "[]"})):
        with pytest.raises((ValueError, KeyError, TypeError)):
            label_of(foreign)


def test_nan_and_infinity_come_back() -> None:
    back = from_bytes(to_bytes({"loss": math.nan, "most": math.inf}))
    assert math.isnan(back["loss"]) and back["most"] == math.inf


def test_any_tool_can_read_the_tensors() -> None:
    tensors = load(to_bytes(STATE))
    assert torch.equal(tensors["state/layers/0.weight"], STATE["layers"]["0.weight"])
    assert torch.equal(tensors["state/rows/0/h"], STATE["rows"][0]["h"])


def test_tensors_of_any_strides_are_written() -> None:
    state = copied({"w": torch.arange(6).reshape(2, 3).t(), "c": torch.randn(1, 2, 3, 3)[:, :, ::2]})
    assert same_state(from_bytes(to_bytes(state)), state)


def test_what_is_neither_tensor_nor_json_is_named() -> None:
    with pytest.raises(UserError, match=r"^state/rule/labels is a set, which a checkpoint cannot keep$"):
        to_bytes({"rule": {"labels": {1, 2}}})


@pytest.mark.parametrize("data", [b"", b"\x80\x04K\x01.", b"\x08" + b"\0" * 7 + b"not json", b"\xff" * 64])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises((ValueError, KeyError)):
        from_bytes(data)
