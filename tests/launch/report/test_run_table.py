"""The table of one run, to the letter, in Markdown and on terminals of several widths."""

import pytest

from launch.report.grid import markdown
from launch.report.run_table import result_line, run_grid
from tests.support.printing import printed
from tests.support.summaries import summary, validated


def test_another_metric_than_accuracy_has_no_per_cent():
    final = {"test_loss": 0.5, "test_score": -0.0123456}
    told = run_grid(summary(metric_name="score", final=final)).notes[0]
    assert told == "test score -0.01235, test loss 0.5000, 15,000 samples/s, 20.0 s"


def test_a_run_on_emulated_devices_says_so_and_how_far_they_overran():
    made = summary(emulated_gflops=2.5)
    for share, stage in zip((0.031, 0.0), made["stages"], strict=True):
        stage["emulation_overrun"] = share
    grid = run_grid(made)
    assert grid.title == "mnist-fcn, cdni, emulated (2.5 GFLOP/s per stage), 2 stages, shm, seed 0"
    assert {c.head: c.cells for c in grid.columns}["emulation\noverrun"] == ["3.1 %", "0.0 %"]


@pytest.mark.parametrize(
    ("engine", "head", "title"),
    [("ddp", "process", "2 processes"), ("gpipe", "stage", "2 stages"), ("decoupled", "stage", "2 stages")],
)
def test_the_rows_of_an_engine_that_does_not_cut_the_network_are_processes(
    engine: str, head: str, title: str
) -> None:
    grid = run_grid(summary(engine, settings={"engine": engine}))
    assert (grid.columns[0].head, grid.title) == (head, f"mnist-fcn, {engine}, {title}, shm, seed 0")


def test_one_run_is_written_as_a_markdown_table():
    assert markdown(run_grid(summary(notes=["emulated: no MNIST here"]))) == (
        "**mnist-fcn, cdni, 2 stages, shm, seed 0**\n"
        "\n"
        "| stage | parameters | utilisation | busy s | wait s | send s | SG s | staleness mean / max |"
        " SG error | SG cosine | peak MB |\n"
        "|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
        "| 0 (layers 0-1) | 2,691,000 | 97 % | 119.3 | 3.3 | 0.4 | 12.2 | 1.0 / 2 | 0.42 | 0.91 | 412 |\n"
        "| 1 (layers 2-3) | 2,691,000 | 95 % | 119.3 | 3.3 | 0.4 | - | - | - | - | 412 |\n"
        "\n"
        "- test accuracy 98.41 %, test loss 0.0513, 15,000 samples/s, 20.0 s\n"
        "- emulated: no MNIST here\n"
    )


def test_a_run_on_several_hosts_shows_how_busy_its_links_were():
    link = {
        "stages": [0, 1],
        "bytes_per_step": {"downstream": 1_049_600, "upstream": 262_144},
        "utilisation": {"downstream": 0.384, "upstream": 0.096},
    }
    cells = {c.head: c.cells for c in run_grid(summary(links=[link])).columns}
    assert cells["sent MB per step\ndown / up"] == ["1.05 / -", "- / 0.26"]
    assert cells["link used\ndown / up"] == ["38 % / -", "- / 10 %"]


@pytest.mark.parametrize(
    ("until", "told"),
    [
        (
            {"accuracy": 0.97, "reached": True, "seconds": 12.34, "epochs": 2.5},
            "97.0 % reached after 12.3 s (epoch 2.50)",
        ),
        (
            {"accuracy": 0.985, "reached": True, "seconds": 12.34, "epochs": 3},
            "98.5 % reached after 12.3 s (epoch 3)",
        ),
        ({"accuracy": 0.99, "reached": False, "seconds": None, "epochs": None}, "99.0 % not reached"),
    ],
)
def test_a_run_shows_when_it_reached_the_target_accuracy(until, told):
    assert result_line(summary(until=until)).endswith(f"20.0 s, {told}")


def test_a_run_shows_the_epoch_of_the_tested_weights_and_why_it_ended():
    run = validated()
    told = "20.0 s, weights of epoch 3 (validation accuracy 97.12 %), ended by patience"
    assert result_line(run).endswith(told)
    run["early_stopping"] = {"best": None, "ended": "minutes"}
    assert result_line(run).endswith("20.0 s, no validation, ended by minutes")


def test_on_80_columns_the_table_of_a_run_leaves_out_spare_columns():
    assert printed(run_grid(summary()), 80) == [
        "mnist-fcn, cdni, 2 stages, shm, seed 0",
        "                                                        staleness     SG      SG",
        "stage           parameters  utilisation  wait s  SG s  mean / max  error  cosine",
        "────────────────────────────────────────────────────────────────────────────────",
        "0 (layers 0-1)   2,691,000         97 %     3.3  12.2     1.0 / 2   0.42    0.91",
        "1 (layers 2-3)   2,691,000         95 %     3.3     -           -      -       -",
        "",
        "test accuracy 98.41 %, test loss 0.0513, 15,000 samples/s, 20.0 s",
    ]


def test_an_engine_without_synthetic_gradients_has_no_sg_columns():
    heads = [column.head for column in run_grid(summary("backprop", stages=1)).columns]
    assert heads == ["stage", "parameters", "utilisation", "busy s", "wait s", "send s", "peak\nMB"]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
@pytest.mark.parametrize("stages", [1, 4])
def test_no_number_is_ever_cut(stages, width):
    grid = run_grid(summary(stages=stages))
    text = "\n".join(printed(grid, width))
    assert "…" not in text
    for column in grid.columns:
        assert column.spare or all(cell in text for cell in column.cells)


def test_local_losses_have_columns_of_their_own():
    stages = [
        {"index": 0, "head_s": 2.5, "local_loss": 0.12345, "local_accuracy": 0.9712},
        {"index": 1, "head_s": 0.0},
    ]
    grid = run_grid(summary("local", stages=2) | {"stages": stages})
    cells = {column.head: column.cells for column in grid.columns}
    assert cells["head s"] == ["2.5", "-"]
    assert cells["local\nloss"] == ["0.123", "-"]
    assert cells["local\naccuracy"] == ["97.1 %", "-"]
    assert "staleness\nmean / max" not in cells


def test_skipped_batches_have_a_column_where_there_are_some():
    stages = [{"index": 0, "skipped": 0}, {"index": 1, "skipped": 3}]
    grid = run_grid(summary(stages=2) | {"stages": stages})
    assert {column.head: column.cells for column in grid.columns}["batches\nskipped"] == ["-", "3"]
    grid = run_grid(summary(stages=2) | {"stages": stages[:1]})
    assert "batches\nskipped" not in [column.head for column in grid.columns]
