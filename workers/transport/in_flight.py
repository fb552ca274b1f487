"""How many messages have to be on the way so that no stage waits for a round trip."""

from __future__ import annotations

import math
import time
from itertools import pairwise

from workers.coordination.rendezvous import Rendezvous

WITHIN_A_HOST = 4
"""Enough where a credit comes back at once: one batch is computed, the others even out the steps."""
_MOST = 64
_TYPICAL_STEP_S = 0.01
_REPEATS = 5


def choose_in_flight(round_trip_s: float, step_s: float) -> int:
    """Messages in flight for a link: 4, and one for each step that begins while a credit is on the way.

    A sender with n credits sends n messages in a round trip and the step that its neighbour needs to release
    one, so it never waits while n >= 1 + round_trip / step. More would only make targets staler: a slow wire
    or a slow neighbour fills every queue there is.

    Args:
        round_trip_s: Seconds to the neighbour and back.
        step_s: Seconds between two messages, that is the step of the slowest stage; 0 if it is not known.
    """
    return min(_MOST, WITHIN_A_HOST + math.ceil(round_trip_s / (step_s or _TYPICAL_STEP_S)))


def agree_on_in_flight(rendezvous: Rendezvous, step_s: float, timeout: float) -> int:
    """The messages in flight of all links, which every rank of the job asks for and is told alike.

    Each rank measures its round trip to the store. That of two neighbours is no longer than their sum.
    """
    mine = _round_trip_to_store(rendezvous)
    measured = rendezvous.all_gather("round-trip", mine, timeout)
    longest = max(a + b for a, b in pairwise(measured))
    return choose_in_flight(longest, step_s)


def _round_trip_to_store(rendezvous: Rendezvous) -> float:
    """Seconds of the fastest of some questions."""
    times = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        rendezvous.store.check(["round-trip"])
        times.append(time.perf_counter() - begin)
    return min(times)
