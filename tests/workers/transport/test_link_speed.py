"""What a link carries, measured before the training."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch.distributed as dist

from tests.support.conformance import TEST_TIMEOUT_S
from workers.coordination.rendezvous import Rendezvous
from workers.transport import link_speed, tcp, tcp_socket
from workers.transport.link_speed import LinkSpeed, agree_on_link_speeds, most_in_a_window
from workers.transport.tcp_connect import Address

PAIRS = [(0, 1), (1, 2)]
Speeds = dict[tuple[int, int], LinkSpeed]


@pytest.fixture(autouse=True)
def _quick_and_local(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(link_speed, "_SECONDS", 0.1)


def agreed(store: dist.Store) -> list[Speeds]:
    """What each of three ranks found."""
    found: dict[int, Speeds] = {}

    def body(rank: int) -> None:
        found[rank] = agree_on_link_speeds(Rendezvous(rank, 3, rank, 3, store), PAIRS, TEST_TIMEOUT_S)

    threads = [threading.Thread(target=body, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TEST_TIMEOUT_S)
    return [found[rank] for rank in range(3)]


def test_all_ranks_find_the_same_speeds_of_all_links() -> None:
    threads = threading.active_count()
    first, *others = agreed(dist.HashStore())
    assert all(other == first for other in others) and list(first) == PAIRS
    for speed in first.values():
        assert 0 < speed.round_trip_s < 1.0
        assert min(speed.downstream_bytes_per_s, speed.upstream_bytes_per_s) > 1e6
    assert threading.active_count() == threads


def test_no_rank_sends_before_all_links_are_open_and_none_stops_before_all_have_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A neighbour's other link may share the wire with the link that is measured."""
    opened: list[int] = []
    opened_at_begin: list[int] = []
    measured_at_end: list[bool] = []
    first_sends, store = threading.Event(), dist.HashStore()

    def open_connections(address: Address, secret: bytes, peer: int, *rest: Any) -> list[socket.socket]:
        if peer == 2:
            first_sends.wait(0.3)  # time out of which 0 and 1 could make something
        ends = tcp.open_connections(address, secret, peer, *rest)
        opened.append(peer)
        return ends

    def send(connection: socket.socket, send: Callable[[socket.socket], None] = link_speed._send) -> None:
        opened_at_begin.append(len(opened))
        first_sends.set()
        send(connection)

    def shut_down(connections: Sequence[socket.socket]) -> None:
        measured_at_end.append(store.check([f"link-speed/{rank}" for rank in range(3)]))
        tcp_socket.shut_down(connections)

    monkeypatch.setattr(link_speed, "open_connections", open_connections)
    monkeypatch.setattr(link_speed, "_send", send)
    monkeypatch.setattr(link_speed, "shut_down", shut_down)
    agreed(store)
    assert opened_at_begin and set(opened_at_begin) == {4}
    assert measured_at_end == [True] * 3


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
