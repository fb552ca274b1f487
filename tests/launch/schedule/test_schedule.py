"""A loop of the user's own with `ScheduleDNI`, in real processes that have met in torch's default group."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.pipelining import PipelineStage
from torch.nn import functional as F

from dni_async.errors import UserError
from dni_async.messages import Activation, Message
from dni_async.optim import Updater
from dni_async.state.state_dict import copied
from launch.schedule import ScheduleDNI
from tests.support.group_ranks import run_ranks, stage_of
from tests.support.stages import CLASSES, FEATURES, backprop, fcn, same_bits

STEPS = 12


def batch(step: int, size: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(size, FEATURES, generator=generator)
    return x, x[:, :CLASSES].argmax(1)


def make(rank: int, ranks: int, rule: str = "cdni", **settings: Any) -> tuple[ScheduleDNI, nn.Module]:
    stage = stage_of(fcn(), rank, ranks)
    optimizer = torch.optim.Adam(stage.submod.parameters(), 1e-2)
    schedule = ScheduleDNI(
        stage, loss_fn=F.cross_entropy, optimizer=optimizer, rule=rule, **{"timeout": 20.0} | settings
    )
    return schedule, stage.submod


def call(schedule: ScheduleDNI, rank: int, ranks: int, step: int, labels: str, losses: list[Tensor]) -> None:
    """`step` with the labels given on the ranks named first, last, all."""
    x, y = batch(step)
    given = labels == "all" or (labels == "first" and not rank) or (labels == "last" and rank == ranks - 1)
    schedule.step(*([] if rank else [x]), target=y if given else None, losses=losses)


def train(
    rank: int, ranks: int, rule: str, labels: str, steps: int = STEPS, **settings: Any
) -> dict[str, Any]:
    schedule, module = make(rank, ranks, rule, **settings)
    history = []
    for step in range(steps):
        losses: list[Tensor] = []
        call(schedule, rank, ranks, step, labels, losses)
        history.extend(loss.item() for loss in losses)
    schedule.drain()
    schedule.close()
    return {"weights": dict(module.state_dict()), "losses": history, "stats": schedule.stats()}


@pytest.mark.parametrize("labels", ["first", "last", "all"])
def test_a_loop_of_three_ranks_learns_wherever_the_labels_are_given(labels: str) -> None:
    results = run_ranks(partial(train, ranks=3, rule="cdni", labels=labels, steps=60), 3)
    losses = results[2]["losses"]
    assert len(losses) == 60 and sum(losses[-5:]) < 0.7 * sum(losses[:5])
    for result in results:
        assert result["stats"]["steps"] == 60
    assert all(result["stats"]["targets_received"] == 60 for result in results[:2])


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_delayed_gradients_with_room_for_one_batch_are_backprop_to_the_bit(transport: str) -> None:
    results = run_ranks(
        partial(train, ranks=3, rule="delayed", labels="last", stash=1, transport=transport), 3
    )
    trained = [value for result in results for value in result["weights"].values()]
    batches: list[Message] = [Activation(step, 0, *batch(step)) for step in range(STEPS)]

    def adam(module: nn.Module) -> Updater:
        return Updater(torch.optim.Adam(module.parameters(), 1e-2))

    assert same_bits(trained, backprop(batches, cut=(1, 2), make_updater=adam))


def train_with_a_break(rank: int, ranks: int, rule: str) -> list[dict[str, Tensor]]:
    """The weights of an uninterrupted run, and of one that a second schedule continues."""
    weights = []
    for parts in ([10], [4, 6]):
        torch.manual_seed(5)
        state, done = None, 0
        for steps in parts:
            schedule, module = make(rank, ranks, rule, deterministic=True)
            if state is not None:
                schedule.load_state_dict(state)
            for step in range(done, done + steps):
                call(schedule, rank, ranks, step, "last", [])
                if step == 3:
                    schedule.drain()  # the uninterrupted run as well, since it decides when targets arrive
            done += steps
            schedule.drain()
            state = copied(schedule.state_dict())
            schedule.close()
        weights.append(dict(module.state_dict()))
    return weights


@pytest.mark.parametrize("rule", ["cdni", "local"])
def test_a_resumed_loop_equals_an_uninterrupted_one_to_the_bit(rule: str) -> None:
    for whole, resumed in run_ranks(partial(train_with_a_break, ranks=2, rule=rule), 2):
        assert same_bits(list(whole.values()), list(resumed.values()))


def evaluate_between(rank: int, ranks: int) -> Any:
    schedule, module = make(rank, ranks, "dni")
    first, last = rank == 0, rank == ranks - 1
    for step in range(4):
        call(schedule, rank, ranks, step, "last", [])
    x, y = batch(99)
    losses: list[Tensor] = [torch.zeros(())]
    seen = [schedule.eval(*([x] if first else []), target=y if last else None, losses=losses)]
    seen += [schedule.eval(*([x] if first else []))]
    module.eval()
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    call(schedule, rank, ranks, 4, "last", [])
    schedule.drain()
    return weights, seen, losses, module.training


def test_an_evaluation_follows_the_batches_before_it_and_changes_nothing() -> None:
    results = run_ranks(partial(evaluate_between, ranks=2), 2)
    layers = fcn()
    model = nn.Sequential(nn.Sequential(*layers[:2]), nn.Sequential(*layers[2:])).eval()
    for module, (weights, *_) in zip(model, results, strict=True):
        module.load_state_dict(weights)
    x, y = batch(99)
    output = model(x)
    assert results[0][1] == [None, None]
    assert all(torch.equal(seen, output) for seen in results[1][1])
    assert torch.equal(results[1][2][0], F.cross_entropy(output, y))
    assert all(training for *_, training in results)


class Failing(nn.Module):
    """Fails, or ends its process, at its fifth call in training."""

    def __init__(self, dies: bool) -> None:
        super().__init__()
        self.dies, self.calls = dies, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        if self.calls == 5:
            if self.dies:
                os._exit(1)
            raise RuntimeError("the layer is broken")
        return x


def fail(rank: int, ranks: int, dies: bool) -> None:
    schedule, module = make(rank, ranks, "cdni", timeout=10.0)
    assert isinstance(module, nn.Sequential)
    if rank == 1:
        module.append(Failing(dies))
    for step in range(STEPS):
        call(schedule, rank, ranks, step, "last", [])
    schedule.drain()


def test_a_stage_that_fails_ends_every_rank_with_its_own_error() -> None:
    lines = run_ranks(partial(fail, ranks=3, dies=False), 3)
    line = "stage 1 (rank 1), at step 4: the layer is broken"
    assert lines == [f"StageError: {line}", f"StageCrash: {line}", f"StageError: {line}"]


def test_a_rank_that_dies_ends_the_others_with_one_line_that_names_it_and_the_step() -> None:
    first, dead, last = run_ranks(partial(fail, ranks=3, dies=True), 3)
    assert dead is None and first.partition(" (rank 1)")[0] == last.partition(" (rank 1)")[0]
    assert re.fullmatch(
        r"StageError: stage 1 \(rank 1\) is gone; stage [02] noticed (at|after) step \d; "
        r"unless it failed, it ended without drain\(\)",
        first,
    )


def differ(rank: int, ranks: int, second: str) -> None:
    """Rank 1 makes another second call than rank 0."""
    schedule, _ = make(rank, ranks, "dni")
    call(schedule, rank, ranks, 0, "all", [])
    store = dist.distributed_c10d._get_default_store()
    if rank == 0:
        assert schedule._running is not None
        schedule._running.loop.timeout = 1.0 if second == "wait" else 20.0
        try:
            call(schedule, rank, ranks, 1, "all", [])
            schedule.drain()
        finally:
            store.set("ended", "")
    elif second == "eval":
        schedule.eval()
    elif second == "drain":
        schedule.drain()
    elif second == "wait":
        store.wait(["ended"])


@pytest.mark.parametrize(
    ("second", "line"),
    [
        ("eval", "this rank called eval() where the stage upstream called step()"),
        ("drain", "this rank called drain() where the stage upstream called step()"),
        ("nothing", "unless it failed, it ended without drain()"),
        ("wait", "nothing came from stage 1 for 1 s"),
    ],
)
def test_ranks_that_make_different_calls_end_in_one_line(second: str, line: str) -> None:
    first, other = run_ranks(partial(differ, ranks=2, second=second), 2)
    assert first.startswith(("StageError: stage ", "Late: stage 0")) and line in first
    assert (line in other) if "called" in line else (other is None)


def misuse(rank: int) -> list[str]:
    stage = stage_of(fcn(), 0, 1)
    make_one = partial(ScheduleDNI, stage, loss_fn=F.cross_entropy)
    schedule = make_one(optimizer=torch.optim.SGD(stage.submod.parameters(), 0.1))
    x, y = batch(0)

    def lists() -> None:
        loop = make_one(optimizer=None, rule="dni")
        loop.step(x, target=[1, 2])  # type: ignore[arg-type]

    def without_gradients() -> None:
        with torch.no_grad():
            schedule.step(x, target=y)

    def wrong_width() -> None:
        make_one(optimizer=None).step(x[:, 1:], target=y)

    works: list[Callable[[], Any]] = [
        lambda: make_one(optimizer=None, rule="oracle"),
        lambda: make_one(optimizer=None, transport="rpc"),
        lambda: make_one(optimizer=None, in_flight=0),
        lambda: schedule.state_dict(),
        lambda: schedule.step(target=y),
        lambda: schedule.step(x),
        lists,
        without_gradients,
        wrong_width,
        lambda: ScheduleDNI(
            PipelineStage(nn.Linear(2, 2), 1, 2, torch.device("cpu")), loss_fn=F.mse_loss, optimizer=None
        ),
    ]
    lines = []
    for work in works:
        try:
            work()
            lines.append("")
        except UserError as error:
            lines.append(str(error))
    return lines


def test_bad_input_ends_in_one_line_that_says_what_to_do() -> None:
    (lines,) = run_ranks(misuse, 1)
    for line, words in zip(
        lines,
        [
            "use it in launch.train",
            "ScheduleDNI takes auto, shm, tcp",
            "in_flight is 0",
            "call drain() on every rank",
            "stage 0 takes input tensors",
            "no rank has labels; give target=y",
            "and target=y, a tensor",
            "use eval()",
            "stage 0: its module cannot take a batch (16, 11) of torch.float32",
            "rank 0 of 1 has stage 1 of 2; ScheduleDNI runs stage i of n on rank i of n",
        ],
        strict=True,
    ):
        assert words in line and "\n" not in line, (words, line)


def train_alone(rank: int) -> list[float]:
    history = []
    schedule, _ = make(0, 1, "cdni")
    for step in range(40):
        losses: list[Tensor] = []
        x, y = batch(step)
        output = schedule.step(x, target=y, losses=losses)
        assert output is not None and output.shape == (16, CLASSES)
        history.append(losses[0].item())
    schedule.drain()
    return history


def test_one_rank_alone_trains_its_only_stage_by_backprop() -> None:
    (losses,) = run_ranks(train_alone, 1)
    assert losses[-1] < 0.8 * losses[0]


class Ends(nn.Module):
    """Takes one or two tensors, and returns two: a skip connection over the cut, and a mask."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first, self.own = first, nn.Linear(FEATURES, FEATURES if first else CLASSES)

    def forward(self, x: Tensor, mask: Tensor, skip: Tensor | None = None) -> Any:
        if self.first:
            return torch.relu(self.own(x)), mask, x * self.own.weight.mean()
        assert skip is not None
        return self.own((x + skip) * mask)


