from __future__ import annotations

from dni_async.errors import StageError, UserError


def test_what_the_user_can_mend_ends_with_status_2_and_the_rest_with_1() -> None:
    assert (UserError("").status, StageError("").status) == (2, 1)
    assert isinstance(UserError(""), ValueError)
    assert not isinstance(StageError(""), ValueError)
