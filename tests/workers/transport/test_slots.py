"""Slots are pinned for the GPU of the process, where there is one."""

from __future__ import annotations

import pytest

from tests.support.fake_gpu import FakeGpu
from workers.transport import slots
from workers.transport.slots import Slot


class TestPinning:
    @pytest.fixture
    def gpu(self, monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
        gpu = FakeGpu()
        monkeypatch.setattr(slots, "current_accelerator", lambda: gpu)
        return gpu

    def test_a_slot_is_pinned_until_it_is_closed(self, gpu: FakeGpu) -> None:
        slot = Slot.create(100, pin=True)
        assert slot.pinned and list(gpu.pinned.values()) == [slot.size]
        slot.close()
        slot.close()
        assert not slot.pinned and gpu.pinned == {}

    def test_memory_that_is_left_to_a_holder_is_not_pinned_any_more(self, gpu: FakeGpu) -> None:
        slot = Slot.create(100, pin=True)
        (before,) = gpu.pinned
        slot.leave_to_holders()
        (after,) = gpu.pinned
        assert slot.pinned and after != before
        slot.close()

    def test_a_slot_that_cannot_be_pinned_works_and_says_so(self, gpu: FakeGpu) -> None:
        gpu.pins = False
        slot = Slot.create(100, pin=True)
        assert not slot.pinned
        slot.leave_to_holders()
        slot.close()

    def test_memory_of_a_process_on_the_cpu_is_not_pinned(self, gpu: FakeGpu) -> None:
        slot = Slot.create(100)
        assert not slot.pinned and gpu.pinned == {}
        slot.close()
