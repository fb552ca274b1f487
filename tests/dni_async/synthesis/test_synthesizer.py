from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dni_async.errors import UserError
from dni_async.messages import TargetGradient
from dni_async.networks import RNNDNI, ConvSG, DNINetwork, FeatureHeadSG, HeadSG, LinearSG, MlpSG, TokenHeadSG
from dni_async.state.state_dict import copied
from dni_async.synthesis.pending import PendingPredictions
from dni_async.synthesis.scale import GradientScale
from dni_async.synthesis.synthesizer import Condition, Synthesizer
from tests.support.stages import CLASSES, WIDTH, clone_state, one_hot, synthesizer


class Recorder(DNINetwork):
    """Predicts 1, learns nothing, and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__(WIDTH, 0, WIDTH)
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[Tensor, Tensor | None]] = []
        self.regressed: list[tuple[Tensor, Tensor | None, Tensor]] = []

    def synthesize(self, h: Tensor, labels: Tensor | None) -> Tensor:
        self.seen.append((h, labels))
        return torch.ones_like(h)

    def regress(self, h: Tensor, labels: Tensor | None, target: Tensor) -> Tensor:
        self.regressed.append((h.clone(), None if labels is None else labels.clone(), target.clone()))
        return torch.ones_like(h)


def batch(rows: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, WIDTH, generator=generator), torch.arange(rows) % CLASSES


def target(step: int, rows: int = 4, value: float = 0.5) -> TargetGradient:
    return TargetGradient(step, 0, torch.full((rows, WIDTH), value))


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (LinearSG(WIDTH, WIDTH, CLASSES), (WIDTH,)),
        (LinearSG(WIDTH, WIDTH, CLASSES, rank=3), (WIDTH,)),
        (MlpSG(WIDTH, 8, WIDTH, CLASSES), (WIDTH,)),
        (ConvSG(3, 4, 3, CLASSES), (3, 6, 6)),
    ],
)
def test_an_untrained_network_predicts_exactly_zero(network: DNINetwork, shape: tuple[int, ...]) -> None:
    sg = synthesizer(network, condition=one_hot)
    gradient = sg.predict(0, 0, torch.randn(4, *shape), torch.arange(4))
    assert gradient.shape == (4, *shape)
    assert gradient.eq(0).all()


def test_predict_gives_the_gradient_of_the_mean_loss() -> None:
    h, y = batch(rows=17)
    assert synthesizer(Recorder()).predict(0, 0, h, y).eq(1 / 17).all()


def test_take_gives_the_version_of_the_prediction() -> None:
    sg = synthesizer()
    sg.predict(7, 70, *batch())
    sg.predict(8, 80, *batch())
    assert sg.take(target(8)) == 80
    assert sg.take(target(7)) == 70


def test_a_target_trains_on_the_remembered_batch_in_sample_units() -> None:
    network = Recorder()
    sg = synthesizer(network, condition=one_hot)
    h, y = batch(rows=4)
    sg.predict(7, 0, h, y)
    sg.predict(8, 0, *batch(seed=1))
    sg.take(target(7, value=0.5))
    [(seen, labels, wanted)] = network.regressed
    assert torch.equal(seen, h)
    assert labels is not None
    assert torch.equal(labels, one_hot(y))
    assert wanted.eq(0.5 * 4).all()


def test_the_target_meets_a_fresh_prediction() -> None:
    """After the weights moved, the regression starts from them, not from the old prediction."""
    sg = synthesizer(LinearSG(WIDTH, WIDTH))
    h, y = batch()
    sg.predict(0, 0, h, y)
    with torch.no_grad():
        sg.network.output.bias.fill_(0.25 * 4)
    before = clone_state(sg.network)
    sg.take(target(0, value=0.25))
    assert all(torch.equal(before[k], v) for k, v in sg.network.state_dict().items())


def test_an_unknown_target_is_dropped_and_counted() -> None:
    sg = synthesizer()
    before = clone_state(sg.network)
    assert sg.take(target(3)) is None
    assert sg.updates == 0
    assert sg.pending.unmatched == 1
    assert all(torch.equal(before[k], v) for k, v in sg.network.state_dict().items())


def test_a_full_book_of_predictions_drops_the_oldest_batch() -> None:
    sg = synthesizer(capacity=2)
    for step in range(5):
        sg.predict(step, step, *batch())
    assert [sg.take(target(step)) for step in range(5)] == [None, None, None, 3, 4]
    assert sg.stats()["targets_dropped"] == 3


@pytest.mark.parametrize("condition", [lambda y: y, lambda y: y[:, 1:], lambda y: y * 2])
def test_labels_may_be_overwritten_once_predict_returned(condition: Condition) -> None:
    """y belongs to the transport. h is the stage's own memory and is not copied."""
    network = Recorder()
    sg = synthesizer(network, condition=condition)
    h, y = torch.randn(4, WIDTH), torch.randn(4, CLASSES)
    wanted = condition(y).clone()
    sg.predict(0, 0, h, y)
    y.fill_(float("nan"))
    sg.take(target(0))
    [(_, labels, _)] = network.regressed
    assert labels is not None
    assert torch.equal(labels, wanted)
    assert network.seen[0][0] is h


