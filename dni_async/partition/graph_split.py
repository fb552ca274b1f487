"""The graph of a model, split into the graphs of consecutive layers: each maps one input to one result.

    embed ─ h ─► blocks.0 ─ h ─► blocks.1 ─ h ─► head        split at blocks.1 and head:
       mask ────────┴───────────────┘
                                                             layer 0   (ids, mask) -> (h, mask)
                                                             layer 1   (h, mask)   -> h
                                                             layer 2   h           -> logits

A layer returns what later layers need: one tensor, or a tuple, which includes tensors that the layer only
hands on. Some values do not travel, because each layer computes them itself: sizes, what follows from sizes
and constants alone (a causal mask), and what follows from inputs of whole numbers (a mask for every head,
from a mask for every token), since the inputs are smaller. A tensor without a row per sample, such as a table
of positions, gets such rows to travel, all of them the same.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate


def split_graph(graph: fx.Graph, first: Sequence[fx.Node]) -> list[fx.Graph]:
    """Return the graph of every layer, each with the placeholder `inputs`.

    Args:
        graph: see `trace`.
        first: the nodes with which layers 1, 2, ... begin, in order.
    """
    network = _Network(graph, first)
    (result,) = (node.args[0] for node in graph.nodes if node.op == "output")
    returned, graphs = [result], []
    for number in range(len(first), -1, -1):
        layer = _Layer(network, number, returned)
        graphs.append(layer.build())
        returned = layer.taken
    return graphs[::-1]


class _Network:
    """Which layer each node belongs to, and which nodes every layer can compute."""

    def __init__(self, graph: fx.Graph, first: Sequence[fx.Node]) -> None:
        self.nodes = list(graph.nodes)
        inputs = [node for node in self.nodes if node.op == "placeholder"]
        self.batch = {str(node.meta["val"].shape[0]) for node in inputs}
        """Names of the size of a batch: inputs may have one each."""
        self.mutates = any(map(_is_mutable, self.nodes))
        self.number: dict[fx.Node, int] = {}
        self.anywhere: set[fx.Node] = set()
        number = 0
        for node in self.nodes:
            number += node in first
            self.number[node] = number
            if node.target is operator.getitem:  # an item stays with its whole
                self.number[node] = self.number[node.all_input_nodes[0]]
            if self._is_anywhere(node):
                self.anywhere.add(node)

    def _is_anywhere(self, node: fx.Node) -> bool:
        """Whether every layer can compute this node."""
        if node.op == "placeholder":
            return not node.meta["val"].is_floating_point() and not self.mutates
        if node.op == "get_attr" or is_size(node):
            return node.op != "get_attr" or "constant" in node.meta
        return (
            node.op == "call_function"
            and not self.mutates
            and _is_repeatable(node)
            and self.anywhere.issuperset(node.all_input_nodes)
        )

    def has_rows(self, node: fx.Node) -> bool:
        """Whether a tensor has a row for each sample."""
        shape = node.meta["val"].shape
        return bool(shape) and str(shape[0]) in self.batch

    def computes(self, number: int, node: fx.Node) -> bool:
        """Whether layer `number` computes this node, rather than taking it from the layer before."""
        if node.op == "placeholder":
            return False
        return node.op == "get_attr" or node in self.anywhere or self.number[node] == number


class _Layer:
    """One layer: the nodes that it computes, and those that it takes from the layer before."""

    def __init__(self, network: _Network, number: int, returned: Sequence[fx.Node]) -> None:
        self.network, self.number, self.returned = network, number, returned
        self.computed: set[fx.Node] = set()
        self.sizes: dict[fx.Node, tuple[fx.Node, int]] = {}
        """Sizes that are dimensions of a tensor that the layer takes."""
        self.taken: list[fx.Node] = []
        self._open_sizes: list[fx.Node] = []
        for node in (
            *returned,
            *(n for n in network.nodes if network.number[n] == number and _is_mutable(n)),
        ):
            self._need(node)
        while self._open_sizes:
            self._need_size(self._open_sizes.pop(0))
        order = {node: place for place, node in enumerate(network.nodes)}
        self.taken.sort(key=lambda node: -order[node] if _is_float(node) else len(order) + order[node])

    def _need(self, node: fx.Node) -> None:
        todo = [node]
        while todo:
            node = todo.pop()
            if node in self.computed or node in self.sizes or node in self.taken:
                continue
            if is_size(node):
                self._open_sizes += [node] if node not in self._open_sizes else []
            elif self.network.computes(self.number, node):
                self.computed.add(node)
                todo += node.all_input_nodes
            else:
                self.taken.append(node)

    def _need_size(self, node: fx.Node) -> None:
        """Read a size from a tensor that the layer takes, else compute it as the model does."""
        for tensor in self.taken:
            for dim, size in enumerate(tensor.meta["val"].shape):
                if str(size) == str(node.meta["val"]):
                    self.sizes[node] = tensor, dim
                    return
        self.computed.add(node)
        for argument in node.all_input_nodes:
            self._need(argument)

    def build(self) -> fx.Graph:
        """Return the layer's graph."""
        graph = fx.Graph()
        inputs = graph.placeholder("inputs")
        env: dict[fx.Node, fx.Node] = {}
        received: dict[fx.Node, fx.Node] = {}
        for place, node in enumerate(self.taken):
            path = node.meta["path"] if not self.number else [place] if len(self.taken) > 1 else []
            value = inputs
            for key in path:
                value = graph.call_function(operator.getitem, (value, key))
            received[node] = env[node] = value
            if not self.network.has_rows(node):
                env[node] = graph.call_function(torch.ops.aten.select.int, (value, 0, 0))
        for node, (tensor, dim) in self.sizes.items():
            env[node] = graph.call_function(torch.ops.aten.sym_size.int, (env[tensor], dim))
        traced_on, device = self._device(graph, env)
        for node in self.network.nodes:
            if node in self.computed:
                new = env[node] = graph.node_copy(node, env.__getitem__)
                new.args, new.kwargs = map_aggregate(
                    (new.args, new.kwargs), lambda arg: device if arg == traced_on else arg
                )
        results = tuple(self._result(graph, node, env, received) for node in self.returned)
        graph.output(results if len(results) > 1 else results[0])
        values = [node.meta["val"] for node in self.returned]
        graph.output_node().meta["types"] = [(value.dtype, value.ndim) for value in values]
        if isinstance(device, fx.Node) and not device.users:
            graph.erase_node(device)
        graph.lint()
        return graph

    def _result(
        self,
        graph: fx.Graph,
        node: fx.Node,
        env: Mapping[fx.Node, fx.Node],
        received: Mapping[fx.Node, fx.Node],
    ) -> fx.Node:
        """Return a value as it travels: with a row per sample."""
        if node in received:
            return received[node]
        with_rows = next((other for other in self.returned if self.network.has_rows(other)), None)
        if self.network.has_rows(node) or with_rows is None:
            return env[node]
        batch = graph.call_function(torch.ops.aten.sym_size.int, (env[with_rows], 0))
        row = graph.call_function(torch.ops.aten.unsqueeze.default, (env[node], 0))
        sizes: list[Any] = [batch, *[-1] * node.meta["val"].ndim]
        return graph.call_function(torch.ops.aten.expand.default, (row, sizes))

    def _device(self, graph: fx.Graph, env: Mapping[fx.Node, fx.Node]) -> tuple[Any, Any]:
        """Return the device of the tensors that the layer takes: in the trace, and as a node."""
        if not self.taken:
            return None, None
        value = self.taken[0].meta["val"]
        return value.device, graph.call_function(getattr, (env[self.taken[0]], "device"))


def returned_types(graphs: Sequence[fx.Graph]) -> list[list[tuple[torch.dtype, int]]]:
    """Return type and number of dimensions of each tensor that each layer returns."""
    return [graph.output_node().meta["types"] for graph in graphs]


def is_size(node: fx.Node) -> bool:
    """Whether the value of a node is a number, such as a size."""
    return isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool | int | float)


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _is_mutable(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _is_repeatable(node: fx.Node) -> bool:
    """Whether a function returns the same for the same arguments: whether it draws no random numbers."""
    if isinstance(node.target, torch._ops.OpOverload):
        return torch.Tag.nondeterministic_seeded not in node.target.tags
    return getattr(node.target, "__module__", "") in ("_operator", "torch", "math")
