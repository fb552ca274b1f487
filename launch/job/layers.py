"""The layers of a task, with the weights that every process and every engine starts from."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from dni_async.errors import UserError
from dni_async.partition.deferred_layers import DeferredLayers
from dni_async.recurrent.stateful_rnn import set_sequence_length
from launch.config.task import TaskConfig
from launch.job.initial_weights import check_initial_weights, load_initial_weights
from launch.job.task_checks import check_not_lazy
from tasks.base import Task, seed_everything


class NetworkLayers:
    """All layers, of which a process gives memory only to those that it builds (see `DeferredLayers`).

    Iterating yields them one at a time, with memory for as long as that takes.

    Args:
        steps_per_epoch: layers that carry state reset it after so many batches (0: never).

    Raises:
        UserError: the task does not return layers, or the file of --init does not fit them.
    """

    def __init__(self, task: Task, config: TaskConfig, steps_per_epoch: int = 0) -> None:

        def make() -> list[nn.Module]:
            seed_everything(config.seed)
            layers = list(task.layers())
            if not layers or not all(isinstance(layer, nn.Module) for layer in layers):
                raise UserError(f"task {task.name}: layers() must give a list of nn.Module, at least one")
            check_not_lazy(layers)
            return layers

        self._deferred = DeferredLayers(make, config.seed)
        self.structure = self._deferred.structure
        """All layers, for what their weights do not matter to."""
        self._init = config.init
        if config.init:
            check_initial_weights(nn.Sequential(*self.structure), config.init)
        set_sequence_length(steps_per_epoch, *self.structure)

    def __len__(self) -> int:
        return len(self.structure)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self._deferred)

    def build(self, first: int, end: int) -> list[nn.Module]:
        """Return the layers from `first` to before `end`, with memory and initial weights."""
        layers = self._deferred.build(first, end)
        if self._init:
            load_initial_weights(nn.Sequential(*self.structure), self._init, range(first, end))
        return layers

    def is_temporary(self, number: int) -> bool:
        """Whether the parameters of a layer lose their memory after its iteration."""
        return self._deferred.is_temporary(number)


def build_layers(task: Task, config: TaskConfig, steps_per_epoch: int = 0) -> list[nn.Module]:
    """Return all layers of a task, with memory and initial weights; see `NetworkLayers`."""
    layers = NetworkLayers(task, config, steps_per_epoch)
    return layers.build(0, len(layers))
