"""Numbers and names as people read them."""

import pytest

from launch.report.text import layer_range, metric, number, percent


def test_numbers_and_shares_are_shown_as_text():
    assert [number(12345.6), number(0.128, 2), number(None)] == ["12,346", "0.13", "-"]
    assert [percent(0.984), percent(0.9841, 1), percent(None)] == ["98 %", "98.4 %", "-"]
    assert [metric(0.98412, digits=2), metric(None), metric(-0.123456, "score")] == [
        "98.41 %",
        "-",
        "-0.1235",
    ]


@pytest.mark.parametrize(
    ("layers", "name"),
    [
        (["3 Linear"], "layer 3"),
        (["0 Linear", "1 ReLU"], "layers 0-1"),
        (["8 A", "9 B", "10 C"], "layers 8-10"),
    ],
)
def test_layers_of_a_stage_are_shown_as_a_range(layers, name):
    assert layer_range(layers) == name
