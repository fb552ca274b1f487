from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dni_async.errors import UserError
from launch.config.plan import PlanConfig
from launch.planning.profile import load_profile
from tests.support.plans import BATCH, layer, network, profile

CONFIG = PlanConfig.of(batch_size=BATCH)


def refusal(path: Path, config: PlanConfig = CONFIG) -> str:
    with pytest.raises(UserError) as error:
        load_profile(path, config)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_saved_profile_is_read_back_as_it_was(tmp_path: Path) -> None:
    saved = profile(load=0.25, refused={"local": "why"})
    saved.save(tmp_path / "profile.json")
    assert load_profile(tmp_path / "profile.json", CONFIG) == saved


def test_a_missing_profile_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.json") == (
        f"cannot read the file ({tmp_path}/none.json): No such file or directory; "
        "measure a profile without --profile"
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "dni_async profile 0"}', "\x00\xff"])
def test_a_file_that_is_not_a_profile_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "foreign.json"
    path.write_text(text, encoding="latin-1")
    assert refusal(path) == f"{path} is no profile of launch.plan; measure one without --profile"


@pytest.mark.parametrize(
    "harm",
    [
        lambda told: told.pop("layers"),
        lambda told: told["layers"][0].pop("batch"),
        lambda told: told.update(new=1),
        lambda told: told.pop("settings"),
    ],
)
def test_a_damaged_profile_is_refused(harm: Callable[[dict[str, Any]], Any], tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    profile().save(path)
    told = json.loads(path.read_text())
    harm(told)
    path.write_text(json.dumps(told))
    assert refusal(path).startswith(f"profile {path} is damaged (")


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"task": "digits-fcn"}, "task mnist-fcn, not digits-fcn"),
        ({"batch_size": 32}, "batch_size 64, not 32"),
        ({"optimizer": "sgd"}, "optimizer adam, not sgd"),
        ({"task_args": ("width=9",)}, "task_args [], not ['width=9']"),
    ],
)
def test_a_profile_of_other_settings_is_refused(
    settings: dict[str, Any], difference: str, tmp_path: Path
) -> None:
    profile().save(tmp_path / "profile.json")
    told = refusal(tmp_path / "profile.json", PlanConfig.of(**{"batch_size": BATCH} | settings))
    assert told == (
        f"profile {tmp_path}/profile.json was measured with {difference}; measure one without --profile"
    )


def test_settings_that_no_cost_depends_on_may_differ(tmp_path: Path) -> None:
    profile().save(tmp_path / "profile.json")
    load_profile(tmp_path / "profile.json", PlanConfig.of(batch_size=BATCH, in_flight=9, epochs=3, lr=0.1))


def test_the_middle_layers_are_repeated_whole() -> None:
    """0 1 2 3 -> 0 | 1 2 | 1 2 | 1 2 | 3, with what lies behind each."""
    layers = [layer(name=str(i)) for i in range(4)]
    behind = [network(i, i) for i in range(3)]
    grown = profile(layers, interfaces={"dni 2": behind}).repeat(7)
    assert "".join(found.name for found in grown.layers) == "01212123"
    assert [found.cost.predict for found in grown.interfaces["dni 2"]] == [0, 1, 2, 1, 2, 1, 2]
    assert grown.repeated == 4


def test_a_network_that_is_deep_enough_stays_as_it_is() -> None:
    assert profile(5).repeat(3).layers == profile(5).layers


def test_two_layers_have_nothing_in_the_middle() -> None:
    with pytest.raises(UserError, match="a network of 2 layers has none in the middle to repeat"):
        profile(2).repeat(8)


def test_profiles_of_three_and_more_stages_have_the_same_networks() -> None:
    interfaces = {"dni 2": [network(2, 2)] * 7, "dni 3": [network(3, 3)] * 7}
    found = profile(interfaces=interfaces)
    assert [found.interfaces_of("dni", n)[0].cost.train for n in (2, 3, 4, 1024)] == [2, 3, 3, 3]


def test_a_rule_without_a_network_costs_nothing() -> None:
    assert [found.cost.total for found in profile().interfaces_of("delayed", 4)] == [0.0] * 7
