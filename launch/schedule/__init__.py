"""Decoupled stages in people's own loops around torch.distributed.pipelining.

group ─► schedule (one stage per rank, a call per batch) ─► interfaces, rule, labels (made in the first call)
"""

from launch.schedule.schedule import ScheduleDNI

__all__ = ["ScheduleDNI"]
