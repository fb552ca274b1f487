"""Entry points, one file per command; they bind a task to workers and report what came out.

command ─► config ─► local (starts ranks without torchrun) ─► job (one rank) ─► engines ─► report
planning: what `launch.plan` predicts    recurrent: tasks over time in one process

A command that is stopped while torch is imported, which takes seconds, must end with one line instead of a
traceback; hence the call below, which is not made where launch is imported as a library.
"""

import os
import sys

from workers.failure.signals import stop_quietly

if sys.argv[0] == "-m" or os.path.basename(sys.argv[0]) == "dni-async":
    stop_quietly()
