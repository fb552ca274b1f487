"""What `launch.bench` measures of stages that are far apart, on emulated hosts of this machine."""

from __future__ import annotations

from launch.report.bench_section import Section

_TASK = "--task mnist-fcn --stages 2"
_WIDE = f"{_TASK} --task-args width=1024 subset=12800 tested=256"
_SHORT = "--epochs 1 --evaluations 5 --repeats 3"
_DISTANCES = "--vary wan=0.1,1000/5,1000/25,1000/100,1000"
_RIVALS = "--engines cdni delayed local 1f1b gpipe ddp --micro-batches 2"

FAR_SECTIONS = (
    Section(
        "wan-speed",
        "Far apart: throughput by distance",
        "Six hidden layers of 1,024, two stages on two emulated hosts (network namespaces; root is needed) "
        "at 1 Gbit/s, round trips of 0.2 to 200 ms, three runs of each in turn. In brackets the share of an "
        "engine's own throughput at 0.2 ms. Training ends after five seconds (with `1f1b`, `gpipe` and `ddp` "
        "at the next of five evaluations, of 256 images). `1f1b` and `gpipe` have two micro-batches; they "
        "and `ddp` use torch's gloo. `delayed` keeps the graphs of two batches, its default, and waits for "
        "their gradients. The second table is cdni without the wire: over shared memory, and over TCP on the "
        "loopback interface. In the third, training ends after 25 seconds: filling the pipeline counts less.",
        (
            f"sweep {_WIDE} {_SHORT} --minutes 0.08 {_RIVALS} {_DISTANCES}",
            f"sweep {_WIDE} {_SHORT} --engines cdni --vary transport=shm/tcp",
            f"sweep {_WIDE} --epochs 20 --repeats 3 --minutes 0.42 --engines cdni {_DISTANCES}",
        ),
        ("sweep.png",),
        minutes=21,
    ),
    Section(
        "wan-wire",
        "Far apart: fewer bytes",
        "Six hidden layers of 256, two epochs over 100 Mbit/s with a round trip of 50 ms: the format of "
        "messages, and target gradients for every batch or for one in four. Two seeds. Smaller messages "
        "fill the wire only with more batches in flight, which costs accuracy; in the last table seven are "
        "in flight for every format, in lock step on one host, with three seeds.",
        (
            f"sweep {_TASK} --engines cdni --wan 25,100 --vary wire=fp32/bf16/int8 target-every=1/4 "
            "--epochs 2 --repeats 2 --vary-seed",
            f"sweep {_TASK} --engines cdni --deterministic --in-flight 7 --vary wire=fp32/bf16/int8 "
            "--epochs 2 --repeats 3 --vary-seed",
        ),
        ("sweep.png",),
        minutes=4,
    ),
    Section(
        "wan-accuracy",
        "Far apart: time to 97 % test accuracy",
        "Six hidden layers of 256, a round trip of 50 ms at 1 Gbit/s. Every engine stops at the first "
        "evaluation on the whole test set (two per epoch, their time included) that reaches 97 %. One run.",
        (f"compare {_TASK} {_RIVALS} --wan 25,1000 --until 0.97 --evaluations 2 --epochs 4",),
        ("compare.png",),
        minutes=4,
    ),
    Section(
        "wan-plan",
        "Far apart: predicted and measured",
        "`launch.plan --wan` adds latency and bandwidth to the costs that it measures within this machine; "
        "then the same jobs run on emulated hosts, with round trips of 0.2 to 200 ms at 1 Gbit/s. A job has "
        "20 batches, of which filling a long wire takes a part that the prediction does not count.",
        tuple(
            "plan --task mnist-fcn --task-args subset=5120 tested=256 --stages 2 --epochs 1 "
            "--engines backprop cdni delayed local 1f1b gpipe ddp --micro-batches 2 "
            f"--wan {latency},1000 --check"
            for latency in ("0.1", "5", "25", "100")
        ),
        minutes=7,
    ),
    Section(
        "wan-staleness",
        "Accuracy against staleness",
        "Six hidden layers of 256, two epochs in lock step, so that a target gradient arrives as many "
        "updates late as batches are in flight (cdni), or as batches are stashed (delayed). No wire.",
        (
            f"sweep {_TASK} --engines cdni delayed --deterministic --vary in-flight,stash=1/2/4/8/16/64 "
            "--epochs 2",
        ),
        ("sweep.png",),
        minutes=3,
    ),
)
