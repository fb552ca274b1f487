"""The interface after one wrapped layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dni_async.errors import UserError
from dni_async.networks import DNINetwork
from dni_async.synthesis.pending import PendingPrediction
from dni_async.synthesis.synthesizer import Synthesizer
from dni_async.wrapper.layout import FormatFn, Layout, first_tensor, replace, tensors
from dni_async.wrapper.maker import Maker
from dni_async.wrapper.updates import Updates


class Interface(nn.Module):
    """Hooked to a layer's output, it replaces the gradient that flows back into the layer (paper, 2.1).

        classic      h ──copy──► layers above        g = SG(h)
                     ▲                               mix = (1 - λ) g + λ t
                     └── mix ── t, from above        t trains the SG network
        unlocked     h, g ──► the layer's backward and step, now
                     leaf ──copy──► layers above; t, from above, stops at the leaf and trains the SG network

    Layers above get a copy, so that they may work in place. With λ = 1 t itself is passed on, bit for bit.
    The SG network is made at the first output, or when a state_dict is loaded.
    """

    def __init__(self, name: str, maker: Maker, shared: Updates, format_fn: FormatFn | None) -> None:
        super().__init__()
        self.name = name
        self.updates = 0
        """How often the layer's weights got a gradient."""
        self.network: DNINetwork | None = None
        """The SG network."""
        self.synthesizer: Synthesizer | None = None
        self._maker, self._shared, self._format = maker, shared, format_fn or first_tensor
        self._handle: RemovableHandle | None = None
        self._built: tuple[int, ...] = ()  # classes?, float64?, shape

    def attach(self, layer: nn.Module) -> None:
        """Add the hook to the layer."""
        self._handle = layer.register_forward_hook(self.on_forward)

    def remove(self) -> None:
        """Remove the hook from the layer."""
        if self._handle is not None:
            self._handle.remove()

    # dynamo cannot trace what happens here; torch.compiler.disable does the same, but imports dynamo now
    @torch._disable_dynamo
    def on_forward(self, module: nn.Module, args: Any, output: Any) -> Any:
        """The forward hook. Returns None (no change) in eval mode and where nothing needs a gradient."""
        if not (self.training and module.training and torch.is_grad_enabled()):
            return None
        h = self._format(output, module)
        if not any(h is tensor for tensor in tensors(output)):
            raise UserError(f"{self._where(module)}: format_fn must give one of the tensors of the output")
        if not h.requires_grad or not h.numel():
            return None
        maker = self._maker
        layout = Layout(module, h, maker.network is not None, maker.time_first)
        seen = layout.to_network(h.detach())
        labels = self._labels(seen, module)
        try:
            pending, synthetic = self._synthesizer(seen).synthesize(self.updates, seen, labels)
        except UserError as error:
            raise UserError(f"{self._where(module)}: {error}") from error
        call = Call(self, pending, layout, layout.to_layer(synthetic))
        if not self._shared.unlocked:
            h.register_hook(call.mix)
            return replace(output, lambda tensor: tensor.clone() if tensor is h else tensor)
        self._shared.backward(h, call.gradient)
        self.updates += 1
        leaf = h.detach().requires_grad_()
        leaf.register_hook(call.arrive)
        return replace(output, lambda tensor: leaf.clone() if tensor is h else tensor.detach())

    def learn(self, pending: PendingPrediction, target: Tensor) -> None:
        """Train the SG network with a target in its own layout."""
        assert self.synthesizer is not None
        self.synthesizer.learn(pending, target)

    def reset_hidden(self) -> None:
        """Reset the hidden state of a recurrent SG network."""
        if self.network is not None:
            self.network.reset()

    def stats(self) -> dict[str, Any]:
        """Return the agreement of predictions and targets, and the numbers of updates."""
        made = self.synthesizer.stats() if self.synthesizer is not None else {}
        return {
            "relative_error": made.get("sg_relative_error"),
            "cosine": made.get("sg_cosine"),
            "sg_updates": made.get("sg_updates", 0),
            "updates": self.updates,
        }

    def _synthesizer(self, seen: Tensor) -> Synthesizer:
        half = seen.dtype in (torch.float16, torch.bfloat16)
        like = seen.new_empty(0, dtype=torch.float32 if half else seen.dtype)
        if self.synthesizer is None:
            self._build(tuple(seen.shape[1:]), self._shared.classes, like)
        assert self.synthesizer is not None and self.network is not None
        first = next(self.network.parameters())
        if first.device != like.device or first.dtype != like.dtype:
            self.to(like.device, like.dtype)
        return self.synthesizer

    def _build(self, shape: tuple[int, ...], classes: bool, like: Tensor) -> None:
        self.synthesizer = self._maker.make(shape, classes, like)
        self.network = self.synthesizer.network
        self._built = (int(classes), int(like.dtype == torch.float64), *shape)

    def _labels(self, seen: Tensor, module: nn.Module) -> Tensor | None:
        if not self._maker.label_size:
            return None
        labels = self._shared.labels
        if labels is None:
            raise UserError(
                "CDNI has no labels for this batch; call register_labels(labels) before the forward"
            )
        if len(labels) != len(seen):
            raise UserError(
                f"{self._where(module)}: {len(labels)} labels are registered for a batch of {len(seen)}; "
                "call register_labels(labels) before each forward"
            )
        return labels.to(seen.device)

    def _where(self, module: nn.Module) -> str:
        return f"layer {self.name} ({type(module).__name__})"

    def _apply(self, fn: Any, recurse: bool = True) -> Interface:
        super()._apply(fn, recurse)
        if self.synthesizer is not None:
            move_state(self.synthesizer.optimizer)
            self.synthesizer.forget()
        return self

    def get_extra_state(self) -> Tensor:
        """Return what the SG network was made for, so that a fresh instance can make it."""
        return torch.tensor(self._built, dtype=torch.long)

    def set_extra_state(self, state: Tensor) -> None:
        """Make the SG network that a state_dict has values for."""
        if len(state) and self.network is None:
            classes, double, *shape = state.tolist()
            like = torch.empty(0, dtype=torch.float64 if double else torch.float32)
            self._build(tuple(shape), bool(classes), like)


class Call:
    """One forward of a wrapped layer, until its gradient has come. The autograd graph refers to it."""

    def __init__(
        self, interface: Interface, pending: PendingPrediction, layout: Layout, gradient: Tensor
    ) -> None:
        self.interface, self.pending, self.layout, self.gradient = interface, pending, layout, gradient

    def mix(self, target: Tensor) -> Tensor | None:
        """Classic: returns the gradient (B, ...) that flows into the layer, None for the target itself."""
        shared = self.interface._shared
        self.arrive(target)
        self.interface.updates += 1
        return None if shared.mix == 1 else torch.lerp(self.gradient, target, shared.mix)

    def arrive(self, target: Tensor) -> None:
        """Pass the target (B, ...) to `learn` at the end of the backward."""
        self.interface._shared.arrive(id(self), self.learn, target)

    def learn(self, target: Tensor) -> None:
        """Train the SG network on the target (B, ...)."""
        self.interface.learn(self.pending, self.layout.to_network(target))


def move_state(optimizer: torch.optim.Optimizer) -> None:
    """Move an optimizer's state to where its parameters are now."""
    optimizer.load_state_dict(optimizer.state_dict())
