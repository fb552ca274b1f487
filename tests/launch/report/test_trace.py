"""The Chrome trace."""

import json

from launch.report.text import run_name
from launch.report.trace import chrome_trace
from tests.support.summaries import summary

SMALL = [
    {"stage": 0, "events": [["forward", 0.0, 10.0, 0], ["send", 10.0, 2.0, 0], ["wait", 12.0, 3.0, 0]]},
    {"stage": 1, "events": [["evaluate", 5.0, 4.0, 0], ["sg", 12.0, 6.0, 0]]},
]


def test_the_trace_has_one_named_row_per_stage():
    trace = chrome_trace(SMALL, summary())
    assert trace["traceEvents"] == [
        {
            "name": "process_name",
            "ph": "M",
            "pid": 0,
            "tid": 0,
            "args": {"name": "dni_async mnist-fcn, cdni"},
        },
        {"name": "thread_name", "ph": "M", "pid": 0, "tid": 0, "args": {"name": "stage 0 (layers 0-1)"}},
        {"name": "thread_sort_index", "ph": "M", "pid": 0, "tid": 0, "args": {"sort_index": 0}},
        {"name": "thread_name", "ph": "M", "pid": 0, "tid": 1, "args": {"name": "stage 1 (layers 2-3)"}},
        {"name": "thread_sort_index", "ph": "M", "pid": 0, "tid": 1, "args": {"sort_index": 1}},
        _event("forward", "compute", 0.0, 10.0, 0),
        _event("send", "transport", 10.0, 2.0, 0),
        _event("wait", "idle", 12.0, 3.0, 0),
        _event("evaluate", "evaluation", 5.0, 4.0, 1),
        _event("sg", "compute", 12.0, 6.0, 1),
    ]
    assert trace["displayTimeUnit"] == "ms"
    assert trace["otherData"]["engine"] == "cdni"
    json.dumps(trace, allow_nan=False)


def _event(name, category, start, duration, stage):
    event = {"name": name, "cat": category, "ph": "X", "ts": start, "dur": duration}
    return {**event, "pid": 0, "tid": stage, "args": {"step": 0}}


def test_the_trace_needs_no_summary():
    names = [e["args"]["name"] for e in chrome_trace(SMALL)["traceEvents"] if e["name"].endswith("_name")]
    assert names == ["dni_async", "stage 0", "stage 1"]
    assert chrome_trace([])["traceEvents"][0]["args"] == {"name": "dni_async"}


def test_a_run_on_emulated_devices_is_called_so_wherever_it_is_shown():
    emulated = summary(emulated_gflops=2.5)
    assert run_name(emulated) == "mnist-fcn, cdni, emulated (2.5 GFLOP/s per stage)"
    assert run_name(summary(emulated_gflops=None, precision="fp32")) == "mnist-fcn, cdni"
    both = summary(emulated_gflops=2.5, precision="bf16")
    assert run_name(both) == "mnist-fcn, cdni, bf16, emulated (2.5 GFLOP/s per stage)"
    trace = chrome_trace(SMALL, emulated)
    assert (
        trace["traceEvents"][0]["args"]["name"]
        == "dni_async mnist-fcn, cdni, emulated (2.5 GFLOP/s per stage)"
    )
    assert trace["otherData"]["emulated_gflops"] == 2.5


def arrows(timeline: list[dict]) -> list[tuple]:
    """Name, stages and times of the arrows."""
    events = [event for event in chrome_trace(timeline)["traceEvents"] if event["ph"] in "sf"]
    pairs = zip(events[::2], events[1::2], strict=True)
    assert all((a["ph"], b["ph"], a["id"]) == ("s", "f", b["id"]) for a, b in pairs)
    pairs = zip(events[::2], events[1::2], strict=True)
    return [(a["name"], a["tid"], b["tid"], a["ts"], b["ts"]) for a, b in pairs]


def test_an_arrow_leads_from_each_sending_to_the_work_that_it_starts():
    upper = [
        ["forward", 0, 5, 7],
        ["send", 5, 1, 7],
        ["sg", 6, 1, 7],
        ["backward", 7, 3, 7],
        ["sg", 40, 5, 7],
    ]
    lower = [["forward", 10, 5, 7], ["backward", 15, 9, 7], ["send", 24, 1, 7]]
    assert arrows([{"stage": 0, "events": upper}, {"stage": 1, "events": lower}]) == [
        ("activation", 0, 1, 5.0, 10.0),
        ("target gradient", 1, 0, 24.0, 40.0),
    ]


def test_a_stage_that_waits_for_its_gradient_receives_the_target_in_its_backward():
    upper = [["forward", 0, 5, 7], ["send", 5, 1, 7], ["backward", 30, 3, 7]]
    lower = [["forward", 10, 5, 7], ["backward", 15, 9, 7], ["send", 24, 1, 7]]
    assert arrows([{"stage": 0, "events": upper}, {"stage": 1, "events": lower}])[1:] == [
        ("target gradient", 1, 0, 24.0, 30.0)
    ]


def test_engines_that_send_nothing_have_no_arrows():
    rows = [{"stage": i, "events": [["forward", 0, 5, 7], ["backward", 6, 5, 7]]} for i in range(2)]
    assert arrows(rows) == []
