"""What an engine asks of its rank before it starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from launch.config.train import TrainConfig
from launch.job import context as module
from tests.support.fake_gpu import FakeGpu
from tests.support.tiny_task import Tiny, context_of
from workers.coordination.rendezvous import Rendezvous


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, dict[str, Any]]]:
    """What the compiler was given."""
    given: list[tuple[Tensor, dict[str, Any]]] = []
    monkeypatch.setattr(module, "compile_ahead", lambda layers, x, extras, **how: given.append((x, how)))
    return given


@pytest.mark.parametrize(
    ("first", "shape", "dtype"), [(0, (16, 6), torch.float32), (2, (16, 8), torch.bfloat16)]
)
def test_layers_are_compiled_for_batches_as_they_will_come(
    compiled: list[tuple[Tensor, dict[str, Any]]], first: int, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    context = context_of(Tiny(), TrainConfig.of(batch_size=16, compile=True, precision="bf16"))
    context.compile(nn.Identity(), first, trains=True, gradients={first > 0})
    ((x, how),) = compiled
    assert (x.shape, x.dtype) == (shape, dtype)
    assert how.pop("takes").is_tensor and how.pop("returns").is_tensor
    assert how == {"trains": True, "gradients": {first > 0}}


def test_no_rank_continues_before_all_ranks_have_compiled(
    compiled: list[tuple[Tensor, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = dist.HashStore()
    config = TrainConfig.of(batch_size=16, compile=True, cut="2")
    context = context_of(Tiny(), config, Rendezvous(0, 2, 0, 2, store))
    met: list[str] = []

    def all_gather(self: Rendezvous, key: str, mine: bool, timeout: float) -> None:
        assert timeout > 600 and len(compiled) == 1
        met.append(key)

    monkeypatch.setattr(Rendezvous, "all_gather", all_gather)
    context.compile(nn.Identity(), 0, trains=True, gradients={False})
    assert met == ["compiled"]


def test_without_the_option_nothing_is_compiled(compiled: list[tuple[Tensor, dict[str, Any]]]) -> None:
    context_of(Tiny(), TrainConfig.of(batch_size=16)).compile(
        nn.Identity(), 0, trains=True, gradients={False}
    )
    assert not compiled


@pytest.mark.parametrize(
    ("shared", "mps", "notes"), [(False, False, 0), (True, False, 1), (True, True, 0)], ids=str
)
def test_ranks_that_share_a_gpu_are_told_of_mps(
    shared: bool, mps: bool, notes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, store = FakeGpu(), dist.HashStore()
    context = context_of(Tiny(), TrainConfig.of())
    context.rendezvous = Rendezvous(0, 2, 0, 2, store)
    Rendezvous(1, 2, 1, 2, store).publish("warm/1", gpu.identity() if shared else "another")
    monkeypatch.setattr(module, "accelerator_of", lambda device: gpu)
    monkeypatch.setattr(module, "warm_up", lambda device, timeout: None)
    monkeypatch.setattr(module, "is_mps_running", lambda: mps)
    context.warm_up()
    assert context.start.notes == [module.WITHOUT_MPS] * notes
