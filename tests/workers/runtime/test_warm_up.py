from __future__ import annotations

import pytest
import torch

from tests.support.fake_gpu import FakeGpu
from workers.runtime import warm_up as module
from workers.runtime.warm_up import rehearse, warm_up
from workers.transport.base import TransportTimeout


def test_a_rehearsal_leaves_random_numbers_as_they_were() -> None:
    before = torch.get_rng_state()
    rehearse(torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_device_is_warm_when_it_has_done_the_rehearsal(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(computes_at_once=False)
    monkeypatch.setattr(module, "accelerator_of", lambda device: gpu)
    monkeypatch.setattr(module, "rehearse", lambda device: gpu.default.add(lambda: True))
    warm_up(torch.device("cuda"), 5.0)
    assert not gpu.default.queue
    gpu.default.add(lambda: False)
    with pytest.raises(TransportTimeout):
        warm_up(torch.device("cuda"), 0.01)


def test_the_cpu_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "rehearse", lambda device: pytest.fail("it rehearses"))
    warm_up(torch.device("cpu"), 1.0)
