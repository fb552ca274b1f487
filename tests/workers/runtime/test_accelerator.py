"""Events, and what holds for every accelerator."""

from __future__ import annotations

import weakref

import pytest
import torch

from tests.support.channels import Copying
from tests.support.fake_gpu import FakeGpu
from workers.runtime.accelerator import CopyEvent
from workers.transport.base import TransportTimeout


def test_an_event_of_copies_holds_their_sources_until_they_are_done() -> None:
    copying, source = Copying(patience=10**9), torch.ones(3)
    there, event = weakref.ref(source), CopyEvent(copying, [source])
    del source
    assert not event.query() and there() is not None
    copying.finished = True
    assert event.query() and there() is None


def test_a_stream_is_made_once_for_each_name() -> None:
    gpu = FakeGpu()
    assert gpu.stream("in") is gpu.stream("in") is not gpu.stream("out")


def test_a_device_that_hangs_is_given_up_at_the_deadline() -> None:
    gpu = FakeGpu(computes_at_once=False)
    gpu.synchronize(5.0)
    gpu.default.add(lambda: False)
    with pytest.raises(TransportTimeout, match=r"the work of the GPU was not done in 0\.01 s"):
        gpu.synchronize(0.01)
