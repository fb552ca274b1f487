"""What `launch.bench` measures of transformers beside the GPT: images, and gradients that cross positions."""

from __future__ import annotations

from launch.report.bench_section import Section

_VIT = "--task vit --task-args patch=8 --epochs 10"
_INDUCTION = "--task induction --epochs 1 --stages 2"

SEQUENCE_SECTIONS = (
    Section(
        "vit",
        "Accuracy of a vision transformer: four blocks of 64, two and four stages",
        "CIFAR-10 as far as it is there (one of its five files: 10,000 training images), patches of 8x8 "
        "pixels, ten epochs of batches of 64, AdamW with warm-up and a cosine schedule (the defaults of the "
        "task), three seeds, all stages in one process. The SG network is the head on the mean over the "
        "positions. `frozen` is the control: its stages below the last never learn.",
        (f"study {_VIT} --rules backprop cdni frozen --vary stages=2/4 --repeats 3",),
        ("study.png",),
        minutes=15,
    ),
    Section(
        "induction",
        "Gradients that depend on other positions: an induction task",
        "Random strings that repeat themselves; the symbol that comes next stands at another position. Two "
        "blocks of 32, 1,500 steps of 8 strings, three seeds, all stages in one process; bits per symbol on "
        "the second half of each string, lower is better. Learning is a sudden drop, and runs differ in when "
        "it comes. The head of one position cannot know what the others need of it; with attention in front "
        "it can, unless it learns to match targets from the start (docs/LOG.md).",
        (
            f"study {_INDUCTION} --rules backprop 'token-attention: cdni --sg.kind token-attention' "
            "'token-attention, matching: cdni --sg.kind token-attention --sg.match 0.25' "
            "'token-head: cdni' frozen --vary in-flight=4 --repeats 3",
        ),
        ("study.png",),
        minutes=3,
    ),
)
