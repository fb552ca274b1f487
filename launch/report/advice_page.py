"""The page of an advice: what to do in the first sentence, how sure that is, and the table behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from launch.planning.advice import LEAST_GAIN, Decision, Option, decide
from launch.report.grid import Column, Grid, column, markdown
from launch.report.text import NOTHING, megabytes, metric, number, one_line, times


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Everything that the page says."""

    title: str
    """Task, layers and batch."""
    devices: int
    link: str
    stages: int
    """Of the runs here."""
    repeats: int
    updates: int
    """Of each run."""
    metric_name: str
    noise: float
    """Difference in learning that says nothing, in points of accuracy or per cent of test loss."""
    backprop: Option
    options: Sequence[Option]
    load: Sequence[str] = ()
    """Lines about other programs that kept the machine busy."""

    @property
    def decision(self) -> Decision:
        """What to do."""
        return decide(self.options, self.noise)

    @property
    def cost_name(self) -> str:
        """Unit of the cost in learning."""
        return "points of accuracy" if self.metric_name == "accuracy" else "% of test loss"

    @property
    def where(self) -> str:
        """The devices that the advice is for, such as "8 devices joined by nvlink"."""
        return f"{self.devices} devices joined by {self.link}"


def page(advice: Advice) -> str:
    """Return the page as Markdown."""
    paragraphs = "\n\n".join(sentences(advice))
    return f"# {advice.title}, {advice.where}\n\n{paragraphs}\n\n{markdown(advice_grid(advice))}"


def sentences(advice: Advice) -> list[str]:
    """Return the paragraphs above the table; the first one is what to do."""
    decision = advice.decision
    option = decision.option
    lines = [_first(advice, decision)]
    if option:
        lines += [_learning(advice, option), _memory(advice, option), _certainty(advice, option)]
    if decision.others:
        names = ", ".join(other.engine for other in decision.others)
        same = "cannot be told apart from it" if decision.kind == "take" else "are as uncertain"
        lines.append(f"Within what the measurements allow, {names} {same}.")
    return lines + [f"Repeat this on an idle machine: {note}." for note in advice.load]


def _first(advice: Advice, decision: Decision) -> str:
    option, where = decision.option, advice.where
    if not option:
        known = [o for o in advice.options if o.expected]
        if not known:
            return f"Stay with backprop: no other engine could be measured and predicted for {where}."
        best = max(known, key=lambda o: o.expected or (0.0, 0.0))
        return (
            f"Stay with backprop: on {where} no engine is expected to be {_gain()} faster; the best, "
            f"{best.engine}, is expected at {_range(best)} times its speed."
        )
    if decision.kind == "uncertain":
        return (
            f"Stay with backprop until you can measure on {where}: {option.engine} is expected at "
            f"{_range(option)} times its speed, which is too uncertain to say that it pays."
        )
    speed = f"on {where} it is expected to train {_range(option)} times as fast as backprop on one of them"
    if decision.kind == "costly":
        return (
            f"Stay with backprop: {option.engine} learns worse ({_cost(advice, option)}), although {speed}, "
            "and no engine that learns as well pays."
        )
    used = "" if option.devices == advice.devices else f" (it can use {option.devices})"
    return f"Take {option.engine}: {speed}{used}."


def _gain() -> str:
    return f"{100 * (LEAST_GAIN - 1):.0f} %"


def _range(option: Option) -> str:
    low, high = option.expected or (0.0, 0.0)
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"


def _cost(advice: Advice, option: Option) -> str:
    cost = option.cost or 0.0
    if advice.metric_name != "accuracy":
        return f"{cost:+.1f} % test loss after {advice.updates} updates, against backprop"
    word = "fewer" if cost > 0 else "more"
    return f"{abs(cost):.1f} points of accuracy {word} than backprop after {advice.updates} updates"


def _learning(advice: Advice, option: Option) -> str:
    if option.cost is None:
        return f"Cost in learning: not known for {option.engine}."
    stages = advice.stages if option.cost_there is None else option.devices
    within = "within" if abs(option.cost) <= advice.noise else "beyond"
    return (
        f"Cost in learning, in {stages} stages: {_cost(advice, option)}, {within} the noise of "
        f"{advice.noise:.1f}; after a whole training it may be another."
    )


def _memory(advice: Advice, option: Option) -> str:
    return (
        f"Memory (weights, gradients, optimizer, activations, messages): predicted "
        f"{megabytes(option.memory_bytes, 1)} MB on the device that holds most, "
        f"{megabytes(advice.backprop.memory_bytes, 1)} MB for backprop."
    )


def _certainty(advice: Advice, option: Option) -> str:
    if option.error is None or option.spread is None or not option.measured:
        return "How sure: nothing was measured to say so."
    low, high = (100 * (end / option.measured - 1) for end in option.spread)
    return (
        f"How sure: with {advice.stages} stages on this machine the same prediction was {_signed(option)} "
        f"off (predicted {times(option.predicted_here)}, measured {times(option.measured)}), and the "
        f"{advice.repeats} runs lay {low:+.0f} to {high:+.0f} % beside their median. The range covers both; "
        "that your devices differ from this machine it does not cover."
    )


def _signed(option: Option) -> str:
    return NOTHING if option.error is None else f"{100 * option.error:+.0f} %"


def advice_grid(advice: Advice) -> Grid:
    """Return one row per engine, backprop first."""
    rows = [advice.backprop, *advice.options]
    here, there = f"with {advice.stages}\nhere", f"in {advice.devices}\nstages"

    def cell(head: str, text: Callable[[Option], str], **kind: bool) -> Column:
        return column(head, rows, text, **kind)

    columns = [
        cell("engine", lambda o: o.engine, left=True),
        cell("devices", lambda o: number(o.devices) if o.predicted else NOTHING),
        cell("expected\nspeed-up", lambda o: f"{_range(o)} x" if o.expected and o.devices > 1 else NOTHING),
        cell("planner's\nspeed-up", lambda o: times(o.predicted)),
        cell(f"measured\n{here}", lambda o: times(o.measured)),
        cell("min-max", lambda o: f"{o.spread[0]:.2f}-{o.spread[1]:.2f}" if o.spread else NOTHING),
        cell(f"planner's error\n{here}", _signed),
        cell(f"test {advice.metric_name}\n{here}", lambda o: metric(o.metric, advice.metric_name)),
        cell(f"worse by, {advice.cost_name}\n{here}", lambda o: _points(o.cost_here)),
        cell(f"worse by\n{there}", lambda o: _points(o.cost_there)),
        cell("MB, worst\ndevice", lambda o: megabytes(o.memory_bytes, 1)),
    ]
    notes = [
        "speed-up over backprop on one device; every device as fast as one of this machine, costs of "
        "messages as measured here plus the link's",
        f"expected: from the planner's number to that number divided by 1 + its error with {advice.stages} "
        f"stages here, widened by the spread of {advice.repeats} runs",
        "devices: fewer than you have where the network has too few layers to share",
        *(f"{option.engine}: {one_line(option.reason)}" for option in rows if option.reason),
    ]
    return Grid(title="", columns=columns, notes=notes).without_empty_columns()


def _points(cost: float | None) -> str:
    return NOTHING if cost is None else f"{cost:+.1f}"
