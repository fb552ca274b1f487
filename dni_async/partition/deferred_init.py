"""Builds modules without memory, and gives memory and initial values to some of them later.

    record         Linear(8, 8)   empty (8, 8) on meta, uniform_; empty (8,), uniform_       layer 0
                   Linear(8, 2)   empty (2, 8) on meta, uniform_; empty (2,), uniform_       layer 1
    materialise 1  seed of layer 1 ─► empty (2, 8), uniform_; empty (2,), uniform_

Operations on tensors made while recording run on the meta device and go onto a tape. Tensors that exist
already or come from outside torch keep their values, as constants on the tape. What needs a value at once,
such as `item()`, cannot be deferred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from typing_extensions import override

from dni_async.partition.operators import device_of, makes_tensor_on_cpu, on_meta_device, written_by

Key = int
"""Of a storage without memory."""


class CannotDefer(RuntimeError):
    """What is recorded depends on a value that is not there yet."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A tensor without memory, as a view of its storage."""

    key: Key
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def of(self, storages: dict[Key, torch.UntypedStorage]) -> Tensor:
        """Return the tensor, where its storage has memory."""
        return torch.empty(0, dtype=self.dtype).set_(storages[self.key], self.offset, self.size, self.stride)


@dataclass(slots=True)
class Operation:
    """An entry of the tape."""

    function: Callable[..., Any]
    arguments: tuple[Any, dict[str, Any]]
    """With references in place of tensors without memory."""
    outputs: list[Any]
    """References of the tensors that it returned, flat."""
    reads: set[Key]
    writes: set[Key]


def reference_to(tensor: Tensor) -> Reference:
    """Return the reference to a tensor without memory."""
    key = tensor.untyped_storage()._cdata
    return Reference(
        key, tensor.dtype, tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset())
    )


class _Disguise(TorchFunctionMode):
    """Has tensors without memory say that they are on the CPU: some initialisers do nothing on meta."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    @override
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _DISGUISED and self._recorder.knows(args[0]):
            return _DISGUISED[func]
        if func is Tensor.__setitem__ and isinstance(args[2], bool | int | float):
            args = (*args[:2], torch.tensor(args[2], dtype=args[0].dtype))  # a number would not be recorded
        return func(*args, **(kwargs or {}))


_SAID = {"is_meta": False, "is_cpu": True, "device": torch.device("cpu")}
_DISGUISED = {getattr(Tensor, name).__get__: value for name, value in _SAID.items()}
"""Getters of attributes -> what they return for a tensor without memory."""

_recorder: ContextVar[Recorder | None] = ContextVar("that is recording now", default=None)


@contextmanager
def not_recording() -> Iterator[bool]:
    """While open, tensors without memory are plain tensors on meta, and nothing is recorded.

    Yields whether a recorder was at work.
    """
    recorder = _recorder.get()
    if recorder is None:
        yield False
        return
    recorder.__exit__(None, None, None)
    try:
        yield True
    finally:
        recorder.__enter__()


class Recorder(TorchDispatchMode):
    """Records the operations of a `with` block on tensors that are made in it."""

    def __init__(self) -> None:
        super().__init__()
        self.tape: list[Operation] = []
        self._disguise = _Disguise(self)
        self._storages: dict[Key, torch.UntypedStorage] = {}
        """Of all tensors without memory; they stay alive, so that no two have the same key."""

    def __enter__(self) -> Recorder:
        super().__enter__()
        self._disguise.__enter__()
        _recorder.set(self)
        return self

    def __exit__(self, *error: Any) -> None:
        _recorder.set(None)
        self._disguise.__exit__(*error)
        super().__exit__(*error)

    def knows(self, tensor: Tensor) -> bool:
        """Whether the tensor was made while recording, and has no memory."""
        return tensor.untyped_storage()._cdata in self._storages

    @override
    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if given and device_of(kwargs) == "meta":
            kwargs = kwargs | {"device": "cpu"}  # torch itself takes a value along to where its tensor is
        elif not (any(map(self.knows, given)) or (not given and makes_tensor_on_cpu(func, kwargs))):
            return func(*args, **kwargs)
        if kwargs.get("generator") is not None:
            raise CannotDefer(f"{func} draws from a generator of its own")
        constants = {id(leaf): leaf.clone() for leaf in given if not self.knows(leaf)}
        if any(map(_is_meta, constants.values())):
            raise CannotDefer(f"{func} takes a value that was not recorded")
        written = written_by(func, args, kwargs)
        if any(id(tensor) in constants for tensor in written):
            raise CannotDefer(f"{func} writes to a tensor that has memory")
        meta_args, meta_kwargs = tree_map(_on_meta, (args, kwargs))
        result = func(*meta_args, **on_meta_device(func, meta_kwargs))
        self._record(func, args, kwargs, constants, written, result)
        return result

    def _record(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        constants: dict[int, Tensor],
        written: list[Tensor],
        result: Any,
    ) -> None:
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if not all(map(_is_meta, made)):
            raise CannotDefer(f"{func} returned a tensor with memory")
        for tensor in made:
            self._storages.setdefault(tensor.untyped_storage()._cdata, tensor.untyped_storage())

        def recorded(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return constants[id(leaf)] if id(leaf) in constants else reference_to(leaf)

        arguments = tree_map(recorded, (args, kwargs))
        outputs = [reference_to(tensor) for tensor in made]
        reads = {leaf.key for leaf in tree_leaves(arguments) if isinstance(leaf, Reference)}
        writes = {reference_to(tensor).key for tensor in written}
        writes |= {output.key for output in outputs if output.key not in reads}
        self.tape.append(Operation(func, arguments, outputs, reads, writes))

    def needed_for(self, keys: Iterable[Key]) -> set[int]:
        """Return the numbers of the operations that give these storages their values."""
        wanted, found = set(keys), set()
        for number in reversed(range(len(self.tape))):
            operation = self.tape[number]
            if operation.writes & wanted:
                found.add(number)
                wanted |= operation.reads
        return found

    @torch.no_grad()
    def replay(self, numbers: Iterable[int], storages: dict[Key, torch.UntypedStorage]) -> None:
        """Do operations of the tape, in their order, with memory; new storages are added to `storages`."""
        for number in sorted(numbers):
            operation = self.tape[number]

            def real(leaf: Any) -> Any:
                return leaf.of(storages) if isinstance(leaf, Reference) else leaf

            args, kwargs = tree_map(real, operation.arguments)
            made = [
                leaf for leaf in tree_leaves(operation.function(*args, **kwargs)) if isinstance(leaf, Tensor)
            ]
            for tensor, reference in zip(made, operation.outputs, strict=True):
                if reference.key in operation.writes and reference.key not in operation.reads:
                    if (tensor.stride(), tensor.storage_offset()) != (reference.stride, reference.offset):
                        raise CannotDefer(f"{operation.function} lays its result out in another way")
                    storages[reference.key] = tensor.untyped_storage()


def _is_meta(tensor: Tensor) -> bool:
    return tensor.untyped_storage().device.type == "meta"


def _on_meta(leaf: Any) -> Any:
    return leaf.to("meta") if isinstance(leaf, Tensor) and not _is_meta(leaf) else leaf
