from __future__ import annotations

from typing import Any

import pytest

from dni_async.partition.costs import InterfaceCost, LayerCost
from launch.config.partition import PipelineConfig
from launch.local.wan import Wire
from launch.planning.predict import ENGINES, Planner, Prediction
from launch.planning.profile import InterfaceProfile
from tests.support.plans import BATCH, FREE, layer, network, profile
from workers.transport.link_cost import Line, LinkCost


def predict(engine: str, stages: int = 4, config: PipelineConfig | None = None, **changes: Any) -> Prediction:
    return Planner(profile(**changes), config or PipelineConfig()).predict(engine, stages)


def speeds_by_distance(engine: str, **settings: Any) -> list[float]:
    """Samples/s of two stages whose round trip takes no time, a step, and four steps of 16 s."""
    found = []
    for latency_s in (0.0, 8.0, 32.0):
        planner = Planner(profile(8), PipelineConfig(**settings), Wire(latency_s, 1e9))
        speed = planner.predict(engine, 2).samples_per_s
        assert speed is not None
        found.append(speed)
    return found


@pytest.mark.parametrize("engine", ["cdni", "local"])
def test_stages_that_never_wait_do_not_notice_the_distance(engine: str) -> None:
    near, *far = speeds_by_distance(engine)
    assert far == pytest.approx([near, near], rel=0.02)


@pytest.mark.parametrize("engine", ["gpipe", "1f1b", "ddp", "delayed"])
def test_engines_that_wait_for_gradients_pay_for_every_round_trip(engine: str) -> None:
    near, middle, far = speeds_by_distance(engine)
    assert near > 1.3 * middle > 2.0 * far


def test_messages_in_flight_are_chosen_by_the_distance_unless_they_are_given() -> None:
    def in_flight(**settings: Any) -> int | None:
        return Planner(profile(8), PipelineConfig(**settings), Wire(32.0, 1e9)).predict("cdni", 2).in_flight

    assert (in_flight(), in_flight(in_flight=2)) == (8, 2)
    assert predict("cdni").in_flight == 4 and predict("gpipe").in_flight is None


def test_the_time_of_the_rule_is_part_of_a_step_when_messages_in_flight_are_chosen() -> None:
    """A layer of 4 s with 40 s for its rule, then seven layers: 64 s there and back are below two steps."""
    slow = profile(8, interfaces={"cdni 2": [network(20.0, 20.0)] * 7})
    found = Planner(slow, PipelineConfig(target_every=1), Wire(32.0, 1e9)).predict("cdni", 2)
    assert (found.cut, found.in_flight) == ([1], 4 + 2)


def test_memory_counts_the_messages_in_flight_that_the_distance_takes() -> None:
    def memory(wire: Wire | None, **settings: Any) -> int:
        return Planner(profile(8), PipelineConfig(**settings), wire).predict("cdni", 2).memory_bytes or 0

    far = Wire(320.0, 1e9)
    assert memory(far) == memory(far, in_flight=44) > memory(far, in_flight=4)


def test_backprop_is_the_sum_of_its_layers_in_one_process() -> None:
    found = predict("backprop", layers=8, load=8.0)
    assert (found.stages, found.speedup, found.bubble) == (1, 1.0, 0.0)
    assert found.samples_per_s == BATCH / (8 * 4 + 8)


@pytest.mark.parametrize("engine", ["local", "dni", "cdni"])
@pytest.mark.parametrize("stages", [2, 4, 8])
def test_balanced_stages_with_free_networks_and_messages_speed_up_by_their_number(
    engine: str, stages: int
) -> None:
    found = predict(engine, stages)
    assert found.speedup == pytest.approx(stages)
    assert found.bubble == pytest.approx(0.0)
    assert len(found.cut) == stages - 1


@pytest.mark.parametrize("engine", ["gpipe", "1f1b"])
def test_a_flush_costs_a_pipeline_its_bubble(engine: str) -> None:
    """Layers without update: M + K - 1 turns of micro-batches instead of M; most micro-batches win."""
    layers = [layer(batch=LayerCost(1, 2, 0), part=LayerCost(1 / 8, 2 / 8, 0)) for _ in range(8)]
    found = predict(engine, layers=layers)
    assert found.micro_batches == 16  # four per stage are the most that the engines try
    assert found.bubble == pytest.approx(3 / 19)
    assert found.speedup == pytest.approx(4 * 16 / 19)


