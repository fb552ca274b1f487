"""Ten thousand messages each way through every transport (a few hundred are in the suite of each)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.conformance import CAPACITY, Link, Side, ten_thousand_messages_both_ways
from tests.support.conformance_runs import Report, run_facts, run_in_threads
from tests.support.transport_processes import (
    Open,
    dist_links,
    rpc_links,
    run_in_processes,
    shm_links,
    tcp_links,
)
from workers.transport.memory import memory_channel

FACTS = (ten_thousand_messages_both_ways,)
NAME = ten_thousand_messages_both_ways.__name__
MINUTES = 10
pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 * MINUTES)]


def play(side: Side, report: Report) -> None:
    run_facts(FACTS, side, report)
    for link in (side.wide, side.narrow):
        link.tx.close()
    side.barrier()
    for link in (side.wide, side.narrow):
        link.rx.close()


@pytest.mark.parametrize("links", [shm_links, tcp_links, dist_links, rpc_links])
def test_between_processes_all_messages_arrive_once_in_order_and_equal(links: Open, tmp_path: Path) -> None:
    outcome = run_in_processes(links, tmp_path, play, exits=(0, 0), deadline=60.0 * MINUTES)
    outcome.check(NAME)


def test_between_threads_all_messages_arrive_once_in_order_and_equal() -> None:
    ends = [memory_channel(CAPACITY, i % 2, 1 - i % 2) for i in range(4)]
    links = [[Link(ends[i + rank][0], ends[i + 1 - rank][1], CAPACITY) for i in (0, 2)] for rank in (0, 1)]
    run_in_threads([Side(rank, *links[rank], print) for rank in (0, 1)], FACTS).check(NAME)