@pytest.mark.parametrize("units", ["sample", "rms", "none"])
def test_a_target_may_be_overwritten_once_take_returned(units: str) -> None:
    network = Recorder()
    sg = synthesizer(network, scale=GradientScale(units), replay=4, replay_window=4)
    for step in range(4):
        arrived = target(step)
        sg.predict(step, 0, *batch())
        sg.take(arrived)
        arrived.grad.fill_(float("nan"))
    assert len(network.regressed) == 4 * (1 + 4)
    assert all(wanted.isfinite().all() for _, _, wanted in network.regressed)


@pytest.mark.parametrize("replay", [0, 1, 2, 5])
def test_replay_adds_so_many_updates_to_each_target(replay: int) -> None:
    sg = synthesizer(replay=replay)
    for step in range(3):
        sg.predict(step, 0, *batch())
        sg.take(target(step))
    assert sg.updates == 3 * (1 + replay)
    assert sg.stats()["sg_updates"] == 3 * (1 + replay)


def test_replay_draws_from_the_last_tuples_only() -> None:
    network = Recorder()
    sg = synthesizer(network, replay=20, replay_window=3)
    for step in range(6):
        sg.predict(step, 0, *batch())
        sg.take(target(step, value=float(step)))
    replayed = {float(wanted[0, 0]) / 4 for _, _, wanted in network.regressed[-20:]}
    assert replayed == {3.0, 4.0, 5.0}


