"""Muon for matrices, AdamW for all other parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT
from typing_extensions import override


class MuonWithAdamW(Optimizer):
    """Muon (Jordan et al. 2024) on matrices, AdamW on vectors, scalars and convolutions.

    Muon orthogonalises the momentum of a matrix, and scales it so that its root mean square is AdamW's usual
    one ("match_rms_adamw"): one learning rate and one weight decay serve both. A group of parameters with
    `muon=False` is left to AdamW, as is usual for embeddings and the output layer.

    Args:
        params: parameters, or groups of them with settings of their own.
        lr, weight_decay: of both.
        momentum, nesterov, ns_steps: of Muon.
        betas, eps: of AdamW.
        muon: whether Muon takes the matrices of a group.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        muon: bool = True,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "muon": muon})
        groups = [_split(group) for group in self.param_groups]
        matrices = [matrices for matrices, _ in groups if matrices["params"]]
        others = [others for _, others in groups if others["params"]]
        self._parts: list[Optimizer] = []
        if matrices:
            self._parts.append(
                torch.optim.Muon(
                    matrices,
                    momentum=momentum,
                    nesterov=nesterov,
                    ns_steps=ns_steps,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        if others:
            self._parts.append(torch.optim.AdamW(others, betas=betas, eps=eps, fused=True))
        self.param_groups = [group for part in self._parts for group in part.param_groups]
        self._share()

    @override
    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    @override
    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        for part in self._parts:
            part.step()

    def _share(self) -> None:
        """Give both optimizers the groups and the state of this one, which may have been replaced."""
        first = 0
        for part in self._parts:
            count = len(part.param_groups)
            part.param_groups = self.param_groups[first : first + count]
            part.state = self.state
            first += count


def _split(group: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a group of parameters as two: the matrices for Muon, and the others."""
    settings = {key: value for key, value in group.items() if key not in ("params", "muon")}
    takes = [bool(group["muon"]) and p.ndim == 2 for p in group["params"]]

    def chosen(matrices: bool) -> list[nn.Parameter]:
        return [p for p, take in zip(group["params"], takes, strict=True) if take is matrices]

    return settings | {"params": chosen(True)}, settings | {"params": chosen(False)}
