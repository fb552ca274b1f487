"""People and torchrun come in here: a task is bound to workers, runs are reported."""
