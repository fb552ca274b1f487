"""All SG networks that a stage may have, by name: one line each. The classes declare which cuts they fit."""

from __future__ import annotations

from dni_async.networks.base import DNINetwork
from dni_async.plugins import find_class

AUTO = "auto"
"""Chosen by the shape of the activation and by what the labels are."""
NETWORKS = {
    "linear": "dni_async.networks.linear:LinearSG",
    "least-squares": "dni_async.networks.least_squares:LeastSquaresSG",
    "mlp": "dni_async.networks.mlp:MlpSG",
    "conv": "dni_async.networks.conv:ConvSG",
    "head": "dni_async.networks.head:ClassifierSG",
    "token-head": "dni_async.networks.head:TokenHeadSG",
    "token-attention": "dni_async.networks.token_attention:TokenAttentionSG",
}
"""Name on the command line -> class."""
NARROW = 2
"""Up to this width the layer norm of the head leaves nothing of a prediction (see `FeatureHeadSG`)."""
SOLVABLE = 128
"""Up to this width, and so many labels, least squares are solved in a fraction of a millisecond."""


def find_network(kind: str) -> type[DNINetwork]:
    """Return the class of an SG network, by its name or dotted path. Raises UserError if there is none."""
    advice = f"; use one of {', '.join([AUTO, *NETWORKS])}, or your own as my_pkg.my_sg:MySG"
    return find_class(kind, NETWORKS, "SG network", DNINetwork, advice=advice)


def automatic_kind(
    shape: tuple[int, ...], conditional: bool, classes: bool, batch_normalised: bool, values: int = 0
) -> str:
    """Return the kind that was measured to be best for activations of `shape` (without the batch).

        labels that are classes, seen by the network    head, but linear for features that are
                                                        batch-normalised or at most `NARROW` wide
        real values, seen by the network                least-squares for features up to `SOLVABLE` wide
                                                        that are not batch-normalised
        any others, or none                             conv for images, linear for features

    Args:
        conditional: whether the network sees the labels.
        classes: whether the labels are classes.
        batch_normalised: whether the activation is, in a network without residual connections.
        values: number of real values that the network sees as labels.
    """
    image = len(shape) == 3
    if conditional and classes and (image or not (batch_normalised or shape[-1] <= NARROW)):
        return "head"
    if 0 < values <= SOLVABLE and not (image or batch_normalised or shape[-1] > SOLVABLE):
        return "least-squares"
    return "conv" if image else "linear"
