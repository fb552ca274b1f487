from __future__ import annotations

import json

import pytest
import torch

from dni_async.messages import Activation, Marker, MarkerKind, Message, TargetGradient, goes_upstream
from dni_async.stage.simulation import Simulation
from tests.support.stages import batches, pipeline, show

H, Y = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)


@pytest.mark.parametrize(
    ("message", "upstream"),
    [
        (Activation(0, 0, H, Y), False),
        (Activation(0, 0, H, Y, train=False), False),
        (Marker(MarkerKind.EPOCH, 0, 0), False),
        (TargetGradient(0, 0, H), True),
        (Marker(MarkerKind.EPOCH, 0, 0, returning=True), True),
    ],
)
def test_activations_and_markers_go_down_and_targets_and_returning_markers_go_up(
    message: Message, upstream: bool
) -> None:
    assert goes_upstream(message) is upstream


def test_by_default_a_batch_is_for_training_and_a_marker_goes_down() -> None:
    assert Activation(0, 0, H, Y).train
    assert not Marker(MarkerKind.STOP, 0, 0).returning


def test_markers_do_not_share_their_bodies() -> None:
    first, second = Marker(MarkerKind.REPORT, 0, 0), Marker(MarkerKind.REPORT, 0, 0)
    first.body["0"] = {}
    assert second.body == {}


def test_the_kinds_of_markers_are_numbers_on_the_wire() -> None:
    assert {kind.name: int(kind) for kind in MarkerKind} == {
        "REPORT": 0,
        "EPOCH": 1,
        "STOP": 2,
        "EVALUATION": 3,
        "CHECKPOINT": 4,
        "RESTORE": 5,
    }


def test_a_message_takes_no_unknown_field() -> None:
    with pytest.raises(AttributeError):
        Activation(0, 0, H, Y).label = Y  # type: ignore[attr-defined]


def test_a_marker_goes_down_behind_the_activations_and_up_behind_the_targets() -> None:
    """The diagram of `Marker`."""
    simulation = Simulation(pipeline(cut=(1, 2)))
    down: list[list[str]] = [[], [], []]
    up: list[list[str]] = [[], [], []]
    for stage, seen_down, seen_up in zip(simulation.stages, down, up, strict=True):
        handle = stage.on

        def on(message, handle=handle, seen_down=seen_down, seen_up=seen_up):
            (seen_up if goes_upstream(message) else seen_down).append(show(message))
            return handle(message)

        stage.on = on  # type: ignore[method-assign]
    simulation.run([*batches([4, 4]), Marker(MarkerKind.EPOCH, 2, 0)])
    assert down == [["A0", "A1", "EPOCH"]] * 3
    assert up == [["T0", "T1", "EPOCH"], ["T0", "T1", "EPOCH"], []]
    assert [show(marker) for marker in simulation.markers] == ["EPOCH"]


def test_the_body_of_a_marker_survives_json() -> None:
    simulation = Simulation(pipeline()).run(
        [*batches([4, 4]), *batches([4], train=False), Marker(MarkerKind.EPOCH, 2, 0)]
    )
    body = simulation.markers[0].body
    assert json.loads(json.dumps(body)) == body
    assert set(body) == {"result", "0", "1", "2"}
