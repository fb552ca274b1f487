"""Layers tell of their own training."""

from __future__ import annotations

import pytest
from torch import nn

from dni_async.messages import Marker, MarkerKind
from dni_async.rules import FrozenRule
from dni_async.stage.stage import Stage
from dni_async.state.module_state import (
    StatefulModule,
    collect_stats,
    load_running_states,
    reset_epoch_stats,
    running_states,
)
from dni_async.state.state_dict import State


class Counts(StatefulModule):
    def __init__(self, **told: float | None) -> None:
        super().__init__()
        self.told: dict[str, float | None] = dict(told)

    def stats(self) -> dict[str, float | None]:
        return self.told

    def new_epoch(self) -> None:
        self.told = dict.fromkeys(self.told)

    def running_state(self) -> State:
        return dict(self.told)

    def load_running_state(self, state: State) -> None:
        self.told = dict(state)


def test_stats_come_from_all_layers_and_the_largest_of_each_name_counts() -> None:
    layers = nn.Sequential(Counts(a=1.0, b=None), nn.Sequential(Counts(a=3.0), Counts(a=2.0, b=5.0, c=None)))
    assert collect_stats(layers) == {"a": 3.0, "b": 5.0, "c": None}
    reset_epoch_stats(layers)
    assert collect_stats(layers) == {"a": None, "b": None, "c": None}
    assert collect_stats(nn.ReLU()) == {}


def test_a_stage_reports_the_stats_of_its_layers_of_an_epoch() -> None:
    stage = Stage(0, Counts(a=1.0), FrozenRule(), None, send_targets=False)
    for kind, told in ((MarkerKind.EVALUATION, 1.0), (MarkerKind.EPOCH, 1.0), (MarkerKind.STOP, None)):
        (marker,) = stage.on(Marker(kind, 0, 1, returning=True))
        assert isinstance(marker, Marker) and marker.body["0"]["a"] == told


def test_states_are_kept_by_the_names_of_the_layers() -> None:
    layers = nn.Sequential(Counts(a=1.0), nn.Sequential(nn.ReLU(), Counts(b=2.0)), StatefulModule())
    kept = running_states(layers)
    assert kept == {"0.running": {"a": 1.0}, "1.1.running": {"b": 2.0}, "2.running": {}}
    other = nn.Sequential(Counts(), nn.Sequential(nn.ReLU(), Counts()), StatefulModule())
    load_running_states(other, kept)
    assert running_states(other) == kept
    with pytest.raises(KeyError, match="3"):
        load_running_states(nn.Sequential(*other, Counts()), kept)
