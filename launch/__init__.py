"""Entry points, one file per command; they bind a task to workers and report what came out.

command ─► config ─► local (starts ranks without torchrun) ─► job (one rank) ─► engines ─► report
planning: what `launch.plan` predicts    recurrent: tasks over time in one process
"""
