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


def candidates(rows: int, stages: int, least: int) -> list[int]:
    """Return counts worth trying for a batch of `rows`, each at least `least`, without parts of one row if
    possible.

    Raises:
        UserError: the rows cannot be cut into so many equal parts.
    """
    possible = [count for count in range(least, rows + 1) if rows % count == 0]
    if not possible:
        raise UserError(
            f"a batch of {rows} rows cannot be cut into {least} or more equal micro-batches; "
            "use a larger --batch-size or fewer stages"
        )
    possible = _without_single_rows(possible, rows)
    wanted = {*FIXED, *(times * stages for times in PER_STAGE)}
    return [count for count in possible if count in wanted] or possible[:1]


def check_given(count: int, rows: int, least: int) -> None:
    """Raise UserError when a batch of `rows` cannot be cut into the count that the user gave."""
    if rows % count:
        near = fitting(rows, count)
        raise UserError(f"micro-batches is {count}; it must divide the batch of {rows} rows, such as {near}")
    if count < least:
        raise UserError(f"micro-batches is {count}; 1f1b takes at least one per stage, that is {least}")


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
