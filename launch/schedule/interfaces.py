"""What the ranks tell each other in their first call: what crosses between the stages, and who has labels.

rank 0   x ─► its module ─► (256, 64) ── store ──► rank 1   zeros (256, 64) ─► its module ─► (256, 10)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from dni_async.boundary import Boundary, Extras, check_extras
from dni_async.errors import UserError, cause_of
from dni_async.trees import describe_tree, type_name
from dni_async.walk import run_between
from workers.coordination.rendezvous import Rendezvous

Spec = list[Any]
"""Shape and type of a tensor, JSON-able."""


@dataclass(slots=True)
class Interfaces:
    """What crosses in front of this stage, behind it and behind the last; tensors without memory."""

    takes: Boundary
    returns: Boundary
    h: Tensor
    """(B, ...) of this stage's output."""
    network_returns: Boundary
    network_h: Tensor
    """(B, ...) of the last stage's output."""
    targets: Boundary
    """How the labels of a batch are packed: into one tensor y, and extras."""
    labels: Tensor
    """y (B, ...)"""
    label_extras: Extras
    has_target: list[bool]
    """Which ranks were given the labels, by rank."""


class Spread(nn.Module):
    """The module of a stage, which takes a tuple as its arguments, as in torch's PipelineStage.

    Attributes:
        keywords: further arguments of the current batch, which this rank's call was given.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.keywords: dict[str, Any] = {}

    @override
    def forward(self, x: Any) -> Any:
        """Return what the module returns for one tensor, or for the elements of a tuple or list."""
        return self.module(*(x if isinstance(x, tuple | list) else (x,)), **self.keywords)


def inputs_of(args: tuple[Tensor, ...]) -> Any:
    """Return the arguments of a module as it is called by `Spread`: one as it is, several as a tuple."""
    return args[0] if len(args) == 1 else args


def agree_on_interfaces(
    rendezvous: Rendezvous,
    module: Spread,
    inputs: Any,
    target: Any,
    device: torch.device,
    timeout: float,
) -> Interfaces:
    """Return what crosses between the stages of the pipeline; every rank has to call it.

    Args:
        inputs: the first batch, a tensor (B, ...) or a tuple of tensors; on rank 0.
        target: its labels, a tree of tensors (B, ...), on the ranks that have them; else None.

    Raises:
        UserError: no rank has labels, or the module does not take what comes before it.
        Late: a rank did not come within `timeout` seconds.
    """
    rank, last = rendezvous.rank, rendezvous.world - 1
    if rank == 0:
        takes = Boundary.of(inputs, "the loop, for step(),")
        h, extras = takes.pack(inputs)
    else:
        state, h_spec, specs = rendezvous.read(f"output/{rank - 1}", timeout)
        takes = Boundary.from_state(state)
        h, *zeros = (_zeros(spec, device) for spec in [h_spec, *specs])
        extras = tuple(zeros)
    returns, h, extras = _try_out(module, takes, h, extras, rank)
    rendezvous.publish(f"output/{rank}", [returns.state_dict(), _spec(h), list(map(_spec, extras))])
    labels = rendezvous.all_gather("labels", None if target is None else _labels_spec(target), timeout)
    if not any(labels):
        raise UserError("no rank has labels; give target=y on the last rank, or on the first one with x")
    targets_state, y, label_extras = next(filter(None, labels))
    targets = Boundary.from_state(targets_state)
    for boundary in (takes, returns):
        check_extras(boundary, targets.extras)
    network_state, network_h, _ = rendezvous.read(f"output/{last}", timeout)
    meta = torch.device("meta")
    return Interfaces(
        takes,
        returns,
        _zeros(_spec(h), meta),
        Boundary.from_state(network_state),
        _zeros(network_h, meta),
        targets,
        _zeros(y, meta),
        tuple(_zeros(spec, meta) for spec in label_extras),
        [spec is not None for spec in labels],
    )


def _try_out(
    module: Spread, takes: Boundary, h: Tensor, extras: Extras, rank: int
) -> tuple[Boundary, Tensor, Extras]:
    """Return how the output for h (B, ...) and extras is packed, and the packed output; weights, buffers and
    random numbers stay as they are."""
    training = module.module.training
    with torch.random.fork_rng([h.device] if h.is_cuda else []):
        try:
            name = f"the module of stage {rank}"
            return run_between(module.eval(), takes, h, extras, name, first=rank == 0)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            given = takes.unpack(h, extras)
            what = f"a batch {tuple(h.shape)} of {h.dtype}" if takes.is_tensor else describe_tree(given)
            raise UserError(f"stage {rank}: its module cannot take {what} ({cause_of(error)})") from error
        finally:
            module.module.train(training)


def _labels_spec(target: Any) -> list[Any]:
    """Return how labels are packed, and what they are packed into, JSON-able."""
    targets = Boundary.of(target, "the loop, for target,")
    y, extras = targets.pack(target)
    return [targets.state_dict(), _spec(y), list(map(_spec, extras))]


def _spec(tensor: Tensor) -> Spec:
    return [list(tensor.shape), type_name(tensor.dtype)]


def _zeros(spec: Spec, device: torch.device) -> Tensor:
    shape, dtype = spec
    return torch.zeros(shape, dtype=getattr(torch, dtype), device=device)
