from __future__ import annotations

import numpy as np

from launch.report.page.stages import QUANTITIES, has_stages, stage_figures
from tests.support.recorded_runs import recorded


def test_every_quantity_that_stages_report_has_a_figure_with_a_line_per_stage() -> None:
    found = {quantity.title: made for quantity, made in stage_figures(recorded())}
    assert list(found) == [quantity.title for quantity in QUANTITIES]
    lines = {title: [trace.name for trace in made.data] for title, made in found.items()}
    assert lines["utilisation"] == lines["memory, MB"] == ["stage 0", "stage 1"]
    assert lines["SG cosine"] == lines["staleness"] == lines["batches in flight"] == ["stage 0"]
    assert np.allclose(found["utilisation"].data[0].y, 0.8)
    assert np.allclose(found["staleness"].data[0].y, 1.02)
    assert set(found["batches in flight"].data[0].y) == {2.0}
    assert set(found["memory, MB"].data[1].y) == {300.0}


def test_a_quantity_that_no_stage_reports_has_none() -> None:
    run = recorded()
    for record in run.lines:
        for stage in record["stages"]:
            del stage["sg_cosine"]
    assert "SG cosine" not in {quantity.title for quantity, _ in stage_figures(run)}


def test_a_run_over_time_has_no_stages() -> None:
    run = recorded()
    run.timeline, run.lines = [], [{"epoch": 1, "loss": 1.0}]
    assert not has_stages(run) and stage_figures(run) == []
