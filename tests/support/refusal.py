"""What a command must do with bad input: one line on stderr and exit status 2."""

from __future__ import annotations

from subprocess import CompletedProcess

BAD_INPUT = 2


def refusal_problem(done: CompletedProcess[str]) -> str:
    """Return what is wrong with the way in which a command refused bad input; "" when nothing is."""
    lines = done.stderr.splitlines()
    if done.returncode != BAD_INPUT:
        last = lines[-1] if lines else ""
        return f"status {done.returncode} instead of {BAD_INPUT}: {last[:200]}"
    if len(lines) != 1:
        return f"{len(lines)} lines instead of one: {done.stderr[-300:]}"
    if not lines[0].startswith("dni-async: "):
        return f"a line that is not ours: {lines[0][:200]}"
    if len(lines[0]) > 1000:
        return f"a line of {len(lines[0])} characters"
    return ""
