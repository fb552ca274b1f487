"""Grids on terminals."""

from launch.report.grid import make_console, show
from launch.report.run_table import run_grid
from tests.support.printing import printed
from tests.support.summaries import summary


def test_square_brackets_are_not_markup():
    assert printed(run_grid(summary(notes=["[bold]x[/] [0, 1]"])), 100)[-1] == "[bold]x[/] [0, 1]"


def test_a_table_written_to_a_pipe_is_wide_and_its_notes_are_not_broken(capsys):
    console = make_console()
    assert (console.is_terminal, console.width >= 100) == (False, True)
    long = "word " * 60 + "end"
    show(run_grid(summary(notes=[long])))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == long
    assert lines[2].split()[-1] == "MB"
