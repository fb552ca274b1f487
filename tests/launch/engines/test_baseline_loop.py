"""What the baselines share: stopping together, and errors that name their place."""

import pytest

from dni_async.messages import MarkerKind
from launch.config.train import TrainConfig
from launch.engines.backprop import Backprop
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


def test_an_error_of_any_kind_names_rank_engine_and_step():
    class Broken(Tiny):
        def loss(self, output, y):
            self.calls = getattr(self, "calls", 0) + 1
            return super().loss(output, y) if self.calls < 4 else {}["missing"]

    context = context_of(Broken(), TrainConfig.of(engine="backprop", batch_size=16))
    with pytest.raises(Exception, match=r"rank 0 \(backprop\), at step 2: KeyError: 'missing'"):
        Backprop(context, Peers(context.rendezvous)).train(lambda marker: None)


def test_a_rank_that_reads_a_batch_says_that_its_data_set_is_at_work():
    said: list[str] = []
    engines: list[Backprop] = []

    class Slow(Tiny):
        def batch(self, samples):
            said.extend(engine.describe_activity() for engine in engines)
            return super().batch(samples)

        def loss(self, output, y):
            said.extend(engine.describe_activity() for engine in engines)
            return super().loss(output, y)

    context = context_of(Slow(), TrainConfig.of(engine="backprop", batch_size=16, epochs=1))
    engines.append(Backprop(context, Peers(context.rendezvous)))
    engines[0].train(lambda marker: None)
    step = "rank 0 (backprop), at step {}"
    assert said[:3] == [
        step.format(0) + ", reading a batch of the data set",
        step.format(0),
        step.format(1) + ", reading a batch of the data set",
    ]