@pytest.mark.parametrize("kind", ["linear", "head"])
def test_the_same_seed_learns_the_same_to_the_bit(kind: str) -> None:
    def train(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(0)
        network = LinearSG(WIDTH, WIDTH, CLASSES, 3) if kind == "linear" else HeadSG(2, CLASSES, 5)
        shape = (WIDTH,) if kind == "linear" else (2, 5, 5)
        sg = synthesizer(network, condition=one_hot, replay=2, seed=seed)
        generator = torch.Generator().manual_seed(1)
        for step in range(6):
            h = torch.randn(4, *shape, generator=generator)
            sg.predict(step, 0, h, torch.arange(4))
            sg.take(TargetGradient(step, 0, h.tanh()))
        return clone_state(network)

    once, again, other = train(3), train(3), train(4)
    assert all(torch.equal(once[k], again[k]) for k in once)
    assert any(not torch.equal(once[k], other[k]) for k in once)


def test_replay_leaves_the_global_random_numbers_alone() -> None:
    sg = synthesizer(replay=3)
    state = torch.get_rng_state()
    sg.predict(0, 0, *batch())
    sg.take(target(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_that_learns_when_predicting_is_stepped_at_once() -> None:
    network = HeadSG(2, CLASSES, 5)
    sg = synthesizer(network, condition=one_hot)
    before = clone_state(network)
    sg.predict(0, 0, torch.randn(4, 2, 5, 5), torch.arange(4))
    assert sg.updates == 1
    assert not torch.equal(before["head.0.weight"], network.head[0].weight)
    assert torch.equal(before["log_scale"], network.log_scale)
    sg.take(TargetGradient(0, 0, torch.randn(4, 2, 5, 5)))
    assert sg.updates == 2
    assert not torch.equal(before["log_scale"], network.log_scale)


def test_the_learning_rate_follows_a_schedule_by_the_version_of_the_stages_weights() -> None:
    network = LinearSG(WIDTH, WIDTH, CLASSES)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    sg = Synthesizer(
        network, optimizer, PendingPredictions(4), condition=one_hot, schedule=lambda version: 1 - version / 4
    )
    rates = []
    for version in (0, 1, 3):
        sg.predict(version, version, *batch())
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [0.5, 0.375, 0.125]


def test_gradients_are_cleared_after_every_update() -> None:
    for network, shape in ((LinearSG(WIDTH, WIDTH, CLASSES), (WIDTH,)), (HeadSG(2, CLASSES, 5), (2, 5, 5))):
        sg = synthesizer(network, condition=one_hot)
        sg.predict(0, 0, torch.randn(4, *shape), torch.arange(4))
        sg.take(TargetGradient(0, 0, torch.randn(4, *shape)))
        assert [p.grad for p in network.parameters() if p.grad is not None] == []


def test_the_fused_optimizer_steps_the_head_as_the_plain_one() -> None:
    """Gradients by `autograd.grad` may have other strides, which fused optimizers do not look at."""
    states = []
    for fused in (True, False):
        torch.manual_seed(0)
        network = HeadSG(4, CLASSES, 9)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=fused)
        sg = Synthesizer(network, optimizer, PendingPredictions(4), condition=one_hot)
        for step in range(2):
            h = torch.randn(6, 4, 9, 9)
            sg.predict(step, 0, h, torch.arange(6) % CLASSES)
            sg.take(TargetGradient(step, 0, h))
        states.append(clone_state(network))
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-5, atol=1e-6)


class Misfit(DNINetwork):
    """Gives a gradient of another shape; written for pytorch-dni, it knows no labels."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(WIDTH, 0, WIDTH)
        self.weight = nn.Parameter(torch.zeros(1))
        self.shape = shape

    def forward(self, input: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, None]:  # type: ignore[override]
        return self.weight.expand(self.shape), None


@pytest.mark.parametrize("shape", [(4, WIDTH + 1), (WIDTH,), (4, WIDTH, 1), (4, 1)])
def test_an_output_of_another_shape_is_the_users_to_mend(shape: tuple[int, ...]) -> None:
    sg = synthesizer(Misfit(shape))
    with pytest.raises(UserError) as error:
        sg.predict(0, 0, *batch(rows=4))
    assert str(error.value) == (
        f"Misfit gave a gradient of shape {shape} for an activation of shape {(4, WIDTH)}; "
        "an SG network's output has the shape of its input"
    )


def test_a_network_without_labels_in_its_forward_learns_too() -> None:
    sg = synthesizer(Misfit((4, WIDTH)))
    assert sg.predict(0, 0, *batch(rows=4)).eq(0).all()
    assert sg.take(target(0)) == 0
    assert sg.network.weight.item() > 0


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("network", [LinearSG, MlpSG])
def test_under_autocast_the_network_works_in_its_own_precision(network: type, conditional: bool) -> None:
    """Activations and targets of 16 bits teach as the same ones in 32 bits without autocast do."""
    states = []
    for autocast in (True, False):
        torch.manual_seed(0)
        hidden = (8,) if network is MlpSG else ()
        built = network(WIDTH, *hidden, WIDTH, CLASSES if conditional else 0)
        sg = synthesizer(built, condition=one_hot if conditional else None, replay=1)
        for step in range(3):
            h, y = batch(seed=step)
            wanted = h.tanh().bfloat16() / 4
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                gradient = sg.predict(step, 0, h.bfloat16() if autocast else h.bfloat16().float(), y)
                sg.take(TargetGradient(step, 0, wanted if autocast else wanted.float()))
            assert gradient.dtype == (torch.bfloat16 if autocast else torch.float32)
        states.append(clone_state(built))
    for name in states[0]:
        assert states[0][name].dtype == torch.float32
        assert torch.equal(states[0][name], states[1][name])


class Counter(DNINetwork):
    """Predicts w times the number of batches so far, and passes that number on."""

    def __init__(self) -> None:
        super().__init__(WIDTH, 0, WIDTH)
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[float] = []

    def forward(
        self, input: Tensor, hidden: dict[str, Tensor] | None = None, labels: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        count = torch.ones(3) if hidden is None else hidden["count"] + 1
        self.seen.append(float(count[0]))
        return self.weight * count[0] + torch.zeros_like(input), {"count": count}


def test_a_late_target_trains_from_the_hidden_state_of_its_own_batch() -> None:
    network = Counter()
    sg = synthesizer(network, replay=0)
    for step in range(4):
        sg.predict(step, 0, *batch())
    network.seen.clear()
    for step in (1, 3, 0, 2):
        sg.take(target(step))
    assert network.seen == [2, 4, 1, 3]
    sg.predict(4, 0, *batch())
    assert network.seen[-1] == 5


def test_another_batch_size_or_a_reset_starts_the_hidden_state_over() -> None:
    network = Counter()
    sg = synthesizer(network)
    for step, rows in enumerate((4, 4, 3, 3, 4)):
        sg.predict(step, 0, *batch(rows))
    network.reset()
    sg.predict(5, 0, *batch(4))
    assert network.seen == [1, 2, 1, 2, 1, 1]


def test_held_bytes_counts_the_hidden_states() -> None:
    sg = synthesizer(Counter())
    for step in range(3):
        sg.predict(step, 0, *batch())
    assert sg.held_bytes() == 3 * 4 * WIDTH * 4 + 2 * 3 * 4


def test_held_bytes_counts_pending_predictions_and_the_replay_window() -> None:
    h_bytes, label_bytes = 4 * WIDTH * 4, 4 * CLASSES * 4
    sg = synthesizer(replay=1, replay_window=2)
    for step in range(5):
        sg.predict(step, 0, *batch())
    assert sg.held_bytes() == 5 * (h_bytes + label_bytes)
    for step in range(4):
        sg.take(target(step))
    assert sg.held_bytes() == (h_bytes + label_bytes) + 2 * (2 * h_bytes + label_bytes)
    assert sg.stats()["held_bytes"] == 7 * h_bytes + 5 * label_bytes  # after the second target


def test_without_replay_nothing_is_held_after_the_targets() -> None:
    sg = synthesizer()
    for step in range(3):
        sg.predict(step, 0, *batch())
    for step in range(3):
        sg.take(target(step))
    assert sg.held_bytes() == 0


def stationary_run(sg: Synthesizer, steps: int, lateness: int = 3) -> list[float]:
    """Relative errors on L(h) = mean of |A (h - 1)|^2 / 2, with targets that come late."""
    generator = torch.Generator().manual_seed(2)
    root = torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5
    errors, waiting = [], []
    for step in range(steps):
        h, y = torch.randn(32, WIDTH, generator=generator), torch.zeros(32, dtype=torch.long)
        wanted = (h - 1) @ (root.T @ root) / len(h)
        errors.append(float((sg.predict(step, step, h, y) - wanted).norm() / wanted.norm()))
        waiting.append(TargetGradient(step, 0, wanted))
        if len(waiting) > lateness:
            assert sg.take(waiting.pop(0)) == step - lateness
    return errors


def test_the_error_falls_on_a_stationary_problem_with_late_targets() -> None:
    network = LinearSG(WIDTH, WIDTH)
    sg = Synthesizer(network, torch.optim.Adam(network.parameters(), lr=1e-2), PendingPredictions(8))
    errors = stationary_run(sg, 300)
    assert errors[:4] == [pytest.approx(1.0)] * 4
    assert errors[60] < 0.7
    assert max(errors[-20:]) < 0.1


def test_a_linear_network_recovers_the_exact_gradient_of_a_quadratic_loss() -> None:
    network = LinearSG(WIDTH, WIDTH)
    sg = Synthesizer(network, torch.optim.SGD(network.parameters(), lr=0.3 * WIDTH), PendingPredictions(8))
    assert stationary_run(sg, 150)[-1] < 1e-4


def test_agreement_is_measured_on_every_eighth_target() -> None:
    sg = synthesizer(Recorder())
    sums = []
    for step in range(17):
        sg.predict(step, 0, *batch())
        sg.take(target(step, value=0.25))
        sums.append(sg.agreement.state_dict()["squared_target"])
    assert sums == [sums[0] * (step // 8 + 1) for step in range(17)]
    assert sg.stats()["sg_relative_error"] == pytest.approx(0.0, abs=1e-12)
    assert sg.stats()["sg_cosine"] == pytest.approx(1.0)


def test_a_new_epoch_starts_the_agreement_over_and_keeps_the_counts() -> None:
    sg = synthesizer(replay=1)
    sg.predict(0, 0, *batch())
    sg.predict(1, 0, *batch())
    sg.take(target(0))
    assert sg.stats()["sg_relative_error"] == pytest.approx(1.0)
    sg.new_epoch()
    assert sg.stats()["sg_relative_error"] is None
    assert sg.stats()["sg_cosine"] is None
    assert sg.stats()["sg_updates"] == 2
    assert sg.take(target(1)) == 0


def test_from_its_state_a_synthesizer_goes_on_to_the_bit() -> None:
    """PendingPredictions, replay window, its draws, running scale and means included."""

    def make() -> Synthesizer:
        torch.manual_seed(0)
        network = MlpSG(WIDTH, 8, WIDTH, CLASSES)
        return synthesizer(
            network, condition=one_hot, replay=2, replay_window=3, scale=GradientScale("rms"), seed=1
        )

    def go_on(sg: Synthesizer, steps: range) -> Tensor:
        for step in steps:
            gradient = sg.predict(step, step, *batch(seed=step))
            if step >= 2:
                sg.take(target(step - 2, value=0.1 * step))
        return gradient

    whole, first, second = make(), make(), make()
    wanted = go_on(whole, range(9))
    go_on(first, range(5))
    second.load_state_dict(copied(first.state_dict()))
    assert torch.equal(go_on(second, range(5, 9)), wanted)
    assert second.stats() == whole.stats()


def test_a_late_target_that_comes_first_after_a_resume_is_learned_at_the_scheduled_rate() -> None:
    def make() -> Synthesizer:
        torch.manual_seed(0)
        network = FeatureHeadSG(WIDTH, CLASSES)
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        return Synthesizer(
            network,
            optimizer,
            PendingPredictions(4),
            condition=one_hot,
            schedule=lambda version: 1 - version / 10,
        )

    def take_both(sg: Synthesizer) -> dict[str, Tensor]:
        for step in (8, 9):
            sg.take(target(step))
        return clone_state(sg.network)

    whole, resumed = make(), make()
    for step in (8, 9):
        whole.predict(step, step, *batch(seed=step))
    resumed.load_state_dict(copied(whole.state_dict()))
    wanted, found = take_both(whole), take_both(resumed)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert resumed.optimizer.param_groups[0]["lr"] == pytest.approx(3e-4)


def test_from_its_state_a_recurrent_network_begins_a_new_sequence() -> None:
    sg = synthesizer(RNNDNI(WIDTH, 6, WIDTH))
    sg.predict(0, 0, *batch())
    assert sg.network.start(batch()[0]) is not None
    sg.load_state_dict(copied(sg.state_dict()))
    assert sg.network.start(batch()[0]) is None
    assert sg.take(target(0)) == 0


def counts(y: Tensor) -> Tensor:
    return y != -100


def test_sample_units_are_those_of_the_samples_whose_labels_count() -> None:
    """Of four samples two count: the mean loss is over these two."""
    network = Recorder()
    sg = synthesizer(network, valid=counts)
    h, y = batch()[0], torch.tensor([0, -100, 1, -100])
    assert sg.predict(7, 0, h, y).eq(1 / 2).all()
    other = synthesizer(network, valid=counts)
    other.load_state_dict(copied(sg.state_dict()))  # a resumed run has the same units
    for one in (sg, other):
        one.take(target(7, value=0.5))
    assert [wanted.unique().tolist() for _, _, wanted in network.regressed] == [[1.0], [1.0]]


def test_a_batch_whose_labels_are_all_ignored_has_a_gradient_of_zero_and_teaches_nothing() -> None:
    network = Recorder()
    sg = synthesizer(network, valid=counts)
    h, y = batch()[0], torch.full((4,), -100)
    assert sg.predict(7, 70, h, y).eq(0).all()
    assert sg.take(target(7, value=0.0)) == 70
    assert (network.regressed, sg.stats()["sg_updates"], len(sg.pending)) == ([], 0, 0)


class QuarterRecorder(Recorder):
    learned_share = 0.25


def test_a_network_may_learn_from_a_share_of_the_samples_of_a_target() -> None:
    network = QuarterRecorder()
    sg, firsts = synthesizer(network, condition=one_hot), []
    for step in range(40):
        h, y = batch(rows=8, seed=step)
        assert sg.predict(step, 0, h, y).shape == h.shape
        wanted = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(step))
        sg.take(TargetGradient(step, 0, wanted))
        seen, labels, learned = network.regressed[-1]
        [first] = [row for row in range(7) if torch.equal(h[row : row + 2], seen)]
        firsts.append(first)
        assert labels is not None
        assert torch.equal(labels, one_hot(y)[first : first + 2])
        assert torch.equal(learned, wanted[first : first + 2] * 8)
    assert set(firsts) == set(range(7))
    assert sg.stats()["sg_relative_error"] is not None


def test_targets_only_measure_a_network_with_a_share_of_none() -> None:
    """One in eight, by a prediction with the present weights, and no weight moves."""
    network = TokenHeadSG(WIDTH, CLASSES)
    network.learned_share = 0.0
    sg = synthesizer(network, condition=one_hot)
    h, y = torch.randn(4, 3, WIDTH), torch.randint(CLASSES, (4,))
    for step in range(9):
        sg.predict(step, 0, h, y)
        before = [p.clone() for p in network.parameters()]
        sg.take(
            TargetGradient(step, 0, torch.randn(4, 3, WIDTH) if step % 8 else network_gradient(network, h, y))
        )
        assert all(torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True))
    assert sg.stats()["sg_updates"] == 9
    assert sg.stats()["sg_relative_error"] == pytest.approx(0, abs=1e-9)


def network_gradient(network: DNINetwork, h: Tensor, y: Tensor) -> Tensor:
    """What the network would predict now, as the gradient of the mean loss."""
    return network(h.clone().requires_grad_(), None, one_hot(y))[0].detach() / len(h)


def test_a_resumed_network_learns_from_the_samples_that_it_would_have_learned_from() -> None:
    runs = []
    first, second = (synthesizer(QuarterRecorder()) for _ in range(2))
    for step in range(3):
        first.predict(step, 0, *batch(rows=8))
        first.take(target(step, rows=8))
    second.load_state_dict(copied(first.state_dict()))
    for sg in (first, second):
        for step in range(3, 9):
            sg.predict(step, 0, *batch(rows=8))
            sg.take(target(step, rows=8))
        runs.append(torch.cat([h for h, *_ in sg.network.regressed[-6:]]))
    assert torch.equal(*runs)
