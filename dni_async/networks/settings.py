"""Settings of SG networks and auxiliary heads, as a user gives them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dni_async.checks import at_least
from dni_async.errors import UserError
from dni_async.networks.registry import AUTO, find_network
from dni_async.synthesis.scale import UNITS


@dataclass(kw_only=True, slots=True)
class SGConfig:
    """The SG network of every cut. None: chosen by the kind of network and the number of stages."""

    kind: str = "auto"
    """auto, linear, least-squares (in closed form), mlp, conv, head, token-head (head for sequences),
    token-attention (with causal attention), or your own as my_pkg.my_sg:MySG. Auto: head for class labels,
    but linear for one or two features and for batch-normalised ones without residual connections; for other
    labels or none conv for (B, C, H, W), else linear; through time least-squares up to width 256."""
    rank: int | None = None
    """Rank of the linear network, 0 for full (by default full up to width 128, 64 above), or of the output
    layer of a head (full)."""
    negatives: int | None = None
    """Classes that are drawn for the softmax of a head, beside those among a batch's labels; 0 for all. By
    default all up to 4,096 classes, 1,024 above."""
    match: float | None = None
    """Share of a batch's samples on which its target teaches the network; 0, for heads: targets only measure
    it, which halves what a head costs. By default 1, a quarter for sequences (a small gain on a GPT, more in
    longer runs), 0 for token-attention, which it keeps from learning. Residual networks of features learn as
    well with 0."""
    hidden: int | None = None
    """Hidden units (mlp: width of h, head: no hidden layer) or, for (B, C, H, W), channels (conv: those of h,
    head: twice those, at most 32)."""
    layers: int | None = None
    """Hidden layers of mlp (1) or conv (2)."""
    memory: int | None = None
    """Rows over which the targets of least-squares fade; by default twice its features, and at least
    2,000 if it sees labels."""
    optimizer: str = "adam"
    """Any optimizer of torch.optim."""
    lr: float | None = None
    """Learning rate: 1e-3, and 3e-3 for the head."""
    replay: int | None = None
    """Extra SG steps per target, on replayed tuples: 2 for linear and mlp from 3 stages on, else 0."""
    replay_window: int = 16
    """How many (h, y, target) tuples are kept for replay."""
    gate: bool = False
    """A stage's learning rate times the root of the product of the cosines between predictions and targets,
    its own and those of the stages after it: who guesses slows down."""
    units: str = "sample"
    """Gradient units the network works in: sample (times the batch size), rms (by running RMS) or none."""

    def __post_init__(self) -> None:
        if self.kind != AUTO:
            find_network(self.kind)
        if self.units not in UNITS:
            raise UserError(f"unknown gradient units ({self.units}); use one of {', '.join(UNITS)}")
        for name, value, low in (
            ("rank", self.rank, 0),
            ("negatives", self.negatives, 0),
            ("hidden", self.hidden, 1),
            ("layers", self.layers, 1),
            ("replay", self.replay, 0),
            ("replay-window", self.replay_window, 1),
            ("memory", self.memory, 1),
        ):
            if value is not None:
                at_least(low, **{f"sg.{name}": value})
        if self.match is not None and not 0 <= self.match <= 1:
            raise UserError(f"sg.match is {self.match}; it must be from 0 to 1")
        if self.lr is not None and self.lr <= 0:
            raise UserError(f"sg.lr is {self.lr}; it must be positive")


@dataclass(kw_only=True, slots=True)
class LocalConfig:
    """The auxiliary head of every stage but the last, under rule local."""

    hidden: int | None = None
    """Hidden units (128), or channels for (B, C, H, W) (twice those of h, at most 32)."""
    optimizer: str = "adam"
    """Any optimizer of torch.optim."""
    lr: float = 3e-3
    """Learning rate."""

    def __post_init__(self) -> None:
        if self.hidden is not None:
            at_least(1, **{"local.hidden": self.hidden})
        if not 0 < self.lr < math.inf:
            raise UserError(f"local.lr is {self.lr}; it must be positive and finite")
