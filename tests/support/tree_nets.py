"""Networks whose layers take and return trees of tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES, WIDTH, CLASSES, STEPS, SYMBOLS = 6, 8, 3, 5, 11


class Branch(nn.Module):
    """x -> (first, x kept for later)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.linear(x))
        return h, x


class Skip(NamedTuple):
    """What crosses behind `Narrow`."""

    narrow: Tensor
    h: Tensor
    x: Tensor


class Narrow(nn.Module):
    """(h, x) -> (smaller h, h, x): a skip over two cuts, and the batch itself without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH - 2)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Skip:
        h, x = inputs
        return Skip(torch.tanh(self.linear(h)), h, x)


class Through(nn.Module):
    """(narrow, h, x) -> {narrow, skip, x}."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH - 2, WIDTH - 2)

    def forward(self, inputs: Skip) -> dict[str, Any]:
        return {"narrow": F.relu(self.linear(inputs.narrow)), "skip": inputs.h, "x": inputs.x, "scale": 0.5}


class Join(nn.Module):
    """{narrow, skip, x} -> scores."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH - 2 + WIDTH + FEATURES, CLASSES)

    def forward(self, inputs: dict[str, Any]) -> Tensor:
        parts = [inputs["narrow"], inputs["skip"], inputs["x"] * inputs["scale"]]
        return self.linear(torch.cat(parts, 1))


class TwoInputs(nn.Module):
    """{left (B, FEATURES), right (B, 2, 4)} -> {left (B, WIDTH), right (B, 2, 5)}, joined as rows."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(FEATURES, WIDTH), nn.Linear(4, 5)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            "left": F.relu(self.left(inputs["left"])),
            "right": torch.tanh(self.right(inputs["right"])),
        }


class Meet(nn.Module):
    """{left, right} -> (B, WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH + 10, WIDTH)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return F.relu(self.linear(torch.cat([inputs["left"], inputs["right"].flatten(1)], 1)))


class Embed(nn.Module):
    """{ids (B, T), mask (B, T)} -> (h (B, T, WIDTH), mask, nothing)."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(SYMBOLS, WIDTH)

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, None]:
        return self.table(inputs["ids"]), inputs["mask"], None


class MaskedMean(nn.Module):
    """(h, mask, nothing) -> the same, with the mean over the positions of the mask added to h."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, inputs: tuple[Tensor, Tensor, None]) -> tuple[Tensor, Tensor, None]:
        h, mask, nothing = inputs
        assert nothing is None and mask.dtype is torch.bool
        weights = mask.unsqueeze(-1).to(h.dtype)
        mean = (h * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1)
        return F.relu(self.linear(h + mean)), mask, None


class Read(nn.Module):
    """(h, mask, nothing) -> scores (B, T, CLASSES)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: tuple[Tensor, Tensor, None]) -> Tensor:
        return self.linear(inputs[0])


class TwoHeads(nn.Module):
    """(h, mask, nothing) -> {per token (B, T, CLASSES), per sample (B, 2)}."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.sample = nn.Linear(8, CLASSES), nn.Linear(8, 2)

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        h = inputs[0]
        return {"tokens": self.tokens(h), "sample": self.sample(h.mean(1))}


def skips() -> list[nn.Module]:
    torch.manual_seed(0)
    return [Branch(), Narrow(), Through(), Join()]


def two_inputs() -> list[nn.Module]:
    torch.manual_seed(0)
    return [TwoInputs(), Meet(), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)]


def masked() -> list[nn.Module]:
    torch.manual_seed(0)
    return [Embed(), MaskedMean(), MaskedMean(), Read()]
