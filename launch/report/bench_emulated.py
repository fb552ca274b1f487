"""What `launch.bench` measures of four and eight stages, on emulated devices: speed, and what was learned."""

from __future__ import annotations

from launch.report.bench_section import Section

_LATE = "delayed 'delayed delay-correction=error-feedback'"
_RIVALS = f"1f1b zb {_LATE} local cdni frozen"
_MLP = "--task mnist-residual --task-args depth=14 subset=12800 --batch-size 256 --schedule linear"
_GPT = "--task gpt-char --task-args depth=16 windows=1600 --epochs 1 --emulate-gflops 4 --micro-batches 8"
_RIVALS_GPT = "--engines backprop 1f1b zb delayed local cdni frozen"
_SLOW_MLP = f"{_MLP} --emulate-gflops 2 --micro-batches 8"

EMULATED_SECTIONS = (
    Section(
        "emulated-4",
        "Four emulated stages: a residual network",
        "Each stage sleeps until its compute has lasted as long as on a device of the given speed; learning "
        "and messages are real. 14 residual blocks of 128 (the first layer costs as much as two), 12,800 "
        "MNIST images, four epochs, one run; "
        "`1f1b` and `zb` have eight micro-batches, whose batch norms see 32 rows. Speed-up is over "
        "sequential backprop on one such device. `copies` is the most that the machine gives; `frozen`, "
        "whose stages below the last never learn, the least that an accuracy has to beat.",
        (
            f"compare {_SLOW_MLP} --variants backprop copies {_RIVALS} --stages 4 --cut 3,7,11 "
            "--epochs 4 --repeats 1",
        ),
        ("compare.png",),
        minutes=8,
    ),
    Section(
        "emulated-8",
        "Eight emulated stages: a residual network",
        "As above. What a stage holds for other batches does not grow with the number of stages.",
        (
            f"compare {_SLOW_MLP} --variants backprop {_RIVALS} --stages 8 --cut 1,3,5,7,9,11,13 "
            "--epochs 4 --repeats 1",
        ),
        ("compare.png",),
        minutes=5,
    ),
    Section(
        "emulated-4-gpt",
        "Four emulated stages: a GPT",
        "16 blocks of 64 on windows of 64 characters of tiny shakespeare, 200 steps of eight windows, cut by "
        "the number of blocks, one run; bits per character on the test text, lower is better.",
        (f"compare {_GPT} {_RIVALS_GPT} --stages 4 --cut 5,9,13 --repeats 1",),
        ("compare.png",),
        minutes=9,
    ),
    Section(
        "emulated-8-gpt",
        "Eight emulated stages: a GPT",
        "As above.",
        (f"compare {_GPT} {_RIVALS_GPT} --stages 8 --cut 3,5,7,9,11,13,15 --repeats 1",),
        ("compare.png",),
        minutes=7,
    ),
    Section(
        "emulated-until",
        "Four emulated stages: time to 93 % test accuracy",
        "The residual network, a constant learning rate, an evaluation per epoch, its time included; "
        "every engine stops at the first that reaches 93 %, or after six epochs.",
        (
            f"compare {_MLP.replace(' --schedule linear', '')} --emulate-gflops 2 --micro-batches 8 "
            f"--variants backprop 1f1b zb {_LATE} local cdni --stages 4 --cut 3,7,11 --epochs 6 "
            "--evaluations 1 --until 0.93",
        ),
        ("compare.png",),
        minutes=5,
    ),
)
"""All of them together take about 34 minutes on two cores that nothing else uses."""
