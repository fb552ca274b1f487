"""The event loop of one stage: which message it handles next.

    targets_in  ──►┌───────┐──► activations_out        targets first: they keep the SG network fresh
    activations_in►│ stage │                           activations only when there is room for what
    targets_out ◄──└───────┘                           they will send

A stage waits only when it has nothing to handle or its neighbours are full, and never longer than the
deadline. Targets are always taken, whatever happens downstream, so no ring of full queues can form. A
stage without room for a batch (rule `delayed`) takes targets only: the last stage waits for nobody's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from dni_async.errors import StageError, UserError
from dni_async.messages import Activation, Marker, MarkerKind, Message, TargetGradient, goes_upstream
from dni_async.stage.stage import Stage
from workers.failure.errors import at_position
from workers.runtime.accelerator import DONE, Event, wait_for
from workers.runtime.channels import StageChannels
from workers.runtime.cuda import accelerator_of
from workers.runtime.deferred_checks import DeferredChecks
from workers.runtime.endpoints import DrainingReceiver
from workers.runtime.probe import Probe, Throughput, is_training, work_of
from workers.runtime.sequence_check import SequenceCheck
from workers.runtime.sleeping import sleep_until_news
from workers.transport.base import Channel, Deadline, PeerGone, Receiver, Sender
from workers.transport.cuda_copies import move
from workers.transport.forwarding import not_a_message


class StageLoop:
    """Runs a stage between its channels until the STOP marker has come back.

    Args:
        timeout: seconds that the loop, and any single operation, may wait for a message that it can handle.
        eager: poll for a while before sleeping (see `wait_any`).
        lockstep: 0 for free running. n makes the delivery order deterministic: batch s+n is handled exactly
            after the target of batch s (only for rules that get targets). A stage must not have more than the
            stages upstream of it, which would send too few batches for it to go on.
        metadata: called when a marker comes back, for what a report says beside counts and times.
        device: where the layers are; tensors that arrive elsewhere are moved there.
        under_way: targets that were on their way when the checkpoint was made from which the stage resumes;
            they are handled before all others, in lockstep each in its turn.
    """

    def __init__(
        self,
        stage: Stage,
        channels: StageChannels,
        probe: Probe,
        throughput: Throughput,
        *,
        timeout: float = 60.0,
        eager: bool = False,
        lockstep: int = 0,
        metadata: Callable[[], dict[str, Any]] = dict,
        device: torch.device | None = None,
        under_way: Sequence[TargetGradient] = (),
    ) -> None:
        self.stage = stage
        self.channels = channels
        self.probe = probe
        self.throughput = throughput
        self.timeout = timeout
        self.eager = eager
        self.lockstep = lockstep if stage.rule.capabilities.needs_targets else 0
        if self.lockstep and channels.targets_in:
            self.channels = replace(channels, targets_in=DrainingReceiver(channels.targets_in, under_way))
        self._under_way = () if self.lockstep else under_way
        self.metadata = metadata
        self.device = device if device is not None and device.type != "cpu" else None
        self._accelerator = accelerator_of(device) if device is not None else None
        self._deferred = DeferredChecks(stage, self._accelerator, timeout) if self._accelerator else None
        self.inputs_open = True
        """False once the STOP marker was sent downstream: nothing follows it."""
        self.sequence_check = SequenceCheck(stage)
        self._full: Sender | None = None
        """The sender that had no room when `step` checked."""
        self._position = "before the first step"
        self._slots_bytes = 0
        """The most bytes that the senders ever held."""
        stage.on_phase_end = probe.mark if self.device is None else self._on_phase_end

    def run(self) -> None:
        """Handle messages until the end. Raises StageError or UserError, both naming stage and step."""
        self.run_until(lambda: self.stage.done)

    def run_until(self, done: Callable[[], bool]) -> None:
        """As `run`, until `done`, which is asked before every message."""
        try:
            self._take_under_way()
            deadline, waited_for = None, self._full
            while not done():
                if self.step():
                    deadline = None
                    continue
                if deadline is None or waited_for is not self._full:  # news is no progress
                    deadline, waited_for = Deadline(self.timeout), self._full
                self._wait(deadline)
        except Exception as error:
            raise self._explained(error) from error

    def _take_under_way(self) -> None:
        for target in self._under_way:
            sent = list(self.stage.on(target))
            assert not sent, "rules whose targets make a stage send something leave none under way"
        self._under_way = ()

    def step(self) -> bool:
        """Handle one message, if one can be handled now; returns whether one was."""
        channels, self._full = self.channels, None
        if not self._has_room(channels.targets_out):
            return False
        if channels.targets_in and channels.targets_in.poll() and self._is_target_due():
            self._handle(channels.targets_in)
            return True
        if not (self.inputs_open and self._is_activation_due()):
            return False
        if self._has_room(channels.activations_out) and channels.activations_in.poll():
            self._handle(channels.activations_in)
            return True
        return False

    def state_dict(self) -> dict[str, Any]:
        """What the next process of a restarted stage continues from, JSON-able."""
        parts = {"sequence_check": self.sequence_check.state_dict(), "probe": self.probe.state_dict()}
        counted = [self.throughput.samples, self.throughput.seconds]
        return {"inputs_open": self.inputs_open, "throughput": counted} | parts

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what an earlier process has saved."""
        self.inputs_open = state["inputs_open"]
        self.sequence_check.load_state_dict(state["sequence_check"])
        self.probe.load_state_dict(state["probe"])
        self.throughput.samples, self.throughput.seconds = state["throughput"]

    def describe_position(self) -> str:
        """Stage, rank and step, for the line that reports a failure."""
        return f"stage {self.stage.index} (rank {self.stage.index}), {self._position}"

    def describe_activity(self) -> str:
        """The position, and whether the stage computes, waits or reads data; called by another thread."""
        doing = {"at": ", computing", "after": ", waiting"}.get(self._position.split()[0], "")
        return self.describe_position() + (self.channels.activations_in.activity or doing)

    def _has_room(self, sender: Sender | None) -> bool:
        """Whether the sender would take a message. If not, `_wait` waits for it: asking it again there could
        miss a credit that has come in between."""
        if sender is None or sender.ready():
            return True
        self._full = sender
        return False

    def _is_target_due(self) -> bool:  # in lockstep not before as many batches are out as allowed
        return not self._is_activation_due() or not self.lockstep or not self.inputs_open

    def _is_activation_due(self) -> bool:
        unanswered = self.stage.steps - self.stage.targets_received
        return self.stage.has_room and (not self.lockstep or unanswered < self.lockstep)

    def _handle(self, receiver: Receiver) -> None:
        wait_for(self._receive_and_dispatch(receiver), self.timeout)  # what is released may be overwritten
        receiver.release()  # no local variable here refers to the message, whose slot would be copied

    def _receive_and_dispatch(self, receiver: Receiver) -> Event:
        """Handle the next message; returns when the copy of its tensors to the device is done."""
        from_source = receiver.peer < 0
        if from_source:
            self.probe.mark("wait")
        message = receiver.recv(self.timeout)
        try:
            step = message.step
        except AttributeError:
            raise not_a_message(receiver, message) from None
        self.probe.begin(step, is_training(message), "load" if from_source else "wait", work_of(message))
        moved = move(message, self._accelerator or self.device) if self.device else DONE
        self._position = f"at step {step}"
        self.sequence_check.check(message)
        if self._deferred and isinstance(message, Marker):
            self._deferred.wait()  # no checkpoint and no result before
        for out in self.stage.on(message):
            self._send(out)
        if self._deferred:
            self._deferred.begin(step)
        self.probe.end()
        if isinstance(message, Activation):
            self._count(message)
        self._position = f"after step {step}"
        return moved

    def _send(self, message: Message) -> None:
        if isinstance(message, Marker):
            self._annotate(message)
        sender = self.channels.targets_out if goes_upstream(message) else self.channels.activations_out
        assert sender is not None, "the last stage sends nothing downstream"
        sender.send(message, self.timeout)
        self.probe.mark("send")

    def _on_phase_end(self, phase: str) -> None:
        """Mark the time, and send what a GPU has copied meanwhile, so that no neighbour waits for it."""
        self.probe.mark(phase)
        self.channels.poke()

    def _annotate(self, marker: Marker) -> None:
        """Add to a returning marker what only this process knows; note whether it is the last one."""
        if marker.kind is MarkerKind.STOP:
            self.inputs_open = False
        if marker.returning:
            mine = marker.body[str(self.stage.index)]
            mine.update(self.probe.stats() | self.metadata() | {"slots_bytes": self._slots_bytes})
            if self.stage.is_last:
                marker.body["result"]["samples_per_s"] = self.throughput.per_second()
            if marker.kind is MarkerKind.STOP:
                mine["timeline"] = self.probe.timeline()

    def _count(self, message: Activation) -> None:
        self._slots_bytes = max(self._slots_bytes, self.channels.held_bytes())
        if message.train:
            self.throughput.trained(len(message.y))
            self.probe.step_done()
        else:
            self.throughput.pause()

    def _wait(self, deadline: Deadline) -> None:
        sleep_until_news(self.channels, self._awaited, self._gone, deadline, self.eager)

    def _awaited(self) -> list[Channel]:
        """The ends whose news would let this stage go on (others may be readable all the time)."""
        channels = self.channels
        if self._full is channels.targets_out:
            return [channels.targets_out]
        awaited: list[Channel] = [channels.targets_in] if channels.targets_in else []
        if self.inputs_open and self._is_activation_due():
            awaited.append(self._full or channels.activations_in)
        return awaited

    def _gone(self) -> list[int]:  # neighbours downstream may leave when they have the STOP marker
        return self.channels.gone(() if self.inputs_open else self.channels.downstream)

    def _explained(self, error: Exception) -> StageError | UserError:
        if isinstance(error, PeerGone) and (gone := self._gone()):
            noticed = f"stage {self.stage.index} noticed {self._position}"
            return StageError(f"stage {gone[0]} (rank {gone[0]}) is gone; {noticed}")
        return at_position(error, self.describe_position())
