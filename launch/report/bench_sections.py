"""What `launch.bench` measures: questions, the commands that answer them, and how to read the answers."""

from __future__ import annotations

from dataclasses import dataclass

ALL = "backprop copies backprop-all ddp gpipe 1f1b delayed local dni cdni frozen"
RIVALS = "backprop copies backprop-all ddp gpipe 1f1b delayed local cdni"


@dataclass(frozen=True, slots=True)
class Section:
    """One measurement and its place in docs/BENCHMARKS.md."""

    name: str
    """For --only, and the folder of its results."""
    title: str
    text: str
    """What is compared and how the numbers are to be read, in Markdown."""
    commands: tuple[str, ...]
    """Modules of `launch` and their arguments, without --out."""
    pictures: tuple[str, ...] = ()
    """Files of the command's folder to show below the tables."""
    device: str = "cpu"
    """cuda: left out, and said to be, where torch sees no GPU."""
    minutes: int = 5
    """About how long it takes on two cores."""
    asked: bool = False
    """Whether it runs only when `--only` names it."""


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
        "emulated-4",
        "Four emulated stages",
        "Each stage sleeps until its compute has lasted as long as on a device of the given speed; learning "
        "and messages are real. Speed-up is over sequential backprop on one such device.",
        (
            "compare --task mnist-fcn --task-args depth=31 subset=10000 --engines backprop delayed cdni "
            "--stages 4 --sg.rank 16 --sg.replay 0 --epochs 1 --emulate-gflops 5 --repeats 1",
        ),
        minutes=5,
    ),
    Section(
        "emulated-8",
        "Eight emulated stages",
        "As above. What a stage holds for other batches does not grow with the number of stages.",
        (
            "compare --task mnist-fcn --task-args depth=31 subset=10000 --engines backprop delayed cdni "
            "--stages 8 --sg.rank 16 --sg.replay 0 --epochs 1 --emulate-gflops 5 --repeats 1",
        ),
        minutes=5,
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
    Section(
        "copy",
        "DNI through time: copy with growing length",
        "LSTM of 100 units, windows of T steps of truncated BPTT, one update per window, 10,000 updates. The "
        "length grows when 512 sequences had less than 0.15 wrong bits on average; the result is the longest "
        "length solved, three seeds. `dni` ends every window in a synthetic gradient, `dni-aux` has the "
        "paper's auxiliary task too; `dni-permuted` is the control: every row gets another row's prediction.",
        (
            "windows --task copy --windows 2 4 8 --rules bptt dni dni-aux --epochs 10",
            "windows --task copy --windows 4 --rules dni-permuted --epochs 10",
        ),
        minutes=25,
    ),
    Section(
        "repeat-copy",
        "DNI through time: repeat copy",
        "As above; length times repeats is what was solved, and both grow in turn.",
        ("windows --task repeat-copy --windows 4 --rules bptt dni dni-aux dni-permuted --epochs 10",),
        minutes=16,
    ),
    Section(
        "char-lm",
        "DNI through time: characters",
        "Tiny shakespeare, LSTM of 128 units, 32 rows, one epoch (a million characters) whatever T is; bits "
        "per character on the last twentieth of the text, three seeds. What the permuted control gains too "
        "is not due to prediction.",
        (
            "windows --task char-lm --task-args width=128 --windows 2 4 8 16 "
            "--rules bptt dni dni-permuted --epochs 1",
        ),
        minutes=45,
    ),
    Section(
        "word-stack",
        "In depth and in time: a language model of words in two stages",
        "Two LSTMs of 200 units, the 5,000 most frequent words, windows of 16 words that end in a synthetic "
        "gradient, two stages. All engines have the same windows and the same rule in time. `frozen`, whose "
        "first stage never learns, is the control. Training ends after an epoch that did not better the "
        "validation text, and the best weights are tested.",
        (
            "compare --task word-lm-stack --task-args words=5000 bptt=16 --engines backprop delayed cdni "
            "frozen --stages 2 --batch-size 32 --clip-norm 1 --epochs 3 --patience 1",
        ),
        ("compare.png", "cdni/timeline.png"),
        minutes=10,
    ),
    Section(
        "char-stack",
        "In depth and in time: a language model of characters in two stages",
        "Tiny shakespeare, two LSTMs of 128 units, windows of 16 characters.",
        (
            "compare --task char-lm-stack --task-args width=128 bptt=16 --engines backprop delayed cdni "
            "frozen --stages 2 --batch-size 32 --clip-norm 1 --lr 3e-3 --epochs 2",
        ),
        ("compare.png",),
        minutes=6,
    ),
    Section(
        "two-timescale",
        "In depth and in time: two networks at different tick rates",
        "Network A sees a digit per tick and counts the odd ones of every four; network B sees A's messages, "
        "a quarter as often, and counts the threes of sixteen digits. Both update after every four digits. "
        "Accuracy is that of B. `frozen`: A never learns. Last, backprop through the whole sequence.",
        (
            "compare --task two-timescale --engines backprop cdni frozen --stages 2 --batch-size 16 "
            "--clip-norm 1 --epochs 10",
            "compare --task two-timescale --task-args ticks=4 end=bptt --engines backprop --batch-size 16 "
            "--clip-norm 1 --epochs 10",
        ),
        minutes=8,
    ),
    Section(
        "paper-copy",
        "DNI through time, the paper's sizes: copy and repeat copy",
        "LSTM of 256 units, batches of 256, learning rate 7e-5, a million updates; the SG network in closed "
        "form, which solved length 4 in 3,642 updates instead of 10,192 (one seed, docs/LOG.md). "
        "Jaderberg et al. report for copy at T = 2 / 3 / 4 / 5 / 8: bptt 7 / 8 / 10 / 8 / -, "
        "dni 16 / 14 / 18 / 18 / -, dni-aux 16 / 17 / 19 / 18 / -. Days on two cores, so only when named.",
        tuple(
            f"windows --task {task} --task-args width=256 --windows 2 3 4 5 8 --rules bptt dni dni-aux "
            "--batch-size 256 --lr 7e-5 --sg.kind least-squares --epochs 1000"
            for task in ("copy", "repeat-copy")
        ),
        minutes=60 * 24 * 7,
        asked=True,
    ),
    Section(
        "paper-char-lm",
        "DNI through time, the paper's sizes: characters",
        "LSTM of 1,024 units, batches of 32, learning rate 7e-5, early stopping on the validation text, no "
        "decay. The paper's text is the Penn Treebank (`--task-args text=FILE`); tiny shakespeare's bits per "
        "character are other ones. Days on two cores, so only when named.",
        (
            "windows --task char-lm --task-args width=1024 --windows 2 3 4 5 8 --rules bptt dni dni-aux "
            "dni-permuted --batch-size 32 --lr 7e-5 --patience 3 --epochs 50",
        ),
        minutes=60 * 24 * 7,
        asked=True,
    ),
    Section(
        "gpu",
        "GPU: stages sharing one device",
        "Two stages on one GPU over pinned shared memory.",
        (
            f"compare --task mnist-fcn --task-args width=1024 --device cuda --engines {RIVALS} --stages 2 "
            "--epochs 2 --repeats 3",
        ),
        ("compare.png",),
        device="cuda",
    ),
)
"""In the order of the document."""
