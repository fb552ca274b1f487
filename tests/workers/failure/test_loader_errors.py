"""The error of a worker of a DataLoader has its own line, place and traceback."""

from __future__ import annotations

import re

import pytest
from torch._utils import ExceptionWrapper

from dni_async.errors import UserError
from workers.failure.errors import at_position, format_error, is_unexpected
from workers.failure.loader_errors import LoaderError, original_error


class Odd(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and\n  {second}")


def fails(kind: str) -> None:
    if kind == "key":
        {}["dim"]
    if kind == "odd":
        raise Odd(1, 2)
    if kind == "user":
        raise UserError("the file is empty; give another")
    try:
        {}["dim"]
    except KeyError as error:
        raise UserError("a sample is None; give tensors") from error


def raised_by_torch(kind: str) -> Exception:
    """What a DataLoader raises when this fails in its worker."""
    try:
        fails(kind)
    except Exception:
        wrapper = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(Exception) as error:
        wrapper.reraise()
    return error.value


@pytest.mark.parametrize(
    ("kind", "line"), [("key", "KeyError: 'dim'"), ("odd", "Odd: 1 and 2")], ids=["built-in", "of the user"]
)
def test_an_error_of_a_worker_is_reported_with_type_text_and_place(kind: str, line: str) -> None:
    error = original_error(raised_by_torch(kind))
    assert isinstance(error, LoaderError) and str(error) == line
    reported = at_position(error, "stage 0 (rank 0), after step 3")
    reported.__cause__ = error
    place = re.escape("tests/workers/failure/test_loader_errors.py") + r":\d+ in fails\(\)"
    assert re.fullmatch(
        rf"stage 0 \(rank 0\), after step 3: {re.escape(line)} \({place}\)", format_error(reported)
    )
    assert is_unexpected(reported)
    assert ", in fails\n" in str(error.__cause__)


def test_bad_input_stays_bad_input_and_names_the_place_of_its_cause() -> None:
    error = original_error(raised_by_torch("user"))
    assert isinstance(error, UserError) and str(error) == "the file is empty; give another"
    error = original_error(raised_by_torch("cause"))
    assert isinstance(error, UserError)
    assert re.fullmatch(r"a sample is None; give tensors \(.*:\d+ in fails\(\)\)", format_error(error))


def test_an_error_of_this_process_stays_as_it_is() -> None:
    error = KeyError("dim")
    assert original_error(error) is error
