"""The interface of an SG network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from dni_async.contract import wrong_value
from dni_async.errors import UserError

WIDE = 128
"""Above this width the linear SG network is of low rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """What the command line says of the size of an SG network."""

    hidden: int
    """Hidden units or channels, 0 for none."""
    layers: int
    """Hidden layers."""
    rank: int
    """Rank of a linear network or of the output layer of a head, 0 for full."""
    negatives: int
    """Classes drawn for the softmax of a head, beside those of the batch; 0 for all."""
    memory: int | None
    """Rows over which the targets of least squares fade; None for the network's default."""


class DNINetwork(nn.Module):
    """Predicts the gradient at a stage's output h (Jaderberg et al. 2017, section 2.1, the model M).

    Predictions are in units of the per-sample loss, B * d(mean loss)/dh for a batch of B: numbers of order
    one, for which MSE and Adam work. The output layer starts at zero, so an untrained network predicts zero
    rather than noise (section 3.1).

    A subclass defines `forward`, without `labels` if it is never conditional. It may override `regress`,
    which is one backward of the mean squared error (section 2.1, ||M(h) - target||^2).

    The hidden state that `forward` returns is passed to the next batch:

        synthesize(h7)   hidden None -> s7        at(None): regress(h7)   from the state
        synthesize(h8)   hidden s7   -> s8        at(s7):   regress(h8)   it was predicted from
        synthesize(h9), of another batch size: hidden None -> s9
    """

    learns_when_predicting = False
    """Whether `synthesize` leaves gradients in the parameters for an update at once."""
    feature_dim = -1
    """The dimension of h that the sizes count: -1 for (B, ..., D), 1 for (B, C, H, W)."""
    needs_sequences: ClassVar[bool] = False
    """Whether activations must be (B, T, D)."""
    needs_classes: ClassVar[bool] = False
    """Whether the labels must be one-hot classes."""
    takes_class_indices: ClassVar[bool] = False
    """Whether labels may also be class indices (B, ...), -1 for one that does not count."""
    replays: ClassVar[bool] = True
    """Whether from three stages on it learns better with replayed tuples (by default 2 per target)."""
    learned_share: float = 1.0
    """Share of a batch's samples that it learns from when their target comes, or 0 if targets only measure
    it; it must be 1 for a network with a hidden state."""
    follows_schedule: ClassVar[bool] = False
    """Whether its learning rate follows the schedule of the stage's."""
    least_features: ClassVar[int] = 1
    """Features below which it can only predict zero."""
    uses_rank: ClassVar[bool] = False
    """Whether it has a rank, which may not exceed the features."""
    default_lr: ClassVar[float] = 1e-3
    default_layers: ClassVar[int] = 1

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.output_size = output_size
        # not in the state_dict; not called `hidden`, a likely name for a layer of a subclass
        self._hidden_state: Any = None
        self._hidden_fits: Any = None

    @classmethod
    def for_shape(cls, shape: tuple[int, ...]) -> type[DNINetwork]:
        """The class for activations of `shape` (without the batch): this one, unless it has variants."""
        return cls

    @classmethod
    def default_hidden(cls, shape: tuple[int, ...]) -> int | None:
        """Return the hidden units for activations of `shape` (without the batch): as many as its features."""
        return shape[0] if cls.feature_dim == 1 else shape[-1]

    @classmethod
    def default_rank(cls, features: int) -> int:
        """Return the rank for so many features: full up to `WIDE`, above it a full one would cost a layer."""
        return 64 if features > WIDE else 0

    @classmethod
    def default_negatives(cls, classes: int) -> int:
        """Return how many classes are drawn for the softmax of a batch, of so many; 0 for all."""
        return 0

    @classmethod
    def build(cls, shape: tuple[int, ...], label_size: int, settings: NetworkSettings) -> Self:
        """The network for activations of `shape`, (D,), (T, D) or (C, H, W).

        Args:
            shape: without the batch.
            label_size: columns that it is conditioned on; 0 for none.
            settings: of which a network takes what it has.
        """
        size = shape[0] if cls.feature_dim == 1 else shape[-1]
        labels: dict[str, Any] = {"label_size": label_size} if label_size else {}
        return cls(input_size=size, hidden_size=settings.hidden, output_size=size, **labels)

    def forward(self, input: Tensor, hidden: Any = None, labels: Tensor | None = None) -> tuple[Tensor, Any]:
        """Return the gradient, shaped like input (B, ...), and the hidden state. labels: (B, C) or None."""
        raise NotImplementedError

    def samples_in(self, h: Tensor) -> int:
        """Return the batch size of h (B, ...)."""
        return len(h)

    def reset(self) -> None:
        """Forget the hidden state, at the start of a new sequence."""
        self._hidden_state = None

    def start(self, h: Tensor) -> Any:
        """Return the hidden state for a prediction at h (B, ...); None if the last one does not fit h."""
        fits = (self.samples_in(h), h.dtype, h.device)
        if self._hidden_fits != fits:
            self._hidden_state, self._hidden_fits = None, fits
        return self._hidden_state

    @contextmanager
    def at(self, hidden: Any) -> Iterator[None]:
        """Use `hidden` as the hidden state inside, and restore the present one afterwards."""
        now, self._hidden_state = self._hidden_state, hidden
        try:
            yield
        finally:
            self._hidden_state = now

    def synthesize(self, h: Tensor, labels: Tensor | None) -> Tensor:
        """Return the predicted gradient, shaped like h (B, ...), without autograd; labels (B, C)."""
        with torch.no_grad():
            gradient, self._hidden_state = self._predict(h, self.start(h), labels)
        return gradient

    @torch.enable_grad()
    def regress(self, h: Tensor, labels: Tensor | None, target: Tensor) -> Tensor:
        """Put the gradient of the mean squared error to `target` into `.grad`; returns the prediction.

        h, target and prediction: (B, ...). The prediction is a fresh one: regressing the one made when the
        batch passed is cheaper and tracks the targets badly (92.4 % instead of 98.5 % on MNIST).
        """
        prediction = self._predict(h, self._hidden_state, labels)[0]
        F.mse_loss(prediction, target).backward()
        return prediction.detach()

    def _predict(self, h: Tensor, hidden: Any, labels: Tensor | None) -> tuple[Tensor, Any]:
        # networks written for pytorch-dni have no labels
        found = self(h, hidden) if labels is None else self(h, hidden, labels)
        if not (isinstance(found, tuple) and len(found) == 2):
            raise wrong_value(self, "forward", found, "two values: the gradient and the hidden state")
        return found


