"""Language models of finished runs, trained over time or in layers, as generators of text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dni_async.errors import UserError
from dni_async.recurrent.core import RecurrentCore
from launch.config.task import TaskConfig
from launch.job.output_folder import FILES
from launch.recurrent.cached_decoder import CachedDecoder
from launch.recurrent.weights import Trained, load
from launch.report.files import read_summary
from launch.trained import network_of
from tasks.base import Task
from tasks.registry import create
from tasks.sequence.base import SequenceTask
from tasks.text.gpt import GptTask
from tasks.text.language import LanguageModel

LEAST_TEMPERATURE = 1e-6
"""Below it the likeliest symbol is taken: logits that are divided by less may be infinite."""


@dataclass(slots=True)
class TextGenerator:
    """A language model and its vocabulary."""

    language: LanguageModel
    symbols: tuple[str, ...]
    next_logits: Callable[[Tensor], Tensor]
    """From (1, T) symbols to (V,) logits of the next one; the state is carried from call to call."""

    def generate(self, prompt: str, length: int, temperature: float = 1.0, seed: int = 0) -> str:
        """Return the prompt and `length` symbols that follow it; with temperature 0 always the likeliest.

        Raises:
            UserError: the prompt is outside of the vocabulary.
        """
        x = torch.tensor([self.language.numbers(prompt, self.symbols) or [0]])
        generator, added = torch.Generator().manual_seed(seed), list[int]()
        for _ in range(length):
            logits = self.next_logits(x)
            if temperature < LEAST_TEMPERATURE:
                symbol = int(logits.argmax())
            else:
                odds = (logits / temperature).softmax(0)
                symbol = int(torch.multinomial(odds, 1, generator=generator))
            added.append(symbol)
            x = torch.tensor([[symbol]])
        return self.language.continued(prompt, added, self.symbols)


def generator_of(run: Path) -> TextGenerator:
    """Return the language model of a run. Raises UserError for another task."""
    path = run / "summary.json"
    summary = read_summary(path) if path.exists() else {}
    return layered_generator(run, summary) if "facts" in summary else sequence_generator(load(run))


def sequence_generator(trained: Trained) -> TextGenerator:
    """Return the generator of a model that was trained over time in one process."""
    model, core, state = trained.model.eval(), RecurrentCore(trained.model.core), None

    @torch.no_grad()
    def next_logits(x: Tensor) -> Tensor:
        nonlocal state
        out, state = core(model.encoder(x), state)
        logits: Tensor = model.head(out[0, -1])
        return logits

    return TextGenerator(_language(trained.task), trained.symbols, next_logits)


def layered_generator(run: Path, summary: dict[str, Any]) -> TextGenerator:
    """Return the generator of a model trained in stages."""
    settings = summary["settings"]
    task = create(settings["task"], settings["task_args"])
    language = _language(task)
    root = TaskConfig(data_root=settings["data_root"]).data_folder()
    symbols = language.restored(run / FILES, summary["facts"], root)
    model = network_of(run, summary, task).model
    next_logits = CachedDecoder(model, task.context) if isinstance(task, GptTask) else next_by_state(model)
    return TextGenerator(language, symbols, next_logits)


def next_by_state(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return `TextGenerator.next_logits` of a model whose layers carry their state from call to call."""

    @torch.no_grad()
    def next_logits(x: Tensor) -> Tensor:
        logits: Tensor = model(x)[0, -1]
        return logits

    return next_logits


def _language(task: Task | SequenceTask) -> LanguageModel:
    language = getattr(task, "language", None)
    if not isinstance(language, LanguageModel):
        raise UserError(
            f"{task.name} is not a language model; give a run of char-lm, word-lm, their stacks, gpt-char or "
            "gpt-bpe"
        )
    return language
