"""Sample text from a trained language model: python -m launch.generate --run runs/lm --prompt "KING"."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dni_async.errors import UserError
from launch.config.checks import at_least, not_empty
from launch.config.command_line import parse
from launch.recurrent.text_generator import generator_of
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
        not_empty(run=self.run)
        at_least(1, length=self.length)
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature is {self.temperature}; it must be 0 or more")
        try:
            self.prompt.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"prompt is {self.prompt!r}, which is no text in UTF-8; give another one"
            ) from None


def work(runner: RankRunner) -> None:
    """Parse the command line, load, print."""
    config = parse(GenerateConfig, "launch.generate")
    model = generator_of(Path(config.run))
    print(model.generate(config.prompt, config.length, config.temperature, config.seed), flush=True)


if __name__ == "__main__":
    run_command(work)
