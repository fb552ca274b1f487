"""How many messages are in flight, by distance and step time."""

from __future__ import annotations

import threading
import time

import pytest
import torch.distributed as dist

from tests.support.conformance import TEST_TIMEOUT_S
from workers.coordination.rendezvous import Rendezvous
from workers.transport.in_flight import agree_on_in_flight, choose_in_flight


@pytest.mark.parametrize(
    ("round_trip_ms", "step_ms", "messages"),
    [
        (0.0, 12.0, 4),
        (0.2, 12.0, 5),
        (10.0, 12.0, 5),
        (50.0, 12.5, 8),
        (200.0, 12.5, 20),
        (200.0, 0.1, 64),
        (50.0, 0.0, 9),  # the step is not known
    ],
)
def test_table(round_trip_ms: float, step_ms: float, messages: int) -> None:
    assert choose_in_flight(round_trip_ms / 1e3, step_ms / 1e3) == messages


@pytest.mark.parametrize("step_s", [0.004, 0.01, 0.05])
@pytest.mark.parametrize("round_trip_s", [0.0, 0.01, 0.05, 0.2])
def test_the_chosen_number_in_flight_keeps_the_sender_from_waiting(
    round_trip_s: float, step_s: float
) -> None:
    """A receiver that needs a step for each message is never idle, once the first one has come."""
    credits, idle, free_at = choose_in_flight(round_trip_s, step_s), 0.0, 0.0
    sent = [0.0] * credits  # when the sender may send the next messages
    for number in range(200):
        arrives = sent[number] + round_trip_s / 2
        idle += max(0.0, arrives - free_at) if number else 0.0
        free_at = max(free_at, arrives) + step_s
        sent.append(free_at + round_trip_s / 2)
    assert idle == pytest.approx(0.0, abs=1e-9) or credits == 64


class SlowStore:
    """A store that is far from one rank."""

    def __init__(self, store: dist.Store, seconds: float) -> None:
        self._store, self._seconds = store, seconds

    def check(self, keys: list[str]) -> bool:
        time.sleep(self._seconds)
        return bool(self._store.check(keys))

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


def test_ranks_agree_and_the_longest_link_counts() -> None:
    store, found = dist.HashStore(), [0, 0, 0]

    def body(rank: int) -> None:
        seen = SlowStore(store, (0.0, 0.02, 0.04)[rank])
        rendezvous = Rendezvous(rank, 3, rank, 3, seen)  # type: ignore[arg-type]
        found[rank] = agree_on_in_flight(rendezvous, 0.01, TEST_TIMEOUT_S)

    threads = [threading.Thread(target=body, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and 4 + 6 < found[0] <= 4 + 6 + 3
