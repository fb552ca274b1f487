"""Heartbeats in the rendezvous store tell a stopped process from a busy one.

    rank 1   "at step 37" ── beat ──► store: 12, at step 37 ◄── read ── rank 0   new: last seen now
             "at step 37" ── beat ──►        13, at step 37 ◄── read ──          new: at step 37 for 1 s
             SIGSTOP                         13             ◄── read ──          last seen 1 s ago

A thread beats, so a rank beats also while it computes or waits. Ages are by the reader's clock, as clocks of
hosts may differ. On rank 0 the thread also prints the line of a rank that failed (`failure.report`).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from workers.coordination.rendezvous import Rendezvous
from workers.coordination.store_connection import is_gone

BEAT_INTERVAL_S = 0.5
_MOST_FAILURES = 30
"""Beats in a row that fail before the thread ends."""
SILENCE_TIMEOUT_S = 4 * BEAT_INTERVAL_S
"""Time without a beat after which a rank no longer counts as alive."""
STORE_TIMEOUT_S = 10.0
"""How long a beat waits for the store."""
MAX_NAMED = 3
"""Most ranks that a line names."""


@dataclass(slots=True)
class _Beat:
    """The newest heartbeat of another rank."""

    number: int
    activity: str
    since: float
    """Seconds for which the activity had lasted."""
    seen: float
    """When it was new, by our clock."""


class Heartbeat:
    """Publishes what this rank does, and knows what the other ranks do.

    Args:
        describe_activity: returns words such as "stage 1 (rank 1), at step 37, computing".
        on_beat: called after every beat.
    """

    def __init__(
        self,
        rendezvous: Rendezvous,
        describe_activity: Callable[[], str],
        on_beat: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rank = rendezvous.rank
        self._others = [rank for rank in range(rendezvous.world) if rank != rendezvous.rank]
        self._rendezvous = rendezvous
        self._job = rendezvous.with_own_connection(timeout=STORE_TIMEOUT_S)
        self._describe_activity, self._on_beat, self._clock = describe_activity, on_beat, clock
        self._number = 0
        self._activity, self._since = "", clock()
        self._last_read = clock()
        self._beats: dict[int, _Beat] = {}

    def start(self) -> None:
        """Beat in a thread until the process ends or the store is gone."""
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def _run(self) -> None:
        failures = 0
        while failures < _MOST_FAILURES:
            try:
                self.beat()
                self._on_beat()
                failures = 0
            except dist.DistNetworkError:
                if is_gone():
                    return  # the launcher, and with it the store, is gone: the job ends anyway
                self._connect()  # the link was cut for longer than a beat waits
            except Exception:  # the store did not answer in time; it may the next time
                failures += 1
                self._connect()  # an answer that comes late is for no other question
            time.sleep(BEAT_INTERVAL_S)

    def _connect(self) -> None:
        """Ask over a new connection from now on, if there is one."""
        with contextlib.suppress(Exception):
            self._job = self._rendezvous.with_own_connection(timeout=STORE_TIMEOUT_S)

    def beat(self) -> None:
        """Publish what this rank does, and read what the others do."""
        now, activity = self._clock(), self._describe_activity()
        if activity != self._activity:
            self._activity, self._since = activity, now
        self._number += 1
        mine = {"number": self._number, "activity": activity, "since": now - self._since}
        self._job.publish(_key(self._rank), mine)
        for rank, beat in self._read().items():
            known = self._beats.get(rank)
            if known is None or known.number != beat["number"]:
                self._beats[rank] = _Beat(**beat, seen=now)
        self._last_read = now

    def _read(self) -> dict[int, Any]:
        """The newest beat of each other rank that has ever beaten."""
        beats = self._job.peek_all([_key(rank) for rank in self._others])
        return {rank: beats[_key(rank)] for rank in self._others if _key(rank) in beats}

    def describe(self, peers: Sequence[int] = ()) -> str:
        """Why nothing comes from `peers` (default: all others): who is silent, or else what they do.

        Ages are those at our own last beat, so a rank that was stopped itself reports nobody as dead.
        """
        beats = dict(self._beats)
        silent = [rank for rank in self._others if self._age(beats.get(rank)) > SILENCE_TIMEOUT_S]
        if silent:
            return " and ".join(self._describe_silence(rank, beats.get(rank)) for rank in silent[:MAX_NAMED])
        alive = [beats[rank] for rank in (peers or self._others)[:MAX_NAMED] if rank in beats]
        activities = " and ".join(f"{b.activity}, lives and has done so for {b.since:.0f} s" for b in alive)
        return f"{activities}; raise --timeout if that may take so long" if activities else ""

    def _describe_silence(self, rank: int, beat: _Beat | None) -> str:
        if beat is None:
            return f"no sign of life from rank {rank} so far"
        return f"no sign of life for {self._age(beat):.0f} s from {beat.activity}"

    def _age(self, beat: _Beat | None) -> float:
        return self._last_read - beat.seen if beat else float("inf")


def _key(rank: int) -> str:
    return f"heartbeat/{rank}"
