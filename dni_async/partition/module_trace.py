"""Graph of a model's own code, in which chosen submodules stay single calls.

    def forward(self, ids, mask):            input      ids, mask
        h = self.embed(ids)                  submodule  embed(ids)
        mask = mask[:, None, None, :]   ──►  function   unsqueeze, unsqueeze
        for block in self.blocks:            submodule  blocks.0(h, mask)
            h = block(h, mask)               submodule  blocks.1(h, mask)
        return self.head(h)                  submodule  head(h)

torch.export runs the model's `forward` with tensors of symbolic size, and does not look into the chosen
submodules (`submodule_calls.py`). The splitter of torch.distributed.pipelining, which records all of the
model, would fix the size of the batch and the mode.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree
from typing_extensions import override

from dni_async.errors import UserError
from dni_async.partition.deferred_init import CannotDefer
from dni_async.partition.other_lengths import size_limits
from dni_async.partition.submodule_calls import Call, Recording, Slot, recorded_by
from dni_async.partition.symbolic_sizes import SymbolicSizes

_CHECKS = ("aten._assert", "aten.sym_constrain", "aten._functional_assert", "aten._functional_sym")
"""Beginnings of the names of operators that only check sizes and types."""


def call_model(model: nn.Module, inputs: Any) -> Any:
    """Return `model(x)` for a tensor, `model(*x)` for a tuple or list, `model(**x)` for a dict."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


class _Called(nn.Module):
    """The model as a module of one argument and one result."""

    def __init__(self, model: nn.Module, select: Callable[[Any], Tensor], example: Any) -> None:
        super().__init__()
        self.model, self.select, self.example = model, select, example
        self.recording = Recording()

    @override
    def forward(self, inputs: Any) -> Tensor:
        self.recording.sizes = SymbolicSizes(self.example, inputs)
        return self.select(call_model(self.model, inputs))


def trace(
    model: nn.Module, submodules: Mapping[str, nn.Module], example: Any, select: Callable[[Any], Tensor]
) -> fx.Graph:
    """Return the graph of the model's code in its present mode (train or eval).

    Nodes: `placeholder` for the tensors of the example (`node.meta["limits"]`: of their sizes),
    `call_module` for the submodules, `get_attr` for weights, and `call_function`; `node.meta["val"]` has the
    value with symbolic sizes, and `node.meta["nn_module_stack"]` says whose code it is (names begin with
    "model."). Constants are in `node.meta["constant"]` of their `get_attr`.

    Args:
        model: is changed; give a copy.
        submodules: those of the model that stay single calls, by name.
        example: see `call_model`.
        select: returns the result among what the model returns.

    Raises:
        UserError: the code cannot be recorded.
    """
    varying = pytree.tree_map(_varying_sizes, example)
    called = _Called(model, select, example)
    called.recording.replace_forward(submodules)
    with recorded_by(called.recording):
        program = torch.export.export(called, (example,), dynamic_shapes=(varying,), strict=False)
    if any(spec.kind is not OutputKind.USER_OUTPUT for spec in program.graph_signature.output_specs):
        raise UserError("its own forward changes a buffer or an input, which layers cannot do")
    paths = [[_key(entry) for entry in path] for path, _ in pytree.tree_flatten_with_path(example)[0]]
    return _Converter(program, called.recording.calls, "train" if model.training else "eval", paths).convert()


def _varying_sizes(x: Tensor) -> dict[int, Any]:
    """Return the dimensions of an input that may change: the batch, and all of those of whole numbers."""
    return dict.fromkeys(range(1 if x.is_floating_point() else x.ndim), torch.export.Dim.AUTO)


