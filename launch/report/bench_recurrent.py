"""What `launch.bench` measures of recurrent networks: synthetic gradients through time, and in depth too."""

from __future__ import annotations

from launch.report.bench_section import Section

RECURRENT_SECTIONS = (
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
)
