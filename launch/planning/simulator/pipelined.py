"""GPipe, 1F1B and zero-bubble: micro-batches, and a flush after every batch.

    3 stages, 4 micro-batches, backward as long as forward; capitals are backwards

    gpipe  0  0 1 2 3 . . . . A B C D       1f1b  0  0 1 2 . . A 3 B . C . D
           1  . 0 1 2 3 . . A B C D .             1  . 0 1 . A 2 B 3 C . D .
           2  . . 0 1 2 3 A B C D . .             2  . . 0 A 1 B 2 C 3 D . .

The bubble is (K - 1) / (M + K - 1) in both (Huang et al. 2019, section 2.3;
Narayanan et al. 2021, section 2.2); 1F1B holds fewer micro-batches: K - k of them on stage k.

Zero-bubble (ZB-H1, Qi et al. 2024) parts a backward into the gradient of the inputs (capitals), which is sent
at once, and that of the weights (a to d), here taken as half of it each; stage 0 has no gradient of its
inputs. The orders of operations, without the bubbles:

    zb     0  0 1 2 A a 3 B b C c D d
           1  0 1 A 2 B a 3 C b D c d
           2  0 A 1 B 2 C a 3 D b c d
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType

from launch.planning.simulator.base import FREE, MessageCost, StageCost, SteadyState

Op = tuple[str, int]
"""("forward", "backward" or "weight", micro-batch)."""


def gpipe_order(stage: int, stages: int, micro_batches: int) -> list[Op]:
    """Return all forwards, then all backwards."""
    return [(kind, m) for kind in ("forward", "backward") for m in range(micro_batches)]


def one_f_one_b_order(stage: int, stages: int, micro_batches: int) -> list[Op]:
    """Return as many forwards as there are stages from here on, then one backward, one forward in turn."""
    ahead = min(micro_batches, stages - stage)
    order: list[Op] = [("forward", m) for m in range(ahead)]
    for m in range(micro_batches):
        order.append(("backward", m))
        if m + ahead < micro_batches:
            order.append(("forward", m + ahead))
    return order


def zero_bubble_order(stage: int, stages: int, micro_batches: int) -> list[Op]:
    """Return the order of 1F1B, with the weights' part of each backward `stage` micro-batches later."""
    order: list[Op] = []
    for kind, m in one_f_one_b_order(stage, stages, micro_batches):
        order.append((kind, m))
        if kind == "backward" and m >= stage:
            order.append(("weight", m - stage))
    return order + [("weight", m) for m in range(max(0, micro_batches - stage), micro_batches)]


SCHEDULES: Mapping[str, Callable[[int, int, int], list[Op]]] = MappingProxyType(
    {"gpipe": gpipe_order, "1f1b": one_f_one_b_order, "zb": zero_bubble_order}
)


def simulate_pipelined(
    stages: Sequence[StageCost], schedule: str, micro_batches: int, batches: int = 3
) -> SteadyState:
    """Run `batches` batches, each of so many micro-batches, one after the other through the stages.

    Args:
        stages: forward, backward and messages of one micro-batch; load, by every stage, and update
            once per batch.
    """
    order = SCHEDULES[schedule]
    orders = [order(k, len(stages), micro_batches) for k in range(len(stages))]
    ends = _Grid(stages, orders, micro_batches, batches).run()
    return SteadyState(
        period=(ends[-1] - ends[0]) / (len(ends) - 1),
        busy=[_busy(stages, k, micro_batches) for k in range(len(stages))],
        staleness=[0.0] * len(stages),
        in_flight=[1] * (len(stages) - 1) + [0],
        held=[_most_held(ops) for ops in orders],
    )


def _busy(stages: Sequence[StageCost], k: int, micro_batches: int) -> float:
    cost = stages[k]
    return cost.load + cost.update + micro_batches * (_forward(stages, k) + _backward(stages, k))


def _forward(stages: Sequence[StageCost], k: int) -> float:
    """Return the seconds in which stage k is busy with one forward and its messages."""
    receive = stages[k - 1].activation.receive if k else 0.0
    send = stages[k].activation.send if k + 1 < len(stages) else 0.0
    return receive + stages[k].forward + send


