"""The settings of a task over time."""

from __future__ import annotations

from dataclasses import dataclass, fields

from dni_async.errors import UserError
from launch.config.train import JobConfig

TIME_RULES = ("bptt", "dni", "dni-aux", "dni-permuted")

OF_STAGES = (
    "until",
    "evaluations",
    "stages",
    "cut",
    "micro_batches",
    "in_flight",
    "target_every",
    "deterministic",
    "transport",
    "trust_network",
    "precision",
    "compile",
    "emulate_gflops",
    "port",
)
"""Settings of layered tasks that mean nothing here."""


@dataclass(kw_only=True, slots=True)
class SequenceConfig(JobConfig):
    """Train one task over time, in this process."""

    task: str = "copy"
    """copy, repeat-copy, adding, argmax, char-lm, word-lm, or your own as my_pkg.my_task:MyTask."""
    rule: str = "dni"
    """What ends a window of truncated BPTT: bptt (nothing), dni (a synthetic gradient), dni-aux (with the
    paper's auxiliary task), dni-permuted (a control: predictions shuffled across the batch)."""
    bptt: int = 4
    """Time steps of a window, which is one update."""
    batch_size: int = 32
    """Sequences side by side."""
    lr: float = 3e-3
    """Learning rate of the model."""
    clip_norm: float | None = 1.0
    """Clip the gradient norm to this."""
    state_bound: float = 20.0
    """The state carried to the next window is clamped to plus and minus this."""
    discount: float = 0.95
    """Factor on the SG network's targets."""

    def __post_init__(self) -> None:
        JobConfig.__post_init__(self)
        if self.rule not in TIME_RULES:
            raise UserError(f"unknown rule for a task over time ({self.rule}); use {', '.join(TIME_RULES)}")
        if self.bptt < 1:
            raise UserError(f"bptt is {self.bptt}; it must be at least 1")
        if self.state_bound <= 0:
            raise UserError(f"state-bound is {self.state_bound}; it must be positive")
        if not 0 <= self.discount <= 1:
            raise UserError(f"discount is {self.discount}; it must be 0 to 1")
        for field in fields(JobConfig):
            value = getattr(self, field.name)
            alone = field.name == "stages" and value == 1
            if field.name in OF_STAGES and value != field.default and not alone:
                raise UserError(
                    f"{field.name.replace('_', '-')} is {value}; tasks over time run in one process, "
                    "without stages: leave it out (a language model in stages is char-lm-stack or "
                    "word-lm-stack)"
                )
