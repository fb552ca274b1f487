"""Injects faults into a stage, for tests and campaigns: failures of its process, its host or its network.

    DNI_ASYNC_INJECT=kill@1:40,slow@2:0:0.02x1000,drop-target@1:7

Each fault strikes once, at (stage, step). When the stage receives the activation of that step, it does:

    kill                     SIGKILL to itself
    stall    :seconds        SIGSTOP to itself, and SIGCONT after so long
    slow     :seconds[xN]    sleeps so long before this step and the N - 1 that follow

To a message that it sends (the activation of that step; with "-target", the target gradient) happens:

    drop        A6     A8 A9      duplicate   A6 A7 A7 A8      reorder   A6 A8 A7 A9     corrupt   NaN in A7

DNI_ASYNC_INJECTED names a folder where every fault that has struck leaves a file of its name, so that a job
that is restarted in the same environment is not struck again.
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

from typing_extensions import override

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
    """One fault: what goes wrong, where and when."""

    action: str
    stage: int
    step: int
    """Number of a training batch."""
    target: bool = False
    """Whether it strikes the target gradient of the batch, not its activation."""
    seconds: float = 0.0
    times: int = 1

    def __str__(self) -> str:
        return f"{self.action}{'-target' * self.target}@{self.stage}:{self.step}"

    def strikes(self, message: Message) -> bool:
        """Whether the fault is for this message."""
        if self.target:
            return isinstance(message, TargetGradient) and message.step == self.step
        return is_activation(message) and self.step <= message.step < self.step + self.times


def parse_faults(text: str) -> list[Fault]:
    """Parse the faults in `text`. Raises UserError."""
    return [_fault(part) for part in text.split(",") if part]


def _fault(text: str) -> Fault:
    found = _FORM.fullmatch(text)
    known = TO_ITSELF + TO_MESSAGES
    if not found or found[1] not in known or (found[2] and found[1] in TO_ITSELF):
        raise UserError(f"{VARIABLE} has {text}; write ACTION@STAGE:STEP, ACTION one of {', '.join(known)}")
    action, target, stage, step, seconds, times = found.groups()
    return Fault(action, int(stage), int(step), bool(target), float(seconds or 0), int(times or 1))


class EventInjector:
    """Injects the faults of one stage between the stage and its channels.

    Args:
        struck: a folder in which faults that have struck leave a file; none if empty.
    """

    def __init__(self, faults: Sequence[Fault], stage: int, struck: str = "") -> None:
        mine = [fault for fault in faults if fault.stage == stage]
        self._to_itself = [fault for fault in mine if fault.action in TO_ITSELF]
        self._to_messages = [fault for fault in mine if fault.action in TO_MESSAGES]
        self._strikes = _Strikes(struck)

    @classmethod
    def from_environment(cls, stage: int) -> EventInjector:
        """An injector of the faults in the environment. Raises UserError."""
        return cls(parse_faults(os.environ.get(VARIABLE, "")), stage, os.environ.get(STRUCK, ""))

    def wrap(self, channels: StageChannels) -> StageChannels:
        """The channels with the faults in them; the same channels if there are none."""
        if self._to_itself:
            receiver = FaultyReceiver(channels.activations_in, self._to_itself, self._strikes)
            channels = replace(channels, activations_in=receiver)
        if self._to_messages:
            down = channels.activations_out
            channels = replace(
                channels,
                targets_out=FaultySender(channels.targets_out, self._to_messages, self._strikes),
                activations_out=FaultySender(down, self._to_messages, self._strikes) if down else None,
            )
        return channels


class _Strikes:
    """Which faults have struck, in this process and, by files in a folder, in earlier ones."""

    def __init__(self, folder: str = "") -> None:
        self._folder = Path(folder) if folder else None

    def first(self, fault: Fault) -> bool:
        """Whether this is the first call for the fault, also among processes that share the folder."""
        if self._folder is None:
            return True
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            (self._folder / str(fault)).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class FaultyReceiver(ForwardingReceiver):
    """Strikes the stage when it receives an activation."""

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

    @override
    def recv(self, timeout: float) -> Message:
        message = super().recv(timeout)
        for fault in self._faults:
            if fault.strikes(message) and (fault.times > 1 or self._strikes.first(fault)):
                self._strike(fault)
        return message


class FaultySender(ForwardingSender):
    """Drops, duplicates, delays or corrupts messages to a neighbour."""

    def __init__(self, sender: Sender, faults: Sequence[Fault], strikes: _Strikes) -> None:
        super().__init__(sender)
        self._faults, self._strikes = faults, strikes
        self._late: list[Message] = []

    @override
    def send(self, message: Message, timeout: float) -> None:
        self.sent += 1
        late, self._late = self._late, []
        fault = next((f for f in self._faults if f.strikes(message) and self._strikes.first(f)), None)
        action = fault.action if fault else ""
        messages = [_corrupted(message) if action == "corrupt" else message]
        if action == "reorder":
            self._late.append(_cloned(message))
        if action in ("reorder", "drop"):
            messages = []
        for each in [*messages, *late, *[message] * (action == "duplicate")]:
            self._sender.send(each, timeout)


def is_activation(message: Message) -> bool:
    """Whether this is the activation of a training batch."""
    return isinstance(message, Activation) and message.train


def to_itself(fault: Fault) -> None:
    """Kill, stop or slow down this process."""
    if fault.action == "slow":
        time.sleep(fault.seconds)
        return
    me = os.getpid()
    if fault.action == "stall":
        again = f"sleep {fault.seconds}; kill -CONT {me}"
        subprocess.Popen(["/bin/sh", "-c", again], start_new_session=True)
    os.kill(me, signal.SIGKILL if fault.action == "kill" else signal.SIGSTOP)


def _cloned(message: Message) -> Message:
    """The message in memory of its own, to be sent after its tensors may have been overwritten."""
    if isinstance(message, Activation):
        extras = tuple(extra.clone() for extra in message.extras)
        return replace(message, h=message.h.clone(), y=message.y.clone(), extras=extras)
    return replace(message, grad=message.grad.clone()) if isinstance(message, TargetGradient) else message


def _corrupted(message: Message) -> Message:
    """The message with NaN in place of one number."""
    corrupted = _cloned(message)
    if isinstance(corrupted, Activation):
        corrupted.h.view(-1)[0] = math.nan
    elif isinstance(corrupted, TargetGradient):
        corrupted.grad.view(-1)[0] = math.nan
    return corrupted
