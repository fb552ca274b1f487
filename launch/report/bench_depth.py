"""What `launch.bench` measures of depth: learning against the number of stages and against staleness."""

from __future__ import annotations

from launch.report.bench_section import Section

_LATE = (
    "'delayed plain: delayed --delay-rate 0 --delay-beta1 0.9' delayed "
    "'delayed, error feedback: delayed --delay-correction error-feedback' "
    "'delayed, nesterov: delayed --delay-correction nesterov' "
    "'delayed, prediction: delayed --delay-correction weight-prediction'"
)
_MLP = "--task mnist-residual --task-args subset=10000 --batch-size 128 --schedule linear --epochs 3"
_GPT = "--task gpt-char --task-args depth=16 width=32 context=32 windows=3200 --epochs 1"

DEPTH_SECTIONS = (
    Section(
        "study-residual",
        "Accuracy by the number of stages: a residual network",
        "16 residual blocks of 128, 10,000 MNIST images, three epochs, linear schedule, three seeds. All "
        "stages run in one process and equally fast, so nothing here depends on the machine. `backprop` is "
        "the whole network in one stage; `frozen` the control, whose stages below the last never learn; "
        "`delayed plain` has the learning rate and the momentum of backprop, `delayed` the defaults, the "
        "others a correction more.",
        (f"study {_MLP} --rules backprop cdni local {_LATE} frozen --vary stages=2/4/8/16 --repeats 3",),
        ("study.png",),
        minutes=12,
    ),
    Section(
        "study-gpt",
        "Loss by the number of stages: a GPT",
        "16 blocks of 32 on windows of 32 characters of tiny shakespeare, 400 steps of 8 windows, three "
        "seeds; bits per character on the test text, lower is better. As above.",
        (f"study {_GPT} --rules backprop cdni local {_LATE} frozen --vary stages=2/4/8/16 --repeats 3",),
        ("study.png",),
        minutes=25,
    ),
    Section(
        "study-staleness",
        "Accuracy by staleness: batches in flight",
        "The residual network in four stages. Every stage runs as far ahead as the batches in flight allow, "
        "and `delayed` keeps the graphs of so many batches. `local` and `frozen` have no gradient that could "
        "be late.",
        (
            f"study {_MLP} --stages 4 --rules backprop cdni local {_LATE} frozen "
            "--vary in-flight,stash=1/4/16/64 --repeats 3",
        ),
        ("study.png",),
        minutes=10,
    ),
)
