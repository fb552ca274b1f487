"""A regression in three stages: the SG networks that are chosen for it teach the stages below the last."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.jobs import run


@pytest.mark.slow
@pytest.mark.parametrize(("width", "offset"), [(128, 0), (128, 5), (32, 0)])
def test_the_test_loss_is_a_third_of_that_with_frozen_stages(tmp_path: Path, width: int, offset: int) -> None:
    """A linear SG network ends at the loss of frozen stages with a width of 128 (docs/LOG.md)."""
    words = f"--task tests.support.regression:Waves --task-args width={width} offset={offset} --stages 3 "
    words += "--engines frozen cdni --batch-size 32 --epochs 6 --lr 1e-2 --quiet --out"
    result = run("launch.compare", *words.split(), str(tmp_path), timeout=240)
    assert result.returncode == 0, result.stderr
    frozen, cdni = (
        json.loads((tmp_path / engine / "summary.json").read_text())["final"]["test_loss"]
        for engine in ("frozen", "cdni")
    )
    assert cdni < frozen / 3
