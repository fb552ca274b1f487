"""A comparison's settings, and what each contestant gets of them."""

from pathlib import Path

import pytest

from dni_async.errors import UserError
from dni_async.networks.settings import SGConfig
from launch.config.compare import CompareConfig


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"engines": ()}, "no engines given; name some, such as --engines backprop cdni"),
        ({"engines": ("dni", "ddpp")}, "unknown engine (ddpp); use one of backprop, "),
        ({"engines": ("dni", "dni")}, "engine dni is given twice; name it once"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"repeats": 0}, "repeats is 0; it must be at least 1"),
    ],
)
def test_bad_settings_are_one_line(settings, words):
    with pytest.raises(UserError) as error:
        CompareConfig.of(**settings)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_one_engine_and_a_transport_per_link_are_accepted():
    CompareConfig.of(engines=("backprop",), transport="shm,dist")


def comparison():
    return CompareConfig.of(
        task="digits-fcn",
        task_args=("depth=2",),
        epochs=7,
        seed=3,
        stages=2,
        cut="1",
        lr=0.01,
        sg=SGConfig(kind="mlp"),
        transport="dist",
        out="all",
        repeats=2,
    )


def test_backprop_competes_in_one_process_without_a_cut():
    job = comparison().job("backprop", Path("all/backprop"))
    assert (job.engine, job.engine_name, job.partition.stages, job.partition.cut) == (
        "backprop",
        "backprop",
        1,
        "",
    )


@pytest.mark.parametrize("rule", ["dni", "cdni", "delayed", "local", "frozen", "oracle"])
def test_a_rule_competes_with_all_stages(rule):
    job = comparison().job(rule, Path("all") / rule)
    assert (job.engine, job.rule, job.engine_name, job.partition.stages, job.partition.cut) == (
        "decoupled",
        rule,
        rule,
        2,
        "1",
    )


def test_repeats_share_the_seed_unless_it_shall_vary():
    config = comparison()
    assert [config.job("cdni", Path("one"), repeat).task.seed for repeat in range(3)] == [3, 3, 3]
    config.vary_seed = True
    assert [config.job("cdni", Path("one"), repeat).task.seed for repeat in range(3)] == [3, 4, 5]


@pytest.mark.parametrize("engine", ["backprop", "cdni"])
def test_all_other_settings_are_shared_by_the_contestants(engine):
    config = comparison()
    job = config.job(engine, Path("all/one"))
    own = {"stages", "cut", "out", "report", *("engines", "variants", "repeats", "vary_seed", "wan")}
    shared = {name: value for name, value in config.flat().items() if name not in own}
    assert shared == {name: value for name, value in job.flat().items() if name in shared}
    assert job.output.out == str(Path("all/one"))


@pytest.mark.parametrize(
    ("settings", "notes"),
    [
        (
            {"engines": ("backprop", "cdni", "gpipe", "delayed"), "clip_norm": 0.5},
            [
                "clip-norm 0.5 bounds the gradient of the whole network in backprop, gpipe, and "
                "that of each stage in cdni, delayed: these are different algorithms"
            ],
        ),
        ({"engines": ("backprop", "cdni")}, []),
        ({"engines": ("backprop", "gpipe"), "clip_norm": 0.5}, []),
        ({"engines": ("cdni", "delayed"), "clip_norm": 0.5}, []),
        ({"engines": ("backprop", "cdni"), "clip_norm": 0.5, "stages": 1}, []),
    ],
)
def test_a_comparison_notes_that_its_engines_clip_different_norms(settings, notes):
    assert CompareConfig.of(**settings).notes() == notes
