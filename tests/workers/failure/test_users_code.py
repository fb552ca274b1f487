"""The place in a user's code that an error comes from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from dni_async.errors import StageError, UserError
from launch.report.files import keep_lines
from workers.failure.errors import at_position, format_error, is_unexpected
from workers.failure.users_code import place_of, root_cause

HERE = os.path.relpath(__file__)


def missing_key() -> None:
    {}["dim"]


def inside_torch() -> None:
    nn.Linear(2, 2)(torch.zeros(1, 3))


def inside_the_standard_library() -> None:
    json.loads("{")


def explained() -> None:
    try:
        missing_key()
    except KeyError as error:
        raise UserError("the file has no dim; make it again") from error


def written_for_the_user() -> None:
    raise UserError("no pictures here; name another folder")


def caught(function: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as failure:
        function()
    return failure.value


@pytest.mark.parametrize(
    ("function", "place"),
    [
        (missing_key, "missing_key()"),
        (inside_torch, "inside_torch()"),
        (inside_the_standard_library, "inside_the_standard_library()"),
        (explained, "missing_key()"),
    ],
)
def test_the_place_is_the_innermost_line_of_the_users_code(
    function: Callable[[], object], place: str
) -> None:
    file, _, rest = place_of(caught(function)).partition(":")
    assert file == HERE
    line, _, name = rest.partition(" in ")
    assert name == place and int(line) > 1


def test_an_error_within_this_program_has_no_place(tmp_path: Path) -> None:
    error = caught(lambda: keep_lines(tmp_path, bool))  # a folder in the place of a file
    while error.__traceback__ and error.__traceback__.tb_frame.f_code.co_name != "keep_lines":
        error.__traceback__ = error.__traceback__.tb_next  # without the test, which calls it
    assert error.__traceback__ and place_of(error) == ""


def test_the_line_of_an_error_has_type_text_and_place() -> None:
    error = caught(missing_key)
    assert format_error(error) == f"KeyError: 'dim' ({place_of(error)})"
    assert is_unexpected(error)


def test_the_line_of_a_stage_has_its_position_too() -> None:
    error = caught(missing_key)
    stage = at_position(error, "stage 1 (rank 1), at step 7")
    stage.__cause__ = error
    assert format_error(stage) == f"stage 1 (rank 1), at step 7: KeyError: 'dim' ({place_of(error)})"
    assert is_unexpected(stage)


def test_a_line_that_the_users_code_wrote_for_people_stays_as_it_is() -> None:
    error = caught(written_for_the_user)
    assert format_error(error) == "no pictures here; name another folder"
    assert not is_unexpected(error)


def test_a_failure_that_this_program_explains_is_expected() -> None:
    error = StageError("stage 1 is gone")
    error.__cause__ = RuntimeError("connection reset")
    assert not is_unexpected(error)
    assert not is_unexpected(UserError("x is 0; it must be positive"))


def test_causes_that_form_a_circle_end() -> None:
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    assert root_cause(first) is second
