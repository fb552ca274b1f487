"""What the ranks agree on about their links."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from launch.config.train import TrainConfig
from launch.job import links as module
from launch.job.links import agree_on_links, describe_links
from tests.support.conformance import TEST_TIMEOUT_S
from workers.coordination.rendezvous import Rendezvous
from workers.transport.link_speed import LinkSpeed


def agreed(monkeypatch: pytest.MonkeyPatch, bytes_per_s: float, **settings: Any) -> tuple[Any, Any, Any]:
    """Transports, speeds and messages in flight of two ranks on two hosts, whose step takes 1 ms."""
    store, found = dist.HashStore(), [None, None]
    monkeypatch.setattr(module, "agree_on_transports", lambda *arguments: (["tcp"], ["here", "there"]))
    speed = LinkSpeed(0.02, bytes_per_s, bytes_per_s)
    monkeypatch.setattr(module, "agree_on_link_speeds", lambda rendezvous, pairs, timeout: {pairs[0]: speed})
    monkeypatch.setattr("workers.transport.in_flight._round_trip_to_store", lambda rendezvous: 0.01)
    plan = SimpleNamespace(costs=[1e-3, 1e-3], bounds=[(0, 1), (1, 2)], shapes=[(1000,)], dtypes=["float32"])

    def body(rank: int) -> None:
        config = TrainConfig.of(stages=2, batch_size=100, **settings)
        rendezvous = Rendezvous(rank, 2, rank, 2, store)
        context = SimpleNamespace(config=config, plan=plan, rendezvous=rendezvous)
        transports, speeds = agree_on_links(context)  # type: ignore[arg-type]
        found[rank] = (transports, speeds, context.config.partition.in_flight)

    threads = [threading.Thread(target=body, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TEST_TIMEOUT_S)
    assert found[0] == found[1] and found[0] is not None
    return found[0]


@pytest.mark.parametrize(
    ("bytes_per_s", "settings", "in_flight"),
    [
        (1e12, {}, 24),  # 20 steps of 1 ms begin in a round trip
        (4e7, {}, 6),  # 400,000 bytes take 10 ms on the wire, so only two do
        (4e7, {"wire": "int8"}, 12),  # 100,400 bytes
        (4e7, {"in_flight": 3}, 3),
    ],
)
def test_messages_in_flight_follow_from_round_trip_step_and_bandwidth(
    monkeypatch: pytest.MonkeyPatch, bytes_per_s: float, settings: dict[str, Any], in_flight: int
) -> None:
    transports, (speed,), found = agreed(monkeypatch, bytes_per_s, **settings)
    assert (transports, speed.downstream_bytes_per_s, found) == (["tcp"], bytes_per_s, in_flight)


def test_a_summary_names_every_link_and_what_is_known_of_it() -> None:
    assert describe_links(["shm", "tcp"], [None, LinkSpeed(0.05, 1e8, 2e8)]) == [
        {
            "stages": [0, 1],
            "transport": "shm",
            "round_trip_s": None,
            "downstream_bytes_per_s": None,
            "upstream_bytes_per_s": None,
        },
        {
            "stages": [1, 2],
            "transport": "tcp",
            "round_trip_s": 0.05,
            "downstream_bytes_per_s": 1e8,
            "upstream_bytes_per_s": 2e8,
        },
    ]


def test_supervised_stages_measure_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that is started again would find its neighbours busy."""
    _, speeds, in_flight = agreed(monkeypatch, 1e12, supervise=True, out="a", checkpoint_every=1)
    assert (speeds, in_flight) == ([None], "auto")
