"""Engines whose processes hold the whole network: sequential backprop and data parallel."""

from __future__ import annotations

from launch.planning.simulator.base import StageCost, SteadyState


def simulate_backprop(cost: StageCost) -> SteadyState:
    """Return the steady state of one process that does everything in turn."""
    period = cost.load + cost.forward + cost.backward + cost.update
    return SteadyState(period=period, busy=[period], staleness=[0.0], in_flight=[0], held=[1])


def simulate_ddp(share: StageCost, replicas: int, all_reduce: float) -> SteadyState:
    """Return the steady state of replicas that each train on a share of the batch and average gradients.

    Nothing of the all-reduce is hidden behind the backward: torch's DDP has one bucket below 25 MiB.

    Args:
        share: cost of the largest share of a batch.
        all_reduce: seconds of one; see `ring_all_reduce`.
    """
    work = share.load + share.forward + share.backward + share.update
    return SteadyState(
        period=work + all_reduce,
        busy=[work] * replicas,
        staleness=[0.0] * replicas,
        in_flight=[0] * replicas,
        held=[1] * replicas,
    )


def ring_all_reduce(replicas: int, size: int, start: float, per_byte: float) -> float:
    """Return the seconds to sum `size` bytes over a ring: 2 (K - 1) messages of size / K bytes."""
    return 2 * (replicas - 1) * (start + per_byte * size / replicas) if replicas > 1 else 0.0
