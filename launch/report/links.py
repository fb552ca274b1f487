"""How busy the links between the stages were: bytes of a step, and the share of their bandwidth in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from launch.report.text import NOTHING, megabytes, percent

Link = Mapping[str, Any]
"""An entry of the summary's `links`."""


def completed_links(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the summary's links with the bytes of a training step, and the utilisation, in each direction.

    A direction's utilisation is its bytes per second in the steady state over those that the link carried
    when it was measured; None where one of them is not known.
    """
    speed, batch_size = summary["samples_per_s"], summary["settings"].get("batch_size", 1)
    steps_per_s = None if speed is None else speed / batch_size
    return [_completed(link, summary["stages"], steps_per_s) for link in summary.get("links", ())]


def _completed(link: Link, stages: Sequence[Mapping[str, Any]], steps_per_s: float | None) -> dict[str, Any]:
    upper, lower = (stages[index] for index in link["stages"])
    targets_per_step = lower["targets_sent"] / lower["steps"] if lower["steps"] else 0.0
    activation = upper.get("message_bytes", {}).get("downstream")
    target = lower.get("message_bytes", {}).get("upstream")
    bytes_per_step = {
        "downstream": activation,
        "upstream": None if target is None else target * targets_per_step,
    }
    used: dict[str, float | None] = {}
    for direction, size in bytes_per_step.items():
        bandwidth = link[f"{direction}_bytes_per_s"]
        known = bandwidth and size is not None and steps_per_s is not None
        used[direction] = size * steps_per_s / bandwidth if known else None
    return dict(link) | {"bytes_per_step": bytes_per_step, "utilisation": used}


def sent_per_step(links: Sequence[Link], stage: int) -> str:
    """Return the megabytes that a stage sends downstream and upstream in a step, such as `1.05 / 0.26`."""
    return _of_stage(links, stage, "bytes_per_step")


def link_utilisation(links: Sequence[Link], stage: int) -> str:
    """Return the used share of the bandwidth from a stage downstream and upstream, such as `38 % / -`."""
    return _of_stage(links, stage, "utilisation")


def _of_stage(links: Sequence[Link], stage: int, key: str) -> str:
    downstream = next((link[key]["downstream"] for link in links if link["stages"][0] == stage), None)
    upstream = next((link[key]["upstream"] for link in links if link["stages"][1] == stage), None)
    return both_directions(key, downstream, upstream)


def both_directions(key: str, downstream: Any, upstream: Any) -> str:
    """Return two values of a link's entry `key`, such as `1.05 / 0.26`; `-` where neither is known."""
    if (downstream, upstream) == (None, None):
        return NOTHING
    values = (downstream, upstream)
    return " / ".join(percent(v) if key == "utilisation" else megabytes(v, 2) for v in values)
