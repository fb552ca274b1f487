from __future__ import annotations

from typing import Any

import pytest

from launch.report.run_record import LEAST_SG_UPDATES, useless_sg_warnings


def stage(index: int = 0, **stats: Any) -> dict[str, Any]:
    return {"index": index, "sg_updates": LEAST_SG_UPDATES, "sg_cosine": 0.5} | stats


def test_an_sg_network_whose_predictions_have_nothing_of_its_targets_is_reported() -> None:
    (warning,) = useless_sg_warnings([stage(), stage(1, sg_cosine=0.054), {"index": 2}])
    assert warning == (
        "the SG network of stage 1 predicted next to nothing of its targets (cosine 0.05 in the last epoch): "
        "its layers may be worse than untrained ones; compare with --rule frozen, or try another --sg.kind"
    )


@pytest.mark.parametrize(
    ("stats", "reported"),
    [
        ({"sg_cosine": 0.1}, False),
        ({"sg_cosine": 0.099}, True),
        ({"sg_cosine": -0.9}, True),
        ({"sg_cosine": None}, False),
        ({"sg_cosine": 0.0, "sg_updates": LEAST_SG_UPDATES - 1}, False),
    ],
)
def test_only_a_cosine_near_zero_or_below_after_enough_updates_is_reported(
    stats: dict[str, Any], reported: bool
) -> None:
    assert bool(useless_sg_warnings([stage(**stats)])) == reported
