"""Faults on purpose: what is asked for happens, once, and nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from dni_async.errors import UserError
from dni_async.messages import Activation, Marker, MarkerKind, Message, TargetGradient
from tests.support.channels import shm_channel
from tests.support.stages import batches, show
from workers.runtime.channels import StageChannels
from workers.runtime.endpoints import Sink, Source
from workers.runtime.fault_injection import (
    EventInjector,
    Fault,
    FaultyReceiver,
    FaultySender,
    parse_faults,
    to_itself,
)
from workers.transport.memory import memory_channel


def test_faults_are_read_from_a_text() -> None:
    assert parse_faults("kill@1:40,slow@2:0:0.02x1000,drop-target@1:7,stall@0:3:1.5") == [
        Fault("kill", 1, 40),
        Fault("slow", 2, 0, seconds=0.02, times=1000),
        Fault("drop", 1, 7, target=True),
        Fault("stall", 0, 3, seconds=1.5),
    ]
    assert parse_faults("") == []
    assert [str(fault) for fault in parse_faults("kill@1:40,drop-target@1:7")] == [
        "kill@1:40",
        "drop-target@1:7",
    ]


@pytest.mark.parametrize("text", ["kil@1:2", "kill@1", "kill-target@1:2", "drop@a:1", "drop@1:2:x", "drop"])
def test_a_text_that_is_no_fault_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"DNI_ASYNC_INJECT has {text}; write ACTION@STAGE:STEP"):
        parse_faults(text)


def ends() -> tuple[StageChannels, list[Message]]:
    """Of a stage 1 in the middle, that gets six batches, and what it sends downstream."""
    sender, receiver = memory_channel(99, 1, 2)
    made = StageChannels(Source(iter(batches([4] * 6))), Sink(lambda marker: None), sender)
    sent: list[Message] = []
    sender.send = lambda message, timeout: sent.append(message)  # type: ignore[method-assign]
    receiver.close = lambda: None  # type: ignore[method-assign]
    return made, sent


def test_without_the_variable_no_channel_is_wrapped() -> None:
    made, _ = ends()
    assert EventInjector.from_environment(1).wrap(made) is made


def test_stages_without_faults_are_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNI_ASYNC_INJECT", "kill@0:1,drop@2:1")
    made, _ = ends()
    assert EventInjector.from_environment(1).wrap(made) is made


@pytest.mark.parametrize(
    ("fault", "arrives"),
    [
        ("drop@1:2", "A0 A1 A3 A4 A5 STOP"),
        ("duplicate@1:2", "A0 A1 A2 A2 A3 A4 A5 STOP"),
        ("reorder@1:2", "A0 A1 A3 A2 A4 A5 STOP"),
        ("corrupt@1:2", "A0 A1 A2* A3 A4 A5 STOP"),
        ("reorder@1:2,drop@1:3", "A0 A1 A2 A4 A5 STOP"),
        ("drop@1:0,duplicate@1:5", "A1 A2 A3 A4 A5 A5 STOP"),
        ("drop-target@1:2", "A0 A1 A2 A3 A4 A5 STOP"),
    ],
)
@pytest.mark.parametrize("channel", [memory_channel, shm_channel])
def test_every_message_fault_has_its_effect(
    fault: str, arrives: str, channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNI_ASYNC_INJECT", fault)
    made, _ = ends()
    sender, receiver = channel(16, 1, 2)
    made.activations_out = sender
    faulty = EventInjector.from_environment(1).wrap(made).activations_out
    assert faulty is not None and faulty.ready() and faulty.peer == 2
    sent = [*batches([4] * 6), Marker(MarkerKind.STOP, 6, 0)]
    for message in sent:
        faulty.send(message, 1.0)
    faulty.flush(1.0)
    got = []
    while receiver.poll():
        message = receiver.recv(0.0)
        bad = isinstance(message, Activation) and not message.h.isfinite().all()
        got.append(show(message) + "*" * bad)
        receiver.release()
    assert " ".join(got) == arrives
    assert all(
        m.h.isfinite().all() for m in sent if isinstance(m, Activation)
    )  # the stage's own is as it was
    assert faulty.sent == 7
    faulty.close()
    receiver.close()


def test_targets_are_struck_only_by_faults_of_targets() -> None:
    sent: list[Message] = []
    sender, receiver = memory_channel(9)
    sender.send = lambda message, timeout: sent.append(message)  # type: ignore[method-assign]
    made = injected_sender(sender, "corrupt-target@1:1,drop@1:0")
    for step in range(3):
        made.send(TargetGradient(step, 0, torch.zeros(2, 2)), 1.0)
    assert [bool(m.grad.isfinite().all()) for m in sent if isinstance(m, TargetGradient)] == [
        True,
        False,
        True,
    ]
    receiver.close()


class Once:
    def first(self, fault: Fault) -> bool:
        return True


def injected_sender(sender, text: str) -> FaultySender:
    return FaultySender(sender, parse_faults(text), Once())  # type: ignore[arg-type]


def test_a_stage_is_struck_when_it_takes_up_the_batch() -> None:
    struck: list[str] = []
    source = [*batches([4] * 2, train=False), *batches([4] * 4)]
    faults = parse_faults("kill@1:1,slow@1:2:0.5x2")
    receiver = FaultyReceiver(
        Source(iter(source)), faults, Once(), lambda fault: struck.append(f"{fault} at {show(message)}")
    )
    assert receiver.peer == -1 and receiver.poll() and not receiver.peer_gone()
    for message in source:
        assert receiver.recv(1.0) is message
        receiver.release()
    assert struck == ["kill@1:1 at A1", "slow@1:2 at A2", "slow@1:2 at A3"]


def test_a_slow_stage_sleeps_for_every_batch() -> None:
    start = time.monotonic()
    to_itself(Fault("slow", 0, 0, seconds=0.05))
    assert time.monotonic() - start >= 0.05


def test_with_a_folder_a_fault_strikes_once_over_all_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNI_ASYNC_INJECT", "drop@1:2,drop@1:4")
    monkeypatch.setenv("DNI_ASYNC_INJECTED", str(tmp_path / "struck"))
    for run, arrives in enumerate(["A0 A1 A3 A5", "A0 A1 A2 A3 A4 A5"]):
        made, sent = ends()
        faulty = EventInjector.from_environment(1).wrap(made).activations_out
        assert faulty is not None
        for message in batches([4] * 6):
            faulty.send(message, 1.0)
        assert " ".join(map(show, sent)) == arrives, run
    assert sorted(path.name for path in (tmp_path / "struck").iterdir()) == ["drop@1:2", "drop@1:4"]
