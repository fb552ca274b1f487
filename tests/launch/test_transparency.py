"""DESIGN idea 2 in real processes: with an oracle, a decoupled run is sequential backprop to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from launch.fit import fit
from launch.source import Data
from tasks.base import seed_everything
from tasks.digits import DigitsFcn

EPOCHS, BATCH, SEED = 2, 100, 3


@pytest.fixture(scope="module")
def textbook() -> dict[str, Tensor]:
    """The weights that the loop in everybody's textbook ends with."""
    torch.set_num_threads(1)
    task = DigitsFcn(depth=4, width=48)
    data = Data(*task.data(None), BATCH, SEED)
    seed_everything(SEED)
    model = nn.Sequential(*task.layers())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    for epoch in range(1, EPOCHS + 1):
        for x, y in data.training(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize(
    ("stages", "transport"),
    [
        (1, "auto"),
        (2, "shm"),
        (3, "shm"),
        (2, "dist"),
        (3, "dist"),
        (2, "rpc"),
        (3, "rpc"),
        (4, "shm,dist,rpc"),
    ],
)
def test_an_oracle_makes_the_pipeline_equal_to_backprop_to_the_bit(
    textbook: dict[str, Tensor], stages: int, transport: str
) -> None:
    trained = fit(
        DigitsFcn(depth=4, width=48),
        stages=stages,
        rule="oracle",
        epochs=EPOCHS,
        batch_size=BATCH,
        seed=SEED,
        transport=transport,
    )
    weights = trained.model.state_dict()
    assert weights.keys() == textbook.keys()
    assert [name for name in textbook if not torch.equal(weights[name], textbook[name])] == []
    links = transport.split(",") if "," in transport else [transport] * (stages - 1)
    assert trained.summary["transports"] == links


def test_without_an_oracle_the_weights_differ(textbook: dict[str, Tensor]) -> None:
    """So the comparison above can fail."""
    trained = fit(
        DigitsFcn(depth=4, width=48), stages=2, rule="cdni", epochs=EPOCHS, batch_size=BATCH, seed=SEED
    )
    assert not torch.equal(trained.model.state_dict()["0.0.weight"], textbook["0.0.weight"])
