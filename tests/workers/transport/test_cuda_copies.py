"""Copies between slots and devices; what a GPU does in its own time is played by events on the CPU."""

from __future__ import annotations

import pytest
import torch

from dni_async.messages import Activation, Marker, MarkerKind, TargetGradient
from tests.support.channels import Copying
from tests.support.fake_gpu import GARBAGE, FakeGpu, FakeStream
from workers.runtime.accelerator import DONE, wait_for
from workers.transport.base import TransportTimeout
from workers.transport.cuda_copies import copy_out, move


def test_on_the_cpu_a_copy_is_done_at_once() -> None:
    places = [torch.zeros(2, 3), torch.zeros(4, dtype=torch.int64)]
    event = copy_out(places, [torch.ones(3, 2).t(), torch.arange(4)])
    assert event.query()
    assert torch.equal(places[0], torch.ones(2, 3))
    assert torch.equal(places[1], torch.arange(4))


def test_a_copy_that_never_ends_is_given_up_at_the_deadline() -> None:
    wait_for(Copying(patience=3), 5.0)
    with pytest.raises(TransportTimeout, match=r"copy between the GPU and the host was not done in 0.01 s"):
        wait_for(Copying(patience=10**9), 0.01)


class TestMove:
    elsewhere = torch.device("meta")

    def test_activations_and_their_labels(self) -> None:
        message = Activation(3, 1, torch.ones(2, 5), torch.arange(2))
        move(message, self.elsewhere)
        assert (message.h.device, message.y.device) == (self.elsewhere, self.elsewhere)
        assert (message.h.shape, message.y.dtype) == ((2, 5), torch.int64)

    def test_extras_of_an_activation(self) -> None:
        message = Activation(3, 1, torch.ones(2, 5), torch.arange(2), extras=(torch.ones(2), torch.ones(3)))
        move(message, self.elsewhere)
        assert [(extra.device, extra.shape) for extra in message.extras] == [
            (self.elsewhere, (2,)),
            (self.elsewhere, (3,)),
        ]

    def test_targets(self) -> None:
        message = TargetGradient(3, 1, torch.ones(2, 5))
        move(message, self.elsewhere)
        assert message.grad.device == self.elsewhere

    def test_a_marker_has_no_tensor_to_move(self) -> None:
        marker = Marker(MarkerKind.STOP, 3, 1)
        move(marker, self.elsewhere)
        assert marker == Marker(MarkerKind.STOP, 3, 1)

    def test_on_the_cpu_the_old_place_may_be_overwritten_at_once(self) -> None:
        assert move(TargetGradient(3, 1, torch.ones(2)), torch.device("cpu")) is DONE

    def test_tensors_on_the_right_device_are_not_copied(self) -> None:
        h = torch.ones(2, 5)
        message = Activation(3, 1, h, torch.arange(2))
        move(message, torch.device("cpu"))
        assert message.h is h


class TestCopiesOfADeviceThatIsLate:
    def test_a_message_is_copied_out_when_it_is_computed_and_not_before(self) -> None:
        gpu = FakeGpu(computes_at_once=False)
        computed, place, h = [False], torch.zeros(3), gpu.put(torch.ones(3))
        gpu.default.add(lambda: computed[0])
        event = copy_out([place], [h], gpu)
        assert [event.query() for _ in range(20)] == [False] * 20 and place.tolist() == [0] * 3
        computed[0] = True
        wait_for(event, 5.0)
        assert place.tolist() == [1] * 3

    def test_memory_of_the_device_is_kept_until_it_is_copied_out(self) -> None:
        gpu = FakeGpu()
        place = torch.zeros(3)
        event = copy_out([place], [gpu.put(torch.ones(3))], gpu)  # nobody else has the tensor
        wait_for(event, 5.0)
        assert place.tolist() == [1] * 3

    def test_labels_on_the_host_are_in_their_place_at_once(self) -> None:
        gpu = FakeGpu()
        place = torch.zeros(2, dtype=torch.int64)
        copy_out([place], [torch.arange(2)], gpu)
        assert place.tolist() == [0, 1]

    def test_memory_of_the_host_is_kept_until_it_is_copied_in(self) -> None:
        gpu = FakeGpu(computes_at_once=False)
        message = Activation(0, 0, torch.ones(2, 2), torch.arange(2))
        event = move(message, gpu)  # what the message had before is nobody's any more
        wait_for(event, 5.0)
        assert message.h.tolist() == [[1, 1], [1, 1]] and message.y.tolist() == [0, 1]

    def test_without_a_keeper_the_copy_is_garbage(self) -> None:
        gpu = FakeGpu(computes_at_once=False)
        there = gpu.bring(torch.zeros(2, dtype=torch.uint8))
        gpu.machine.run_until(lambda: not gpu.default.queue)
        assert there.tolist() == [GARBAGE] * 2

    def test_layers_wait_for_what_comes_in(self) -> None:
        gpu = FakeGpu()
        message = TargetGradient(0, 0, torch.ones(3))
        move(message, gpu)
        assert message.grad.tolist() == [1] * 3  # computed with at once

    def test_an_input_does_not_wait_for_an_output_that_is_computed(self) -> None:
        gpu = FakeGpu(computes_at_once=False)
        gpu.default.add(lambda: False)  # a computation that never ends
        out = copy_out([torch.zeros(3)], [gpu.put(torch.ones(3))], gpu)
        wait_for(move(TargetGradient(0, 0, torch.ones(3)), gpu), 5.0)
        assert not out.query()

    def test_tensors_that_are_there_are_not_copied(self) -> None:
        gpu = FakeGpu()
        grad = gpu.put(torch.ones(3))
        message = TargetGradient(0, 0, grad)
        assert move(message, gpu) is DONE and message.grad is grad
        assert [s for s in gpu.machine.streams if s.queue and isinstance(s, FakeStream)] == []


@pytest.mark.gpu
def test_tensors_move_to_a_gpu() -> None:
    message = TargetGradient(3, 1, torch.arange(6.0))
    move(message, torch.device("cuda", 0))
    assert message.grad.device == torch.device("cuda", 0)
    assert torch.equal(message.grad.cpu(), torch.arange(6.0))


@pytest.mark.gpu
def test_a_gpu_copies_what_was_computed_before() -> None:
    gpu = torch.device("cuda", 0)
    place = torch.zeros(1000, 1000).pin_memory()
    x = torch.ones(1000, 1000, device=gpu)
    for _ in range(50):
        x = x @ torch.eye(1000, device=gpu) * 1.01
    event = copy_out([place], [x])
    del x  # its memory must not be used again before the copy
    torch.zeros(1000, 1000, device=gpu)
    wait_for(event, 10.0)
    assert torch.allclose(place, torch.full_like(place, 1.01**50), rtol=1e-3)
