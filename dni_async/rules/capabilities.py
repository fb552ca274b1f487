"""What a rule can do. The rest of the program asks for capabilities, never for the name of a rule."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCapabilities:
    """Declared by a rule's class. The defaults are safe for a rule that declares nothing."""

    needs_targets: bool = True
    """The stage downstream sends target gradients."""
    sparse_targets: bool = False
    """Some batches may go without a target (`--target-every`)."""
    keeps_graphs: bool = False
    """`gradient` returns None: a batch waits with its graph until its target comes (`postpone`, `resume`)."""
    updates: bool = True
    """The stage learns. False: its weights stay as they are."""
    uses_labels: bool = True
    """`gradient` uses the labels."""
    conditional: bool = False
    """The rule uses the labels as its task's `condition` returns them."""
    has_network: bool = False
    """The rule trains a network at the stage's output, whose cost is measured before the network is cut."""
    supervised: bool = False
    """A stage may be started again with older weights (`--supervise`)."""
    resumable: bool = False
    """`state_dict` and `load_state_dict` are complete: checkpoints can be kept and resumed."""
    restarts_after_recut: str = ""
    """What starts afresh when a checkpoint is resumed with another cut, in the plural; "" for nothing."""
    skips_nonfinite: bool = False
    """A batch with NaN or infinite values may be skipped (`--on-nonfinite skip`)."""
    scales_gradients: bool = True
    """The stage may scale the gradient for its backward, as fp16 needs it."""
    compiles: bool = False
    """The layers may be compiled (`--compile`)."""
    planned: bool = False
    """`launch.plan` can predict its speed and memory."""
    plot_style: tuple[str, str] | None = None
    """Colour and marker (of matplotlib) in pictures; None takes any that are free."""
