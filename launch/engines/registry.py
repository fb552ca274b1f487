"""Every engine: how many processes it takes, what each of them needs, and where its code is.

engine        processes   network in a process   batches read in     code
decoupled     stages      its layers             process 0           launch.engines.decoupled
backprop      1           whole                  process 0           launch.engines.backprop
backprop-all  1           whole                  process 0           launch.engines.backprop
ddp           stages      whole                  each its part       launch.engines.ddp
copies        stages      whole                  each all of them    launch.engines.independent
gpipe, 1f1b   stages      its layers             each all            launch.engines.pipelining
dni-local     1           whole                  process 0           launch.engines.wrapper
cdni-local    1           whole                  process 0           launch.engines.wrapper
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What a job has to know of an engine before it runs."""

    module: str
    """Has `run(context, recorder)`, which trains and returns the layers that this rank saves (None: none). It
    is imported when it runs: what one engine needs, the others need not wait for."""
    processes: int | None = None
    """None: as many as there are stages."""
    together: bool = False
    """Whether it makes no sense in one process."""
    cut: bool = False
    """Whether each process holds a stage of the network, not all of it."""
    everybody_reads: bool = False
    """Whether every process reads the data, not only the first."""
    shares_batches: bool = False
    """Whether every process trains on its part of each batch's rows, not on all of them."""
    carries: bool = False
    """Whether layers may carry state from batch to batch: whole batches go through each of them in order."""
    compiles: bool = False
    """Whether its layers are one module that torch.compile may have."""
    all_cores: bool = False
    """Whether `threads` is overruled: one thread per core that the job may use."""

    def run(self, context: Any, recorder: Any) -> Any:
        """Train as this rank of the job; see `run` of the engine's module."""
        return import_module(self.module).run(context, recorder)


ENGINES = {
    "decoupled": Engine(module="launch.engines.decoupled", cut=True, carries=True, compiles=True),
    "backprop": Engine(module="launch.engines.backprop", processes=1, carries=True, compiles=True),
    "backprop-all": Engine(
        module="launch.engines.backprop", processes=1, carries=True, compiles=True, all_cores=True
    ),
    "ddp": Engine(
        module="launch.engines.ddp",
        together=True,
        everybody_reads=True,
        shares_batches=True,
        compiles=True,
    ),
    "gpipe": Engine(module="launch.engines.pipelining", together=True, cut=True, everybody_reads=True),
    "1f1b": Engine(module="launch.engines.pipelining", together=True, cut=True, everybody_reads=True),
    "copies": Engine(
        module="launch.engines.independent", together=True, everybody_reads=True, carries=True, compiles=True
    ),
    "dni-local": Engine(module="launch.engines.wrapper", processes=1),
    "cdni-local": Engine(module="launch.engines.wrapper", processes=1),
}

BASELINES = tuple(name for name in ENGINES if name != "decoupled")
"""Engines that are no rule of decoupled stages."""
