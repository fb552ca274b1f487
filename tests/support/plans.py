"""Made-up profiles for the tests of plans."""

from __future__ import annotations

from typing import Any

from dni_async.partition.costs import InterfaceCost, LayerCost
from launch.config.plan import PlanConfig
from launch.planning.profile import InterfaceProfile, LayerProfile, Profile, settings_of
from workers.transport.link_cost import Line, LinkCost

FREE = Line(0.0, 0.0)
NO_LINK = LinkCost(FREE, FREE, FREE, FREE)
NOTHING = LayerCost(0.0, 0.0, 0.0)
BATCH, PART = 64, 8


def layer(work: float = 4.0, parameters: int = 100, **changes: Any) -> LayerProfile:
    """Forward a quarter of `work`, backward half, update a quarter; compute in proportion to samples."""
    forward, backward = work / 4, work / 2
    return LayerProfile(
        **{
            "name": "Linear",
            "batch": LayerCost(forward, backward, work / 4),
            "part": LayerCost(forward * PART / BATCH, backward * PART / BATCH, work / 4),
            "parameter_bytes": parameters,
            "optimizer_bytes": 2 * parameters,
            "saved_bytes": 1000,
            "output_bytes": 640,
        }
        | changes
    )


def network(predict: float, train: float) -> InterfaceProfile:
    """An SG network or head of 10,000 bytes."""
    return InterfaceProfile(InterfaceCost(predict, train), state_bytes=10_000, replay_bytes=0)


def profile(layers: list[LayerProfile] | int = 8, **changes: Any) -> Profile:
    """Messages, batches and networks at interfaces cost nothing, unless said otherwise."""
    layers = [layer() for _ in range(layers)] if isinstance(layers, int) else layers
    links = len(layers) - 1
    return Profile(
        **{
            "settings": settings_of(PlanConfig.of(batch_size=BATCH)),
            "hardware": {"cpu": "none"},
            "batch_size": BATCH,
            "part_size": PART,
            "load": 0.0,
            "label_bytes": 64,
            "condition_bytes": 128,
            "fixed": NOTHING,
            "layers": layers,
            "interfaces": {
                f"{rule} {stages}": [network(0.0, 0.0)] * links
                for rule in ("dni", "cdni", "local")
                for stages in (2, 3)
            },
            "refused": {},
            "link": NO_LINK,
            "gloo": NO_LINK,
            "all_reduce": FREE,
        }
        | changes
    )
