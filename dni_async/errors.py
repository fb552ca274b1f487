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
