"""`ScheduleDNI`: the call per batch that takes the place of a schedule of torch.distributed.pipelining."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed.pipelining import PipelineStage
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves
from typing_extensions import Self

from dni_async.errors import Late, StageError, UserError
from dni_async.messages import Activation, Marker, MarkerKind
from dni_async.optim import Updater
from dni_async.state.checkpoint import load_weights_state
from dni_async.state.state_dict import State, load_random_state
from launch.schedule.group import join_group
from launch.schedule.interfaces import Spread, inputs_of
from launch.schedule.rule import Loss, StepLoss
from launch.schedule.running import Running, start
from launch.schedule.settings import ScheduleSettings
from workers.transport.base import TransportError

T = TypeVar("T")


class ScheduleDNI:
    """Trains a pipeline whose stages never wait for a gradient, one call of `step` for each batch.

        schedule = ScheduleDNI(stage, loss_fn=loss_fn, optimizer=optimizer, rule="cdni")
        for x, y in loader:            #  rank 0             other ranks          last rank
            schedule.step(...)         #  step(x, target=y)  step()               step(losses=losses)
        schedule.drain()               #  on all ranks

    A call returns when this rank has made its own update with the batch (under rule `delayed`, when it has
    sent its activation). The optimizer is the schedule's: it steps in the call, and clears the gradients.
    Learning rates may be changed between calls, as schedulers of torch do. All ranks make the same calls.

    Labels may be given on any rank. Where the first rank gives them they travel with the batch. Where only
    the last rank has them, `step(target=y)`, rules that need labels wait for them: every stage then waits
    until the last rank has begun the same step, so that stages run in parallel only within one batch.

    Args:
        stage: of this rank; one per rank, in order. What its module returns, a tensor or a tuple, are the
            arguments of the next one.
        loss_fn: (output (B, ...), y) -> scalar, the mean over the batch.
        optimizer: of this stage's parameters; None for a stage without any.
        rule: how a stage gets its gradient: cdni, dni, local, delayed, frozen or the path of your own.
        settings: see `ScheduleSettings`.

    Raises:
        UserError: the stages do not fit the ranks, or a setting has no meaning.
    """

    def __init__(
        self,
        stage: PipelineStage,
        *,
        loss_fn: Loss,
        optimizer: Optimizer | None,
        rule: str = "cdni",
        **settings: Any,
    ) -> None:
        self._settings = ScheduleSettings(rule=rule, **settings)
        self._module, self._device, self._loss_fn = Spread(stage.submod), stage.device, loss_fn
        self._rendezvous = join_group(stage, self._settings.timeout)
        self._updater = Updater(
            optimizer,
            clip_norm=self._settings.clip_norm,
            accumulate=self._settings.accumulate,
            ema=self._settings.ema,
        )
        self._running: Running | None = None
        self._loaded: State | None = None
        self._drained = False
        self._evaluated = 0
        self._stack = ExitStack()
        self._finalizer = weakref.finalize(self, self._stack.close)

    def step(
        self,
        *args: Tensor,
        target: Any = None,
        losses: list[Tensor] | None = None,
        return_outputs: bool = True,
        **keywords: Any,
    ) -> Any:
        """Train on one batch: `step(x)` on the first rank, `step()` on the others.

        Args:
            target: the labels, a tensor (B, ...) or a tree of tensors, on any rank that has them.
            losses: on the last rank, its content becomes the mean loss of this batch.
            keywords: further arguments of this rank's own module, such as a mask; they get no gradient.

        Returns:
            The output on the last rank, None on the others.

        Raises:
            StageError: another rank has failed, has not come in time, or makes other calls; names stage,
                step and cause.
            UserError: bad input.
        """
        if not torch.is_grad_enabled():
            raise UserError(
                "step() trains and was called without gradients; use eval(), or leave out no_grad()"
            )
        running = self._prepare(args, target, keywords)
        if self._drained:
            running.stage.new_epoch()
            self._drained = False
        self._guarded(lambda: running.labels.send(running.stage.steps))
        self._take(running, "step", args, running.stage.steps)
        return self._result(losses, return_outputs)

    def eval(self, *args: Tensor, target: Any = None, losses: Any = None, **keywords: Any) -> Any:
        """Run one batch forward, in evaluation mode: `eval(x)` on the first rank, `eval()` on the others.

        It follows the training batches before it through all stages. Under rule `delayed`, `drain` first. The
        very first call of a schedule needs labels.
        Arguments and result are those of `step`; without labels there are no losses.
        """
        running = self._prepare(args, target, keywords)
        self._take(running, "eval", args, self._evaluated)
        self._evaluated += 1
        return self._result(losses, True)

    def drain(self) -> None:
        """Wait until all stages have handled everything that is under way, on all ranks.

        Call it before saving, and before the process ends.
        """
        if self._running is None:
            return
        loop, stage = self._running.loop, self._running.stage
        if stage.index == 0:
            self._running.batches.append(Marker(MarkerKind.REPORT, stage.steps, 0))
        self._guarded(loop.drain)
        self._drained = True

    def stats(self) -> dict[str, Any]:
        """Return counts and times of this rank, JSON-able; such as the `staleness` of its targets, and
        `sg_error` and `sg_cosine` of its predictions since training went on after the last `drain`."""
        if self._running is None:
            return {}
        loop = self._running.loop
        return (
            self._running.stage.stats() | loop.probe.stats() | {"samples_per_s": loop.throughput.per_second()}
        )

    def state_dict(self) -> State:
        """Return everything of this rank that a resumed run needs: weights, optimizer, SG network, counts and
        random numbers; to be called after `drain`."""
        if self._running is None or not self._drained:
            raise UserError("batches may be under way; call drain() on every rank before state_dict()")
        return self._running.stage.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Take up what `state_dict` returned on this rank, before the first call or after `drain`."""
        if self._running is None:
            load_weights_state(self._module, self._updater, state)
            load_random_state(state["random"])
            self._loaded = state | {"random": None}
        elif self._drained:
            self._running.stage.load_state_dict(state)
        else:
            raise UserError("batches may be under way; call drain() on every rank before load_state_dict()")

    def close(self) -> None:
        """Close the connections to the other ranks, as the end of the process does; to be called after
        `drain`."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, value: object, traceback: TracebackType | None) -> None:
        if kind is None:
            self.close()

    def _prepare(self, args: tuple[Tensor, ...], target: Any, keywords: dict[str, Any]) -> Running:
        """Return what runs, started with the first batch."""
        first = self._rendezvous.rank == 0
        tensors = [*args, *([] if target is None else tree_leaves(target))]
        if bool(args) != first or not all(isinstance(x, Tensor) for x in tensors):
            wanted = "input tensors" if first else "no input: it comes from the stage upstream"
            raise UserError(
                f"stage {self._rendezvous.rank} takes {wanted}, and target=y, a tensor or tree, if it has it"
            )
        self._module.keywords = keywords
        if self._running is None:
            self._running = self._guarded(lambda: self._start(args, target))
        self._running.labels.set(target)
        return self._running

    def _start(self, args: tuple[Tensor, ...], target: Any) -> Running:
        running = start(
            self._module,
            self._device,
            self._rendezvous,
            self._loss_fn,
            self._updater,
            self._settings,
            inputs_of(args),
            target,
            self._stack,
        )
        if self._loaded is not None:
            running.stage.load_state_dict(self._loaded)
            self._loaded = None
        return running

    def _take(self, running: Running, call: str, args: tuple[Tensor, ...], number: int) -> None:
        """Handle the batch of this number, and the targets that have come."""
        if args:
            h, extras = running.stage.takes.pack(inputs_of(args))
            y, others = running.labels.packed()
            running.batches.append(Activation(number, 0, h, y, call == "step", extras + others))
        self._guarded(lambda: running.loop.take(call))

    def _result(self, losses: list[Tensor] | None, return_outputs: bool) -> Any:
        rule = self._running.stage.rule if self._running else None
        if not isinstance(rule, StepLoss):
            return None
        if losses is not None:
            losses[:] = rule.losses
        return rule.output if return_outputs else None

    def _guarded(self, work: Callable[[], T]) -> T:
        """Return what `work` returns. If it fails, the error is that of the rank that has failed first."""
        try:
            return work()
        except Exception as error:
            self._finalizer.detach()  # closing waits for the others
            raise self._first_failure(error) from error

    def _first_failure(self, error: Exception) -> Exception:
        """Publish the failure of this rank, or return that of another which made this one fail."""
        with contextlib.suppress(Exception):  # the store, too, may be gone
            first = self._rendezvous.publish_first("failure", str(error))
            if not first and isinstance(error.__cause__, TransportError | Late):
                return StageError(self._rendezvous.peek("failure"))
        return error
