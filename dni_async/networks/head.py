"""Structured SG networks: the gradient of a small classifier's loss."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self, override

from dni_async.errors import UserError
from dni_async.networks.base import DNINetwork, NetworkSettings, leave_gradient, misfit, required
from dni_async.networks.norm import BatchNorm
from dni_async.networks.sampled_softmax import SampledSoftmax

MOST_FULL = 4096
"""Up to so many classes the softmax of a head is over all of them by default, above over a sample."""
NEGATIVES = 1024
MOST_LOGITS = 2**31
"""8 GiB."""
MAX_HIDDEN = 32
"""Channels of the head by default: with twice 64 it would cost a 5x5 convolution of 64 filters and more."""


class ClassifierSG(DNINetwork):
    """g = exp(s) * B * d(cross-entropy of a small classifier on h, y)/dh, with s a learned scalar.

    It learns twice per batch: one cross-entropy step with the backward that predicts, and when the
    target t arrives one step on mean((g - t)^2) / rms(t)^2 by double backward, which also trains s.
    A gradient that stems from a classifier is right in kind from the first steps on, where free
    regression networks are not (CIFAR-10, three stages: 52.6 % against 45.9 %; RECIPES.md).

    head: maps h (B, ...) to logits (B, classes), or (B, ..., classes) with one prediction per position.
    Positions without labels of their own share the label of their sample: their logits are averaged.
    With a label per position the error is counted in units of the loss of one label, whatever the number of
    positions.

    negatives: classes that are drawn for the softmax of a batch, beside those among its labels; 0 for all.
    One-hot labels are always compared with all classes.
    """

    learns_when_predicting = True
    needs_classes = True
    takes_class_indices = True
    replays = False
    follows_schedule = True
    default_lr = 3e-3
    rms_decay = 0.99

    def __init__(
        self, head: nn.Sequential, size: int, hidden_size: int, classes: int, negatives: int = 0
    ) -> None:
        super().__init__(size, hidden_size, size)
        self.classes = classes
        self.sampled = SampledSoftmax(negatives) if negatives else None
        self.head = head
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.target_square: Tensor
        self.target_count: Tensor
        self.register_buffer("target_square", torch.zeros(()))
        self.register_buffer("target_count", torch.zeros(()))

    @classmethod
    @override
    def for_shape(cls, shape: tuple[int, ...]) -> type[DNINetwork]:
        if cls is not ClassifierSG:
            return cls
        return {2: TokenHeadSG, 3: HeadSG}.get(len(shape), FeatureHeadSG)

    @classmethod
    @override
    def default_rank(cls, features: int) -> int:
        return 0

    @classmethod
    @override
    def default_negatives(cls, classes: int) -> int:
        return NEGATIVES if classes > MOST_FULL else 0

    @override
    def forward(self, input: Tensor, hidden: Any = None, labels: Tensor | None = None) -> tuple[Tensor, Any]:
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            h = input if input.requires_grad else input.detach().requires_grad_()
            loss = self._cross_entropy(h, labels)
            gradient = torch.autograd.grad(loss, h, create_graph=differentiable)[0]
        return self.log_scale.exp() * len(input) * gradient, None

    @torch.enable_grad()
    def synthesize(self, h: Tensor, labels: Tensor | None) -> Tensor:
        """Return the predicted gradient; puts the cross-entropy gradients of the head into `.grad`."""
        h = h.detach().requires_grad_()
        parameters = list(self.head.parameters())
        gradient, *rest = torch.autograd.grad(self._cross_entropy(h, labels), [h, *parameters])
        for parameter, grad in zip(parameters, rest, strict=True):
            leave_gradient(parameter, grad)
        self.log_scale.grad = None
        return gradient.mul_(self.log_scale.detach().exp() * len(h))

    @torch.enable_grad()
    def regress(self, h: Tensor, labels: Tensor | None, target: Tensor) -> Tensor:
        """One backward of mean((g - target)^2) over the running mean of target^2."""
        prediction = self(h.detach().requires_grad_(), None, labels)[0]
        per_label = math.prod(self._places(labels)[1:]) ** 2
        self.target_count += 1
        self.target_square.lerp_(target.square().mean() * per_label, 1 - self.rms_decay)
        mean_square = self.target_square / (1 - self.rms_decay**self.target_count)
        loss = F.mse_loss(prediction, target) * (per_label / mean_square.clamp_min(1e-30))
        parameters = list(self.parameters())
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, grad in zip(parameters, grads, strict=True):
            leave_gradient(parameter, grad)
        return prediction.detach()

    def _cross_entropy(self, h: Tensor, labels: Tensor | None) -> Tensor:
        """Return the mean over all labels; those that do not count add zero to the sum."""
        places = self._places(labels)
        assert labels is not None
        *body, output = self.head
        assert isinstance(output, nn.Linear)
        features = h
        for layer in body:
            features = layer(features)
        if features.ndim > len(places) + 1:  # the mean of the logits, at the price of one position's
            features = features.flatten(1, -2).mean(1)
        if features.shape[:-1] != places:
            raise misfit(labels, h)
        features = features.flatten(0, -2)
        if self.sampled is None and len(features) * self.classes > MOST_LOGITS:
            raise UserError(
                f"the SG network's softmax of {len(features)} labels over {self.classes} classes has more "
                f"than {MOST_LOGITS} logits; set --sg.negatives {NEGATIVES}, or make batches smaller"
            )
        if labels.is_floating_point():
            return F.cross_entropy(output(features), labels.flatten(0, -2))
        if self.sampled is not None:
            total: Tensor = self.sampled(features, output, labels.flatten())
        else:
            total = F.cross_entropy(output(features), labels.flatten(), ignore_index=-1, reduction="sum")
        return total / labels.numel()

    def _places(self, labels: Tensor | None) -> torch.Size:
        """Return (B, ...) of labels (B, ..., classes), or of class indices (B, ...)."""
        if labels is not None and not labels.is_floating_point():
            return labels.shape
        return required(labels, self.classes).shape[:-1]


class HeadSG(ClassifierSG):
    """The structured SG network for convolutional stages, by the head of `classifier`."""

    feature_dim = 1

    @classmethod
    def default_hidden(cls, shape: tuple[int, ...]) -> int:
        """Return twice the channels of h, at most `MAX_HIDDEN`."""
        return min(2 * shape[0], MAX_HIDDEN)

    @classmethod
    @override
    def build(cls, shape: tuple[int, ...], label_size: int, settings: NetworkSettings) -> Self:
        return cls(shape[0], label_size, shape[1], settings.hidden)

    def __init__(self, channels: int, classes: int, height: int, hidden_size: int = 0) -> None:
        hidden_size = hidden_size or 2 * channels
        super().__init__(classifier(channels, hidden_size, classes, height), channels, hidden_size, classes)


class FeatureHeadSG(ClassifierSG):
    """The structured SG network for activations (B, D).

        h (B, ..., D) -> LayerNorm(D) -> Linear(D -> classes) -> cross-entropy with y

    hidden_size: units of a hidden layer (Linear, ReLU) before the output layer, 0 for none; rank: width of a
    linear layer before it, which makes a large output layer one of low rank, 0 for none.
    The layer norm is what makes it work on a raw residual stream, whose scale is anything (a residual
    network on MNIST, two stages: 96.6 % against 92.7 % with the linear network; docs/LOG.md).

    It also takes from every prediction the components along 1 (the same for all features of a row) and along
    the normalised h, since the logits depend on neither: of one feature nothing is left, of two almost
    nothing.
    """

    least_features = 2
    uses_rank = True

    def __init__(
        self, width: int, classes: int, hidden_size: int = 0, rank: int = 0, negatives: int = 0
    ) -> None:
        layers: list[nn.Module] = [nn.LayerNorm(width)]
        if hidden_size:
            layers += [nn.Linear(width, hidden_size), nn.ReLU()]
        if rank:
            layers += [nn.Linear(hidden_size or width, rank, bias=False)]
        output = nn.Linear(rank or hidden_size or width, classes)
        super().__init__(nn.Sequential(*layers, output), width, hidden_size, classes, negatives)

    @classmethod
    def default_hidden(cls, shape: tuple[int, ...]) -> None:
        """Return None: the head has no hidden layer by default."""

    @classmethod
    @override
    def build(cls, shape: tuple[int, ...], label_size: int, settings: NetworkSettings) -> Self:
        return cls(shape[-1], label_size, settings.hidden, settings.rank, settings.negatives)


class TokenHeadSG(FeatureHeadSG):
    """The same for activations (B, T, D), with a label per position or per sample.

    The double backward costs three times as much as the cross-entropy step, so a target teaches the network
    on a quarter of the sequences only, which are drawn at random.
    """

    needs_sequences = True
    learned_share = 0.25


def classifier(channels: int, hidden_size: int, classes: int, height: int) -> nn.Sequential:
    """A small convolutional classifier.

    h (B, C, H, W) -> conv 3x3 (C -> hidden_size, stride 2 where H >= 8) -> BN -> ReLU
                   -> 2x2 average pool -> Linear(4 * hidden_size -> classes)
    """
    return nn.Sequential(
        nn.Conv2d(channels, hidden_size, 3, stride=2 if height >= 8 else 1, padding=1, bias=False),
        BatchNorm(hidden_size),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * hidden_size, classes),
    )
