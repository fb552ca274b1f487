"""The ranks of a pipeline: those of the process group that the user's script has made."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage

from dni_async.errors import UserError
from workers.coordination.rendezvous import Rendezvous
from workers.coordination.signing import secret_from_env


def join_group(stage: PipelineStage, timeout: float) -> Rendezvous:
    """Return the rendezvous of the ranks of the stage's group, in the store that this group has met by.

    Args:
        timeout: seconds that an operation on the store may take.

    Raises UserError if the stages are not one per rank, in order.
    """
    if stage.group_size != stage.num_stages or stage.group_rank != stage.stage_index:
        raise UserError(
            f"rank {stage.group_rank} of {stage.group_size} has stage {stage.stage_index} of "
            f"{stage.num_stages}; ScheduleDNI runs stage i of n on rank i of n"
        )
    ranks = dist.get_process_group_ranks(stage.group or dist.group.WORLD)
    store = dist.distributed_c10d._get_default_store().clone()  # type: ignore[attr-defined]
    store.set_timeout(timedelta(seconds=timeout))
    name = f"dni_async/{hashlib.sha256(str(ranks).encode()).hexdigest()[:16]}"
    number = store.add(f"{name}/{stage.stage_index}", 1)  # of the schedules of this group
    own = dist.PrefixStore(f"{name}/{number}", store)
    return Rendezvous(stage.stage_index, stage.num_stages, 0, 1, own, secret=secret_from_env())
