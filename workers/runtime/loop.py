"""The event loop of one stage: which message next.

    targets_in  ──►┌───────┐──► activations_out        targets first: they keep the SG network fresh
    activations_in►│ stage │                           activations only when there is room for what
    targets_out ◄──└───────┘                           they will send

A stage waits only when it has nothing to handle or its neighbours are full, and never longer than the
deadline. Targets are always taken, whatever happens downstream, so no ring of full queues can form. A
stage without room for one more batch (rule `delayed`) takes targets only: all that it waits for lies
downstream, where the last stage needs nobody's target to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from dni_async.errors import Late, StageCrash, StageError, UserError
from dni_async.messages import Activation, Marker, MarkerKind, Message, TargetGradient, goes_upstream
from dni_async.stage.stage import Stage
from workers.runtime.cuda_copies import DONE, move, wait_for
from workers.runtime.endpoints import Drained
from workers.runtime.probe import Probe, Throughput
from workers.runtime.sequence_check import SequenceCheck
from workers.transport.base import (
    Channel,
    Deadline,
    PeerGone,
    Receiver,
    Sender,
    TransportError,
    TransportTimeout,
    wait_any,
)
from workers.transport.wire import WireError

SLICE = 0.5
"""Seconds of sleep after which a waiting stage looks at its peers again."""


@dataclass(slots=True)
class StageChannels:
    """The four ways in and out of a stage; the last stage has no `activations_out` and `targets_in`."""

    activations_in: Receiver
    targets_out: Sender
    activations_out: Sender | None = None
    targets_in: Receiver | None = None

    def all(self) -> list[Channel]:
        """The ends that exist."""
        ends = (self.activations_in, self.targets_out, self.activations_out, self.targets_in)
        return [end for end in ends if end is not None]

    def held_bytes(self) -> int:
        """Bytes that the ways out hold for messages under way."""
        return self.targets_out.held_bytes() + (
            self.activations_out.held_bytes() if self.activations_out else 0
        )


class StageLoop:
    """Runs a stage between its ends until the STOP marker has come back.

    eager: ask for news for a while before sleeping (see `wait_any`).
    lockstep: 0 for free running; n makes the delivery order deterministic: batch s+n is taken up
    exactly after the target of batch s (only for rules that get targets). Where a stage has room for
    fewer batches, those downstream must not have more: it would send too few for them to go on.
    timeout: seconds that a wait may last; StageError names the stage and step when it lasts longer.
    device: where the layers are; tensors that arrive elsewhere are moved there.
    metadata: called when a marker comes back, for what a report shall say beside counts and times.
    under_way: targets that were on their way to the stage when the checkpoint was made that it goes on from;
    taken first of all, in lockstep each in its turn.
    """

    def __init__(
        self,
        stage: Stage,
        ends: StageChannels,
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
        self.ends = ends
        self.probe = probe
        self.throughput = throughput
        self.timeout = timeout
        self.eager = eager
        self.lockstep = lockstep if stage.rule.capabilities.needs_targets else 0
        if self.lockstep and ends.targets_in:
            self.ends = replace(ends, targets_in=Drained(ends.targets_in, under_way))
        self._under_way = () if self.lockstep else under_way
        self.metadata = metadata
        self.device = device if device is not None and device.type != "cpu" else None
        self.inputs_open = True
        """False once the STOP marker went down: nothing more to send downstream."""
        self._full: Sender | None = None
        """The way out that had no room when `step` looked."""
        self.sequence_check = SequenceCheck(stage)
        self._position = "before the first step"
        self._slots_bytes = 0
        """The most bytes that the ways out ever held."""
        stage.on_phase_end = probe.mark

    def run(self) -> None:
        """Handle messages until the end. Raises StageError or UserError, both naming stage and step."""
        try:
            for target in self._under_way:
                sent = list(self.stage.on(target))
                assert not sent, "rules whose targets make a stage send something leave none under way"
            while not self.stage.done:
                if not self.step():
                    self._wait()
        except Exception as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> StageError | UserError:
        """The same in the user's words: who, when, what."""
        gone = self._gone() if isinstance(error, PeerGone) else []
        if gone:
            noticed = f"stage {self.stage.index} noticed {self._position}"
            return StageError(f"stage {gone[0]} (rank {gone[0]}) is gone; {noticed}")
        says_it_all = isinstance(error, RuntimeError | ValueError | TypeError)
        text = str(error) if says_it_all else f"{type(error).__name__}: {error}"
        line = f"{self.describe_position()}: {text}"
        if isinstance(error, Late | TransportTimeout):
            return Late(line, getattr(error, "peers", ()))
        if isinstance(error, UserError):
            return UserError(line)
        from_others = isinstance(error, StageError | TransportError | WireError)
        return StageError(line) if from_others else StageCrash(line)

    def step(self) -> bool:
        """Handle one message if one may be handled now."""
        ends, self._full = self.ends, None
        if not self._has_room(ends.targets_out):
            return False
        if ends.targets_in and ends.targets_in.poll() and self._turn_of_target():
            self._handle(ends.targets_in)
            return True
        if not (self.inputs_open and self._turn_of_activation()):
            return False
        if self._has_room(ends.activations_out) and ends.activations_in.poll():
            self._handle(ends.activations_in)
            return True
        return False

    def _has_room(self, way_out: Sender | None) -> bool:
        """Whether a message would go out. If not, that is noted: asking again when waiting could miss the
        credit that has come in between."""
        if way_out is None or way_out.ready():
            return True
        self._full = way_out
        return False

    def _handle(self, receiver: Receiver) -> None:
        step = self._process(receiver)  # no name here refers to the message: `release` would have to copy it
        receiver.release()
        self._position = f"after step {step}"

    def _process(self, receiver: Receiver) -> int:
        """Receive a message and send what the stage makes of it; returns its step."""
        from_source = receiver.peer < 0
        if from_source:
            self.probe.mark("wait")
        message = receiver.recv(self.timeout)
        before = "load" if from_source else "wait"
        self.probe.begin(message.step, is_training(message), before, work_of(message))
        moved = move(message, self.device) if self.device else DONE
        self._position = f"at step {message.step}"
        self.sequence_check.check(message)
        for out in self.stage.on(message):
            self._send(out)
        self.probe.end()
        if isinstance(message, Activation):
            self._count(message)
        wait_for(moved, self.timeout)  # the neighbour overwrites what is released
        return message.step

    def _send(self, message: Message) -> None:
        if isinstance(message, Marker):
            self._see_off(message)
        sender = self.ends.targets_out if goes_upstream(message) else self.ends.activations_out
        assert sender is not None, "the last stage sends nothing downstream"
        sender.send(message, self.timeout)
        self.probe.mark("send")

    def _see_off(self, marker: Marker) -> None:
        """Write on a returning marker what only this process knows; note the last one down."""
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
        self._slots_bytes = max(self._slots_bytes, self.ends.held_bytes())
        if message.train:
            self.throughput.trained(len(message.y))
            self.probe.step_done()
        else:
            self.throughput.pause()

    def _unanswered(self) -> int:
        return self.stage.steps - self.stage.targets_received

    def _turn_of_target(self) -> bool:
        """In lockstep a target waits until as many batches are out as may be (or no more will come)."""
        return not self._turn_of_activation() or not self.lockstep or not self.inputs_open

    def _turn_of_activation(self) -> bool:
        return self.stage.has_room and (not self.lockstep or self._unanswered() < self.lockstep)

    def _wait(self) -> None:
        deadline = Deadline(self.timeout)
        for sender in (self.ends.activations_out, self.ends.targets_out):
            if sender:
                sender.flush(deadline.left())
        while not wait_any(self._awaited(), min(SLICE, deadline.left()), self.eager):
            if self._gone():
                raise PeerGone("a neighbour has left")
            if not deadline.left():
                awaited = [end.peer for end in self._awaited()]
                raise Late(f"nothing came from {self._neighbours()} for {self.timeout:g} s", awaited)

    def _awaited(self) -> list[Channel]:
        """The ends whose news would let this stage go on (others may be readable all the time)."""
        ends = self.ends
        if self._full is ends.targets_out:
            return [ends.targets_out]
        awaited: list[Channel] = [ends.targets_in] if ends.targets_in else []
        if self.inputs_open and self._turn_of_activation():
            awaited.append(self._full or ends.activations_in)
        return awaited

    def _gone(self) -> list[int]:
        """Neighbours that left. Those downstream may, once the STOP marker is with them; nobody else may."""
        downstream = (self.ends.activations_out, self.ends.targets_in)
        return [
            end.peer
            for end in self.ends.all()
            if end.peer_gone() and (self.inputs_open or end not in downstream)
        ]

    def _neighbours(self) -> str:
        return " and ".join(sorted({f"stage {end.peer}" for end in self._awaited()})) or "anybody"

    def describe_position(self) -> str:
        """For the line that reports a failure."""
        return f"stage {self.stage.index} (rank {self.stage.index}), {self._position}"

    def describe_activity(self) -> str:
        """The same and whether the stage computes or waits; asked by another thread."""
        what = {"at": ", computing", "after": ", waiting"}.get(self._position.split()[0], "")
        return self.describe_position() + what


def is_training(message: Message) -> bool:
    """Whether this message belongs to a training batch."""
    return isinstance(message, TargetGradient) or (isinstance(message, Activation) and message.train)


def work_of(message: Message) -> Hashable:
    """Equal for messages that cost a stage the same: kind and shape; None for markers, which are free."""
    if isinstance(message, Marker):
        return None
    tensor = message.h if isinstance(message, Activation) else message.grad
    return type(message), is_training(message), tensor.shape
