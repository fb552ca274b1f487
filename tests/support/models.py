"""Whole models as people write them, in the form of their papers, and small Hugging Face models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 4


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al. 2015, figure 5)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride > 1 or inputs != width:
            shortcut = nn.Conv2d(inputs, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet18(nn.Module):
    """ResNet-18 (He et al. 2015, table 1), for images (B, 3, H, W), with `width` channels at the start."""

    def __init__(self, width: int = 64, classes: int = CLASSES) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(width, width, 1), BasicBlock(width, width, 1))
        self.layer2 = nn.Sequential(BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 2 * width, 1))
        self.layer3 = nn.Sequential(BasicBlock(2 * width, 4 * width, 2), BasicBlock(4 * width, 4 * width, 1))
        self.layer4 = nn.Sequential(BasicBlock(4 * width, 8 * width, 2), BasicBlock(8 * width, 8 * width, 1))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Attention(nn.Module):
    """Self-attention of (B, T, D) with `heads` heads (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        q, k, v = self.qkv(x).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(rows, length, width))


class Block(nn.Module):
    """A block of a Transformer with the norms in front."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class ViT(nn.Module):
    """Vision Transformer (Dosovitskiy et al. 2020, section 3.1) for images (B, 3, size, size)."""

    def __init__(
        self,
        size: int = 16,
        patch: int = 4,
        width: int = 16,
        depth: int = 3,
        heads: int = 2,
        dropout: float = 0.0,
        classes: int = CLASSES,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width) * 0.02)
        self.blocks = nn.ModuleList([Block(width, heads, dropout) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed
        x = F.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class UNet(nn.Module):
    """Convolutions with a skip connection from each half to the other (Ronneberger et al. 2015)."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, width, 3, 1, 1), nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.middle = nn.Conv2d(2 * width, 2 * width, 3, 1, 1)
        self.up2 = nn.ConvTranspose2d(4 * width, width, 2, 2)
        self.up1 = nn.Conv2d(2 * width, CLASSES, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.down1(x))
        second = F.relu(self.down2(first))
        h = F.relu(self.middle(second))
        h = F.relu(self.up2(torch.cat([h, second], 1)))
        return self.up1(torch.cat([h, first], 1))


class TwoTowers(nn.Module):
    """{text: ids (B, T), numbers: (B, 5)} -> scores (B, CLASSES); each input has layers of its own."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed, self.encode = nn.Embedding(20, width), nn.Linear(width, width)
        self.numbers = nn.Sequential(nn.Linear(5, width), nn.ReLU())
        self.head = nn.Linear(2 * width, CLASSES)

    def forward(self, text: Tensor, numbers: Tensor) -> Tensor:
        valid = (text != 0).float().unsqueeze(2)
        h = F.relu(self.encode(self.embed(text)))
        pooled = (h * valid).sum(1) / valid.sum(1).clamp(min=1)
        return self.head(torch.cat([pooled, self.numbers(numbers)], 1))


class TwoInputs(nn.Module):
    """(left, right), both (B, 5), of different use, to (B, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.second(self.first(F.relu(left)) * right)


def gpt2(**settings: Any) -> nn.Module:
    """Return a tiny GPT2LMHeadModel of Hugging Face, with weights by chance."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": 24, "n_positions": 16, "n_embd": 16, "n_layer": 3, "n_head": 2}
    plain = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    untied = {"use_cache": False, "tie_word_embeddings": False}
    return GPT2LMHeadModel(GPT2Config(**sizes | plain | untied | settings))


def bert(**settings: Any) -> nn.Module:
    """Return a tiny BertForSequenceClassification of Hugging Face, with weights by chance."""
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"vocab_size": 24, "max_position_embeddings": 16, "hidden_size": 16, "intermediate_size": 32}
    depth = {"num_hidden_layers": 3, "num_attention_heads": 2, "num_labels": CLASSES}
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForSequenceClassification(BertConfig(**sizes | depth | plain | settings))


def llama() -> nn.Module:
    """Return a tiny LlamaForCausalLM of Hugging Face, whose rotary embedding has no row per sample."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 24, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "use_cache": False}
    symbols = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, **symbols))


def tokens(rows: int, length: int = 6, seed: int = 0) -> dict[str, Tensor]:
    """Return input_ids and attention_mask (rows, length); the last row is padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(rows, length, dtype=torch.long)
    mask[-1, length // 2 :] = 0
    return {
        "input_ids": torch.randint(1, 24, (rows, length), generator=generator),
        "attention_mask": mask,
    }


def images(rows: int, size: int = 16, seed: int = 0) -> Tensor:
    """Return (rows, 3, size, size) normal numbers."""
    return torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(seed))
