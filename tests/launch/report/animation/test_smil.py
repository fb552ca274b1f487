from __future__ import annotations

from launch.report.animation.smil import discrete, motion, visible


def test_values_change_at_their_times_and_equal_ones_do_not() -> None:
    made = discrete("fill", "grey", [(0.25, "blue"), (0.5, "blue"), (0.75, "grey")], 8.0)
    assert 'keyTimes="0;0.25;0.75" values="grey;blue;grey"' in made
    assert 'dur="8s"' in made and 'calcMode="discrete"' in made


def test_a_change_at_the_very_beginning_replaces_the_first_value() -> None:
    assert 'keyTimes="0" values="blue"' in discrete("fill", "grey", [(0.0, "blue")], 8.0)


def test_an_element_stays_where_its_way_begins_and_ends() -> None:
    made = motion([(0.25, 10, 5), (0.5, 90, 5)], 8.0)
    assert 'keyTimes="0;0.25;0.5;1" values="10 5;10 5;90 5;90 5"' in made


def test_an_element_is_visible_for_a_while() -> None:
    assert 'keyTimes="0;0.25;0.5" values="0;1;0"' in visible(0.25, 0.5, 8.0)
    assert 'keyTimes="0;0.5" values="1;0"' in visible(-0.25, 0.5, 8.0)
    assert 'keyTimes="0;0.5" values="0;1"' in visible(0.5, 1.25, 8.0)
