from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from dni_async.errors import UserError
from launch.report.animation.of_runs import SECONDS, animation
from tests.support.recorded_runs import recorded
from tests.support.summaries import pipeline

SVG = "{http://www.w3.org/2000/svg}"


def test_each_run_has_a_panel_with_its_stages_messages_and_updates() -> None:
    root = ElementTree.fromstring(animation([recorded("cdni"), recorded("local")]))
    texts = [element.text or "" for element in root.iter(f"{SVG}text")]
    assert texts.count("stage 0") == texts.count("stage 1") == 2
    assert any(text.startswith("cdni: ") for text in texts) and any(
        text.startswith("local: ") for text in texts
    )
    assert "recorded: mnist-fcn; " in texts[-1]
    moving = list(root.iter(f"{SVG}animateTransform"))
    assert len(moving) == 2 * 7  # six activations and the line, in each panel


def test_every_animation_has_a_value_for_each_of_its_times_in_order_from_zero() -> None:
    made = animation([recorded()])
    found = re.findall(r'dur="([\d.]+)s" repeatCount="indefinite" keyTimes="([^"]*)" values="([^"]*)"', made)
    assert len(found) == made.count("<animate")
    for seconds, keys, values in found:
        times = [float(key) for key in keys.split(";")]
        assert float(seconds) == SECONDS
        assert times[0] == 0 and times == sorted(set(times)) and times[-1] <= 1
        assert len(values.split(";")) == len(times)


def test_a_run_in_one_process_cannot_be_animated() -> None:
    run = recorded("backprop")
    run.timeline = pipeline(stages=1)
    with pytest.raises(UserError, match="backprop has no timeline of several stages"):
        animation([run])
