"""What a link carries, measured before the training."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch.distributed as dist

from tests.support.conformance import TEST_TIMEOUT_S
from workers.coordination.rendezvous import Rendezvous
from workers.transport import link_speed
from workers.transport.link_speed import LinkSpeed, agree_on_link_speeds, most_in_a_window

PAIRS = [(0, 1), (1, 2)]
Speeds = dict[tuple[int, int], LinkSpeed]


@pytest.fixture(autouse=True)
def _quick_and_local(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(link_speed, "_SECONDS", 0.1)


def agreed(store: dist.Store, ranks: Sequence[int] = (0, 1, 2)) -> list[Speeds]:
    """What each of these ranks of three found."""
    found: dict[int, Speeds] = {}

    def body(rank: int) -> None:
        found[rank] = agree_on_link_speeds(Rendezvous(rank, 3, rank, 3, store), PAIRS, TEST_TIMEOUT_S)

    threads = [threading.Thread(target=body, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TEST_TIMEOUT_S)
    return [found[rank] for rank in ranks]


def test_all_ranks_find_the_same_speeds_of_all_links() -> None:
    threads = threading.active_count()
    first, *others = agreed(dist.HashStore())
    assert all(other == first for other in others) and list(first) == PAIRS
    for speed in first.values():
        assert 0 < speed.round_trip_s < 1.0
        assert min(speed.downstream_bytes_per_s, speed.upstream_bytes_per_s) > 1e6
    assert threading.active_count() == threads


def test_a_rank_that_is_started_again_takes_what_was_measured() -> None:
    store = dist.HashStore()
    before = agreed(store)[0]
    assert agreed(store, (1,)) == [before]


@pytest.mark.parametrize(
    ("arrivals", "seconds", "most"),
    [
        ([], 0.5, 0.0),
        ([(1.0, 10)], 0.5, 20.0),
        ([(0.0, 10), (0.4, 10), (0.8, 10), (1.0, 10)], 0.5, 40.0),
        ([(0.9, 5), (0.0, 10), (0.5, 1)], 0.5, 20.0),  # 0.5 s apart is not within 0.5 s
    ],
)
def test_the_busiest_window_counts(arrivals: list[tuple[float, int]], seconds: float, most: float) -> None:
    assert most_in_a_window(arrivals, seconds) == most
