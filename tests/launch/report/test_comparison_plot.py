"""The picture of a comparison is a PNG file of the promised size with something on it."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from launch.engines.registry import plot_styles
from launch.report.comparison_plot import _zoom, plot_compare
from launch.report.comparison_rows import make_rows
from tests.support.pixels import pixels, share
from tests.support.summaries import compared, summary, validated

STYLES = plot_styles()


def colour(engine):
    return tuple(round(255 * part) for part in to_rgb(STYLES[engine][0]))


def drawn(rows, folder, **about):
    plot_compare(rows, folder / "compare.png", **about)
    return pixels(folder / "compare.png")


def test_bars_are_left_and_curves_right_and_a_failure_has_neither(tmp_path):
    rows = [
        compared("backprop", 1, 1.0),
        {"engine": "gpipe", "stages": 2, "error": "no such luck"},
        compared("cdni", 2, 1.88),
        compared("cdni", 4, 2.9),
        compared("someone else's", 2, None),
    ]
    image = drawn(rows, tmp_path)
    assert image.shape == (480, 1200, 3)
    assert share(image[:, :600], colour("backprop")) > 0.01
    assert share(image[:, :600], colour("cdni")) > 0.01
    assert share(image[:, 600:], colour("cdni")) > 0.0001
    assert share(image, colour("gpipe")) == 0


def test_a_longer_list_makes_a_taller_picture(tmp_path):
    rows = [compared(engine, 2, 1.0) for engine in STYLES]
    for seconds, row in enumerate(rows):
        row["runs"][0]["evaluations"] = summary(seconds=10.0 + seconds)["evaluations"]
    image = drawn(rows, tmp_path)
    assert image.shape[0] == 180 + 44 * len(STYLES) > 480
    for engine in STYLES:
        assert share(image[:, 600:], colour(engine)) > 0.0001, engine


def test_when_all_failed_there_is_an_empty_picture(tmp_path):
    rows = [{"engine": "cdni", "stages": 2, "error": "boom"}]
    assert drawn(rows, tmp_path).shape == (480, 1200, 3)


def test_runs_that_differ_get_a_line_from_the_least_to_the_most(tmp_path):
    rows = [compared("backprop", 1, 1.0), compared("cdni", 2, 1.5)]
    without = drawn(rows, tmp_path)[:430, :600]  # above the name of the axis, which tells of it, too
    rows[1]["speedup_spread"] = [1.0, 1.5]
    assert (drawn(rows, tmp_path)[:430, :600] != without).any()


def test_the_accuracy_to_reach_is_drawn_across(tmp_path):
    def dark(image):
        return (image < 80).all(-1).sum(1).max()  # pixels of the darkest row

    rows = [compared("cdni", 2, 1.5)]
    without = drawn(rows, tmp_path)[:, 600:]
    rows[0]["until"] = {"accuracy": 0.97, "reached": 1, "runs": 1, "seconds": 3.0, "epochs": 3}
    assert dark(drawn(rows, tmp_path)[:, 600:]) > dark(without) + 100


def test_a_dot_above_the_last_one_is_not_cut_off():
    axes = Figure().subplots()
    axes.plot([1, 2, 3], [0.5, 0.97, 0.95])
    _zoom(axes, [{"test_accuracy": 0.95}])
    low, high = axes.get_ylim()
    assert 0.9 < low < 0.95 and 0.97 < high < 0.98


def test_the_title_is_shown(tmp_path):
    rows = [compared("cdni", 2, 1.5, test_score=-0.5)]
    plain = drawn(rows, tmp_path, metric_name="score")
    titled = drawn(rows, tmp_path, title="emulated (5 GFLOP/s per stage)", metric_name="score")
    assert (plain[:50] != titled[:50]).any()


def test_of_several_runs_the_one_with_the_median_throughput_is_drawn(tmp_path):
    def a_run(speed, accuracy):
        point = {"epoch": 1, "step": 9, "test_accuracy": accuracy, "test_loss": 1.0}
        return summary(samples_per_s=speed, evaluations=[point | {"seconds": s} for s in (1.0, 9.0)])

    alone = make_rows({"cdni": [a_run(200, 0.95)]})
    several = make_rows({"cdni": [a_run(300, 0.90), a_run(200, 0.95), a_run(100, 0.99)]})
    one, other = (drawn(rows, tmp_path)[:, 600:] for rows in (alone, several))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("part", [0, 1], ids=["colour", "marker"])
def test_every_engine_looks_different(part):
    looks = [style[part] for style in STYLES.values()]
    assert all(a != b for a, b in itertools.combinations(looks, 2))


def test_runs_with_validation_have_a_curve_too(tmp_path):
    rows = make_rows({"cdni": [validated()]})
    empty = [row | {"runs": [run | {"evaluations": []} for run in row["runs"]]} for row in rows]
    assert (drawn(rows, tmp_path)[:, 600:] != drawn(empty, tmp_path)[:, 600:]).any()
