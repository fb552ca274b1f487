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
