"""Cuts a list of layers so that the slowest stage is as fast as possible."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence

from dni_async.errors import UserError
from dni_async.partition.costs import Costs


def check_cut(cut: Sequence[int], layers: int) -> None:
    """Raises UserError unless `cut` lists the first layer of every stage but the first, increasing."""
    if any(first >= end for first, end in stage_bounds(cut, layers)):
        given = ",".join(map(str, cut))
        raise UserError(
            f"cut {given} is not increasing between 1 and {layers - 1} (the model has {layers} layers)"
        )


def stage_bounds(cut: Sequence[int], layers: int) -> list[tuple[int, int]]:
    """Return (first, end) of the layers of each stage, `end` exclusive."""
    return list(itertools.pairwise([0, *cut, layers]))


def cut_with_weights(costs: Costs, has_weights: Sequence[bool], stages: int) -> list[int]:
    """Return `best_cut`, unless it has a stage without weights that can be avoided.

    A stage without weights learns nothing, and its SG network makes the targets upstream worse. Then layers
    without weights stay with the layer before them:

        weights    yes no yes yes no        a stage may begin with layers 2 and 3
    """
    cut = best_cut(costs, stages)
    if all(any(has_weights[first:end]) for first, end in stage_bounds(cut, len(has_weights))):
        return cut
    starts = [0, *[i for i, has in enumerate(has_weights) if has][1:]]
    if stages > len(starts):
        return cut
    return [starts[i] for i in best_cut(costs.merged(starts), stages)]


def best_cut(costs: Costs, stages: int) -> list[int]:
    """Return the cut whose slowest stage is fastest. Raises UserError if there are more stages than layers.

        layers       4  2  2  2  2      SG after each  1  1  1  1
        2 stages     4+2+1 | 2+2+2      slowest 7; any other cut gives 8 or more

    Bisects the cost of the slowest stage, and asks `_Limit` whether it is possible: a thousand layers take a
    fraction of a second.
    """
    count = len(costs.layers)
    if not 1 <= stages <= count:
        raise UserError(f"{stages} stages cannot share {count} layers; use 1 to {count} stages")
    reach = _Reach(costs)
    low, high = 0.0, reach.total[-1] + max(reach.interface)
    while low < (middle := (low + high) / 2) < high and high - low > 1e-12 * high:
        if _Limit(reach, middle).allows(stages):
            high = middle
        else:
            low = middle
    return _Limit(reach, high).cut(stages)


class _Reach:
    """Cumulative costs: the cost of any stage is a subtraction."""

    def __init__(self, costs: Costs) -> None:
        self.total = list(itertools.accumulate((layer.total for layer in costs.layers), initial=0.0))
        self.interface = [*(interface.total for interface in costs.interfaces), 0.0]
        self.count = len(costs.layers)

    def stage(self, first: int, end: int) -> float:
        return self.total[end] - self.total[first] + self.interface[end - 1]


class _Limit:
    """Cuts in which no stage costs more than `limit`.

    fewest[s], most[s]: the least and the greatest number of such stages into which the layers from s on can
    be cut (inf and -inf: none). Every number between is possible, too: if a stage (s, e) keeps the limit, so
    does (s', e) for s < s' < e. So a cut into many stages can be followed up to any layer and a cut into few
    from there on, and moving that layer by one changes the number of stages by at most one.
    """

    def __init__(self, reach: _Reach, limit: float) -> None:
        self.reach, self.limit = reach, limit
        count = reach.count
        self.fewest = [math.inf] * count + [0]
        self.most = [-math.inf] * count + [0]
        every_layer = all(reach.stage(i, i + 1) <= limit for i in range(count))
        for first in reversed(range(count)):
            furthest = self._furthest(first)
            self.fewest[first] = 1 + self.fewest[furthest] if furthest > first else math.inf
            # stages of one layer are the most; if some layer exceeds the limit, stages are short anyway
            ends = [first + 1] if every_layer else self._ends(first, furthest)
            self.most[first] = max((1 + self.most[end] for end in ends), default=-math.inf)

    def allows(self, stages: int, first: int = 0) -> bool:
        """Whether the layers from `first` on can be cut into `stages` stages."""
        return self.fewest[first] <= stages <= self.most[first]

    def cut(self, stages: int) -> list[int]:
        """Return the lexically first of these cuts; there must be one."""
        first, cut = 0, []
        for left in reversed(range(1, stages)):
            ends = self._ends(first, self.reach.count)
            first = next(end for end in ends if self.allows(left, end))
            cut.append(first)
        return cut

    def _furthest(self, first: int) -> int:
        """Return the last possible end of a stage that begins with layer `first`; `first` for none."""
        total = self.reach.total
        end = bisect.bisect_right(total, total[first] + self.limit, lo=first) - 1
        while end > first and self.reach.stage(first, end) > self.limit:
            end -= 1
        return end

    def _ends(self, first: int, furthest: int) -> Iterator[int]:
        return (end for end in range(first + 1, furthest + 1) if self.reach.stage(first, end) <= self.limit)
