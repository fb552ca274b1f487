"""Runs the facts of the conformance suite on both sides of a link."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.support.conformance import CAPACITY, FACTS, TEST_TIMEOUT_S, Link, Side, a_dead_peer_is_noticed
from workers.transport.base import (
    Receiver,
    Sender,
)

Report = Callable[[str, str], None]
"""Called with a fact's name and "" or what went wrong."""


def run_side(side: Side, report: Report, kill: bool) -> None:
    """Check the whole suite."""
    run_facts((*FACTS, a_dead_peer_is_noticed) if kill else FACTS, side, report)


def run_facts(facts: tuple[Callable[[Side], None], ...], side: Side, report: Report) -> None:
    """Check fact after fact; the first that fails ends it, for the sides are out of step then."""
    for fact in facts:
        side.barrier()
        try:
            fact(side)
        except BaseException:
            report(fact.__name__, f"rank {side.rank}:\n{traceback.format_exc()}")
            return
        report(fact.__name__, "")


class Outcome:
    """What both sides reported."""

    def __init__(self, reports: list[dict[str, str]]) -> None:
        self._reports = reports

    def check(self, name: str, ranks: tuple[int, ...] = (0, 1)) -> None:
        """Fail the test if a side did."""
        for rank in ranks:
            trouble = self._reports[rank].get(name, "never got there: an earlier fact or the start failed")
            assert not trouble, trouble


def over_channels(make: Callable[[int, int, int], tuple[Sender, Receiver]]) -> Outcome:
    """Both sides in this process, over channels that `make(capacity, sender stage, receiver stage)` makes."""
    links: list[list[Link]] = [[], []]
    for capacity in (CAPACITY, 1):
        down, down_end = make(capacity, 0, 1)
        up, up_end = make(capacity, 1, 0)
        links[0].append(Link(down, up_end, capacity))
        links[1].append(Link(up, down_end, capacity))
    return run_in_threads([Side(rank, *links[rank], print) for rank in (0, 1)])


def run_in_threads(sides: list[Side], facts: tuple[Callable[[Side], None], ...] = FACTS) -> Outcome:
    """Both sides in this process; nobody is killed."""
    reports: list[dict[str, str]] = [{}, {}]
    barrier = threading.Barrier(2, timeout=TEST_TIMEOUT_S)

    def body(side: Side) -> None:
        side.barrier = barrier.wait
        try:
            run_facts(facts, side, reports[side.rank].__setitem__)
        finally:
            side.wide.close()
            side.narrow.close()

    with nothing_left_open():
        threads = [threading.Thread(target=body, args=(side,)) for side in sides]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return Outcome(reports)


@contextmanager
def nothing_left_open() -> Iterator[None]:
    """No descriptor of ours stays open: no socket, no memory, no doorbell."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before
