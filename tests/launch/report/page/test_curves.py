from __future__ import annotations

import numpy as np

from launch.report.page.curves import loss_figure, metric_figure
from tests.support.recorded_runs import recorded


def test_each_run_has_a_curve_of_its_metric_near_the_final_values() -> None:
    made = metric_figure([recorded("cdni"), recorded("local")], "seconds", "accuracy")
    assert [trace.name for trace in made.data] == ["cdni", "local"]
    assert np.allclose(made.data[0].x, [4, 8, 12, 16, 20]) and np.isclose(made.data[0].y[-1], 0.9841)
    low, high = made.layout.yaxis.range
    assert 0.94 < low < 0.96 and 0.984 < high < 1.0


def test_runs_with_another_metric_are_in_a_figure_of_their_own() -> None:
    runs = [recorded("cdni"), recorded("gpt", metric_name="perplexity")]
    assert [trace.name for trace in metric_figure(runs, "seconds", "accuracy").data] == ["cdni"]


def test_the_training_loss_is_solid_and_that_of_evaluations_dotted() -> None:
    training, tested = loss_figure([recorded()], "epochs").data
    assert (training.name, training.line.dash, len(training.x)) == ("training", None, 20)
    assert (tested.name, tested.line.dash, tested.x.tolist()) == ("test", "dot", [1, 2, 3, 4, 5])
