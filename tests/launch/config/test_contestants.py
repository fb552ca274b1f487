"""The contestants of a comparison, and what a user may get wrong about variants."""

from __future__ import annotations

from pathlib import Path

import pytest

from dni_async.errors import UserError
from launch.config.contestants import Contestant, parse_comparison
from launch.local.comparison import check_folders


def parsed(*arguments: str) -> list[Contestant]:
    return parse_comparison("launch.compare", arguments)[1]


def test_every_engine_is_a_contestant_with_the_settings_of_all() -> None:
    found = parsed("--engines", "backprop", "cdni", "--lr", "0.5")
    assert [(each.label, each.engine, each.setting) for each in found] == [
        ("backprop", "backprop", {}),
        ("cdni", "cdni", {}),
    ]
    assert {each.config.optimizer.lr for each in found} == {0.5}


def test_a_variant_has_settings_of_its_own_beside_those_of_all() -> None:
    variants = (
        "cdni",
        "cdni sg.rank=16 sg.kind=linear",
        "cdni target-every=4 lr=2e-3",
        "1f1b micro_batches=8",
    )
    found = parsed("--epochs", "2", "--variants", *variants)
    assert [each.label for each in found] == [*variants[:3], "1f1b micro-batches=8"]
    jobs = [each.job(Path("out")) for each in found]
    assert [job.engine_name for job in jobs] == ["cdni", "cdni", "cdni", "1f1b"]
    assert [job.sg.rank for job in jobs] == [None, 16, None, None]
    assert [job.optimizer.lr for job in jobs] == [1e-3, 1e-3, 2e-3, 1e-3]
    assert [job.partition.target_every for job in jobs] == [1, 1, 4, 1]
    assert [job.partition.micro_batches for job in jobs] == [0, 0, 0, 8]
    assert {job.task.epochs for job in jobs} == {2}


def test_a_value_of_several_words_is_quoted() -> None:
    (one,) = parsed("--variants", "cdni 'task-args=width=8 depth=3' stages=3")
    job = one.job(Path("out"))
    assert (job.task.task_args, job.partition.stages) == (("width=8", "depth=3"), 3)


def test_a_variant_of_an_engine_of_ones_own_is_called_by_its_class() -> None:
    (one,) = parsed("--variants", "dni_async.rules.local:LocalRule lr=0.5")
    assert (one.label, one.engine) == ("LocalRule lr=0.5", "dni_async.rules.local:LocalRule")


@pytest.mark.parametrize(
    ("variants", "line"),
    [
        (("cdni", "cdni"), "engine cdni is given twice; name it once"),
        (
            ("cdni lr=0.1 epochs=2", "dni", "cdni epochs=2 lr=1e-1"),
            "variants cdni lr=0.1 epochs=2 and cdni epochs=2 lr=1e-1 are the same; leave one of them out",
        ),
        (("cdni", "cdni target-every=1"), "variants cdni and cdni target-every=1 are the same"),
        (("",), "variant is empty; write ENGINE NAME=VALUE ..., such as 'cdni target-every=4 lr=2e-3'"),
        (("lr=1",), "variant is lr=1; write ENGINE"),
        (("cdni lr",), "variant is cdni lr; write ENGINE"),
        (("cdni lr=1 lr=2",), "variant is cdni lr=1 lr=2; write ENGINE"),
        (("cdni 'lr=1",), "variant is cdni 'lr=1; write ENGINE"),
        (("magic lr=1",), "unknown engine (magic); use one of backprop,"),
        (("cdni magic=1",), "variant cdni magic=1: Unrecognized options: --magic"),
        (("cdni lr=much",), "variant cdni lr=much: Error parsing --lr"),
        (("cdni lr=-1",), "variant cdni lr=-1: lr is -1.0; it must be positive"),
        (("cdni out=runs/a",), "variant cdni out=runs/a sets out, which variants cannot; leave it out"),
        (("cdni task=digits-fcn",), "variant cdni task=digits-fcn sets task, which variants cannot"),
        (("cdni", "--engines", "dni"), "engines and variants are both given; name the engines among the"),
    ],
)
def test_wrong_variants_are_one_line(variants: tuple[str, ...], line: str) -> None:
    with pytest.raises(UserError) as error:
        parsed("--variants", *variants)
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("variants", "words"),
    [
        (("cdni init=a/b", "cdni init=a_b"), "cdni init=a/b and cdni init=a_b have the same folder"),
        (
            ("cdni", f"cdni init={'a' * 300}"),
            "is longer than the 255 bytes of a folder's name",
        ),
    ],
)
def test_variants_need_folders_of_their_own(tmp_path: Path, variants: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_folders(parsed("--variants", *variants), tmp_path)
