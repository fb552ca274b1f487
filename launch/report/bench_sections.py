"""What `launch.bench` measures: engines side by side in speed and accuracy, messages, plans, and the rest."""

from __future__ import annotations

from launch.report.bench_depth import DEPTH_SECTIONS
from launch.report.bench_emulated import EMULATED_SECTIONS
from launch.report.bench_far import FAR_SECTIONS
from launch.report.bench_models import MODEL_SECTIONS
from launch.report.bench_recurrent import RECURRENT_SECTIONS
from launch.report.bench_section import Section
from launch.report.bench_sequences import SEQUENCE_SECTIONS

ALL = "backprop copies backprop-all ddp gpipe 1f1b delayed local dni cdni frozen"
RIVALS = "backprop copies backprop-all ddp gpipe 1f1b delayed local cdni"

SECTIONS = (
    Section(
        "fcn",
        "Throughput: six hidden layers of 256, two stages",
        "Same initial weights, data order, global batch of 256, (fused) Adam and test set for every engine; "
        "the contestants alternate. samples/s is the steady state. `gpipe` and `1f1b` run with the best of "
        "several micro-batch counts, which stands in the table. Two controls: `frozen`, whose stages below "
        "the last never learn, and `copies`, two sequential trainings at once that share nothing, which is "
        "what this machine gives to two busy processes at most. Layers cannot be divided, and stage 1 of the "
        "balanced cut has 57 % of the work: with no message and no SG network two stages would reach 1.7 of "
        "2.0 (docs/LOG.md).",
        (f"compare --task mnist-fcn --engines {ALL} --stages 2 --epochs 1 --repeats 3",),
        ("compare.png",),
        minutes=12,
    ),
    Section(
        "wide",
        "Throughput: six hidden layers of 1,024, two stages",
        "As above, on 20,000 training images.",
        (
            "compare --task mnist-fcn --task-args width=1024 subset=20000 "
            f"--engines {RIVALS} --stages 2 --epochs 1 --repeats 3",
        ),
        ("compare.png",),
        minutes=12,
    ),
    Section(
        "cnn",
        "Throughput: four convolutions of 64 filters, two stages",
        "CIFAR-10, 3,200 training images, batches of 64, the cut by measured cost and the SG network by "
        "default (the convolutional head); last, true gradients of one batch in four only. An epoch of so "
        "few images says nothing about accuracy.",
        (
            "compare --task cifar-cnn --task-args subset=3200 --batch-size 64 "
            "--engines backprop copies gpipe delayed local cdni --stages 2 --epochs 1 --repeats 1",
            "compare --task cifar-cnn --task-args subset=3200 --batch-size 64 "
            "--engines backprop copies cdni --stages 2 --epochs 1 --repeats 1 --target-every 4",
        ),
        ("compare.png",),
        minutes=24,
    ),
    Section(
        "residual",
        "Accuracy on a residual network: 16 residual blocks of 128, two and four stages",
        "20,000 MNIST images, three epochs, linear schedule, two seeds. `frozen` is the control: its stages "
        "below the last never learn, and a linear SG network on the raw residual stream ends below it "
        "(docs/LOG.md).",
        tuple(
            "compare --task mnist-residual --task-args subset=20000 "
            f"--engines backprop frozen local delayed cdni --stages {stages} --batch-size 128 "
            "--schedule linear --epochs 3 --repeats 2 --vary-seed"
            for stages in (2, 4)
        ),
        ("compare.png",),
        minutes=5,
    ),
    Section(
        "gpt",
        "Loss of a small GPT: four blocks of 64, two and four stages",
        "Characters of tiny shakespeare, 1,000 steps of 8 windows of 64, AdamW with warm-up and a cosine "
        "schedule (the defaults of the task), three seeds; bits per character on the test text, lower is "
        "better. `frozen` is the control: its stages below the last never learn.",
        tuple(
            "compare --task gpt-char --task-args windows=8000 --engines backprop frozen local delayed cdni "
            f"--stages {cut.count(',') + 2} --cut {cut} --epochs 1 --repeats 3 --vary-seed"
            for cut in ("3", "2,3,4")
        ),
        ("compare.png",),
        minutes=12,
    ),
    Section(
        "accuracy",
        "Time to 98 % test accuracy, constant learning rate, two stages",
        "Every engine stops at the first evaluation on the whole test set (four per epoch, their time "
        "included) that reaches 98 %; medians over three seeds.",
        (
            "compare --task mnist-fcn --engines backprop backprop-all 1f1b delayed local cdni "
            "--stages 2 --epochs 8 --until 0.98 --evaluations 4 --repeats 3 --vary-seed",
        ),
        ("compare.png",),
        minutes=20,
    ),
    Section(
        "accuracy-decay",
        "Time to 98 % test accuracy, each with its best schedule",
        "The engines with exact gradients get the schedule that was found best for backprop (tried: linear "
        "decay over 1, 2 and 3 epochs, a tenth of the rate after 50 to 80 % of 2 epochs, rates of 1e-3 to "
        "3e-3), cdni the best of the same for it, with a faster SG network and two batches in flight "
        "(docs/LOG.md). Eight evaluations per epoch, three seeds.",
        (
            "compare --task mnist-fcn --engines backprop gpipe 1f1b delayed --stages 2 --epochs 2 "
            "--lr 2e-3 --schedule linear --until 0.98 --evaluations 8 --repeats 3 --vary-seed",
            "compare --task mnist-fcn --engines cdni --stages 2 --epochs 2 --lr 2e-3 --schedule step "
            "--milestones 0.8 --sg.lr 3e-3 --in-flight 2 --until 0.98 --evaluations 8 --repeats 3 "
            "--vary-seed",
        ),
        minutes=10,
    ),
    Section(
        "accuracy-cnn",
        "Time to 98 % test accuracy: three convolutions of 16 filters, two stages",
        "MNIST in batches of 64, constant learning rate, eight evaluations per epoch (their time included), "
        "three seeds. `frozen`, whose first stage never learns, is the control: random filters are good. "
        "Last, true gradients of one batch in four only.",
        (
            "compare --task mnist-cnn --engines backprop backprop-all 1f1b delayed local cdni frozen "
            "--stages 2 --batch-size 64 --epochs 2 --until 0.98 --evaluations 8 --repeats 3 --vary-seed",
            "compare --task mnist-cnn --engines backprop cdni --stages 2 --batch-size 64 --epochs 2 "
            "--until 0.98 --evaluations 8 --repeats 3 --vary-seed --target-every 4",
        ),
        ("compare.png",),
        minutes=20,
    ),
    Section(
        "messages",
        "What a message costs",
        "One message between two processes of this machine, from the call of `send` to the moment the "
        "receiver can read it. Over shm the receiver asks for a millisecond before it sleeps, as stages with "
        "a core of their own do.",
        ("latency",),
        minutes=1,
    ),
    Section(
        "plan",
        "Predicted and measured",
        "`launch.plan` predicts from one profile by discrete-event simulation: first up to 1,024 stages, for "
        "the same network with its middle layers repeated; then the same jobs were run, for real with two "
        "stages and emulated with four and eight, and stand beside their prediction.",
        (
            "plan --task mnist-fcn --repeat-layers 1024",
            "plan --task mnist-fcn --task-args depth=9 subset=10000 --epochs 1 --check",
        ),
        ("plan.png",),
        minutes=10,
    ),
    *EMULATED_SECTIONS,
    *DEPTH_SECTIONS,
    *SEQUENCE_SECTIONS,
    *MODEL_SECTIONS,
    *FAR_SECTIONS,
    *RECURRENT_SECTIONS,
    Section(
        "gpu",
        "GPU: stages sharing one device",
        "Two stages on one GPU over pinned shared memory. Nothing here has been measured on a GPU yet; "
        "`make gpu-check` measures it in nine minutes ([GPU.md](GPU.md)).",
        (
            f"compare --task mnist-fcn --task-args width=1024 --device cuda --engines {RIVALS} --stages 2 "
            "--epochs 2 --repeats 3",
        ),
        ("compare.png",),
        device="cuda",
    ),
)
"""In the order of the document."""