def _backward(stages: Sequence[StageCost], k: int) -> float:
    receive = stages[k + 1].target.receive if k + 1 < len(stages) else 0.0
    send = stages[k].target.send if k else 0.0
    return receive + stages[k].backward + send


def _weights_share(k: int, order: Sequence[Op]) -> float:
    """Return the part of stage k's backward that its order has as operations of their own."""
    apart = any(kind == "weight" for kind, _ in order)
    return (0.5 if k else 1.0) if apart else 0.0


def _most_held(order: Sequence[Op]) -> int:
    last = "weight" if any(kind == "weight" for kind, _ in order) else "backward"
    change = {"forward": 1, last: -1}
    return max(accumulate(change.get(kind, 0) for kind, _ in order))


class _Grid:
    """When every operation of a static schedule ends: each stage goes on as far as its inputs are known."""

    def __init__(
        self, stages: Sequence[StageCost], orders: Sequence[Sequence[Op]], micro_batches: int, batches: int
    ) -> None:
        self.stages, self.orders, self.batches = stages, orders, batches
        self.count = micro_batches
        shares = [_weights_share(k, orders[k]) for k in range(len(stages))]
        weights = [share * stage.backward for share, stage in zip(shares, stages, strict=True)]
        self.seconds = {
            "forward": [_forward(stages, k) for k in range(len(stages))],
            "backward": [_backward(stages, k) - weights[k] for k in range(len(stages))],
            "weight": weights,
        }
        """Of each kind of operation, by stage."""
        self.position = [0] * len(stages)
        self.free = [0.0] * len(stages)
        self.sent: list[dict[Op, tuple[float, MessageCost]]] = [{} for _ in stages]
        """When the input of an operation was sent; micro-batches are numbered over all batches."""
        self.ends: list[float] = []
        """When stage 0 was done with each batch, and begins the next one."""

    def run(self) -> list[float]:
        waiting = deque(range(len(self.stages)))
        while waiting:
            k = waiting.popleft()
            moved = self._advance(k)
            waiting.extend(n for n in moved if n not in waiting)
        assert len(self.ends) == self.batches, "the schedule is stuck"
        return self.ends

    def _advance(self, k: int) -> list[int]:
        """Do what stage k can do now; return the neighbours that received something."""
        fed: set[int] = set()
        length = len(self.orders[k])
        while self.position[k] < length * self.batches:
            batch, place = divmod(self.position[k], length)
            kind, m = self.orders[k][place]
            op = kind, batch * self.count + m
            if self._from_neighbour(k, kind) and op not in self.sent[k]:
                break
            self.free[k] += self.stages[k].load if place == 0 else 0.0
            start = max(self.free[k], self._arrival(k, op))
            fed.update(self._end(k, op, start))
            self.position[k] += 1
            if place == length - 1:
                self.free[k] += self.stages[k].update
                if k == 0:
                    self.ends.append(self.free[0])
        return sorted(fed)

    def _arrival(self, k: int, op: Op) -> float:
        """Return when the input of an operation arrives that stage k has waited for since it was free."""
        sent, message = self.sent[k].pop(op, (0.0, FREE))
        begun = max(sent, self.free[k] + message.request) if message.request else sent
        return begun + message.wire + message.latency

    def _from_neighbour(self, k: int, kind: str) -> bool:
        return {"forward": k > 0, "backward": k + 1 < len(self.stages), "weight": False}[kind]

    def _end(self, k: int, op: Op, start: float) -> list[int]:
        """Note when an operation ends and its output is sent; return the neighbour that needs it, if any."""
        forward = op[0] == "forward"
        self.free[k] = start + self.seconds[op[0]][k]
        to = k + 1 if forward else k - 1
        if op[0] == "weight" or not 0 <= to < len(self.stages):
            return []
        message = self.stages[k].activation if forward else self.stages[k].target
        self.sent[to][op] = self.free[k], message
        return [to]
