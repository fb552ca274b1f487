"""Settings are checked when they are set, and say what to do instead."""

from pathlib import Path

import pytest

from dni_async.errors import UserError
from dni_async.networks.settings import LocalConfig, SGConfig
from launch.config.compare import CompareConfig
from launch.config.train import TrainConfig

REFUSED = [
    ({"epochs": 0}, "epochs is 0; it must be at least 1"),
    ({"batch_size": 0}, "batch-size is 0; it must be at least 1"),
    ({"stages": -1}, "stages is -1; it must be at least 0"),
    ({"in_flight": 0}, "in-flight is 0; it must be at least 1"),
    ({"target_every": 0}, "target-every is 0; it must be at least 1"),
    ({"stash": 0}, "stash is 0; it must be at least 1"),
    ({"threads": -2}, "threads is -2; it must be at least 0"),
    ({"evaluations": 0}, "evaluations is 0; it must be at least 1"),
    ({"patience": -1}, "patience is -1; it must be at least 0"),
    ({"until": 1.01}, "until is 1.01; it must be a test accuracy above 0 and at most 1, such as 0.97"),
    ({"until": 0.0}, "until is 0.0; it must be a test accuracy above 0"),
    ({"until": float("nan")}, "until is nan; it must be a test accuracy above 0"),
    ({"lr": 0.0}, "lr is 0.0; it must be positive"),
    ({"lr": float("nan")}, "lr is nan; it must be positive"),
    ({"lr": float("inf")}, "lr is inf; it must be positive and finite"),
    ({"timeout": -1.0}, "timeout is -1.0; it must be positive"),
    ({"timeout": float("inf")}, "timeout is inf; it must be positive and finite"),
    ({"emulate_gflops": 0.0}, "emulate-gflops is 0.0; it must be positive and finite"),
    ({"emulate_gflops": -3.0}, "emulate-gflops is -3.0; it must be positive and finite"),
    ({"emulate_gflops": float("nan")}, "emulate-gflops is nan; it must be positive and finite"),
    ({"tf32": True}, "tf32 is for a GPU; add --device cuda, or leave it out"),
    ({"emulate_gflops": 1.0, "device": "cuda"}, "device cuda cannot emulate others; use --device cpu"),
    ({"clip_norm": 0.0}, "clip-norm is 0.0; it must be positive"),
    ({"seed": -1}, "seed is -1; it must be 0 to 4294967295"),
    ({"seed": 2**32}, "seed is 4294967296; it must be 0 to 4294967295"),
    ({"port": 65536}, "port is 65536; it must be 0 to 65535"),
    ({"port": -1}, "port is -1; it must be 0 to 65535"),
    ({"schedule": "cosin"}, "unknown schedule (cosin); use one of constant, linear, cosine, step"),
    ({"milestones": (30.0, 40.0)}, "milestones are 30.0 40.0; each must be a share of the run"),
    ({"warmup": 1.0}, "warmup is 1; it must be a share of the run, from 0 to below 1"),
    ({"warmup": float("nan")}, "warmup is nan; it must be a share of the run"),
    ({"accumulate": 0}, "accumulate is 0; it must be at least 1"),
    ({"ema": 1.0}, "ema is 1; it must be a decay from 0 to below 1, such as 0.999"),
    ({"param_groups": ("bias",)}, "--param-groups got bias; write PATTERN:name=value"),
    ({"param_groups": ("*:lr=1", "*:lr=2")}, "--param-groups got *:lr=2; write PATTERN:name=value, each"),
    ({"param_groups": ("*.bias:decay=0",)}, "optimizer adam has no setting decay; it has betas, "),
    ({"param_groups": ("*:betas=3",)}, "optimizer adam refuses its settings ("),
    ({"device": "tpu"}, "unknown device (tpu); use one of cpu, cuda"),
    (
        {"transport": "shm,udp"},
        "unknown transport (udp); use one of auto, shm, tcp, tls, dist, nccl, rpc, or the dotted path",
    ),
    ({"transport": "rpc"}, "transport is rpc, by which anybody who reaches its port, such as another user"),
    ({"wire": "int4"}, "unknown wire (int4); use one of fp32, bf16, int8"),
    ({"in_flight": 129}, "in-flight is 129; it must be at most 128"),
    ({"timeout": 1e10}, "timeout is 1e+10; it must be 0.01 to 1,000,000 seconds"),
    ({"timeout": 1e-9}, "timeout is 1e-09; it must be 0.01 to 1,000,000 seconds"),
    ({"batch_size": 10**30}, "batch-size is 1000000000000000000000000000000; it must be below 2147483648"),
    ({"optimizer_args": ("lr=3",)}, "optimizer-args has lr=3; give the learning rate with --lr"),
    ({"sg": SGConfig(lr=float("nan"))}, "sg.lr is nan; it must be positive and finite"),
    ({"cut": "2;4"}, "cut is 2;4; write layer numbers with commas, such as 2,4"),
    ({"cut": "2,,4"}, "cut is 2,,4; write layer numbers with commas, such as 2,4"),
    ({"cut": "4,2"}, "cut is 4,2; layer numbers must increase and start at 1 or more"),
    ({"cut": "2,2"}, "cut is 2,2; layer numbers must increase and start at 1 or more"),
    ({"cut": "0,2"}, "cut is 0,2; layer numbers must increase and start at 1 or more"),
    ({"optimizer": "adm"}, "unknown optimizer (adm); use one of adadelta, "),
    ({"optimizer_args": ("momentum",)}, "--optimizer-args got momentum; write name=value"),
    ({"optimizer_args": ("momentum=0.9",)}, "optimizer adam has no setting momentum; it has betas, "),
    (
        {"optimizer": "sgd", "optimizer_args": ("momentum=-1",)},
        "optimizer sgd refuses its settings (Invalid momentum value: -1); change --optimizer-args",
    ),
    ({"optimizer_args": ("betas=0.9",)}, "optimizer adam refuses its settings ("),
    ({"sg": SGConfig(optimizer="adm")}, "unknown optimizer (adm); use one of adadelta, "),
    (
        {"emulate_gflops": 1.0, "compile": True},
        "an emulated device is no faster with --compile; leave it out",
    ),
    ({"local": LocalConfig(optimizer="adm")}, "unknown optimizer (adm); use one of adadelta, "),
]


