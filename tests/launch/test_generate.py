"""Text from a trained model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from dni_async.errors import UserError
from launch.config.recurrent import SequenceConfig
from launch.config.train import TrainConfig
from launch.generate import GenerateConfig
from launch.job.output_folder import save_files
from launch.recurrent.text_generator import TextGenerator, generator_of, sequence_generator
from launch.recurrent.train import run_sequences
from launch.recurrent.weights import Trained
from launch.report.weights import save_part
from tasks.registry import create
from tasks.sequence.copying import Copy
from tasks.text.through_time import CharLM, WordLM
from tests.support.forks import Job
from tests.support.jobs import our_lines, run
from workers.failure.rank_runner import RankRunner

pytestmark = pytest.mark.usefixtures("cache")


def untrained(symbols: tuple[str, ...] = tuple("abc")) -> TextGenerator:
    torch.manual_seed(0)
    task = CharLM(width=8, embedding=4)
    return sequence_generator(Trained(task, task.model(len(symbols)), symbols))


def generate(model: TextGenerator, config: GenerateConfig) -> str:
    return model.generate(config.prompt, config.length, config.temperature, config.seed)


def config(**settings: object) -> GenerateConfig:
    return GenerateConfig(run="none", **{"prompt": "ab", "length": 30} | settings)  # type: ignore[arg-type]


def test_a_trained_model_continues_the_text_that_it_learned(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("abcdefgh" * 100)
    args = (f"text={tmp_path / 'text'}", "width=32")
    settings = SequenceConfig.of(
        task="char-lm", task_args=args, epochs=8, lr=1e-2, quiet=True, out=str(tmp_path / "run")
    )
    run_sequences(RankRunner(), settings)
    text = generate(generator_of(tmp_path / "run"), config(prompt="abcdefghabc", length=9, temperature=0))
    assert text == "abcdefghabcdefghabcd"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in two stages, and the text that it learned."""
    folder = tmp_path_factory.mktemp("stack")
    (folder / "text").write_text("abcdefgh" * 300)
    args = (f"text={folder / 'text'}", "width=32", "layers=1", "bptt=8")
    settings = TrainConfig.of(
        task="char-lm-stack", task_args=args, epochs=10, lr=1e-2, batch_size=8, cut="1", rule="cdni"
    )
    with Job(settings, create(settings.task.name, args), 2, folder) as job:
        assert job.statuses() == [0, 0], job.lines()
    return folder


def test_a_trained_stack_continues_the_prompt_and_remembers_it(stack: Path) -> None:
    text = generate(generator_of(stack / "run"), config(prompt="abcdefghabc", length=9, temperature=0))
    assert text == "abcdefghabcdefghabcd"
    follow = generator_of(stack / "run").next_logits
    apart = [follow(torch.tensor([[i]])) for i in range(3)][-1]
    torch.testing.assert_close(apart, generator_of(stack / "run").next_logits(torch.tensor([[0, 1, 2]])))


