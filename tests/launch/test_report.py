"""launch.report, and the page that a run and a comparison write, in a browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from launch.config.report import ReportConfig
from launch.report.page.document import make_page
from launch.report.run_table import run_grid
from tests.support.browser import dumped
from tests.support.jobs import TINY, our_lines, run
from tests.support.recorded_runs import recorded, write_run


def check_page(shown: str, figures: int) -> None:
    """Check what a browser has made of a page: no errors, and the figures are drawn."""
    body = shown[shown.index("<body") :]
    assert 'class="error"' not in re.sub(r"<script.*?</script>", "", body, flags=re.DOTALL)
    drawn = re.findall(r'data-figure="\d+"[^>]*data-drawn="yes"', body)
    assert len(drawn) == figures
    assert body.count('<svg class="main-svg"') >= figures
    assert "<table>" in body


def test_a_run_writes_a_page_with_its_command_and_a_figure_of_every_kind(tmp_path: Path) -> None:
    done = run(
        *("launch.train", *TINY, "--stages", "2", "--epochs", "2", "--quiet", "--out", str(tmp_path / "a")),
        DNI_REPORT="yes",
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "a" / "report.html").read_text()
    assert page.count('data-figure="') == 6 + 2 + 7
    assert f"launch.train --config {tmp_path / 'a'}/config.yaml" in page


@pytest.mark.slow
def test_a_page_works_from_its_file_in_a_browser(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    run_of_two = recorded()
    page.write_text(make_page([run_of_two], "one run", [run_grid(run_of_two.summary)]))
    check_page(dumped(page), figures=2 + 2 + 7)


@pytest.mark.slow
def test_one_page_over_ten_runs_of_thousands_of_steps_works(tmp_path: Path) -> None:
    for i in range(10):
        run_of_many = recorded(f"run {i}", lines=2000)
        write_run(tmp_path / f"run-{i}", run_of_many)
    done = run("launch.report", *map(str, sorted(tmp_path.glob("run-*"))))
    assert (done.returncode, done.stdout) == (0, f"written: {tmp_path / 'report.html'}\n"), done.stderr
    check_page(dumped(tmp_path / "report.html"), figures=2 + 2 + 7)


def test_no_report_leaves_the_page_out(tmp_path: Path) -> None:
    out = str(tmp_path / "a")
    done = run(
        "launch.train", *TINY, "--epochs", "1", "--quiet", "--no-report", "--out", out, DNI_REPORT="yes"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a" / "summary.json").exists() and not (tmp_path / "a" / "report.html").exists()


def test_runs_are_animated_one_below_the_other(tmp_path: Path) -> None:
    folders = [str(write_run(tmp_path / name, recorded(name))) for name in ("cdni", "local")]
    done = run("launch.report", *folders, "--animate")
    assert (done.returncode, done.stdout) == (0, f"written: {tmp_path / 'unlocking.svg'}\n"), done.stderr
    assert (tmp_path / "unlocking.svg").read_text().startswith("<svg ")


def test_the_page_that_lies_among_the_runs_is_no_run() -> None:
    assert ReportConfig(runs=("/report.html", "/tmp")).runs == ("/tmp",)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "no runs given"),
        (("nowhere",), "nowhere is no folder"),
        (("{tmp}",), "has no results"),
        (("{tmp}", "{tmp}"), "none of these folders has results"),
        (("{tmp}", "--out", "{tmp}"), "is a folder; give --out a file"),
        (("{tmp}", "--animate", "--out", "a.gif"), "a.gif is no .svg"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    done = run("launch.report", *(each.replace("{tmp}", str(tmp_path)) for each in arguments))
    assert done.returncode == 2
    (line,) = our_lines(done.stderr)
    assert complaint in line
