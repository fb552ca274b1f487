from __future__ import annotations

import json
import re

from launch.report.page.document import make_page
from launch.report.page.tables import runs_grid
from launch.report.run_table import run_grid
from tests.support.recorded_runs import recorded


def test_a_page_has_tables_figures_settings_and_commands_in_one_file() -> None:
    run = recorded()
    page = make_page([run], "mnist-fcn, <cdni>", [run_grid(run.summary)])
    assert "<title>mnist-fcn, &lt;cdni&gt;</title>" in page
    heads = ["Results", "Learning", "Stages", "Settings", "Commands that repeat it"]
    assert re.findall("<h2>(.*?)</h2>", page) == heads
    assert "python -m launch.train --task mnist-fcn --lr 0.01 --out runs/again" in page
    assert "Abacus, 2 cores" in page and "<td class='left'>lr</td>" in page
    found = re.findall(r'data-figure="\d+" [^>]*></div><script type="application/json">(.*?)</script>', page)
    figures = [json.loads(text) for text in found]
    assert len(figures) == page.count('data-figure="') == 6 + 2 + 7
    assert all(figure["data"] for figure in figures)


def test_a_page_loads_nothing_from_elsewhere() -> None:
    page = make_page([recorded()], "a")
    assert not re.search(r"<(script|link|img|iframe)[^>]*\b(src|href)=", page)


def test_a_page_over_many_runs_shows_the_stages_of_the_one_that_is_chosen() -> None:
    runs = [recorded("backprop"), recorded("cdni"), recorded("local")]
    runs[0].summary = dict(runs[0].summary) | {"stages": runs[0].summary["stages"][:1]}
    page = make_page(runs, "three", [runs_grid(runs)])
    sections = re.findall(r'<section data-group="run" data-value="(\d)"( hidden)?>', page)
    assert sections == [("0", " hidden"), ("1", ""), ("2", " hidden")]
    assert '<option value="1" selected>cdni</option>' in page


def test_a_run_without_metrics_and_timeline_has_a_page() -> None:
    run = recorded(epochs=[], evaluations=[], stages=[])
    run.lines, run.timeline = [], []
    page = make_page([run], "empty", [runs_grid([run])])
    assert "<h2>Stages</h2>" not in page and 'data-figure="' not in page


def test_text_of_a_run_cannot_end_the_script() -> None:
    page = make_page([recorded("</script><b>")], "a")
    assert "</script><b>" not in page