@pytest.mark.parametrize("engine", ["gpipe", "1f1b"])
def test_micro_batches_that_cost_as_much_as_whole_ones_are_few(engine: str) -> None:
    """A part costs what the whole does: every further micro-batch is a loss."""
    cost = LayerCost(1, 2, 0)
    found = predict(engine, 2, layers=[layer(batch=cost, part=cost) for _ in range(8)])
    assert found.micro_batches == {"gpipe": 1, "1f1b": 2}[engine]


def test_a_number_of_micro_batches_may_be_given() -> None:
    assert predict("gpipe", config=PipelineConfig(micro_batches=32)).micro_batches == 32
    refused = predict("gpipe", config=PipelineConfig(micro_batches=48)).error
    assert refused is not None and refused.startswith("micro-batches is 48; it must divide the batch of 64")


def test_replicas_share_the_batch_and_wait_for_the_ring() -> None:
    """8 layers: 24 s of compute by 4, 8 s of update each, 6 steps of a ring with 800 / 4 bytes."""
    found = predict("ddp", all_reduce=Line(0.5, 0.01))
    period = 24 / 4 + 8 + 6 * (0.5 + 0.01 * 200)
    assert found.samples_per_s == pytest.approx(BATCH / period)
    assert found.bubble == pytest.approx(15 / period)


def test_ddp_copies_the_gradients_into_its_buckets_and_back() -> None:
    link = LinkCost(send=Line(0.0, 0.001), latency=FREE, receive=FREE, credit=FREE)
    weights = 8 * 100
    slower, free = (BATCH / (predict("ddp", 2, **own).samples_per_s or 0.0) for own in ({"link": link}, {}))
    assert slower == pytest.approx(free + 2 * 0.001 * weights)


@pytest.mark.parametrize("engine", ["gpipe", "1f1b", "zb"])
@pytest.mark.parametrize("micro_batches", [4, 8])
def test_a_pipeline_reads_a_whole_batch_whatever_its_micro_batches(engine: str, micro_batches: int) -> None:
    config = PipelineConfig(micro_batches=micro_batches)
    slower, free = (
        BATCH / (predict(engine, 4, config, load=load).samples_per_s or 0.0) for load in (3.0, 0.0)
    )
    assert slower == pytest.approx(free + 3.0)


def test_labels_travel_between_decoupled_stages_and_not_in_a_pipeline() -> None:
    link = LinkCost(send=Line(0.0, 0.001), latency=FREE, receive=FREE, credit=FREE)

    def speed(engine: str, label_bytes: int) -> float | None:
        return predict(engine, 2, link=link, gloo=link, label_bytes=label_bytes).samples_per_s

    assert speed("gpipe", 6400) == speed("gpipe", 64)
    assert (speed("local", 6400) or 0.0) < (speed("local", 64) or 0.0)


def test_networks_at_the_interface_count_and_move_the_cut() -> None:
    interfaces = {"cdni 2": [network(0, 0), network(0, 0), network(1, 7), network(0, 0)]}
    found = predict("cdni", 2, layers=5, interfaces=interfaces)
    assert found.cut == [2]
    only = {"cdni 2": [network(1, 3)] * 4}
    assert predict("cdni", 2, layers=5, interfaces=only).speedup == pytest.approx(20 / 12)


def test_three_stages_and_more_pay_for_replay() -> None:
    interfaces = {"dni 2": [network(0, 0)] * 7, "dni 3": [network(0, 4)] * 7}
    assert predict("dni", 2, interfaces=interfaces).speedup == pytest.approx(2)
    assert predict("dni", 4, interfaces=interfaces).speedup == pytest.approx(32 / 12)


def test_sporadic_targets_save_a_network_its_learning() -> None:
    interfaces = {"cdni 2": [network(1, 3)] * 3}
    speedups = [
        predict("cdni", 2, PipelineConfig(target_every=every), layers=4, interfaces=interfaces).speedup
        for every in (1, 3)
    ]
    assert speedups == [pytest.approx(16 / (8 + 1 + 3)), pytest.approx(16 / (8 + 1 + 3 / 3))]


def test_what_a_stage_pays_once_is_in_every_layers_cost() -> None:
    """An update starts with 0.5 s whatever it updates: 4 layers together do it once."""
    found = predict("local", 2, layers=8, fixed=LayerCost(0, 0, 0.5))
    assert BATCH / found.samples_per_s == pytest.approx(4 * 4 - 3 * 0.5)
    without = [layer(parameters=0, batch=LayerCost(1, 2, 0)) for _ in range(4)] + [layer()] * 4
    found = predict("backprop", layers=without, fixed=LayerCost(0, 0, 0.5))
    assert BATCH / found.samples_per_s == pytest.approx(4 * 3 + 4 * 4 - 3 * 0.5)


