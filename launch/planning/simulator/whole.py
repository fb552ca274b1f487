"""Engines whose processes hold the whole network: sequential backprop and data parallel."""

from __future__ import annotations

from launch.planning.simulator.base import Forecast, StageCost


def forecast_backprop(cost: StageCost) -> Forecast:
    """One process does everything, one thing after the other."""
    period = cost.load + cost.forward + cost.backward + cost.update
    return Forecast(period=period, busy=[period], staleness=[0.0], in_flight=[0], held=[1])


def forecast_ddp(share: StageCost, replicas: int, all_reduce: float) -> Forecast:
    """Every replica does its share of the batch, then all sum their gradients, then each updates.

    share: what the largest share of a batch costs. all_reduce: seconds of one; see `ring_all_reduce`.
    Nothing of it is hidden behind the backward: a network below 25 MiB is one bucket of torch's DDP.
    """
    work = share.load + share.forward + share.backward + share.update
    return Forecast(
        period=work + all_reduce,
        busy=[work] * replicas,
        staleness=[0.0] * replicas,
        in_flight=[0] * replicas,
        held=[1] * replicas,
    )


def ring_all_reduce(replicas: int, size: int, start: float, per_byte: float) -> float:
    """Seconds to sum `size` bytes over a ring: 2 (K - 1) messages, each of a K-th of them."""
    return 2 * (replicas - 1) * (start + per_byte * size / replicas) if replicas > 1 else 0.0
