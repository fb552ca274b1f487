"""What `launch.bench` measures of four and eight stages, on emulated devices: speed, and what was learned."""

from __future__ import annotations

from launch.report.bench_section import Section

_LATE = "delayed 'delayed delay-correction=error-feedback'"
_RIVALS = f"1f1b zb {_LATE} local cdni frozen"
_MLP = "--task mnist-residual --task-args subset=12800 --batch-size 128 --schedule linear"
_GPT = "--task gpt-char --task-args depth=16 windows=2000 --epochs 1 --emulate-gflops 6 --micro-batches 8"
_SLOW_MLP = f"{_MLP} --emulate-gflops 2 --micro-batches 8"

EMULATED_SECTIONS = (
    Section(
        "emulated-4",
        "Four emulated stages: a residual network",
        "Each stage sleeps until its compute has lasted as long as on a device of the given speed; learning "
        "and messages are real. 16 residual blocks of 128, 12,800 MNIST images, three epochs, one run; "
        "`1f1b` and `zb` have eight micro-batches, whose batch norms see sixteen rows. Speed-up is over "
        "sequential backprop on one such device. `copies` is the most that the machine gives; `frozen`, "
        "whose stages below the last never learn, the least that an accuracy has to beat.",
        (f"compare {_SLOW_MLP} --variants backprop copies {_RIVALS} --stages 4 --epochs 3 --repeats 1",),
        ("compare.png",),
        minutes=6,
    ),
    Section(
        "emulated-8",
        "Eight emulated stages: a residual network",
        "As above. What a stage holds for other batches does not grow with the number of stages.",
        (f"compare {_SLOW_MLP} --variants backprop {_RIVALS} --stages 8 --epochs 3 --repeats 1",),
        ("compare.png",),
        minutes=4,
    ),
    Section(
        "emulated-4-gpt",
        "Four emulated stages: a GPT",
        "16 blocks of 64 on windows of 64 characters of tiny shakespeare, 250 steps of eight windows, cut by "
        "the number of blocks, one run; bits per character on the test text, lower is better.",
        (f"compare {_GPT} --variants backprop {_RIVALS} --stages 4 --cut 5,9,13 --repeats 1",),
        ("compare.png",),
        minutes=8,
    ),
    Section(
        "emulated-8-gpt",
        "Eight emulated stages: a GPT",
        "As above.",
        (f"compare {_GPT} --variants backprop {_RIVALS} --stages 8 --cut 3,5,7,9,11,13,15 --repeats 1",),
        ("compare.png",),
        minutes=6,
    ),
    Section(
        "emulated-until",
        "Four emulated stages: time to 95 % test accuracy",
        "The residual network, a constant learning rate, two evaluations per epoch, their time included; "
        "every engine stops at the first that reaches 95 %, or after three epochs.",
        (
            f"compare {_MLP.replace(' --schedule linear', '')} --emulate-gflops 2 --micro-batches 8 "
            f"--variants backprop 1f1b zb {_LATE} local cdni --stages 4 --epochs 3 --evaluations 2 "
            "--until 0.95",
        ),
        ("compare.png",),
        minutes=5,
    ),
)
"""All of them together take about 29 minutes on two cores that nothing else uses."""
