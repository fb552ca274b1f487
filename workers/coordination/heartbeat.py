"""Signs of life in the rendezvous store: a stopped process is told from a busy one.

    rank 1   "at step 37" ── beat ──► store: 12, at step 37 ◄── look ── rank 0   new: heard of it now
             "at step 37" ── beat ──►        13, at step 37 ◄── look ──          new, at step 37 for 1 s
             SIGSTOP                         13             ◄── look ──          not heard of it for 1 s

A thread beats, so a rank does it also while it computes or waits. Ages are by the reader's clock: those of
hosts need not agree. On rank 0 the thread also looks whether another rank has said why the job ends.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from workers.coordination.rendezvous import Rendezvous

BEAT = 0.5
"""Seconds between two beats."""
SILENCE = 4 * BEAT
"""Seconds without a beat after which nobody takes a rank for alive."""
PATIENCE = 10.0
"""Seconds that a beat waits for the store."""
NAMED = 3
"""Ranks that a line names at most."""


@dataclass(slots=True)
class _Sign:
    """The newest beat of a rank."""

    beat: int
    doing: str
    since: float
    """Seconds that it had been doing that, when it beat."""
    heard: float
    """When it was new, by our clock."""


class Heartbeat:
    """Says what this rank does and knows what the others do.

    doing: in words, such as "stage 1 (rank 1), at step 37, computing". notice: called at every beat.
    """

    def __init__(
        self,
        rendezvous: Rendezvous,
        doing: Callable[[], str],
        notice: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rank = rendezvous.rank
        self._others = [rank for rank in range(rendezvous.world) if rank != rendezvous.rank]
        self._job = rendezvous.another(timeout=PATIENCE)
        self._doing, self._notice, self._clock = doing, notice, clock
        self._beats = 0
        self._mine, self._since = "", clock()
        self._looked = clock()
        self._signs: dict[int, _Sign] = {}

    def start(self) -> None:
        """Beat until the process ends; without a store, in silence."""
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def _run(self) -> None:
        try:
            while True:
                self.beat()
                self._notice()
                time.sleep(BEAT)
        except Exception:
            pass  # the launcher, and with it the store, is gone: the job ends anyway

    def beat(self) -> None:
        """Say what this rank does, and look what the others said."""
        now, doing = self._clock(), self._doing()
        if doing != self._mine:
            self._mine, self._since = doing, now
        self._beats += 1
        mine = {"beat": self._beats, "doing": doing, "since": now - self._since}
        self._job.publish(_key(self._rank), mine)
        for rank, told in self._look().items():
            known = self._signs.get(rank)
            if known is None or known.beat != told["beat"]:
                self._signs[rank] = _Sign(**told, heard=now)
        self._looked = now

    def _look(self) -> dict[int, Any]:
        """The newest beats of those who have ever beaten."""
        ranks = self._others
        store = self._job.store
        if not store.check([_key(rank) for rank in ranks]):
            ranks = [rank for rank in ranks if store.check([_key(rank)])]
        values = store.multi_get([_key(rank) for rank in ranks]) if ranks else []
        return {rank: json.loads(value) for rank, value in zip(ranks, values, strict=True)}

    def about(self, peers: Sequence[int] = ()) -> str:
        """Why nothing comes from these ranks (or any): who shows no sign of life; if all do, what they do.

        An age is that at our own last look, so that a rank that was stopped itself takes nobody for dead.
        """
        signs = dict(self._signs)
        silent = [rank for rank in self._others if self._age(signs.get(rank)) > SILENCE]
        if silent:
            return " and ".join(self._silence(rank, signs.get(rank)) for rank in silent[:NAMED])
        alive = [signs[rank] for rank in (peers or self._others)[:NAMED] if rank in signs]
        doings = " and ".join(f"{sign.doing}, lives and has done so for {sign.since:.0f} s" for sign in alive)
        return f"{doings}; raise --timeout if that may take so long" if doings else ""

    def _silence(self, rank: int, sign: _Sign | None) -> str:
        if sign is None:
            return f"no sign of life from rank {rank} so far"
        return f"no sign of life for {self._age(sign):.0f} s from {sign.doing}"

    def _age(self, sign: _Sign | None) -> float:
        return self._looked - sign.heard if sign else float("inf")


def _key(rank: int) -> str:
    return f"beat/{rank}"
