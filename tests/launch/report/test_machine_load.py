from __future__ import annotations

from types import SimpleNamespace

import pytest

from launch.report import machine_load
from launch.report.machine_load import MachineLoad


@pytest.mark.parametrize(
    ("machine", "own", "busy"),
    [
        (20.0, 20.0, 0.0),
        (20.0, 5.0, 1.5),
        (20.0, 20.5, 0.0),  # clocks of the kernel tick
    ],
)
def test_cores_that_others_kept_busy_are_those_of_the_machine_less_the_own(
    monkeypatch: pytest.MonkeyPatch, machine: float, own: float, busy: float
) -> None:
    now, of_all, of_own = [100.0], [1000.0], [50.0]
    times = {"user": 1.0, "system": 2.0, "children_system": 3.0}
    for name, module in {
        "time": SimpleNamespace(monotonic=lambda: now[0]),
        "psutil": SimpleNamespace(
            cpu_times=lambda: SimpleNamespace(user=of_all[0], system=7.0, nice=1.0), cpu_count=lambda: 2
        ),
        "os": SimpleNamespace(times=lambda: SimpleNamespace(children_user=of_own[0], **times)),
    }.items():
        monkeypatch.setattr(machine_load, name, module)
    load = MachineLoad()
    now[0], of_all[0], of_own[0] = now[0] + 10.0, of_all[0] + machine, of_own[0] + own
    assert load.cores() == pytest.approx(busy)
    notes = load.notes()
    assert bool(notes) == bool(busy)
    assert not busy or notes[0].startswith("other programs kept 1.5 of 2 cores busy meanwhile: ")
