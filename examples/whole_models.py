"""Tasks with models of every form, small enough to train on a laptop: `python -m launch.bench --only models`.

python -m launch.compare --task examples.whole_models:Bert --engines backprop 1f1b cdni --stages 2
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from dni_async import from_module
from tasks.base import Task
from tasks.vision.digits import digits

SYMBOLS, LENGTH = 8, 12


class Rows(Dataset):
    """Tensors (N, ...) by name, whose samples are dicts, as those of Hugging Face's data sets."""

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: tensor[index] for name, tensor in self.tensors.items()}


def _two_sets(**tensors: Tensor) -> tuple[Dataset, Dataset]:
    """Return 2,000 samples to train on, and the rest."""
    train, test = (
        Rows(**{name: tensor[part] for name, tensor in tensors.items()})
        for part in (slice(2000), slice(2000, None))
    )
    return train, test


class Gpt2(Task):
    """A tiny GPT-2 predicts the next symbol, which follows from the last two by a table."""

    classes = SYMBOLS

    def layers(self) -> list[nn.Module]:
        from transformers import GPT2Config, GPT2LMHeadModel

        sizes = {"vocab_size": SYMBOLS, "n_positions": LENGTH, "n_embd": 64, "n_layer": 4, "n_head": 4}
        plain = {"use_cache": False, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0}
        dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        model = GPT2LMHeadModel(GPT2Config(**sizes, **plain, **dropout))
        return from_module(
            model, ["transformer.h.*"], {"input_ids": torch.zeros(2, LENGTH, dtype=torch.long)}
        )

    def data(self, root: Path | None) -> tuple[Dataset, Dataset]:
        draw = torch.Generator().manual_seed(0)
        table = torch.randint(SYMBOLS, (SYMBOLS, SYMBOLS), generator=draw)
        text = list(torch.randint(SYMBOLS, (2, 2500), generator=draw))
        for _ in range(LENGTH - 1):
            text.append(table[text[-2], text[-1]])
        ids = torch.stack(text, 1)
        labels = ids[:, 1:].clone()
        labels[:, 0] = self.ignore_index  # the second symbol follows from nothing
        return _two_sets(input_ids=ids[:, :-1], labels=labels)


