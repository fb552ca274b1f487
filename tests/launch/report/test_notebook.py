"""What a notebook shows while it trains."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from launch.report.notebook import NotebookProgress, in_notebook


def test_the_table_grows_in_place_with_every_evaluation() -> None:
    shown: list[tuple[str, Any]] = []

    def show(text: str, handle: Any) -> str:
        shown.append((text, handle))
        return "the cell"

    progress = NotebookProgress("a<b", 2, "accuracy", show)
    progress.show({"kind": "report", "epoch": 1, "step": 7, "seconds": 0.5})
    record = {"loss": 0.25, "test_loss": 0.5, "test_accuracy": 0.75, "samples_per_s": 1234.0}
    progress.show({"kind": "epoch", "epoch": 1, "step": 10, "seconds": 1.0} | record)
    progress.show({"kind": "epoch", "epoch": 2, "step": 20, "seconds": 2.0} | record)
    assert [handle for _, handle in shown] == [None, "the cell", "the cell"]
    assert "a&lt;b: epoch 1 of 2, step 7, 0.5 s" in shown[0][0] and "<td>" not in shown[0][0]
    last = shown[2][0]
    assert "epoch 2 of 2</p>" in last
    rows = [re.findall("<t[dh]>(.*?)</t[dh]>", row) for row in re.findall("<tr>(.*?)</tr>", last)]
    assert rows == [
        ["epoch", "loss", "test loss", "test accuracy", "samples/s", "seconds"],
        ["1", "0.2500", "0.5000", "75.00 %", "1,234", "1.0"],
        ["2", "0.2500", "0.5000", "75.00 %", "1,234", "2.0"],
    ]


@pytest.mark.parametrize(("shell", "notebook"), [(None, False), (SimpleNamespace(kernel=1), True)])
def test_a_notebook_is_known_by_its_kernel(
    monkeypatch: pytest.MonkeyPatch, shell: Any, notebook: bool
) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert in_notebook() is notebook
