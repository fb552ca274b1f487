"""The number of micro-batches of a batch: which are possible, and which is the fastest.

torch.distributed.pipelining fixes the shape of a micro-batch, so a count has to divide the rows:

    rows          256, wanted 8 -> 8 of 32        96, wanted 8 -> 8 of 12       97, wanted 8 -> 1 of 97

Single rows are avoided where they can be: batch norm refuses them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dni_async.errors import UserError
from workers.coordination.collectives import Peers

FIXED = (1, 2, 4, 8)
PER_STAGE = (1, 2, 4)
"""Counts that are tried: these, and these times the number of stages (the usual rule is 4)."""


def fitting(rows: int, wanted: int) -> int:
    """Return the largest count up to `wanted` that divides the rows, without parts of one row if possible."""
    return max(_without_single_rows([n for n in range(1, min(wanted, rows) + 1) if rows % n == 0], rows))


def _without_single_rows(counts: list[int], rows: int) -> list[int]:
    return [count for count in counts if rows // count > 1] or counts


def fits_schedule(engine: str, count: int, stages: int) -> bool:
    """Return whether the engine's schedule takes so many micro-batches.

    1f1b and zb take at least one for each stage. zb trains them in count // stages rounds of equal size:

        3 stages    3, 4, 5 (1 round)    6, 8 (2 rounds)    9, 12 (3 and 4)    not 7, 10, 11
    """
    if engine == "gpipe":
        return True
    return count >= stages and not (engine == "zb" and count % (count // stages))


def candidates(rows: int, stages: int, engine: str) -> list[int]:
    """Return counts worth trying for a batch of `rows`, without parts of one row if possible.

    Raises:
        UserError: the rows cannot be cut into so many equal parts as the engine needs.
    """
    possible = [n for n in range(1, rows + 1) if rows % n == 0 and fits_schedule(engine, n, stages)]
    if not possible:
        taken = " that zb takes" if engine == "zb" else ""
        raise UserError(
            f"a batch of {rows} rows cannot be cut into {stages} or more equal micro-batches{taken}; "
            "use a larger --batch-size or fewer stages"
        )
    possible = _without_single_rows(possible, rows)
    wanted = {*FIXED, *(times * stages for times in PER_STAGE)}
    return [count for count in possible if count in wanted] or possible[:1]


def check_given(count: int, rows: int, stages: int, engine: str) -> None:
    """Raise UserError when a batch of `rows` cannot be cut into the count that the user gave, or the engine
    does not take so many."""
    if rows % count:
        near = fitting(rows, count)
        raise UserError(f"micro-batches is {count}; it must divide the batch of {rows} rows, such as {near}")
    if engine != "gpipe" and count < stages:
        raise UserError(f"micro-batches is {count}; {engine} takes at least one per stage, that is {stages}")
    if not fits_schedule(engine, count, stages):
        raise UserError(
            f"micro-batches is {count}; zb trains them in {count // stages} rounds of equal size, so use a "
            f"multiple of the {stages} stages"
        )


def fastest(
    steps: Mapping[int, Callable[[], None]],
    peers: Peers,
    clock: Callable[[], float],
    rounds: int = 3,
    steps_per_round: int = 2,
) -> int:
    """Return the count with the shortest step, on which all ranks agree; every rank must call it.

    Args:
        steps: a training step for each count. They take turns, so that a busy moment of the machine affects
            all of them, and the shortest round counts:

        warm up  2 4 8   round 1  2 2 4 4 8 8   round 2  2 2 4 4 8 8   ...
    """
    if len(steps) > 1:
        for step in steps.values():
            step()
    best: dict[int, float] = {}
    for _ in range(rounds if len(steps) > 1 else 0):
        for count, step in steps.items():
            start = clock()
            for _ in range(steps_per_round):
                step()
            best[count] = min(best.get(count, float("inf")), clock() - start)
    return peers.broadcast(min(steps, key=lambda count: best.get(count, 0.0)))