def untrained_gpt(folder: Path, name: str, *args: str) -> nn.Sequential:
    """Write the folder of a run of a GPT with a context of 6 in two stages; returns the whole network."""
    (folder / "text").write_text("abcdefgh" * 50)
    settings = (f"text={folder / 'text'}", "width=8", "heads=2", "depth=2", "context=6", *args)
    task = create(name, settings)
    task.data(None)
    network = nn.Sequential(*task.layers())
    save_part(folder, 0, 0, network[:2])
    save_part(folder, 1, 2, nn.Sequential(*network[2:]))
    save_files(folder, task.files)
    summary = {
        "settings": TrainConfig.of(task=name, task_args=settings).as_json(),
        "facts": dict(task.metadata),
        "stages": [{}, {}],
        "engine": "decoupled",
        "task": name,
        "seed": 0,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return network.eval()


def test_a_gpt_sees_its_context_and_then_the_last_half_of_it_and_what_follows(tmp_path: Path) -> None:
    network = untrained_gpt(tmp_path, "gpt-char")
    model, text = generator_of(tmp_path), torch.randint(0, 8, (1, 9))
    torch.testing.assert_close(model.next_logits(text[:, :2]), network(text[:, :2])[0, -1])
    for end, start in ((3, 0), (4, 0), (5, 0), (6, 0), (7, 4), (8, 4), (9, 4)):
        logits = model.next_logits(text[:, end - 1 : end])
        torch.testing.assert_close(logits, network(text[:, start:end])[0, -1])


@pytest.mark.parametrize(("name", "args"), [("gpt-char", ()), ("gpt-bpe", ("symbols=260",))])
def test_a_gpt_continues_a_prompt_that_is_longer_than_its_context(
    tmp_path: Path, name: str, args: tuple[str, ...]
) -> None:
    untrained_gpt(tmp_path, name, *args)
    text = generate(generator_of(tmp_path), config(prompt="abcdefghabc", length=9))
    assert text.startswith("abcdefghabc") and len(text) >= 12


def test_a_gpt_on_byte_pairs_needs_its_text_no_more(tmp_path: Path) -> None:
    untrained_gpt(tmp_path, "gpt-bpe", "symbols=260")
    before = generate(generator_of(tmp_path), config(prompt="Grüße ab"))
    (tmp_path / "text").unlink()
    assert generate(generator_of(tmp_path), config(prompt="Grüße ab")) == before
    assert before.startswith("Grüße ab")


def test_a_gpt_on_byte_pairs_trained_in_two_stages_continues_its_text(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("abcdefgh" * 300)
    args = (f"text={tmp_path / 'text'}", "symbols=260", "width=32", "depth=1", "context=16", "windows=160")
    settings = TrainConfig.of(task="gpt-bpe", task_args=args, epochs=3, lr=1e-2, batch_size=8, cut="1")
    with Job(settings, create("gpt-bpe", args), 2, tmp_path) as job:
        assert job.statuses() == [0, 0], job.lines()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["final"]["test_bits_per_byte"] < 0.3
    (tmp_path / "text").unlink()
    text = generate(generator_of(tmp_path / "run"), config(prompt="abcdefgh", length=9, temperature=0))
    assert len(text) > 17 and ("abcdefgh" * 10).startswith(text)


@pytest.mark.parametrize("symbols", [260, 261], ids=["as large", "larger"])
def test_a_tokenizer_that_does_not_fit_the_weights_is_refused(tmp_path: Path, symbols: int) -> None:
    untrained_gpt(tmp_path, "gpt-bpe", "symbols=260")
    (tmp_path / "other").write_text("hgfedcba" * 50)
    other = create("gpt-bpe", [f"text={tmp_path / 'other'}", f"symbols={symbols}", "context=6"])
    other.data(None)
    (tmp_path / "files" / "tokenizer.json").write_bytes(other.files["tokenizer.json"])
    with pytest.raises(
        UserError, match=rf"has {symbols} symbols and is not the one .* trained with \(of 260\)"
    ):
        generator_of(tmp_path)
    (tmp_path / "files" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"there is no .*tokenizer.json, which the run wrote when it began"):
        generator_of(tmp_path)


def test_a_text_of_another_vocabulary_is_refused(stack: Path) -> None:
    text = stack / "text"
    before = text.read_text()
    text.write_text("abc" * 800)
    try:
        with pytest.raises(
            UserError, match=r"the text has 3 different symbols, and the model in .* one of 8"
        ):
            generator_of(stack / "run")
    finally:
        text.write_text(before)


def test_the_same_seed_gives_the_same_text() -> None:
    trained = untrained()
    assert generate(trained, config(seed=1)) == generate(trained, config(seed=1))
    assert generate(trained, config(seed=1)) != generate(trained, config(seed=2))


def test_generated_text_begins_with_the_prompt_and_has_the_asked_length() -> None:
    text = generate(untrained(), config())
    assert text.startswith("ab") and len(text) == 32 and set(text) <= set("abc")
    assert len(generate(untrained(), config(prompt=""))) == 30


def test_generated_words_are_separated_by_spaces() -> None:
    task = WordLM(width=8, layers=1)
    speaker = sequence_generator(Trained(task, task.model(3), ("a", "bb", "<unk>")))
    text = generate(speaker, config(prompt="bb never", length=5))
    assert text.startswith("bb never ") and len(text.split()) == 7


def test_a_prompt_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="'x' is not in the vocabulary of 3"):
        generate(untrained(), config(prompt="ax"))


def test_tasks_that_are_no_language_models_are_refused() -> None:
    with pytest.raises(UserError, match="copy is not a language model"):
        sequence_generator(Trained(Copy(), Copy().model(0), ()))


@pytest.mark.parametrize(
    ("setting", "value"), [("length", 0), ("temperature", -1.0), ("temperature", float("nan"))]
)
def test_wrong_settings_are_refused(setting: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{setting} is"):
        config(**{setting: value})


@pytest.mark.parametrize(
    "arguments",
    [
        ("launch.generate", "--run", "nowhere"),
        ("launch.train", "--task", "copy", "--bptt", "0"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments: tuple[str, ...]) -> None:
    ended = run(*arguments)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.splitlines() == our_lines(ended.stderr) and len(our_lines(ended.stderr)) == 1


def test_an_empty_name_of_a_run_is_not_the_working_folder() -> None:
    with pytest.raises(UserError, match="run is empty; give a value"):
        GenerateConfig(run="")


def test_a_tiny_temperature_takes_the_likeliest() -> None:
    texts = [generate(untrained(), config(temperature=temperature)) for temperature in (0, 1e-45, 1e-7)]
    assert len(set(texts)) == 1


def test_a_prompt_that_is_no_text_is_one_line() -> None:
    with pytest.raises(UserError, match="which is no text in UTF-8; give another one"):
        config(prompt="a\udcff")
