"""`MuonWithAdamW` is torch's Muon on matrices and torch's AdamW on the rest, to the bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dni_async.muon import MuonWithAdamW

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon since 2.9")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3))


def steps(model: nn.Module, *optimizers: torch.optim.Optimizer, count: int = 3, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        model(torch.randint(0, 5, (8,), generator=generator)).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_matrices_are_updated_by_muon_and_all_else_by_adamw() -> None:
    model, wanted = network(), network()
    embedding = model[0].weight
    rest = [p for p in model.parameters() if p is not embedding]
    groups = [{"params": [embedding], "muon": False, "lr": 0.1}, {"params": rest}]
    steps(model, MuonWithAdamW(groups, lr=0.02, weight_decay=0.01))

    matrices = [wanted[1].weight, wanted[3].weight]
    vectors = [p for p in wanted.parameters() if p.ndim == 1]
    muon = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    settings = {"weight_decay": 0.01, "betas": (0.9, 0.95), "fused": True}
    embeddings = torch.optim.AdamW([wanted[0].weight], lr=0.1, **settings)
    steps(wanted, muon, embeddings, torch.optim.AdamW(vectors, lr=0.02, **settings))
    assert same(model, wanted)


def test_it_continues_from_its_state_to_the_bit() -> None:
    model = network()
    optimizer = MuonWithAdamW(model.parameters())
    steps(model, optimizer)
    resumed = copy.deepcopy(model)
    second = MuonWithAdamW(resumed.parameters())
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, by in ((model, optimizer), (resumed, second)):
        steps(each, by, seed=2)
    assert same(model, resumed)


def test_a_learning_rate_that_is_set_in_its_groups_holds() -> None:
    model, frozen = network(), network()
    optimizer = MuonWithAdamW(model.parameters())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    steps(model, optimizer)
    assert same(model, frozen)


def test_layers_without_matrices_are_left_to_adamw_alone() -> None:
    norm, wanted = nn.LayerNorm(4), nn.LayerNorm(4)
    for module, optimizer in (
        (norm, MuonWithAdamW(norm.parameters())),
        (wanted, torch.optim.AdamW(wanted.parameters(), weight_decay=0.1, betas=(0.9, 0.95), fused=True)),
    ):
        module(torch.arange(8.0).reshape(2, 4)).pow(3).sum().backward()
        optimizer.step()
    assert same(norm, wanted)
