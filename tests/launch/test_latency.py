from __future__ import annotations

import json
from pathlib import Path

import pytest

from dni_async.errors import UserError
from launch.latency import SIZES, LatencyConfig, latency_grid
from tests.support.jobs import our_lines, run
from workers.transport.link_cost import Line, LinkCost, Ping

NOWHERE = Line(0.0, 0.0)


def test_a_row_says_milliseconds_by_size() -> None:
    link = LinkCost(NOWHERE, NOWHERE, NOWHERE, NOWHERE)
    found = Ping({"shm": link}, NOWHERE, {"shm": [1e-4, 2e-4, 3e-4, 4e-3]})
    grid = latency_grid(found, ("shm",))
    assert [column.cells for column in grid.columns] == [["shm"], ["0.100"], ["0.200"], ["0.300"], ["4.000"]]
    assert grid.columns[3].head == "1,024 KiB\nms"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            {"transports": ("pigeon",)},
            r"unknown transport \(pigeon\); use one of auto, shm, tcp, tls, dist, nccl, rpc",
        ),
        ({"repeats": 0}, "repeats is 0; it must be at least 1"),
        ({"device": "tpu"}, r"unknown device \(tpu\)"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        LatencyConfig(**settings)  # type: ignore[arg-type]


def test_real_messages_are_timed_over_every_transport(tmp_path: Path) -> None:
    done = run("launch.latency", "--repeats", "3", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "from send until the receiver can read" in done.stdout
    told = json.loads((tmp_path / "latency.json").read_text())
    assert set(told["arrival"]) == {"shm", "tcp", "dist"}
    assert all(len(times) == len(SIZES) and min(times) > 0 for times in told["arrival"].values())
    assert (tmp_path / "latency.md").read_text().count("\n|") == 5


def test_bad_input_is_one_line() -> None:
    done = run("launch.latency", "--repeats", "0")
    assert (done.returncode, our_lines(done.stderr)) == (
        2,
        ["dni-async: repeats is 0; it must be at least 1; see launch.latency --help"],
    )