@pytest.mark.parametrize(("settings", "words"), REFUSED)
@pytest.mark.parametrize("cls", [TrainConfig, CompareConfig])
def test_a_wrong_value_is_named_with_its_remedy(cls, settings, words):
    with pytest.raises(UserError) as error:
        cls.of(**settings)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rule": "backprop"}, "unknown rule (backprop); use one of dni, cdni, delayed, local, "),
        ({"engine": "cdni"}, "cdni is a rule, not an engine; use --rule cdni"),
        ({"engine": "cdn"}, "unknown engine (cdn); use one of decoupled, backprop, "),
        ({"minutes": 0.0}, "minutes is 0.0; it must be positive and finite"),
        ({"on_nonfinite": "go"}, "unknown on-nonfinite (go); use one of stop, skip"),
        (
            {"on_nonfinite": "skip", "engine": "ddp"},
            "on-nonfinite skip is for stages that learn, not for ddp; leave it out",
        ),
        (
            {"on_nonfinite": "skip", "accumulate": 2},
            "on-nonfinite skip would take all batches of an update",
        ),
        ({"on_nonfinite": "skip", "rule": "oracle"}, "stages that learn, not for oracle"),
        ({"precision": "fp16", "rule": "oracle"}, "fp16 scales gradients, and oracle does not; use bf16"),
        ({"precision": "fp16", "engine": "dni-local"}, "and dni-local does not; use bf16"),
        ({"compile": True, "engine": "1f1b"}, "1f1b cannot be compiled; leave --compile out, or use dni, "),
        ({"compile": True, "rule": "delayed"}, "delayed cannot be compiled; leave --compile out"),
        ({"compile": True, "rule": "oracle"}, "oracle cannot be compiled; leave --compile out"),
        ({"compile": True, "supervise": True}, "nobody waits for its compiler; leave one of them out"),
    ],
)
def test_rules_and_engines_are_known(settings, words):
    with pytest.raises(UserError) as error:
        TrainConfig.of(**settings)
    assert words in str(error.value)


def test_a_baseline_ignores_the_rule():
    TrainConfig.of(engine="backprop", rule="delayed", compile=True)


def test_the_defaults_and_the_limits_are_accepted():
    TrainConfig.of()
    TrainConfig.of(
        seed=2**32 - 1, port=65535, milestones=(), clip_norm=None, until=1.0, threads=0, in_flight=1
    )


@pytest.mark.parametrize(("text", "cut"), [("", None), ("2", [2]), ("1,3,4", [1, 3, 4]), ("2, 4", [2, 4])])
def test_a_cut_is_read_as_numbers(text, cut):
    assert TrainConfig.of(cut=text).partition.cut_layers() == cut