class _Converter:
    """Makes the graph of a traced model from that of torch.export."""

    def __init__(
        self,
        program: torch.export.ExportedProgram,
        calls: Sequence[Call],
        mode: str,
        paths: Sequence[Sequence[Any]],
    ) -> None:
        self.program, self.calls, self.mode = program, calls, mode
        self.paths = iter(paths)
        self.graph = fx.Graph()
        self.env: dict[fx.Node, Any] = {}
        """New node of each node; for the call of a submodule the list of its tensors."""

    def convert(self) -> fx.Graph:
        new: Any
        inputs = {spec.arg.name: spec for spec in self.program.graph_signature.input_specs}
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                new = self.input_or_weight(inputs[node.name], node)
            elif self.changes_nothing(node):
                new = self.env[node.args[0]]
            elif node.target is torch.ops.dni_async.call_submodule.default:
                new = self.submodule(node)
            elif node.target is operator.getitem and isinstance(self.env[node.args[0]], list):
                new = self.env[node.args[0]][node.args[1]]
            elif node.op == "output":
                self.graph.output(self.new(node.args[0][0]))
                continue
            elif str(node.target).startswith(_CHECKS):
                continue
            elif isinstance(node.target, torch._ops.HigherOrderOperator):
                raise UserError(f"its own forward uses {node.target} (such as torch.no_grad() or autocast)")
            else:
                new = self.graph.node_copy(node, lambda old: self.env[old])
            if isinstance(new, fx.Node):
                new.meta = {
                    key: node.meta[key] for key in ("val", "nn_module_stack") if key in node.meta
                } | new.meta
            self.env[node] = new
        return self.graph

    def new(self, tree: Any) -> Any:
        return fx.node.map_arg(tree, lambda old: self.env[old])

    def input_or_weight(self, spec: Any, node: fx.Node) -> fx.Node:
        if spec.kind is InputKind.USER_INPUT:
            rows = node.meta["val"].shape[0]
            if str(rows).isdecimal():
                raise UserError(
                    f"its own forward works for batches of {rows} rows only; it may use len(x) or a fixed "
                    "number where it should use x.shape[0]"
                )
            ranges = self.program.range_constraints
            limits = [size_limits(size, ranges) for size in node.meta["val"].shape]
            _check_rows(*limits[0])
            new = self.graph.placeholder(node.name)
            new.meta |= {"path": next(self.paths), "limits": limits}
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            new = self.graph.get_attr(f"{spec.target}_{self.mode}")
            constant = new.meta["constant"] = self.program.constants[spec.target]
            if constant.is_meta:
                raise CannotDefer("the model's own code makes a constant beside a weight without memory")
        else:
            new = self.graph.get_attr(spec.target.removeprefix("model."))
        return new

    def changes_nothing(self, node: fx.Node) -> bool:
        """Whether a function returns its argument: a cast to the same type, or detaching a constant."""
        name = str(node.target)
        if name.startswith("aten.to.") and len(node.all_input_nodes) == 1:
            before, after = node.all_input_nodes[0].meta["val"], node.meta["val"]
            return (before.dtype, before.device) == (after.dtype, after.device)
        return name == "aten.detach_.default" and "lift_fresh" in str(node.all_input_nodes[0].target)

    def submodule(self, node: fx.Node) -> list[fx.Node]:
        """Add the call of a submodule; return the nodes of its output's tensors."""
        tensors, sizes, number = node.args
        call = self.calls[int(str(number))]
        args, kwargs = call.fill(call.arguments, self.new(tensors), self.new(sizes))
        whole = self.graph.call_module(call.name, args, kwargs)
        whole.meta["nn_module_stack"] = node.meta["nn_module_stack"]
        found: dict[int, fx.Node] = {}
        self.find(whole, call.output, found)
        for index, part in found.items():
            part.meta |= {"val": node.meta["val"][index], "nn_module_stack": node.meta["nn_module_stack"]}
        return [found[index] for index in range(len(found))]

    def find(self, node: fx.Node, output: Any, found: dict[int, fx.Node]) -> None:
        """Add to `found` the tensors of an output by number: `node` itself, or items of it."""
        if type(output) is Slot:
            found[output.index] = node
        elif isinstance(output, Mapping | tuple | list):
            items = output.items() if isinstance(output, Mapping) else enumerate(output)
            for key, part in items:
                if pytree.tree_any(lambda leaf: type(leaf) is Slot, part):
                    self.find(self.graph.call_function(operator.getitem, (node, key)), part, found)


def _check_rows(lower: int, upper: int | None) -> None:
    """Raise UserError if the code takes another way for more, or for fewer, rows than the example has."""
    for bound, way in ((lower, "fewer"), (upper, "more")):
        if bound is not None and bound > 2:
            raise UserError(
                f"its own forward decides by the number of rows: it takes another way for {way} than "
                f"{bound}; move that into a submodule"
            )


def _key(entry: Any) -> Any:
    """Return the key or index of one step of the way to a tensor in a tree of dicts, tuples and lists."""
    return entry.key if isinstance(entry, pytree.MappingKey) else entry.idx