def train_with_several(rank: int, rule: str) -> tuple[list[float], dict[str, Tensor]]:
    torch.manual_seed(rank)
    module = Ends(rank == 0)
    stage = PipelineStage(module, rank, 2, torch.device("cpu"))
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    settings: dict[str, Any] = {"rule": rule, "stash": 1, "timeout": 20.0, "deterministic": True}
    schedule = ScheduleDNI(stage, loss_fn=F.cross_entropy, optimizer=optimizer, **settings)
    history = []
    for step in range(80):
        losses: list[Tensor] = []
        x, y = batch(step)
        inputs = (x, (x > 0).float()) if rank == 0 else ()
        schedule.step(*inputs, target=y if rank else None, losses=losses)
        history += [loss.item() for loss in losses]
    x, y = batch(99)
    schedule.eval(*((x, (x > 0).float()) if rank == 0 else ()))
    schedule.drain()
    schedule.close()
    return history, dict(module.state_dict())


@pytest.mark.parametrize("rule", ["cdni", "delayed"])
def test_modules_that_take_and_return_several_tensors_train(rule: str) -> None:
    (_, first), (losses, last) = run_ranks(partial(train_with_several, rule=rule), 2)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    if rule == "delayed":  # with room for one batch: backprop, to the bit
        torch.manual_seed(0)
        start = Ends(True)
        torch.manual_seed(1)
        end = Ends(False)
        optimizers = [torch.optim.Adam(module.parameters(), 1e-2) for module in (start, end)]
        for step in range(80):
            x, y = batch(step)
            F.cross_entropy(end(*start(x, (x > 0).float())), y).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        assert same_bits(list(first.values()), list(start.state_dict().values()))
        assert same_bits(list(last.values()), list(end.state_dict().values()))
