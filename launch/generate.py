"""Sample text from a trained language model: python -m launch.generate --run runs/lm --prompt "KING"."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dni_async.errors import UserError
from launch.config.command_line import parse
from launch.recurrent.text_generator import TextGenerator, generator_of
from tasks.text.corpus import encode
from workers.failure.rank_runner import RankRunner, run_command


@dataclass(kw_only=True, slots=True)
class GenerateConfig:
    """Sample text from a language model that launch.train has trained."""

    run: str
    """The --out of the run."""
    prompt: str = ""
    """What the text begins with."""
    length: int = 400
    """Symbols to add: characters or words, as the model has it."""
    temperature: float = 1.0
    """Below 1 the likely becomes likelier; 0 always takes the likeliest."""
    seed: int = 0
    """The same seed gives the same text."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UserError(f"length is {self.length}; it must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature is {self.temperature}; it must be 0 or more")


def generate(model: TextGenerator, config: GenerateConfig) -> str:
    """Return the prompt and what follows it. Raises UserError for a prompt outside of the vocabulary."""
    prompt = model.language.split(config.prompt)
    begin = encode(prompt or [model.symbols[0]], model.symbols)
    added = [model.symbols[i] for i in sample(model, begin, config)]
    return model.language.separator.join([*prompt, *added])


def sample(model: TextGenerator, begin: Tensor, config: GenerateConfig) -> list[int]:
    """Return `config.length` symbols that follow `begin` (N,)."""
    generator = torch.Generator().manual_seed(config.seed)
    x, symbols = begin.unsqueeze(0), []
    for _ in range(config.length):
        logits = model.next_logits(x)
        if config.temperature == 0:
            symbol = int(logits.argmax())
        else:
            odds = (logits / config.temperature).softmax(0)
            symbol = int(torch.multinomial(odds, 1, generator=generator))
        symbols.append(symbol)
        x = torch.tensor([[symbol]])
    return symbols


def work(runner: RankRunner) -> None:
    """Parse the command line, load, print."""
    config = parse(GenerateConfig, "launch.generate")
    print(generate(generator_of(Path(config.run)), config), flush=True)


if __name__ == "__main__":
    run_command(work)
