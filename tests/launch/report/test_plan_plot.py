from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.image import imread

from launch.config.partition import PipelineConfig
from launch.planning.predict import Planner, Prediction
from launch.report.plan_plot import SIZE, plot_plan
from tests.support.plans import profile


@pytest.mark.parametrize("counts", [(2,), (2, 4, 8)])
def test_the_picture_has_its_size_and_is_not_empty(counts: tuple[int, ...], tmp_path: Path) -> None:
    planner = Planner(profile(), PipelineConfig())
    predictions = [planner.predict("backprop", 1)]
    predictions += [planner.predict(engine, n) for n in counts for engine in ("gpipe", "delayed", "cdni")]
    plot_plan(predictions, tmp_path / "plan.png", profile())
    picture = imread(tmp_path / "plan.png")
    assert picture.shape[:2] == (SIZE[1], SIZE[0])
    assert picture.std() > 0.05


def test_engines_without_a_prediction_are_left_out(tmp_path: Path) -> None:
    plot_plan([Prediction(engine="ddp", stages=4, error="why")], tmp_path / "plan.png", profile())
    assert (tmp_path / "plan.png").exists()
