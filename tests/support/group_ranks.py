"""Ranks of a user's own script: real processes in one gloo group, each with its pipeline stage and a loop."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage

from tests.support import forks
from tests.support.forks import TEST_TIMEOUT_S
from workers.coordination.loopback import local_store

Work = Callable[[int], Any]
"""What a rank does; its result, plain values and tensors, goes to the test. A function of a module."""


def run_ranks(work: Work, ranks: int) -> list[Any]:
    """Return the result of every rank; of one that fails the line of its error, of one that dies None."""
    store = local_store()
    pipes = [forks.context().Pipe(duplex=False) for _ in range(ranks)]
    processes = [
        forks.context().Process(target=_rank, args=(work, rank, ranks, store.port, pipes[rank][1]))
        for rank in range(ranks)
    ]
    try:
        for process, (_, mouth) in zip(processes, pipes, strict=True):
            process.start()
            mouth.close()
        return [_hear(ear) for ear, _ in pipes]
    finally:
        for process, (ear, _) in zip(processes, pipes, strict=True):
            process.kill()
            process.join()
            process.close()
            ear.close()


def _hear(ear: Connection) -> Any:
    assert ear.poll(TEST_TIMEOUT_S), "a rank said nothing"
    try:
        return torch.load(io.BytesIO(ear.recv_bytes()))
    except EOFError:
        return None


def _rank(work: Work, rank: int, ranks: int, port: int, mouth: Connection) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=TEST_TIMEOUT_S)
    )
    try:
        result = work(rank)
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    content = io.BytesIO()  # tensors that are sent as they are lie in the memory of this process
    torch.save(result, content)
    mouth.send_bytes(content.getvalue())
    mouth.close()


def stage_of(layers: Sequence[nn.Module], rank: int, ranks: int) -> PipelineStage:
    """Return the stage of a rank: the layers in equal runs."""
    each = len(layers) // ranks
    end = len(layers) if rank == ranks - 1 else (rank + 1) * each
    module = nn.Sequential(*layers[rank * each : end])
    return PipelineStage(module, rank, ranks, torch.device("cpu"))
