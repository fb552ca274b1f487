"""What is trained, on which data, for how long, and where results go."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dni_async.errors import UserError
from launch.config.checks import at_least, positive
from launch.config.flat import Group


@dataclass(kw_only=True, slots=True)
class TaskConfig(Group):
    """What is trained, on which data."""

    name: Annotated[str, tyro.conf.arg(name="task")] = "mnist-fcn"
    """mnist-fcn, mnist-cnn, mnist-residual, digits-fcn, cifar-cnn, vit, char-lm-stack, word-lm-stack,
    gpt-char, gpt-bpe, induction, two-timescale, or your own as my_pkg.my_task:MyTask."""
    task_args: tuple[str, ...] = ()
    """The task's own settings, such as width=1024 depth=6."""
    data_root: str = ""
    """Folder with the data sets; by default the environment's DNI_DATA, then a cache folder."""
    epochs: int = 5
    """Times through the training set."""
    batch_size: int = 256
    """Samples per update."""
    seed: int = 0
    """Of initial weights and data order."""
    init: str = ""
    """A .safetensors file with weights to start from, such as launch.export writes it."""

    def __post_init__(self) -> None:
        at_least(1, epochs=self.epochs, batch_size=self.batch_size)
        if self.batch_size >= 2**31:
            raise UserError(f"batch-size is {self.batch_size}; it must be below {2**31}")
        if not 0 <= self.seed < 2**32:  # generators take 64 bits; epochs and stages get seeds of their own
            raise UserError(f"seed is {self.seed}; it must be 0 to {2**32 - 1}")

    def data_folder(self) -> Path | None:
        """Return where the user keeps data sets; None where nothing says so."""
        root = self.data_root or os.environ.get("DNI_DATA", "")
        return Path(root) if root else None


@dataclass(kw_only=True, slots=True)
class EvaluationConfig(Group):
    """When training is evaluated, and when it ends."""

    evaluations: int = 1
    """Evaluations on the whole test set per epoch, equally spaced."""
    until: float | None = None
    """End training at this accuracy of an evaluation, such as 0.97; `epochs` stays the limit."""
    minutes: float | None = None
    """End training after so many, wherever the epoch stands; baselines end at the next evaluation. They go on
    when the launcher restarts the job, and begin again with --resume."""
    patience: int = 0
    """End after so many epochs without a better validation loss; 0: never. Evaluations are then on the
    validation set, and the best weights are kept and tested at the end."""

    def __post_init__(self) -> None:
        at_least(1, evaluations=self.evaluations)
        at_least(0, patience=self.patience)
        positive(minutes=self.minutes)
        if self.until is not None and not 0 < self.until <= 1:
            raise UserError(
                f"until is {self.until}; it must be a test accuracy above 0 and at most 1, such as 0.97"
            )


@dataclass(kw_only=True, slots=True)
class OutputConfig(Group):
    """Where settings come from, where results go, and what is shown."""

    config: str = ""
    """A config.yaml that an earlier run of this command wrote to its folder: repeats that run. Options beside
    it override those in the file."""
    out: str = ""
    """Folder for results; by default nothing is written."""
    quiet: bool = False
    """Show no progress and no table."""
    report: bool = True
    """Write the page report.html to the folder."""