def test_optimizer_settings_get_the_types_that_they_look_like():
    args = ("betas=0.8,0.95", "eps=1e-6", "weight_decay=0", "amsgrad=True", "foreach=false")
    settings = TrainConfig.of(optimizer_args=args).optimizer.settings()
    assert settings == {
        "betas": (0.8, 0.95),
        "eps": 1e-6,
        "weight_decay": 0,
        "amsgrad": True,
        "foreach": False,
    }
    kinds = [type(value) for value in settings.values()]
    assert kinds == [tuple, float, int, bool, bool]


def test_param_groups_are_settings_by_pattern_in_their_order():
    groups = ("*.bias:betas=0.8,0.95,weight_decay=0", "layers:0.*:lr=1e-4")
    assert list(TrainConfig.of(param_groups=groups).optimizer.group_settings().items()) == [
        ("*.bias", {"betas": (0.8, 0.95), "weight_decay": 0}),
        ("layers:0.*", {"lr": 1e-4}),
    ]


def test_words_stay_words_and_the_first_equals_sign_divides():
    config = TrainConfig.of()
    config.optimizer.optimizer_args = ("mode=nesterov", "path=a=b")
    assert config.optimizer.settings() == {"mode": "nesterov", "path": "a=b"}


def test_the_data_root_option_overrides_the_environment(monkeypatch):
    monkeypatch.setenv("DNI_DATA", "/from/environment")
    assert TrainConfig.of(data_root="/from/option").task.data_folder() == Path("/from/option")
    assert TrainConfig.of().task.data_folder() == Path("/from/environment")
    monkeypatch.delenv("DNI_DATA")
    assert TrainConfig.of().task.data_folder() is None


def test_a_run_that_is_resumed_can_be_resumed_again():
    assert TrainConfig.of(resume=True, out="a").recovery.checkpoint_every == 0
    assert TrainConfig.of(resume=True, out="a", checkpoint_every=7).recovery.checkpoint_every == 7


def test_tables_call_a_decoupled_run_by_its_rule():
    assert TrainConfig.of(rule="dni").engine_name == "dni"
    assert TrainConfig.of(rule="dni", engine="backprop").engine_name == "backprop"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"checkpoint_every": -1, "out": "a"}, "checkpoint-every is -1; it must be at least 0"),
        ({"checkpoint_every": 5}, "checkpoint-every needs the folder in which checkpoints are kept; give"),
        ({"resume": True}, "resume needs the folder in which checkpoints are kept; give one with --out"),
        ({"resume": True, "out": "a", "engine": "ddp"}, "resume is for stages that learn, not for ddp"),
        ({"max_restarts": -1, "out": "a"}, "max-restarts is -1; it must be at least 0"),
        ({"max_restarts": 1}, "max-restarts needs the folder in which checkpoints are kept; give one with"),
        (
            {"checkpoint_every": 0, "out": "a", "rule": "oracle"},
            "checkpoint-every is for stages that learn, not for oracle",
        ),
    ],
)
def test_checkpoints_need_a_folder_and_stages_that_learn(settings, words):
    with pytest.raises(UserError) as error:
        TrainConfig.of(**settings)
    assert words in str(error.value)


def test_checkpoints_are_kept_for_rules_that_learn():
    TrainConfig.of(checkpoint_every=0, resume=True, out="a", rule="delayed")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"rule": "delayed"},
            "supervise is for stages that learn without waiting, not for delayed; leave",
        ),
        ({"rule": "oracle"}, "supervise is for stages that learn without waiting, not for oracle"),
        ({"engine": "ddp"}, "supervise is for stages that learn without waiting, not for ddp"),
        ({"deterministic": True}, "supervise goes on with older weights, which is not deterministic"),
        ({"transport": "shm,dist"}, "transport is dist; supervise needs shm or tcp on every link"),
        ({"patience": 1}, "supervise starts a stage again without its best weights; leave out --patience"),
        ({"out": ""}, "supervise needs the folder in which checkpoints are kept; give one with --out"),
        ({"stage_restarts": -1}, "stage-restarts is -1; it must be at least 0"),
    ],
)
def test_supervision_is_for_stages_that_can_go_on_with_older_weights(settings, words):
    with pytest.raises(UserError) as error:
        TrainConfig.of(**{"supervise": True, "out": "a"} | settings)
    assert words in str(error.value)


@pytest.mark.parametrize(("asked", "kept"), [(None, 0), (5, 5)])
def test_supervised_stages_have_checkpoints_to_go_on_from(asked, kept):
    assert TrainConfig.of(supervise=True, out="a", checkpoint_every=asked).recovery.checkpoint_every == kept
