"""Arguments for functions of torch that not every release knows."""

from __future__ import annotations

from launch.torch_versions import known_arguments


def test_only_the_arguments_that_a_function_has_are_passed_to_it() -> None:
    def older(x: int, *, y: int = 0, **options: int) -> None:
        pass

    assert known_arguments(older, y=1, z=2) == {"y": 1}