def check_prediction(network: DNINetwork, prediction: object, h: Tensor) -> None:
    """Raise UserError unless an SG network's prediction is a tensor with the shape of h (B, ...)."""
    if getattr(prediction, "shape", None) != h.shape:
        what = f"shape {tuple(prediction.shape)}" if isinstance(prediction, Tensor) else f"{prediction!r:.80}"
        raise UserError(
            f"{type(network).__name__} gave a gradient of {what} for an activation of shape "
            f"{tuple(h.shape)}; an SG network's output has the shape of its input"
        )


def without_autocast(h: Tensor) -> AbstractContextManager[Any]:
    """Return a context without autocast, for the device of h (any shape)."""
    kind = h.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def zero_output(layer: nn.Linear | nn.Conv2d) -> None:
    """Start an output layer at zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def leave_gradient(parameter: nn.Parameter, gradient: Tensor | None) -> None:
    """Set `.grad` with the strides of the parameter, as `backward` does.

    `autograd.grad` may return other strides, and the fused optimizers read both as flat arrays: they would
    silently step the wrong elements (torch 2.13).
    """
    if gradient is not None and gradient.stride() != parameter.stride():
        gradient = torch.empty_like(parameter).copy_(gradient)
    parameter.grad = gradient


def along(labels: Tensor, h: Tensor) -> Tensor:
    """Return labels (B, C), repeated to (B, ..., C) for h (B, ..., D); labels (B, ..., C) as they are.

    Raises UserError if labels have positions that h does not have.
    """
    if labels.ndim == h.ndim and labels.shape[:-1] == h.shape[:-1]:
        return labels
    if labels.shape[:-1] != h.shape[:-1][: labels.ndim - 1]:
        raise misfit(labels, h)
    for _ in range(h.ndim - labels.ndim):
        labels = labels.unsqueeze(-2)
    return labels.expand(*h.shape[:-1], -1)


def required(labels: Tensor | None, size: int) -> Tensor:
    """Return the labels (B, ..., size). Raises UserError if there are none, or of another size."""
    if labels is None:
        raise UserError(f"this SG network is conditional (label_size {size}): give it labels (B, {size})")
    if labels.ndim < 2 or labels.shape[-1] != size:
        raise UserError(
            f"labels {tuple(labels.shape)} do not fit an SG network of label_size {size}: "
            f"give it labels (B, {size})"
        )
    return labels


def misfit(labels: Tensor, h: Tensor) -> UserError:
    """Return the error that labels (B, ..., C) have other positions than h (B, ..., D)."""
    return UserError(
        f"labels {tuple(labels.shape)} do not fit activations {tuple(h.shape)} position by position; "
        "use rule dni, cut elsewhere, or give one label per sample (B, C), in a task by its `condition`"
    )