class Bert(Task):
    """A tiny BERT says which of four symbols is in a padded text."""

    classes = 4

    def layers(self) -> list[nn.Module]:
        from transformers import BertConfig, BertForSequenceClassification

        sizes = {"vocab_size": SYMBOLS, "max_position_embeddings": LENGTH, "hidden_size": 64}
        depth = {"num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128, "num_labels": 4}
        dropout = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
        model = BertForSequenceClassification(BertConfig(**sizes, **depth, **dropout))
        ids = torch.ones(2, LENGTH, dtype=torch.long)
        return from_module(model, ["bert.encoder.layer.*"], {"input_ids": ids, "attention_mask": ids})

    def data(self, root: Path | None) -> tuple[Dataset, Dataset]:
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(5, SYMBOLS, (2500, LENGTH), generator=draw)
        labels = torch.randint(4, (2500,), generator=draw)
        lengths = torch.randint(4, LENGTH + 1, (2500, 1), generator=draw)
        ids.scatter_(1, torch.randint(1, 4, (2500, 1), generator=draw), 1 + labels.unsqueeze(1))
        mask = (torch.arange(LENGTH) < lengths).long()
        return _two_sets(input_ids=ids * mask, attention_mask=mask, labels=labels)


class Digits(Task):
    """Scikit-learn's digits, (1, 28, 28), for the models below."""

    classes = 10

    def data(self, root: Path | None) -> tuple[Dataset, Dataset]:
        (x, y), (x_test, y_test) = digits()
        return TensorDataset(x, y), TensorDataset(x_test, y_test)


class ResNet18(Digits):
    """ResNet-18 (He et al. 2015) with an eighth of its channels."""

    def layers(self) -> list[nn.Module]:
        from transformers import ResNetConfig, ResNetForImageClassification

        sizes = {"embedding_size": 8, "hidden_sizes": [8, 16, 32, 64], "depths": [2, 2, 2, 2]}
        config = ResNetConfig(num_channels=1, layer_type="basic", num_labels=10, **sizes)
        points = ["resnet.encoder.stages.*", "classifier"]
        return from_module(ResNetForImageClassification(config), points, torch.zeros(2, 1, 28, 28))


class Vit(Digits):
    """A tiny Vision Transformer (Dosovitskiy et al. 2020)."""

    def layers(self) -> list[nn.Module]:
        from transformers import ViTConfig, ViTForImageClassification

        sizes = {
            "hidden_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 128,
        }
        images = {"image_size": 28, "patch_size": 7, "num_channels": 1, "num_labels": 10}
        dropout = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
        model = ViTForImageClassification(ViTConfig(**sizes, **images, **dropout))
        blocks = [name for name, _ in model.named_modules() if name.endswith("layernorm_before")]
        points = [name.removesuffix(".layernorm_before") for name in blocks]
        return from_module(model, points, torch.zeros(2, 1, 28, 28))


class Skips(nn.Module):
    """A fully connected network whose first hidden layer is seen again by the last two."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(784, width), nn.Linear(width, width)
        self.third, self.head = nn.Linear(2 * width, width), nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.first(x.flatten(1)))
        second = F.relu(self.second(first))
        third = F.relu(self.third(torch.cat([first, second], 1)))
        return self.head(torch.cat([first, third], 1))


class SkipMlp(Digits):
    """Skip connections over two cuts."""

    def layers(self) -> list[nn.Module]:
        return from_module(Skips(), ["second", "third", "head"], torch.zeros(2, 1, 28, 28))


class Halves(nn.Module):
    """Each half of an image has layers of its own, of different widths."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_upper, self.embed_lower = nn.Linear(392, 64), nn.Linear(392, 32)
        self.upper, self.lower = nn.Linear(64, 64), nn.Linear(32, 32)
        self.head = nn.Linear(96, 10)

    def forward(self, upper: Tensor, lower: Tensor) -> Tensor:
        upper, lower = F.relu(self.embed_upper(upper)), F.relu(self.embed_lower(lower))
        upper, lower = F.relu(self.upper(upper)), F.relu(self.lower(lower))
        return self.head(torch.cat([upper, lower], 1))


class TwoInputs(Digits):
    """Samples (upper half, lower half, label)."""

    def layers(self) -> list[nn.Module]:
        half = torch.zeros(2, 392)
        return from_module(Halves(), ["upper", "head"], {"upper": half, "lower": half})

    def data(self, root: Path | None) -> tuple[Dataset, Dataset]:
        sets = [(x.flatten(1), y) for x, y in digits()]
        train, test = (Rows(upper=x[:, :392], lower=x[:, 392:], labels=y) for x, y in sets)
        return train, test


class Regression(Task):
    """The progress of diabetes within a year, in standard deviations."""

    def layers(self) -> list[nn.Module]:
        hidden = [nn.Sequential(nn.Linear(10 if i == 0 else 32, 32), nn.Tanh()) for i in range(3)]
        return [*hidden, nn.Linear(32, 1)]

    def data(self, root: Path | None) -> tuple[Dataset, Dataset]:
        x, y = (torch.tensor(array, dtype=torch.float32) for array in load_diabetes(return_X_y=True))
        x, y = x / x.std(), ((y - y.mean()) / y.std()).unsqueeze(1)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        train, test = order[:342], order[342:]
        return TensorDataset(x[train], y[train]), TensorDataset(x[test], y[test])


class MultiLabel(Digits):
    """Three labels of a digit at once: whether it is even, more than 4, and prime."""

    classes = 3
    multi_label = True

    def layers(self) -> list[nn.Module]:
        hidden = [nn.Sequential(nn.Linear(784 if i == 0 else 64, 64), nn.ReLU()) for i in range(3)]
        return [nn.Sequential(nn.Flatten(), hidden[0]), *hidden[1:], nn.Linear(64, 3)]

    def data(self, root: Path | None) -> tuple[Dataset, Dataset]:
        prime = torch.tensor([2, 3, 5, 7])
        train, test = (
            TensorDataset(x, torch.stack([y % 2 == 0, y > 4, torch.isin(y, prime)], 1).float())
            for x, y in digits()
        )
        return train, test


MODELS: dict[str, Any] = {
    each.__name__: each for each in (Gpt2, Bert, ResNet18, Vit, SkipMlp, TwoInputs, Regression, MultiLabel)
}
"""The tasks by name."""
