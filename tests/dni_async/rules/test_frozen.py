from __future__ import annotations

import torch

from dni_async.messages import Activation, Marker, MarkerKind
from dni_async.rules import FrozenRule
from dni_async.stage.simulation import Simulation
from tests.support.stages import batches, clone_state, pipeline, with_stop


def test_a_frozen_stage_has_a_zero_gradient() -> None:
    h = torch.randn(3, 4)
    assert torch.equal(FrozenRule().gradient(0, 0, h, torch.zeros(3)), torch.zeros(3, 4))


def test_rule_frozen_needs_no_targets_and_does_not_update() -> None:
    assert (FrozenRule.capabilities.needs_targets, FrozenRule.capabilities.updates) == (False, False)


def test_frozen_stages_keep_their_parameters_and_the_last_stage_learns() -> None:
    stages = pipeline(cut=(1, 2), rule=FrozenRule)
    before = [clone_state(stage.layers) for stage in stages]
    Simulation(stages).run(with_stop(batches([30, 30, 17])))
    for stage, state in zip(stages, before, strict=True):
        moved = [name for name, p in stage.layers.named_parameters() if not torch.equal(p, state[name])]
        assert (moved == []) is (stage.index < 2)
    assert [stage.version for stage in stages] == [0, 0, 3]


def test_frozen_stages_count_their_samples_and_no_targets_travel() -> None:
    stages = pipeline(cut=(1, 2), rule=FrozenRule)
    simulation = Simulation(stages).run(with_stop(batches([30, 30, 17])))
    assert [stage.samples for stage in stages] == [77, 77, 77]
    assert [(stage.targets_sent, stage.targets_received) for stage in stages] == [(0, 0)] * 3
    assert simulation.markers[0].kind is MarkerKind.STOP


def test_frozen_batch_norm_follows_the_data_and_normalises_by_the_batch() -> None:
    stage = pipeline(cut=(1,), rule=FrozenRule)[0]
    [message] = batches([30])
    assert isinstance(message, Activation)
    [sent] = list(stage.on(message))
    assert isinstance(sent, Activation)
    norm = stage.layers[0][1]
    assert norm.num_batches_tracked == 1
    wanted = torch.nn.functional.batch_norm(stage.layers[0][0](message.h), None, None, training=True).relu()
    torch.testing.assert_close(sent.h, wanted)
    assert not sent.h.requires_grad


def test_the_report_of_a_frozen_stage_has_version_0() -> None:
    stages = pipeline(cut=(1, 2), rule=FrozenRule)
    simulation = Simulation(stages).run([*batches([4]), Marker(MarkerKind.REPORT, 1, 0)])
    assert simulation.markers[0].body["0"] == {
        "index": 0,
        "steps": 1,
        "samples": 4,
        "version": 0,
        "targets_sent": 0,
        "targets_received": 0,
        "skipped": 0,
        "targets_skipped": 0,
    }
