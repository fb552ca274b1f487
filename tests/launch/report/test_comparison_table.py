"""What the tables of a comparison say, to the letter."""

import pytest

from launch.report.comparison_table import compare_grid, memory_grid
from launch.report.grid import markdown
from tests.support.printing import printed
from tests.support.summaries import compared

ROWS = [
    compared("backprop", 1, 1.0),
    {"engine": "gpipe", "stages": 2, "error": "RuntimeError: no\n  such | luck"},
    compared("cdni", 2, 1.88, test_accuracy=0.98, train_s=1024.64),
]


def until(seconds, epochs, reached=3):
    return {"accuracy": 0.97, "runs": 3, "reached": reached, "seconds": seconds, "epochs": epochs}


def repeated(engine, stages, speed, **changes):
    """A row of three runs."""
    spread = {
        "samples_per_s_spread": [6100.0 * speed, 6500.0 * speed],
        "test_accuracy_spread": [0.9801, 0.9852],
    }
    return compared(engine, stages, speed, runs=[{}, {}, {}], **spread | changes)


MANY = [
    repeated("backprop", 1, 1.0, until=until(31.24, 2.5)),
    repeated("gpipe", 8, 0.9, until=until(40.0, 3, reached=2), micro_batches=[8]),
    repeated("cdni", 8, 5.9, until=until(None, None, reached=1), utilisation=[0.97, 0.95] * 4),
    repeated("frozen", 8, 6.9, until=until(None, None, reached=0), utilisation=[0.97, 0.95] * 4),
]


def test_a_comparison_is_written_as_markdown():
    assert markdown(compare_grid(ROWS, title="mnist-fcn")) == (
        "**mnist-fcn**\n"
        "\n"
        "| engine | stages | samples/s | speed-up | utilisation per stage | test accuracy | seconds |\n"
        "|:--|--:|--:|--:|:--|--:|--:|\n"
        "| backprop | 1 | 6,400 | 1.00 x | 97 % | 98.4 % | 46.3 |\n"
        "| gpipe | 2 | failed | - | - | - | - |\n"
        "| cdni | 2 | 12,032 | 1.88 x | 97 % / 95 % | 98.0 % | 1,024.6 |\n"
        "\n"
        "- gpipe failed: RuntimeError: no such | luck\n"
    )


def test_a_comparison_fits_into_80_columns():
    assert printed(compare_grid(ROWS), 80) == [
        "                                       utilisation      test",
        "engine    stages  samples/s  speed-up  per stage    accuracy  seconds",
        "─────────────────────────────────────────────────────────────────────",
        "backprop       1      6,400    1.00 x  97 %           98.4 %     46.3",
        "gpipe          2     failed         -  -                   -        -",
        "cdni           2     12,032    1.88 x  97 % / 95 %    98.0 %  1,024.6",
        "",
        "gpipe failed: RuntimeError: no such | luck",
    ]


def test_repeats_show_their_spread_and_an_accuracy_to_reach_the_time_it_took():
    assert markdown(compare_grid(MANY)) == (
        "| engine | stages | micro batches | samples/s | samples/s min-max | speed-up "
        "| utilisation per stage | test accuracy | accuracy min-max "
        "| seconds | seconds to 97.0 % | epochs to 97.0 % |\n"
        "|:--|--:|--:|--:|--:|--:|:--|--:|--:|--:|--:|--:|\n"
        "| backprop | 1 | - | 6,400 | 6,100-6,500 | 1.00 x | 97 % "
        "| 98.4 % | 98.0-98.5 | 46.3 | 31.2 | 2.50 |\n"
        "| gpipe | 8 | 8 | 5,760 | 5,490-5,850 | 0.90 x | 97 % / 95 % / 94 % / 96 % "
        "| 98.4 % | 98.0-98.5 | 51.5 | 40.0 | 3 |\n"
        "| cdni | 8 | - | 37,761 | 35,990-38,350 | 5.90 x "
        "| 97 % / 95 % / 97 % / 95 % / 97 % / 95 % / 97 % / 95 % "
        "| 98.4 % | 98.0-98.5 | 7.9 | not reached | - |\n"
        "| frozen | 8 | - | 44,161 | 42,090-44,850 | 6.90 x "
        "| 97 % / 95 % / 97 % / 95 % / 97 % / 95 % / 97 % / 95 % "
        "| 98.4 % | 98.0-98.5 | 6.7 | not reached | - |\n"
        "\n"
        "- gpipe reached 97.0 % in 2 of 3 runs\n"
        "- cdni reached 97.0 % in 1 of 3 runs\n"
    )


@pytest.mark.parametrize("grid", [compare_grid(MANY), memory_grid(MANY)], ids=["speed", "memory"])
def test_eight_stages_with_everything_fit_into_120_columns(grid):
    assert max(len(line) for line in printed(grid, 120)) <= 120


def test_notes_of_the_runs_stand_below_once():
    told = [["no MNIST here"], ["no MNIST here", "overran"], ["no MNIST here", "overran"]]
    rows = [compared(engine, 2, 1.0, notes=notes) for engine, notes in zip("abc", told, strict=True)]
    assert compare_grid([*rows, ROWS[1]]).notes == [
        "gpipe failed: RuntimeError: no such | luck",
        "no MNIST here",
        "b, c: overran",
    ]


def test_a_metric_that_is_not_accuracy_has_no_per_cent():
    grid = compare_grid([compared("cdni", 2, 1.0, test_score=-0.0123456)], metric_name="score")
    column = next(column for column in grid.columns if column.head == "test\nscore")
    assert column.cells == ["-0.01235"]


def test_many_stages_break_after_whole_values():
    lines = printed(compare_grid([compared("cdni", 8, 3.0, utilisation=[0.97, 0.95] * 4)]), 80)
    assert [line[35:57].strip() for line in lines[3:6]] == [
        "97 % / 95 % / 97 % /",
        "95 % / 97 % / 95 % /",
        "97 % / 95 %",
    ]


def test_memory_per_stage_is_written_as_markdown():
    rows = [
        compared("backprop", 1, 1.0, held_bytes=[None]),
        ROWS[1],
        compared("cdni", 2, 1.5, held_bytes=[2_340_000, 520_000]),
        compared("ddp", 2, 1.5, peak_rss_bytes=[None, None], held_bytes=[None, 1_000_000]),
    ]
    assert markdown(memory_grid(rows, "memory")) == (
        "**memory**\n"
        "\n"
        "| engine | peak MB per stage | of it held for other batches (slots, pending, replay, stash) |\n"
        "|:--|:--|:--|\n"
        "| backprop | 412 | - |\n"
        "| gpipe | - | - |\n"
        "| cdni | 412 / 412 | 2.3 / 0.5 |\n"
        "| ddp | - | - / 1.0 |\n"
    )


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
@pytest.mark.parametrize(
    "grid", [compare_grid(ROWS), compare_grid(MANY), memory_grid(MANY)], ids=["few", "many", "memory"]
)
def test_no_number_is_ever_cut(grid, width):
    text = "\n".join(printed(grid, width))
    assert "…" not in text
    for column in grid.columns:
        parts = (part for cell in column.cells for part in cell.split(" / "))
        assert column.spare or all(part in text for part in parts)


def test_with_validation_there_is_a_column_for_the_best_epoch():
    rows = [compared("backprop", 1, 1.0, best_epoch=3), compared("cdni", 2, 1.9, best_epoch=4.5)]
    cells = {column.head: column.cells for column in compare_grid(rows).columns}
    assert cells["best\nepoch"] == ["3", "4.50"]
    assert "best\nepoch" not in [column.head for column in compare_grid(ROWS).columns]
