"""A command line becomes a configuration, or one line that says what is wrong with it."""

import dataclasses
import io
import os
import re
import sys

import pytest

from dni_async.errors import UserError
from dni_async.networks.settings import LocalConfig, SGConfig
from launch.config.command_line import parse, task_name
from launch.config.compare import CompareConfig
from launch.config.train import TrainConfig

BOX = re.compile("[─-╿]")


def complaint(cls, *arguments):
    with pytest.raises(UserError) as error:
        parse(cls, "launch.train", arguments)
    return str(error.value)


def test_options_arrive_in_the_configuration_the_nested_ones_too():
    line = "--task digits-fcn --task-args depth=3 width=32 --epochs 2 --lr 0.01 --clip-norm 1 --rule dni"
    sg = "--sg.kind mlp --sg.rank 0 --sg.hidden 16 --sg.lr 0.1"
    lists = "--milestones 0.5 0.9 --optimizer-args eps=1e-6"
    config = parse(TrainConfig, "launch.train", f"{line} {sg} {lists} --deterministic".split())
    assert config == TrainConfig.of(
        task="digits-fcn",
        task_args=("depth=3", "width=32"),
        epochs=2,
        lr=0.01,
        clip_norm=1.0,
        rule="dni",
        sg=SGConfig(kind="mlp", rank=0, hidden=16, lr=0.1),
        milestones=(0.5, 0.9),
        optimizer_args=("eps=1e-6",),
        deterministic=True,
    )


def test_no_options_mean_the_defaults():
    assert parse(TrainConfig, "launch.train", []) == TrainConfig.of()
    assert parse(CompareConfig, "launch.compare", []) == CompareConfig.of()


def test_the_arguments_of_the_process_are_the_default(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["launch.compare", "--engines", "dni", "cdni", "--repeats", "3"])
    config = parse(CompareConfig, "launch.compare")
    assert (config.engines, config.repeats) == (("dni", "cdni"), 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--epochs", "x"), ("--epochs", "'x'")),
        (("--epochs", "1.5"), ("--epochs", "'1.5'")),
        (("--lr",), ("--lr",)),
        (("--clip-norm", "much"), ("--clip-norm", "much")),
        (("--epoch", "3"), ("Unrecognized", "--epoch")),
        (("--no-such-option",), ("Unrecognized", "--no-such-option")),
        (("word",), ("Unrecognized", "word")),
        (("--epochs", "0"), ("epochs is 0; it must be at least 1",)),
        (("--optimizer", "adm"), ("unknown optimizer (adm); use one of adadelta, ", ", sgd;")),
        (
            ("--sg.kind", "deep"),
            ("unknown SG network (deep); use one of auto, linear, least-squares, mlp, conv, head",),
        ),
        (("--sg.rank", "-1"), ("sg.rank is -1; it must be at least 0",)),
        (("--transport", "x" * 300), (f"unknown transport ({'x' * 300}); use one of auto",)),
    ],
)
def test_a_bad_command_line_is_refused_in_one_line(arguments, words):
    line = complaint(TrainConfig, *arguments)
    for word in words:
        assert word in line
    assert line.endswith("; see launch.train --help")
    assert "\n" not in line and not BOX.search(line)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("arguments", [("--epoch", "3"), ("--epochs", "x"), ("--lr",)])
def test_the_line_is_the_same_where_boxes_cannot_be_drawn(arguments, encoding, monkeypatch):
    line = complaint(TrainConfig, *arguments)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert complaint(TrainConfig, *arguments) == line and "--" in line and "---" not in line


def test_nothing_is_printed_beside_the_one_line(capsys):
    complaint(TrainConfig, "--epochs", "x")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("cls", [TrainConfig, CompareConfig])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_shows_every_option_and_exits_with_status_0(cls, flag, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(cls, "launch.train", [flag])
    assert stop.value.code in (0, None)
    text = capsys.readouterr().out
    names = [name for name in cls.setting_names() if name not in ("sg", "local")]
    names += [f"sg.{field.name}" for field in dataclasses.fields(SGConfig)]
    names += [f"local.{field.name}" for field in dataclasses.fields(LocalConfig)]
    shown = set(re.findall(r"(?<=\s)--[\w.-]+", text))
    assert {f"--{name.replace('_', '-')}" for name in names} <= shown
    assert "Unrecognized" not in text


def test_help_fits_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    with pytest.raises(SystemExit):
        parse(TrainConfig, "launch.train", ["--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 90


@pytest.mark.parametrize("columns", ["72", None])
@pytest.mark.parametrize("arguments", [[], ["--epochs", "x"]])
def test_parsing_leaves_the_width_of_the_terminal_alone(columns, arguments, monkeypatch):
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    else:
        monkeypatch.delenv("COLUMNS", raising=False)
    if arguments:
        complaint(TrainConfig, *arguments)
    else:
        parse(TrainConfig, "launch.train", arguments)
    assert os.environ.get("COLUMNS") == columns


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("--task copy --bptt 4", "copy"),
        ("--epochs 3 --task=tasks.sequence.copying:RepeatCopy", "tasks.sequence.copying:RepeatCopy"),
        ("--task-args depth=2 --task mnist-fcn --rule cdni", "mnist-fcn"),
        ("--rule cdni", None),
        ("--rule cdni --task", None),
        ("--task --rule cdni", None),
    ],
)
def test_the_name_of_the_task_is_read_before_all_other_options(line, name):
    assert task_name(line.split()) == name
