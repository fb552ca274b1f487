from __future__ import annotations

import pytest

from launch.report.figure import logarithmic, new_figure


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ((200.0, 800.0), ["200", "500"]),
        ((90.0, 110_000.0), ["100", "1,000", "10,000", "100,000"]),
        ((12_100.0, 13_900.0), ["12,500", "13,000", "13,500"]),
        ((0.3, 0.9), ["0.5"]),
    ],
)
def test_a_logarithmic_axis_has_plain_numbers_whatever_its_range(
    values: tuple[float, float], labels: list[str]
) -> None:
    figure = new_figure(600, 400)
    axes = figure.subplots()
    axes.plot([0, 1], values)
    logarithmic(axes)
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    shown = [
        label.get_text()
        for label in axes.get_yticklabels(which="both")
        if label.get_text() and low <= label.get_position()[1] <= high
    ]
    assert set(labels) <= set(shown) and len(shown) >= 2
