"""Faults on purpose, for tests and campaigns: what a stage does when a process, a host or a network fails it.

    DNI_ASYNC_INJECT=kill@1:40,slow@2:0:0.02x1000,drop-target@1:7

Each fault strikes once, at (stage, step). What the stage does when it takes up the activation of that step:

    kill                     SIGKILL to itself
    stall    :seconds        SIGSTOP to itself, and SIGCONT after so long
    slow     :seconds[xN]    sleeps so long before this step and the N - 1 that follow

What becomes of a message that it sends (activations; with "-target", target gradients):

    drop        A6     A8 A9      duplicate   A6 A7 A7 A8      reorder   A6 A8 A7 A9     corrupt   NaN in A7

DNI_ASYNC_INJECTED names a folder where every fault that struck leaves a file of its name: a job that is
started anew in the same environment is not struck by the same fault again.
"""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dni_async.errors import UserError
from dni_async.messages import Activation, Message, TargetGradient
from workers.runtime.channels import StageChannels
from workers.transport.base import Receiver, Sender
from workers.transport.forwarding import ForwardingReceiver, ForwardingSender

VARIABLE, STRUCK = "DNI_ASYNC_INJECT", "DNI_ASYNC_INJECTED"
TO_ITSELF = ("kill", "stall", "slow")
TO_MESSAGES = ("drop", "duplicate", "reorder", "corrupt")
_FORM = re.compile(r"(\w+)(-target)?@(\d+):(\d+)(?::([\d.]+)(?:x(\d+))?)?")


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, where and when."""

    action: str
    stage: int
    step: int
    """Number of a training batch."""
    target: bool = False
    """Whether it befalls the target gradient of the batch, not its activation."""
    seconds: float = 0.0
    times: int = 1

    def __str__(self) -> str:
        return f"{self.action}{'-target' * self.target}@{self.stage}:{self.step}"

    def befalls(self, message: Message) -> bool:
        """Whether this message is the one."""
        if self.target:
            return isinstance(message, TargetGradient) and message.step == self.step
        return is_activation(message) and self.step <= message.step < self.step + self.times


def faults_of(text: str) -> list[Fault]:
    """The faults that a text names. Raises UserError."""
    return [_fault(part) for part in text.split(",") if part]


def _fault(text: str) -> Fault:
    found = _FORM.fullmatch(text)
    known = TO_ITSELF + TO_MESSAGES
    if not found or found[1] not in known or (found[2] and found[1] in TO_ITSELF):
        raise UserError(f"{VARIABLE} has {text}; write ACTION@STAGE:STEP, ACTION one of {', '.join(known)}")
    action, target, stage, step, seconds, times = found.groups()
    return Fault(action, int(stage), int(step), bool(target), float(seconds or 0), int(times or 1))


class EventInjector:
    """Brings the faults of one stage about, between the stage and its ends.

    struck: a folder in which faults that struck leave their marker; none if empty.
    """

    def __init__(self, faults: Sequence[Fault], stage: int, struck: str = "") -> None:
        mine = [fault for fault in faults if fault.stage == stage]
        self._to_itself = [fault for fault in mine if fault.action in TO_ITSELF]
        self._to_messages = [fault for fault in mine if fault.action in TO_MESSAGES]
        self._strikes = _Strikes(struck)

    @classmethod
    def from_environment(cls, stage: int) -> EventInjector:
        """With the faults that the environment asks for. Raises UserError."""
        return cls(faults_of(os.environ.get(VARIABLE, "")), stage, os.environ.get(STRUCK, ""))

    def between(self, ends: StageChannels) -> StageChannels:
        """The ends with the faults in them; the same ends when there are none."""
        if self._to_itself:
            taken = FaultyReceiver(ends.activations_in, self._to_itself, self._strikes)
            ends = replace(ends, activations_in=taken)
        if self._to_messages:
            down = ends.activations_out
            ends = replace(
                ends,
                targets_out=FaultySender(ends.targets_out, self._to_messages, self._strikes),
                activations_out=FaultySender(down, self._to_messages, self._strikes) if down else None,
            )
        return ends


class _Strikes:
    """Which faults have struck, in this process and, by files in a folder, in those before it."""

    def __init__(self, folder: str = "") -> None:
        self._folder = Path(folder) if folder else None

    def first(self, fault: Fault) -> bool:
        """Whether the fault strikes now for the first time; from then on it does not."""
        if self._folder is None:
            return True
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            (self._folder / str(fault)).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class FaultyReceiver(ForwardingReceiver):
    """Between a stage and where its activations come from: strikes the stage when it takes one up."""

    def __init__(
        self,
        receiver: Receiver,
        faults: Sequence[Fault],
        strikes: _Strikes,
        strike: Callable[[Fault], None] | None = None,
    ) -> None:
        super().__init__(receiver)
        self._faults, self._strikes = faults, strikes
        self._strike = strike or to_itself

    def recv(self, timeout: float) -> Message:
        """The next message, which may be the stage's last."""
        message = super().recv(timeout)
        for fault in self._faults:
            if fault.befalls(message) and (fault.times > 1 or self._strikes.first(fault)):
                self._strike(fault)
        return message


class FaultySender(ForwardingSender):
    """Between a stage and a neighbour: loses, doubles, delays or spoils a message."""

    def __init__(self, sender: Sender, faults: Sequence[Fault], strikes: _Strikes) -> None:
        super().__init__(sender)
        self._faults, self._strikes = faults, strikes
        self._late: list[Message] = []

    def send(self, message: Message, timeout: float) -> None:
        """Send it, or not, or twice, or behind the next one, or with NaN in it."""
        self.sent += 1
        late, self._late = self._late, []
        fault = next((f for f in self._faults if f.befalls(message) and self._strikes.first(f)), None)
        action = fault.action if fault else ""
        if action == "reorder":
            self._late.append(_lasting(message))
        elif action != "drop":
            messages = [_spoilt(message) if action == "corrupt" else message, *late]
            for each in messages + [message] * (action == "duplicate"):
                self._sender.send(each, timeout)


def is_activation(message: Message) -> bool:
    """Whether this is the activation of a training batch."""
    return isinstance(message, Activation) and message.train


def to_itself(fault: Fault) -> None:
    """Let this process suffer the fault."""
    if fault.action == "slow":
        time.sleep(fault.seconds)
        return
    me = os.getpid()
    if fault.action == "stall":
        again = f"sleep {fault.seconds}; kill -CONT {me}"
        subprocess.Popen(["/bin/sh", "-c", again], start_new_session=True)
    os.kill(me, signal.SIGKILL if fault.action == "kill" else signal.SIGSTOP)


def _lasting(message: Message) -> Message:
    """The message in memory of its own: it leaves later than its tensors are lent for."""
    if isinstance(message, Activation):
        return replace(message, h=message.h.clone(), y=message.y.clone())
    return replace(message, grad=message.grad.clone()) if isinstance(message, TargetGradient) else message


def _spoilt(message: Message) -> Message:
    """The message with NaN in place of one number."""
    spoilt = _lasting(message)
    if isinstance(spoilt, Activation):
        spoilt.h.view(-1)[0] = math.nan
    elif isinstance(spoilt, TargetGradient):
        spoilt.grad.view(-1)[0] = math.nan
    return spoilt
