"""Entry points, one file per command; they bind a task to workers and report what came out.

command ─► config ─► local (starts ranks without torchrun) ─► job (one rank) ─► engines ─► report
planning: what `launch.plan` predicts    recurrent: tasks over time in one process

A command that is stopped while torch is imported, which takes seconds, must end with one line instead of a
traceback, and so must one that runs beside a package called tasks; hence the calls below. The wheel has the
packages inside dni_async (see setup.py), where nothing hides them.
"""

import os
import sys

from launch.hidden_packages import describe_hidden

_IS_COMMAND = sys.argv[0] == "-m" or os.path.basename(sys.argv[0]) == "dni-async"

if __name__ == "launch" and (line := describe_hidden()):
    if not _IS_COMMAND:
        raise ImportError(line)
    if os.environ.get("RANK", "0") == "0":
        print(f"dni-async: {line}", file=sys.stderr)
    sys.exit(2)

from workers.failure.signals import stop_quietly  # noqa: E402

if _IS_COMMAND:
    stop_quietly()
