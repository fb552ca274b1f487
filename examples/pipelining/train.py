"""A small transformer in stages, as in torch's tutorial of torch.distributed.pipelining, by either schedule.

torchrun --standalone --nproc-per-node 2 examples/pipelining/train.py --schedule 1f1b
torchrun --standalone --nproc-per-node 2 examples/pipelining/train.py --schedule cdni
"""

import argparse
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.nn import functional as F

from launch.schedule import ScheduleDNI

VOCABULARY, WIDTH, LENGTH, BATCH, MICRO_BATCHES = 64, 64, 16, 32, 4


class Transformer(nn.Module):
    """The layers `first` to `end` of all; embedding and readout in the first and last stage only."""

    def __init__(self, layers: int, first: int, end: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH) if first == 0 else None
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, 0.0, batch_first=True)
                for _ in range(first, end)
            )
        )
        self.output = nn.Linear(WIDTH, VOCABULARY) if end == layers else None

    def forward(self, tokens):
        """Return logits (B, T, V) in the last stage, else (B, T, D), for tokens or what a stage returned."""
        h = self.embedding(tokens) if self.embedding is not None else tokens
        h = self.layers(h)
        return self.output(h) if self.output is not None else h


def loss_fn(output, target):
    """Return the mean cross-entropy of logits (B, T, V) and tokens (B, T)."""
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


def batches(count: int):
    """Yield random tokens (B, T), and as targets the tokens 7 further on in the vocabulary."""
    generator = torch.Generator().manual_seed(0)  # the same on all ranks
    for _ in range(count):
        x = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=generator)
        yield x, (x + 7) % VOCABULARY


def main() -> None:
    """Train one rank."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--schedule", default="cdni")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(rank)
    module = Transformer(2 * world, 2 * rank, 2 * rank + 2)
    stage = PipelineStage(module, rank, world, torch.device("cpu"))
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    if options.schedule == "1f1b":
        schedule = Schedule1F1B(stage, MICRO_BATCHES, loss_fn=loss_fn)
    else:
        schedule = ScheduleDNI(stage, loss_fn=loss_fn, optimizer=optimizer, rule=options.schedule)
    begin, history = time.perf_counter(), []
    for x, y in batches(options.steps):
        losses = []
        optimizer.zero_grad()
        if rank == 0:
            schedule.step(x)
        elif rank == world - 1:
            schedule.step(target=y, losses=losses)
        else:
            schedule.step()
        optimizer.step()
        history += losses
    if isinstance(schedule, ScheduleDNI):
        schedule.drain()
    if history:
        print(f"loss {torch.stack(history[-10:]).mean():.3f}", flush=True)
    if rank == 0:
        print(f"{BATCH * options.steps / (time.perf_counter() - begin):.0f} samples/s", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
