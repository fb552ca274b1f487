"""What the baselines share: stopping together, and results of several ranks in one."""

import pytest

from dni_async.messages import MarkerKind
from launch.config.train import TrainConfig
from launch.engines.backprop import Backprop
from launch.engines.baseline_loop import together
from tests.support.tiny_task import Tiny, context_of
from workers.coordination.collectives import Peers


def test_the_run_ends_after_the_evaluation_that_reaches_the_target():
    config = TrainConfig.of(engine="backprop", batch_size=16, epochs=5)
    context = context_of(Tiny(), config)
    engine, markers = Backprop(context, Peers(context.rendezvous)), []
    engine.train(markers.append, enough=lambda: len(markers) == 2)
    assert [(m.kind, m.step, m.epoch) for m in markers] == [
        (MarkerKind.EPOCH, 4, 1),
        (MarkerKind.EPOCH, 8, 2),
        (MarkerKind.STOP, 8, 2),
    ]


def test_means_of_several_ranks_are_weighted_by_their_samples():
    one = {"loss": 1.0, "trained": 30, "test_loss": 4.0, "test_accuracy": 0.5, "tested": 10}
    other = {"loss": 3.0, "trained": 10, "test_loss": 1.0, "test_accuracy": 1.0, "tested": 20}
    idle = {"loss": None, "trained": 0, "test_loss": None, "test_accuracy": None, "tested": 0}
    both = {"loss": 1.5, "trained": 40, "test_loss": 2.0, "test_accuracy": pytest.approx(5 / 6), "tested": 30}
    assert together([one, idle, other]) == both
    assert together([idle, one]) == one
    assert together([idle]) == idle


def test_an_error_of_any_kind_names_rank_engine_and_step():
    class Broken(Tiny):
        def loss(self, output, y):
            self.calls = getattr(self, "calls", 0) + 1
            return super().loss(output, y) if self.calls < 4 else {}["missing"]

    context = context_of(Broken(), TrainConfig.of(engine="backprop", batch_size=16))
    with pytest.raises(Exception, match=r"rank 0 \(backprop\), at step 2: KeyError: 'missing'"):
        Backprop(context, Peers(context.rendezvous)).train(lambda marker: None)
