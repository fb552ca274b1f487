"""All engines by name: one entry each, with what a job must know of an engine before it runs.

engine        processes   network in a process   batches read in     code
decoupled     stages      its layers             process 0           launch.engines.decoupled
backprop      1           whole                  process 0           launch.engines.backprop
backprop-all  1           whole                  process 0           launch.engines.backprop
ddp           stages      whole                  each its part       launch.engines.ddp
copies        stages      whole                  each all of them    launch.engines.independent
gpipe, 1f1b,  stages      its layers             each all            launch.engines.pipelining
zb
dni-local     1           whole                  process 0           launch.engines.wrapper
cdni-local    1           whole                  process 0           launch.engines.wrapper
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dni_async.errors import UserError
from dni_async.plugins import load_module
from dni_async.rules.registry import RULES, capabilities_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What an engine can do, and where its code is."""

    module: str = ""
    """Has `run(context, recorder)`, which trains and returns the layers that this rank saves (None: none). It
    is imported when the job runs, so that one engine need not wait for what another one imports."""
    processes: int | None = None
    """How many it takes; None for as many as there are stages."""
    together: bool = False
    """Whether it makes no sense in one process."""
    uses_rule: bool = False
    """Whether stages get their gradients by `--rule`, whose capabilities then count."""
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
    scales_loss: bool = False
    """Whether it trains by `Updater.scaled` losses, as fp16 needs it."""
    all_cores: bool = False
    """Whether `threads` is overruled: one thread per core that the job may use."""
    plot_style: tuple[str, str] | None = None
    """Colour and marker (of matplotlib) in pictures; None takes any that are free. The colours are those
    of Okabe and Ito, which colour-blind people can distinguish, the yellow darker."""

    def processes_text(self, count: int) -> str:
        """Return `2 stages` if each process holds a stage, else `2 processes`, or `1 process`."""
        one, more = ("stage", "stages") if self.cut else ("process", "processes")
        return f"{count} {one if count == 1 else more}"


_WHOLE = Engine(processes=1, carries=True, compiles=True, scales_loss=True)
_TORCH_PIPELINE = Engine(
    module="launch.engines.pipelining", together=True, cut=True, everybody_reads=True, scales_loss=True
)
_REPLICAS = Engine(together=True, everybody_reads=True, compiles=True, scales_loss=True)

ENGINES = {
    "decoupled": Engine(
        module="launch.engines.decoupled",
        uses_rule=True,
        cut=True,
        carries=True,
        compiles=True,
        scales_loss=True,
    ),
    "backprop": replace(_WHOLE, module="launch.engines.backprop", plot_style=("#4d5866", "o")),
    "backprop-all": replace(
        _WHOLE, module="launch.engines.backprop", all_cores=True, plot_style=("#a3adb8", "s")
    ),
    "ddp": replace(_REPLICAS, module="launch.engines.ddp", shares_batches=True, plot_style=("#e69f00", "^")),
    "gpipe": replace(_TORCH_PIPELINE, plot_style=("#009e73", "v")),
    "1f1b": replace(_TORCH_PIPELINE, plot_style=("#56b4e9", "D")),
    "zb": replace(_TORCH_PIPELINE, plot_style=("#2b6f77", "8")),
    "copies": replace(_REPLICAS, module="launch.engines.independent", carries=True),
    "dni-local": Engine(module="launch.engines.wrapper", processes=1),
    "cdni-local": Engine(module="launch.engines.wrapper", processes=1),
}

BASELINES = tuple(name for name, engine in ENGINES.items() if not engine.uses_rule)
"""Engines that are no rule of decoupled stages."""


def find_engine(name: str) -> Engine:
    """Return the engine of this name, or of the module at a dotted path such as my_pkg.my_engine.

    That module has `run(context, recorder)`, and may declare `engine = Engine(...)`; without, the engine runs
    in one process.

    Raises:
        UserError: there is no such engine.
    """
    if name in ENGINES:
        return ENGINES[name]
    if not is_engine_path(name):
        if name in RULES:
            raise UserError(f"{name} is a rule, not an engine; use --rule {name}")
        known = ", ".join(ENGINES)
        raise UserError(f"unknown engine ({name}); use one of {known}, or your own as my_pkg.my_engine")
    module = load_module(name, "engine")
    if not callable(getattr(module, "run", None)):
        raise UserError(f"engine module has no run(context, recorder) ({name}): define it there")
    engine = getattr(module, "engine", Engine(processes=1))
    if not isinstance(engine, Engine):
        raise UserError(f"engine is of type {type(engine).__name__} ({name}): make it an Engine(...)")
    return replace(engine, module=name)


def is_engine_path(name: str) -> bool:
    """Whether this is the dotted path of a module, not of a rule's class."""
    return "." in name and ":" not in name


def engine_label(name: str) -> str:
    """Return the name of an engine in tables and files: of a dotted path, the last part."""
    return name.rpartition(".")[2] if is_engine_path(name) else name


def plot_styles() -> dict[str, tuple[str, str]]:
    """Return (colour, marker) of the engines and rules that have one of their own."""
    engines = {name: engine.plot_style for name, engine in ENGINES.items()}
    rules = {name: capabilities_of(name).plot_style for name in RULES}
    return {name: style for name, style in (engines | rules).items() if style}
