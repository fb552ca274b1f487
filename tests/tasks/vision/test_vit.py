from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dni_async.errors import UserError
from dni_async.networks import TokenHeadSG
from dni_async.networks.factory import build_network, resolve
from dni_async.networks.settings import SGConfig
from launch.config.task_defaults import task_defaults
from launch.config.train import TrainConfig
from launch.job.stage_factory import build_updater
from tasks.vision.vit import PatchEmbedding, RandomShift, Vit
from tests.support.mnist_files import write_mnist


def test_each_patch_is_a_position_of_every_block() -> None:
    task, shapes = Vit(depth=2, width=8, heads=2, patch=8, augment=True), []
    x = torch.rand(2, 3, 32, 32)
    for layer in task.layers():
        x = layer(x)
        shapes.append(tuple(x.shape))
    assert shapes == [(2, 16, 8)] * 3 + [(2, 10)]


def test_an_embedding_is_a_linear_map_of_its_patch_and_a_position() -> None:
    torch.manual_seed(0)
    embedding, x = PatchEmbedding(3, 8, 4, 6), torch.randn(2, 3, 8, 8)
    weight = embedding.project.weight.flatten(1)
    for number, (row, column) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        patch = x[:, :, row : row + 4, column : column + 4].flatten(1)
        wanted = patch @ weight.T + embedding.project.bias + embedding.positions[number]
        torch.testing.assert_close(embedding(x)[:, number], wanted)


def test_every_patch_sees_every_other() -> None:
    torch.manual_seed(0)
    embedding, block, *_ = Vit(depth=1, width=8, heads=2, patch=16).layers()
    x = torch.rand(1, 3, 32, 32)
    before = block(embedding(x))
    x[..., -1, -1] += 1
    assert ((block(embedding(x)) - before).abs().amax(-1) > 1e-6).all()


def shifted(x: Tensor, row: int, column: int, *, flip: bool) -> Tensor:
    padded = nn.functional.pad(x, (4, 4, 4, 4))[:, row : row + x.shape[1], column : column + x.shape[2]]
    return padded.flip(-1) if flip else padded


@pytest.mark.parametrize("flip", [True, False])
def test_an_augmented_image_is_a_shifted_and_perhaps_flipped_one(flip: bool) -> None:
    torch.manual_seed(0)
    x, seen = torch.rand(20, 3, 6, 7) + 0.1, set()
    for image, moved in zip(x, RandomShift(flip=flip)(x), strict=True):
        options = [(r, c, f) for r in range(9) for c in range(9) for f in (False, True)]
        [found] = [o for o in options if torch.equal(shifted(image, o[0], o[1], flip=o[2]), moved)]
        seen.add(found)
    assert len(seen) > 15
    assert {mirrored for _, _, mirrored in seen} == ({True, False} if flip else {False})


def test_images_to_evaluate_are_not_augmented() -> None:
    x = torch.rand(2, 3, 8, 8)
    assert RandomShift(flip=True).eval()(x) is x


def test_mnist_is_read_as_images_of_one_channel(tmp_path: Path) -> None:
    root = write_mnist(tmp_path / "mnist").parent
    task = Vit(images="mnist", patch=7, width=8, heads=2, depth=1)
    train, test = task.data(root)
    x, y = train[:4]
    assert x.shape == (4, 1, 28, 28) and y.shape == (4,) and len(test) == 10
    assert nn.Sequential(*task.layers())(x).shape == (4, 10)


def test_norms_biases_and_positions_do_not_decay_by_default() -> None:
    task = Vit(depth=1, width=8, heads=2)
    defaults = task_defaults(task, TrainConfig, {})
    updater = build_updater(
        TrainConfig.of(task="vit", **defaults).optimizer,
        [(str(i), layer) for i, layer in enumerate(task.layers())],
        100,
    )
    assert updater.optimizer is not None
    decayed = {
        parameter.ndim
        for group in updater.optimizer.param_groups
        for parameter in group["params"]
        if group["weight_decay"]
    }
    assert decayed == {2, 4}
    assert not any(
        parameter.shape == (64, 8)
        for group in updater.optimizer.param_groups
        for parameter in group["params"]
        if group["weight_decay"]
    )


def test_sequences_with_one_label_get_a_head_on_the_mean_over_their_positions() -> None:
    config = resolve(SGConfig(), (16, 8), 2, conditional=True, classes=True, class_count=10)
    network = build_network(config, (16, 8), 10)
    assert isinstance(network, TokenHeadSG)
    h, y = torch.randn(3, 16, 8), torch.tensor([1, 2, 9])
    norm, output = network.head
    leaf = h.clone().requires_grad_()
    nn.functional.cross_entropy(output(norm(leaf).mean(1)), y).backward()
    assert leaf.grad is not None
    torch.testing.assert_close(network.synthesize(h, y), 3 * leaf.grad)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UserError, match="images is svhn; use one of cifar, mnist"):
        Vit(images="svhn")
    with pytest.raises(UserError, match="patch=5 does not divide the 32 pixels of cifar"):
        Vit(patch=5)
    with pytest.raises(UserError, match="width=10 cannot be divided into heads=4"):
        Vit(width=10)