def test_messages_cost_by_their_bytes() -> None:
    """Down: 640 + 64 bytes, up: 640; sender's and receiver's time count, latency is hidden."""
    link = LinkCost(send=Line(0.0, 1e-3), latency=Line(5.0, 0.0), receive=Line(0.25, 0.0), credit=Line(0, 0))
    found = predict("cdni", 2, link=link)
    slower = 16 + 0.704 + 0.25
    assert BATCH / found.samples_per_s == pytest.approx(slower)
    assert found.bubble == pytest.approx(1 - (slower + 16 + 0.25 + 0.64) / 2 / slower)


def test_one_batch_in_flight_shows_the_latency() -> None:
    link = LinkCost(send=Line(0, 0), latency=Line(2.0, 0.0), receive=Line(0, 0), credit=Line(0, 0))
    assert predict("local", 2, config=PipelineConfig(in_flight=1), link=link).speedup < 1.7
    assert predict("local", 2, config=PipelineConfig(in_flight=2), link=link).speedup == pytest.approx(2)


def test_delayed_stages_with_few_graphs_wait_for_the_way_back() -> None:
    assert predict("delayed", 8).speedup == pytest.approx(8)
    assert predict("delayed", 8, PipelineConfig(stash=2)).speedup < 4


def test_staleness_is_that_of_stage_0() -> None:
    assert predict("backprop").staleness == predict("gpipe").staleness == 0.0
    assert predict("dni").staleness == pytest.approx(1, abs=0.1)
    assert predict("delayed", 8).staleness > 5


def test_memory_of_one_process_is_weights_gradients_optimizer_and_graph() -> None:
    assert predict("backprop").memory_bytes == 8 * (4 * 100 + 1000)


def test_memory_of_a_decoupled_stage_is_bounded_by_what_may_be_in_flight() -> None:
    """Two layers, SG network, graph; the slots of both ways; the pending."""
    own, sg, graph = 2 * 400, 10_000, 2 * 1000
    for in_flight in (1, 4, 16):
        found = predict("cdni", 4, PipelineConfig(in_flight=in_flight))
        pending, down, up = 2 * (640 + 128), 2 * (640 + 64), in_flight * 640
        assert found.memory_bytes is not None
        assert own + sg + graph < found.memory_bytes <= own + sg + graph + pending + down + up
    kept = [InterfaceProfile(InterfaceCost(), 10_000, 5_000)] * 7
    more = predict("cdni", interfaces={"cdni 3": kept}).memory_bytes
    assert more == (predict("cdni").memory_bytes or 0) + 5_000


def test_what_a_decoupled_stage_holds_does_not_grow_with_stages_and_a_stash_does() -> None:
    def held(engine: str, stages: int) -> int:
        layers = [layer(parameters=0) for _ in range(64)]
        return predict(engine, stages, layers=layers).memory_bytes or 0

    assert held("cdni", 64) <= held("cdni", 8) <= held("cdni", 4)
    assert held("delayed", 64) > held("delayed", 8) / 2
    assert held("delayed", 8) > 2 * held("cdni", 8)


def test_1f1b_holds_less_than_gpipe() -> None:
    assert (predict("1f1b").memory_bytes or 0) < (predict("gpipe").memory_bytes or 0)


@pytest.mark.parametrize(
    ("engine", "stages", "changes", "line"),
    [
        ("cdni", 9, {}, "9 stages cannot share 8 layers; use 1 to 8 stages"),
        ("ddp", 33, {"batch_size": 64}, "a batch of 64 is too small for 64 replicas"),
        (
            "1f1b",
            128,
            {"layers": 128},
            "a batch of 64 rows cannot be cut into 128 or more equal micro-batches; use",
        ),
        ("dni", 2, {"refused": {"dni": "no such network"}}, "no such network"),
    ],
)
def test_what_cannot_run_says_why(engine: str, stages: int, changes: dict[str, Any], line: str) -> None:
    found = predict(engine, 64 if engine == "ddp" else stages, **changes)
    assert found.error is not None and found.error.startswith(line)
    assert found.samples_per_s is None


@pytest.mark.parametrize("engine", ENGINES)
def test_more_stages_than_a_batch_has_samples_stop_only_those_that_share_it(engine: str) -> None:
    found = predict(engine, 128, layers=130)
    assert found.error or (found.samples_per_s or 0) > 0
    assert (found.error is not None) == (engine in ("ddp", "1f1b", "zb"))


def test_a_thousand_stages_are_predicted() -> None:
    assert predict("cdni", 1024, layers=1024).speedup == pytest.approx(1024)
