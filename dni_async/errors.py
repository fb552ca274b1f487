"""The two ways in which a run ends early: bad input, or a failure."""

from collections.abc import Sequence


class UserError(ValueError):
    """Bad input. The message is one line: what was wrong, the value, what to do. Exit status 2."""

    status = 2


class StageError(RuntimeError):
    """A run has failed. The message names the stage, the step and the cause. Exit status 1."""

    status = 1


class Late(StageError):
    """A wait that has reached its deadline. `peers`: ranks that were waited for, as far as is known."""

    def __init__(self, message: str, peers: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.peers = tuple(peers)


class StageCrash(StageError):
    """The stage itself has failed, not a neighbour; a restart may help."""


def cause_of(error: Exception) -> str:
    """Return the first line of the error, with its type unless that is one of a message for people."""
    name, text = type(error).__name__, str(error).strip()
    if not text:
        return name
    says_it_all = isinstance(error, RuntimeError | ValueError | TypeError)
    return text.splitlines()[0] if says_it_all else f"{name}: {text.splitlines()[0]}"
