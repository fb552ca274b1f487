"""Jobs whose stages all run in this process."""

from __future__ import annotations

from typing import Any

import pytest

from dni_async.errors import UserError
from launch.config.train import TrainConfig
from launch.job.in_process import Run, train_in_process
from tests.support.tiny_task import Tiny, plain_layers


def learned(**settings: Any) -> Run:
    own = {"batch_size": 16, "epochs": 3, "lr": 3e-2, "deterministic": True, "rule": "delayed"}
    return train_in_process(TrainConfig.of(**own | settings), Tiny(plain_layers, train=160, test=40))


def test_the_same_settings_learn_the_same_and_one_stage_is_backprop() -> None:
    runs = [learned(stages=2), learned(stages=2), learned(stages=1), learned(stages=2, stash=1)]
    once, again, whole, in_turn = [run["curve"] for run in runs]
    assert once == again
    assert whole == in_turn  # with one batch in flight delayed gradients are those of backprop
    assert [(run["rule"], run["stages"]) for run in runs] == [
        ("delayed", 2),
        ("delayed", 2),
        ("backprop", 1),
        ("delayed", 2),
    ]
    assert len(once) == 3


def test_batches_in_flight_make_stages_run_ahead() -> None:
    runs = [learned(rule="cdni", stages=2, in_flight=n) for n in ("auto", 1, 8)]
    late = [run["staleness"][0] for run in runs]
    assert late[1] < late[2] and late[0] < late[2] and late[2] > 5


def test_an_engine_of_another_kind_is_refused() -> None:
    with pytest.raises(UserError, match="engine ddp does not train in one process; use --rule"):
        learned(engine="ddp")
