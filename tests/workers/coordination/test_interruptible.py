"""Calls that wait where Python handles no signal."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import timedelta
from types import FrameType

import pytest
import torch.distributed as dist

from dni_async.errors import Late
from tests.support.channels import TEST_TIMEOUT_S
from workers.coordination.interruptible import interruptible


def test_the_result_of_the_call_is_returned() -> None:
    assert interruptible(lambda: threading.current_thread() is not threading.main_thread(), 5.0, "it failed")


def test_the_error_of_the_call_is_raised() -> None:
    def fail() -> None:
        raise KeyError("a")

    with pytest.raises(KeyError, match="a"):
        interruptible(fail, 5.0, "it failed")


def test_a_call_that_does_not_return_is_abandoned_at_the_deadline() -> None:
    ended = threading.Event()
    with pytest.raises(Late, match=r"^rank 1 could not meet the others in 0\.05 s \(no answer\)$"):
        interruptible(ended.wait, 0.05, "rank 1 could not meet the others")
    ended.set()


def test_a_signal_is_handled_while_the_call_waits_in_c() -> None:
    class Heard(Exception):
        pass

    def hear(signum: int, frame: FrameType | None) -> None:
        raise Heard

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    other = store.clone()  # type: ignore[attr-defined]
    before = signal.signal(signal.SIGUSR1, hear)
    asks = threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGUSR1])
    begin = time.monotonic()
    try:
        asks.start()
        with pytest.raises(Heard):
            interruptible(
                lambda: store.wait(["never"], timedelta(seconds=TEST_TIMEOUT_S)), TEST_TIMEOUT_S, "it failed"
            )
        assert time.monotonic() - begin < TEST_TIMEOUT_S / 2
    finally:
        asks.join()
        signal.signal(signal.SIGUSR1, before)
        other.set("never", "")  # ends the abandoned wait
