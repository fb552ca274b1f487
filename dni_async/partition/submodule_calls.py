"""Calls of submodules that stand behind one operator while the code around them is traced.

The operator looks like a single step to torch.export. A submodule keeps its Python code, its hooks and its
two modes, and may do in them what cannot be traced.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import SymInt, Tensor, nn
from torch.utils import _pytree as pytree

from dni_async.errors import UserError
from dni_async.partition.symbolic_sizes import RUNS, SymbolicSizes

_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device, torch.layout)
"""Types of the arguments that a graph can hold."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of tensor or size number `index` in the arguments or the output of a call."""

    kind: type
    index: int


@dataclass(slots=True)
class Call:
    """One call of a submodule. `arguments` and `output` have slots where tensors and sizes were."""

    name: str
    submodule: nn.Module
    arguments: Any
    output: Any = None

    def fill(self, tree: Any, tensors: Sequence[Any], sizes: Sequence[Any] = ()) -> Any:
        """Return `arguments` or `output` with these tensors and sizes in the slots."""
        values = {Tensor: tensors, SymInt: sizes}
        return pytree.tree_map(
            lambda leaf: values[leaf.kind][leaf.index] if type(leaf) is Slot else leaf, tree
        )

    def split(self, tree: Any, what: str, *containers: type) -> tuple[Any, list[Tensor], list[SymInt]]:
        """Return the tree with slots in place of tensors and sizes, the tensors, and the sizes."""
        values: dict[type, list[Any]] = {Tensor: [], SymInt: []}
        inner = (dict, list, tuple, *containers)

        def slot(leaf: Any) -> Any:
            for kind, found in values.items():
                if isinstance(leaf, kind):
                    found.append(leaf)
                    return Slot(kind, len(found) - 1)
            if not isinstance(leaf, _PLAIN):
                raise UserError(
                    f"submodule {self.name} {what} a {type(leaf).__name__}, which no layer can hand on; "
                    "switch this off in the model (such as use_cache), or choose other split points"
                )
            return leaf

        tree = pytree.tree_map(slot, tree, is_leaf=lambda part: type(part) not in inner)
        return tree, values[Tensor], values[SymInt]


@dataclass(slots=True)
class Recording:
    """The calls of submodules, in order, and the sizes of the model's inputs."""

    calls: list[Call] = field(default_factory=list)
    sizes: SymbolicSizes | None = None
    """Set when the model is called."""

    def replace_forward(self, submodules: Mapping[str, nn.Module]) -> None:
        """Put all calls of these submodules behind the operator, for good."""
        for name, module in submodules.items():
            try:
                inner = copy.copy(module)  # with the hooks
            except Exception as error:  # parametrizations refuse
                cause = str(error).partition("\n")[0]
                raise UserError(f"submodule {name} cannot be copied ({cause})") from error
            for attribute, value in vars(module).items():
                if attribute.endswith("_hooks"):
                    vars(module)[attribute] = type(value)()
            module.forward = self._single_call(name, inner)

    def _single_call(self, name: str, submodule: nn.Module) -> Callable[..., Any]:
        def record(*args: Any, **kwargs: Any) -> Any:
            call = Call(name, submodule, None)
            call.arguments, tensors, sizes = call.split((args, kwargs), "is called with")
            self.calls.append(call)
            outputs = torch.ops.dni_async.call_submodule(tensors, sizes, len(self.calls) - 1)
            return call.fill(call.output, outputs)

        return record


_recording: ContextVar[Recording] = ContextVar("of the model that is being traced")

torch.library.define("dni_async::call_submodule", "(Tensor[] tensors, SymInt[] sizes, int call) -> Tensor[]")


@torch.library.register_fake("dni_async::call_submodule")
def _run_submodule(tensors: list[Tensor], sizes: list[SymInt], call: int) -> list[Tensor]:
    """Return tensors like those that the submodule returns: without values, and with symbolic sizes."""
    this, table = _recording.get().calls[call], _recording.get().sizes
    assert table is not None
    runs = []
    for run in RUNS:
        real = [table.without_values(tensor, run) for tensor in tensors]
        args, kwargs = this.fill(this.arguments, real, [table.number(size, run) for size in sizes])
        output = this.submodule(*args, **kwargs)
        this.output, outputs, _ = this.split(output, "returns", type(output))
        runs.append(outputs)
    return [table.symbolic(first, second, tensors) for first, second in zip(*runs, strict=True)]


@contextmanager
def recorded_by(recording: Recording) -> Iterator[None]:
    """While open, the operator works on the calls of this recording.

    Raises:
        UserError: for any exception, in one line.
    """
    token, logged = _recording.set(recording), logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # torch.export logs its graph beside its error
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"its own forward cannot be recorded by torch.export ({_reason(error)})") from error
    finally:
        logging.disable(logged)
        _recording.reset(token)


def _reason(error: Exception) -> str:
    """Return the first line that says something in an error of torch.export."""
    if "data-dependent" in str(error):
        return "it decides by values of tensors, as in `if x.sum() > 0`"
    lines = (line.strip() for line in str(error).splitlines())
    return f"{type(error).__name__}: {next((line for line in lines if line), '')[:200]}"
