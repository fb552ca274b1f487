"""Progress on a terminal, in a log, and quiet."""

import io
import threading
from contextlib import closing

from rich.console import Console

from launch.report.progress import Progress, epoch_line

STAGES = [
    {"step": 120, "utilisation": 0.97, "staleness": 1.02},
    {"step": 119, "utilisation": 0.95, "staleness": None, "loss": 0.18341},
]
RECORD = {"epoch": 1, "loss": 0.25013, "test_loss": 0.2, "test_accuracy": 0.9712, "seconds": 5.21}


def run(console, **settings):
    with closing(Progress(console, **settings)) as progress:
        progress.start(total_epochs=5, stages=2)
        progress.update(120, 469, 12345.4, STAGES)
        progress.epoch(RECORD)
        progress.epoch({**RECORD, "epoch": 2, "samples_per_s": 999.9, "seconds": 1010.0})
    progress.close()


def console(terminal):
    settings = {"color_system": None, "legacy_windows": False, "_environ": {}}
    return Console(
        file=io.StringIO(), width=80, force_terminal=terminal, force_interactive=terminal, **settings
    )


def test_without_a_terminal_progress_is_one_line_per_epoch():
    log = console(terminal=False)
    run(log)
    assert log.file.getvalue() == (
        "epoch 1/5  loss 0.2501  test accuracy 97.12 %  12,345 samples/s  5.2 s\n"
        "epoch 2/5  loss 0.2501  test accuracy 97.12 %  1,000 samples/s  1,010.0 s\n"
    )


def test_quiet_prints_nothing_anywhere():
    for terminal in (False, True):
        nothing = console(terminal)
        run(nothing, quiet=True)
        assert nothing.file.getvalue() == ""


def test_a_terminal_gets_a_live_table_and_keeps_the_epochs():
    terminal = console(terminal=True)
    run(terminal)
    text = terminal.file.getvalue()
    for line in (
        "epoch 1/5  step 120/469  12,345 samples/s",
        "stage     step  utilisation  staleness     loss",
        "0          120         97 %        1.0        -",
        "1          119         95 %          -   0.1834",
        "epoch 1/5  loss 0.2501  test accuracy 97.12 %  12,345 samples/s  5.2 s",
        "epoch 2/5  12,345 samples/s",
    ):
        assert line in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is hidden and shown again


def test_a_terminal_is_given_back_when_training_fails():
    terminal = console(terminal=True)
    try:
        threads = threading.active_count()
        with closing(Progress(terminal)) as progress:
            progress.start(5, 2)
            assert threading.active_count() == threads  # drawn by hand
            raise RuntimeError
    except RuntimeError:
        pass
    assert "\x1b[?25h" in terminal.file.getvalue()


def test_a_tag_stands_in_front_of_every_line():
    log, terminal = console(terminal=False), console(terminal=True)
    for screen in (log, terminal):
        run(screen, tag="emulated")
    assert [line.split("  ")[:2] for line in log.file.getvalue().splitlines()] == [
        ["emulated", "epoch 1/5"],
        ["emulated", "epoch 2/5"],
    ]
    assert "emulated  epoch 1/5  step 120/469  12,345 samples/s" in terminal.file.getvalue()


def test_an_epoch_line_shows_the_known_values():
    assert epoch_line({"epoch": 3, "loss": None, "test_accuracy": None}, 5) == "epoch 3/5"
    record = {"epoch": 3, "loss": 1.5, "test_score": -0.12345}
    assert epoch_line(record, 5, metric_name="score") == "epoch 3/5  loss 1.5000  test score -0.1235"


def test_an_evaluation_within_an_epoch_has_a_line_of_its_own():
    assert epoch_line({"epoch": 1.25, "loss": 0.5, "test_accuracy": 0.5}, 5) == (
        "epoch 1.25/5  loss 0.5000  test accuracy 50.00 %"
    )
    terminal = console(terminal=True)
    with closing(Progress(terminal)) as progress:
        progress.start(5, 2)
        progress.epoch({**RECORD, "epoch": 1.5})
    assert "epoch 2/5" in terminal.file.getvalue() and "epoch 3/5" not in terminal.file.getvalue()


def test_progress_of_a_resumed_run_counts_on_from_its_checkpoint():
    terminal = console(terminal=True)
    with closing(Progress(terminal)) as progress:
        progress.start(5, 2, epoch=4)
        progress.update(1, 9, None, STAGES)
    assert "epoch 4/5  step 1/9" in terminal.file.getvalue()


def test_a_line_of_progress_names_the_validation_set():
    record = {"epoch": 3, "loss": 0.5, "validation_loss": 0.6, "validation_accuracy": 0.5}
    assert epoch_line(record, 5) == "epoch 3/5  loss 0.5000  validation accuracy 50.00 %"
