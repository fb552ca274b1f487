"""Bytes of a step and utilisation of the links, from what the stages report."""

from __future__ import annotations

from typing import Any

import pytest

from launch.report.links import completed_links, link_utilisation, sent_per_step

UNKNOWN = dict.fromkeys(("round_trip_s", "downstream_bytes_per_s", "upstream_bytes_per_s"))


def ended(bytes_per_s: float | None = 1e8, targets_sent: int = 25) -> dict[str, Any]:
    """The summary of 100 steps a second over two links; one target for every four steps."""
    speed = {"round_trip_s": 0.05, "downstream_bytes_per_s": bytes_per_s, "upstream_bytes_per_s": bytes_per_s}
    stages: list[dict[str, Any]] = [
        {"index": i, "steps": 100, "targets_sent": targets_sent if i else 0} for i in range(3)
    ]
    stages[0]["message_bytes"] = {"downstream": 5e5}
    stages[1]["message_bytes"] = {"upstream": 4e5}
    return {
        "samples_per_s": 25_600.0,
        "settings": {"batch_size": 256},
        "stages": stages,
        "links": [
            {"stages": [0, 1], "transport": "tcp"} | speed,
            {"stages": [1, 2], "transport": "shm"} | UNKNOWN,
        ],
    }


def test_a_link_between_hosts_has_bytes_and_utilisation_in_each_direction() -> None:
    link, _ = completed_links(ended())
    assert link["bytes_per_step"] == {"downstream": 5e5, "upstream": pytest.approx(1e5)}
    assert link["utilisation"] == {"downstream": pytest.approx(0.5), "upstream": pytest.approx(0.1)}
    assert (link["stages"], link["transport"], link["round_trip_s"]) == ([0, 1], "tcp", 0.05)


def test_a_link_within_a_host_has_neither() -> None:
    _, link = completed_links(ended())
    assert link["bytes_per_step"] == link["utilisation"] == {"downstream": None, "upstream": None}


def test_a_link_whose_bandwidth_is_unknown_has_bytes_only() -> None:
    link, _ = completed_links(ended(bytes_per_s=None))
    assert link["bytes_per_step"]["downstream"] == 5e5
    assert link["utilisation"] == {"downstream": None, "upstream": None}


def test_a_run_too_short_to_have_a_throughput_has_no_utilisation() -> None:
    summary = ended(targets_sent=0) | {"samples_per_s": None}
    for stage in summary["stages"]:
        stage["steps"] = 0
    links = completed_links(summary)
    assert links[0]["utilisation"] == {"downstream": None, "upstream": None}
    assert link_utilisation(links, 0) == "-"


def test_a_stage_shows_both_directions() -> None:
    links = completed_links(ended())
    assert [sent_per_step(links, stage) for stage in range(3)] == ["0.50 / -", "- / 0.10", "-"]
    assert [link_utilisation(links, stage) for stage in range(3)] == ["50 % / -", "- / 10 %", "-"]
