"""The batches of an iterable set, or of a loader of the task's own, one after the other without end.

    --steps-per-epoch 4       epoch 1          epoch 2          epoch 3
                              a b c d          e f a b          c d e f          a set of 6 batches, a to f
                                                   └ the set has ended: it begins again, and one line says so

Each pass through the set draws random numbers of its own, by seed and pass, whatever the layers draw: a run
that is resumed, and every engine, gets the same batches. A set or a loader with `state_dict` goes on where it
stood; of others the batches that a resumed run has seen are read again and dropped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from dni_async.errors import UserError
from dni_async.state.state_dict import State, copied, load_random_state, random_state
from dni_async.trees import first_tensor, map_tensors
from launch.job.loading import Loading, Part, iterate, part_of, seed_by, use_loader, worker_loader
from launch.job.samples import is_loader, is_stream
from launch.job.stream_reader import StreamReader, set_epoch

LONG_PASS_S = 30.0
"""Seconds after which a line says that an evaluation is still under way: the set may have no end."""
END = object()
"""In place of a batch: the set has ended."""


class StreamBatches:
    """An iterable set or a loader in batches.

    Attributes:
        rows: of the last batch; the batch size before the first.
        last_pass: batches of the last whole pass; None before its end.

    Args:
        name: of the set, such as "training".
        part: of each batch's rows.
    """

    def __init__(
        self, dataset: Any, name: str, batch_size: int, seed: int, part: Part, loading: Loading
    ) -> None:
        self._persistent = name == "training"  # workers of others end with the pass
        self.name, self.part, self.loading = name, part, loading
        self.batch_size = self.rows = batch_size
        self.last_pass: int | None = None
        self.given = 0
        """Batches of the training that were given away."""
        self.steps_per_epoch = loading.steps_per_epoch
        self._dataset, self._seeds = dataset, (seed, *name.encode())
        self._own_loader = is_loader(dataset)
        self._loader: Any = use_loader(dataset) if self._own_loader else None
        self._batches: Iterator[Any] | None = None
        self._passes = self._in_pass = 0
        self._kept: list[Any] = []
        """The first batch, as long as it was only looked at."""
        self._random = random_state()
        self._first_tensors: list[Any] = []
        self._restarted = False

    def natural_length(self) -> int | None:
        """Return the batches of a pass, as set or loader say; None where they do not."""
        try:
            length = len(self._dataset)
        except TypeError:
            return None
        return length if self._own_loader else -(-length // self.batch_size)

    def first(self) -> Any:
        """Return the first batch, which the training gets all the same."""
        if not self._kept:
            assert not self.given, "the first batch is gone"
            self._kept.append(self._read())
        return self._part(self._kept[0])

    def training(self, count: int) -> Iterator[Any]:
        """Yield so many batches more."""
        for _ in range(count):
            yield self._next()

    def whole_pass(self, start: int = 0) -> Iterator[Any]:
        """Yield the batches of a pass of its own, from number `start` on."""
        self._passes = self._in_pass = 0
        self._batches = None
        self.last_pass = None
        patience = time.monotonic() + LONG_PASS_S
        while (batch := self._read_or_end()) is not END:
            if self._in_pass > start:
                yield self._part(batch)
            if time.monotonic() > patience:
                patience = math.inf
                self.loading.announce(
                    f"an evaluation has read {self._in_pass} batches of the {self.name} set and goes on; the "
                    "set must end by itself"
                )
        self.last_pass = self._in_pass
        if not self.last_pass:
            raise self._empty()

    def state_dict(self) -> State | None:
        """Return the state behind the last batch that was given away; None where set or loader have none."""
        if (stateful := self._stateful()) is None:
            return None
        return {
            "given": self.given,
            "passes": self._passes,
            "in_pass": self._in_pass,
            "random": copied(self._random),
            "source": stateful.state_dict(),
        }

    def resume(self, step: int, state: State | None) -> None:
        """Go on behind batch number `step`: from the state of that batch, or of one before it, if there is
        one, else from the first one."""
        if state is not None and state["given"] <= step and (stateful := self._stateful()) is not None:
            self._kept.clear()
            stateful.load_state_dict(state["source"])
            self.given, self._passes, self._in_pass = state["given"], state["passes"], state["in_pass"]
            self._begin()
            self._random = state["random"]
        begun, missing = time.perf_counter(), step - self.given
        while self.given < step:
            self._next()
        if missing:
            seconds = time.perf_counter() - begun
            self.loading.announce(
                f"{missing} batches of the {self.name} set were read again in {seconds:.1f} s"
            )

    def _stateful(self) -> Any:
        """Return what has the state of the reading; None if nothing has. Workers of ours read ahead."""
        has_state = hasattr(self._dataset, "state_dict") and hasattr(self._dataset, "load_state_dict")
        return self._dataset if has_state and (self._own_loader or not self.loading.workers) else None

    def _next(self) -> Any:
        batch = self._kept.pop() if self._kept else self._read()
        self.given += 1
        return self._part(batch)

    def _part(self, batch: Any) -> Any:
        self.rows = len(first_tensor(batch))
        return map_tensors(lambda tensor: part_of(tensor, self.part), batch)

    def _read(self) -> Any:
        """Return the next batch; where the set has ended, that of the next pass."""
        batch = self._read_or_end()
        if batch is END:
            if not self._in_pass:
                raise self._empty()
            self._say_that_it_ended()
            self._batches, self._in_pass = None, 0
            if (batch := self._read_or_end()) is END:
                raise UserError(
                    f"the {self.name} set gives nothing when it is read again (pass {self._passes}); its "
                    "__iter__ must begin anew, or fewer --epochs or --steps-per-epoch fit"
                )
        self._check_workers(batch)
        return batch

    def _say_that_it_ended(self) -> None:
        epoch, steps = divmod(self.given, self.steps_per_epoch)
        if steps and not self._restarted:
            self._restarted = True
            self.loading.announce(
                f"the {self.name} set ended after {self._in_pass} batches, within epoch {epoch + 1}: it "
                "begins again"
            )

    def _read_or_end(self) -> Any:
        if self._batches is None:
            self._passes += 1
            self._begin(*self._seeds, self._passes)
        batch = self._on_its_own(next, self._batches, END)
        if batch is not END:
            self._in_pass += 1
        return batch

    def _begin(self, *seeds: int) -> None:
        """Begin a pass, in this process or with workers; without seeds, one that goes on."""

        def begin() -> Iterator[Any]:
            if seeds:
                seed_by(*seeds)
            if self._own_loader:
                for owner in ("dataset", "sampler", "batch_sampler"):
                    set_epoch(getattr(self._loader, owner, None), self._passes - 1)
                return iterate(self._loader, self.loading.timeout)
            if self._loader is None:
                reader = StreamReader(self._dataset, self.batch_size, self._seeds, self.loading)
                workers = self.loading.workers
                self._loader = worker_loader(reader, self.loading, self._persistent) if workers else reader
            if isinstance(self._loader, StreamReader):
                self._loader.passes = self._passes - 1
                return iter(self._loader)
            return iterate(self._loader, self.loading.timeout)

        self._batches = self._on_its_own(begin)

    def _on_its_own(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what the function returns, with the random numbers of the reading."""
        others = random_state()
        load_random_state(self._random)
        try:
            return function(*arguments)
        finally:
            self._random = random_state()
            load_random_state(others)

    def _check_workers(self, batch: Any) -> None:
        """Say so if the first batches of two workers are equal: each of them reads the whole set then."""
        loader = self._loader
        workers, dataset = getattr(loader, "num_workers", 0), getattr(loader, "dataset", None)
        if workers < 2 or self._passes > 1 or self._in_pass > 2 or not is_stream(dataset):
            return
        tensors = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]
        if self._in_pass == 2 and all(map(torch.equal, self._first_tensors, tensors)):
            self.loading.announce(
                f"two workers gave the same batch of the {self.name} set: each reads all of it; divide it "
                "among them (torch.utils.data.get_worker_info), or use one"
            )
        self._first_tensors = tensors if self._in_pass == 1 else []

    def _empty(self) -> UserError:
        return UserError(f"the {self.name} set is empty; check the task's data")
