"""Layers of a whole model compute what it computes, under its names."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from dni_async.errors import UserError
from dni_async.partition.deferred_layers import DeferredLayers
from dni_async.partition.from_module import from_module
from dni_async.partition.module_layer import module_layers, uncut_names
from tests.support import models

Case = tuple[Callable[[], nn.Module], list[str], Callable[[int], Any]]
"""A model, where to split it, and its inputs by number of rows."""


def chain_of_blocks() -> nn.Sequential:
    block = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU())
    return nn.Sequential(block, nn.Dropout(0.2), nn.Linear(6, 3))


def numbers(rows: int) -> Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(0))


def text_and_numbers(rows: int) -> dict[str, Tensor]:
    return {"text": torch.arange(6 * rows).view(rows, 6) % 20, "numbers": numbers(rows)}


def ids(rows: int) -> Tensor:
    return models.tokens(rows)["input_ids"]


def large_images(rows: int) -> Tensor:
    return models.images(rows, 32)


RESNET = ["layer1.*", "layer2", "layer3.1", "layer4", "fc"]
CASES: dict[str, Case] = {
    "Sequential": (chain_of_blocks, ["0.1", "2"], numbers),
    "ViT with dropout": (lambda: models.ViT(dropout=0.2), ["blocks.*", "norm"], models.images),
    "U-Net": (models.UNet, ["down2", "middle", "up2", "up1"], models.images),
    "two towers": (models.TwoTowers, ["encode", "numbers", "head"], text_and_numbers),
    "BERT": (models.bert, ["bert.encoder.layer.*", "classifier"], models.tokens),
}
SLOW_CASES: dict[str, Case] = {
    "ResNet-18": (lambda: models.ResNet18(width=4), RESNET, large_images),
    "GPT-2": (models.gpt2, ["transformer.h.*", "transformer.ln_f"], models.tokens),
    "GPT-2 without a mask": (models.gpt2, ["transformer.h.1"], ids),
    "GPT-2 with dropout": (
        lambda: models.gpt2(embd_pdrop=0.1, resid_pdrop=0.1, attn_implementation="eager"),
        ["transformer.h.1", "transformer.h.2"],
        models.tokens,
    ),
    "Llama": (models.llama, ["model.layers.*"], models.tokens),
    "BERT with dropout": (
        lambda: models.bert(hidden_dropout_prob=0.1),
        ["bert.encoder.layer.1"],
        lambda rows: models.tokens(rows) | {"token_type_ids": torch.zeros(rows, 6, dtype=torch.long)},
    ),
}


@dataclass
class Split:
    """A model, its layers, and its inputs by number of rows."""

    model: nn.Module
    layers: list[nn.Module]
    inputs: Callable[[int], Any]
    points: list[str]


@pytest.fixture(
    scope="module", params=[*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_CASES)]
)
def split(request: pytest.FixtureRequest) -> Split:
    if request.param.startswith(("GPT", "BERT", "Llama")):
        pytest.importorskip("transformers")
    torch.manual_seed(0)
    make, points, inputs = (CASES | SLOW_CASES)[request.param]
    model = make()
    return Split(model, from_module(model, points, inputs(3)), inputs, points)


def computed(model: nn.Module, inputs: Any, weights: list[Tensor]) -> list[Tensor | None]:
    """The result, and the gradient of each weight."""
    torch.manual_seed(7)
    result = model(inputs)
    return [result.detach(), *torch.autograd.grad(result.square().sum(), weights, allow_unused=True)]


class Called(nn.Module):
    """A model with one argument and one result."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Any) -> Tensor:
        result = self.model(**inputs) if isinstance(inputs, dict) else self.model(inputs)
        return result if isinstance(result, Tensor) else result.logits


def equal(a: list[Tensor | None], b: list[Tensor | None]) -> bool:
    return all(x is y is None or torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_layers_equal_the_model_to_the_bit_in_both_modes_and_for_several_batch_sizes(
    split: Split,
) -> None:
    assert len(split.layers) > len(split.points)
    chain, model, inputs = nn.Sequential(*split.layers), split.model, split.inputs
    whole, weights = Called(model), list(model.parameters())
    for training in (True, False):
        for rows in (3, 5, 2) if training else (3, 5, 1):
            x = inputs(rows)
            buffers = copy.deepcopy(dict(model.named_buffers()))
            expected = computed(whole.train(training), x, weights)
            updated = copy.deepcopy(dict(model.named_buffers()))
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
            assert equal(computed(chain.train(training), x, weights), expected), (training, rows)
            assert all(torch.equal(buffer, updated[name]) for name, buffer in model.named_buffers())


def deferred(name: str) -> DeferredLayers:
    make, points, inputs = (CASES | SLOW_CASES)[name]
    example = inputs(3)
    return DeferredLayers(lambda: from_module(make(), points, example), 0)


@pytest.mark.parametrize(
    "name",
    [
        "Sequential",
        "two towers",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("U-Net", "BERT", "GPT-2", "Llama", "ResNet-18")
        ),
    ],
)
def test_of_a_large_model_only_the_layers_of_a_stage_get_memory(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dni_async.partition.from_module.COMPARED", 0)
    make, points, inputs = (CASES | SLOW_CASES)[name]
    found = deferred(name)
    found.build(1, 2)
    for number, layer in enumerate(found.structure):
        assert all(parameter.is_meta == (number != 1) for parameter in layer.parameters())
    model, layers = make(), nn.Sequential(*found.build(0, len(found)))
    state = layers.state_dict()
    names = uncut_names(state, range(len(layers)))
    missing, unknown = model.load_state_dict({names[key]: state[key] for key in state}, strict=False)
    assert not unknown and not set(missing) & {name for name, _ in model.named_parameters()}
    whole = nn.Sequential(*from_module(model, points, inputs(3)))
    buffers = zip(layers.named_buffers(), whole.named_buffers(), strict=True)
    assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in buffers)
    for training in (True, False):
        results = [
            computed(net.train(training), inputs(5), list(net.parameters())) for net in (layers, whole)
        ]
        assert equal(*results)


def test_all_of_a_small_model_gets_memory_because_its_layers_are_compared_with_it() -> None:
    assert deferred("Sequential").deferred and not deferred("two towers").deferred


def test_a_constant_beside_weights_without_memory_has_no_value_so_the_model_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dni_async.partition.from_module.COMPARED", 0)

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) * torch.tensor([1.0, 2, 3, 4, 5, 6], device=x.device))

    example = numbers(3)
    found = DeferredLayers(lambda: from_module(Constant(), ["b"], example), 0)
    layers = nn.Sequential(*found.build(0, 2))
    assert not any(tensor.is_meta for tensor in (*layers.parameters(), *layers.buffers()))
    constant = torch.arange(1.0, 7)
    a, b = layers[0].get_submodule("a"), layers[1].get_submodule("b")
    assert torch.equal(layers(numbers(4)), b(a(numbers(4)) * constant))


def test_layers_share_the_weights_of_the_model_and_its_names(split: Split) -> None:
    state: dict[str, Any] = {}
    for layer in split.layers:
        assert state.keys().isdisjoint(layer.state_dict())
        state |= layer.state_dict(keep_vars=True)
    whole = split.model.state_dict(keep_vars=True)
    assert state.keys() == whole.keys()
    assert all(state[name] is whole[name] for name in whole)
    numbers = module_layers([*split.layers, nn.Linear(2, 2)])
    names = uncut_names(nn.Sequential(*split.layers, nn.Linear(2, 2)).state_dict(), numbers)
    last = len(split.layers)
    assert sorted(names.values()) == sorted([*whole, f"{last}.weight", f"{last}.bias"])


def test_a_copy_of_layers_has_weights_of_its_own(split: Split) -> None:
    inputs = split.inputs
    chain = copy.deepcopy(nn.Sequential(*split.layers)).eval()
    before, copied = chain(inputs(3)), copy.deepcopy(chain)
    with torch.no_grad():
        for parameter in chain.parameters():
            parameter.add_(1)
    assert torch.equal(copied(inputs(3)), before)
    assert not torch.equal(chain(inputs(3)), before)


def test_layers_compute_on_the_device_that_they_are_moved_to(split: Split) -> None:
    """On meta, an operation with a tensor that stayed on the CPU fails as on a GPU."""
    chain = copy.deepcopy(nn.Sequential(*split.layers)).to("meta")
    inputs = pytree.tree_map(lambda x: x.to("meta"), split.inputs(3))
    assert chain(inputs).is_meta


def test_lengths_of_texts_may_differ_from_batch_to_batch() -> None:
    pytest.importorskip("transformers")
    model = models.gpt2().eval()
    chain = nn.Sequential(*from_module(model, ["transformer.h.*"], models.tokens(4, 4))).eval()
    for length in (4, 9, 2):
        x = models.tokens(3, length)
        assert torch.equal(chain(x), model(**x).logits)


def test_a_mask_of_tokens_travels_and_each_layer_makes_that_of_its_heads() -> None:
    pytest.importorskip("transformers")
    first, *_ = from_module(models.gpt2(), ["transformer.h.1", "transformer.h.2"], models.tokens(2))
    x = models.tokens(3)
    h, mask = first(x)
    assert h.shape == (3, 6, 16) and torch.equal(mask, x["attention_mask"])


def test_skip_connections_travel_as_a_tuple() -> None:
    layers = from_module(models.UNet(), ["down2", "middle", "up2", "up1"], models.images(2))
    x, returned = models.images(2), []
    for layer in layers:
        x = layer(x)
        returned.append([tuple(part.shape[1:]) for part in x] if isinstance(x, tuple) else tuple(x.shape[1:]))
    assert returned == [
        (4, 16, 16),
        [(8, 8, 8), (4, 16, 16)],
        [(16, 8, 8), (4, 16, 16)],
        (8, 16, 16),
        (4, 16, 16),
    ]


def test_training_and_evaluation_of_the_code_between_submodules_are_kept_apart() -> None:
    layers = from_module(models.ViT(dropout=0.5), ["blocks.0"], models.images(2))
    x = models.images(2)
    assert torch.equal(layers[0].eval()(x), layers[0](x))
    assert (layers[0].train()(x) == 0).float().mean() > 0.3


def test_the_model_its_modes_and_the_random_numbers_are_left_as_they_were() -> None:
    model = models.ResNet18(width=2)
    model.layer1.eval()
    state = copy.deepcopy(model.state_dict())
    modes = [part.training for part in model.modules()]
    random = torch.get_rng_state()
    from_module(model, ["layer2", "layer3"], models.images(2, 32))
    assert torch.equal(torch.get_rng_state(), random)
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any("forward" in vars(part) for part in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_hooks_and_python_code_of_submodules_go_on_working() -> None:
    model = models.ViT()
    calls = []
    model.blocks[1].register_forward_hook(lambda module, args, output: calls.append(len(output)))
    chain = nn.Sequential(*from_module(model, ["blocks.1"], models.images(2)))
    calls.clear()
    chain(models.images(7))
    assert calls == [7]


def test_a_split_point_at_the_beginning_adds_no_layer() -> None:
    model = Shared(lambda self, x: self.c(self.b(self.a(x))))
    layers = from_module(model, ["a", "b", "c"], {"x": torch.randn(3, 4)})
    assert [sorted(layer.state_dict()) for layer in layers] == [
        [f"{name}.bias", f"{name}.weight"] for name in "abc"
    ]
    assert torch.equal(nn.Sequential(*layers)({"x": torch.ones(2, 4)}), model(torch.ones(2, 4)))


def test_a_tensor_that_is_twice_in_the_example_is_two_inputs() -> None:
    ones = torch.ones(2, 5)
    model = models.TwoInputs()
    chain = nn.Sequential(*from_module(model, ["first"], {"left": ones, "right": ones}))
    x = {"left": torch.randn(3, 5), "right": torch.randn(3, 5)}
    assert torch.equal(chain(x), model(**x))


def test_a_chain_needs_no_example_and_stays_a_sequential() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    first, second = from_module(model, ["3"])
    assert isinstance(first, nn.Sequential) and isinstance(second, nn.Sequential)
    assert list(first) == list(model)[:3] and list(second) == [model[3]]


class Shared(nn.Module):
    """A network whose forward is given."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))
        self.unused = nn.Linear(4, 4)
        self.table = nn.Parameter(torch.randn(7, 4))
        self.register_buffer("count", torch.zeros(()))
        self.run = forward

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def counting(self: Any, x: Tensor) -> Tensor:
    h = self.b(self.a(x))
    self.count += 1
    return h * self.count


def without_gradient(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = self.a(x)
    return self.b(h)


def by_data(self: Any, x: Tensor) -> Tensor:
    h = self.a(x)
    return self.b(h) if h.sum() > 0 else self.b(-h)


def by_mode(self: Any, x: Tensor) -> Tensor:
    h = self.b(self.a(x))
    return h + self.c(x) if self.training else h


class Thing:
    pass


class Taking(nn.Linear):
    def forward(self, x: Tensor, thing: Any = None) -> Tensor:
        return super().forward(x)


def taking(self: Any, x: Tensor) -> Tensor:
    return self.b(self.taking(self.a(x), Thing()))


def more_rows(self: Any, x: Tensor) -> Tensor:
    return self.b(self.a(x)) * (2 if x.shape[0] > 5 else 1)


def fewer_rows(self: Any, x: Tensor) -> Tensor:
    return self.b(self.a(x)) * (2 if x.shape[0] > 2 else 1)


REFUSED: list[tuple[Callable[..., Any], str]] = [
    (without_gradient, r"its own forward uses .*such as torch\.no_grad"),
    (by_data, r"its own forward cannot be recorded by torch\.export \(it decides by values of tensors"),
    (by_mode, r"in training and in evaluation its submodules pass each other different tensors$"),
    (more_rows, r"its own forward decides by the number of rows: it takes another way for more than 5"),
    (
        fewer_rows,
        r"(its own forward decides by .* for fewer than 3|.*layers compute another result)",
    ),
    (lambda self, x: self.a(x), r"its forward does not run b$"),
    (
        lambda self, x: (self.a(x), self.b(x)),
        r"it returns the tensors 0, 1; choose one of them with output=$",
    ),
    (lambda self, x: {"p": self.a(x), "q": self.b(x)}, r"it returns the tensors p, q; choose one"),
]


@pytest.mark.parametrize(("forward", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_split_says_why_in_one_line(forward: Callable[..., Any], words: str) -> None:
    with pytest.raises(UserError, match=rf"^Shared cannot be split at b: {words}") as error:
        from_module(Shared(forward), ["b"], torch.randn(3, 4))
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("points", [["2", "4"], ["3"], ["1"]], ids=str)
def test_a_submodule_that_comes_twice_in_a_chain_is_run_twice(points: list[str]) -> None:
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu, nn.Linear(4, 4))
    x = torch.randn(3, 4)
    assert torch.equal(nn.Sequential(*from_module(model, points))(x), model(x))


def test_hooks_of_a_chain_that_is_taken_apart_go_on_working() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), torch.randn(3, 4)
    model.register_forward_hook(lambda module, inputs, output: output * 2)
    assert torch.equal(nn.Sequential(*from_module(model, ["2"], torch.randn(3, 4)))(x), model(x))


def test_a_function_is_no_model() -> None:
    with pytest.raises(UserError, match=r"^from_module takes an nn\.Module, not a function$"):
        from_module(more_rows, ["b"], torch.randn(3, 4))  # type: ignore[arg-type]


def test_a_model_that_cannot_be_copied_is_one_line() -> None:
    model = Shared(lambda self, x: self.b(self.a(x)))
    nn.utils.parametrizations.spectral_norm(model.a)
    with pytest.raises(
        UserError, match=r"^Shared cannot be split at b: submodule a cannot be copied \(Ser"
    ) as error:
        from_module(model, ["b"], torch.randn(3, 4))
    assert "\n" not in str(error.value)


def test_values_that_no_layer_can_hand_on_are_refused() -> None:
    model = Shared(taking)
    model.taking = Taking(4, 4)
    with pytest.raises(
        UserError, match=r"submodule taking is called with a Thing, which no layer can hand on"
    ):
        from_module(model, ["b"], torch.randn(3, 4))


def test_a_buffer_that_the_code_between_submodules_changes_is_changed_once_per_batch() -> None:
    model = Shared(counting)
    chain = nn.Sequential(*from_module(model, ["b"], torch.randn(3, 4)))
    x = torch.randn(5, 4)
    assert model.count == 0
    assert torch.equal(chain(x), model.b(model.a(x))) and model.count == 1
    assert torch.equal(chain(x), 2 * model.b(model.a(x)))


def test_tensors_without_rows_travel_with_a_row_per_sample() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        table, scale = F.relu(self.table), self.table.mean()
        return self.c(self.b(self.a(x) + table[0]) + table[1] * scale) @ table.T * scale

    model = Shared(forward)
    first, *others = from_module(model, ["b", "c"], torch.randn(3, 4))
    x, weights = torch.randn(5, 4), list(model.parameters())
    assert sorted(tuple(part.shape) for part in first(x)) == [(5,), (5, 4), (5, 7, 4)]
    assert equal(computed(nn.Sequential(first, *others), x, weights), computed(model, x, weights))


def test_a_gradient_that_is_stopped_between_submodules_is_kept() -> None:
    model = Shared(lambda self, x: self.b(self.a(x).detach()) + self.c(x))
    chain = nn.Sequential(*from_module(model, ["b"], torch.randn(3, 4)))
    x, weights = torch.randn(5, 4), list(model.parameters())
    assert equal(computed(chain, x, weights), computed(model, x, weights))


def test_one_of_several_results_can_be_chosen() -> None:
    model = Shared(lambda self, x: {"p": self.a(x), "q": self.b(self.a(x))})
    chain = nn.Sequential(*from_module(model, ["b"], torch.randn(3, 4), output="q"))
    x = torch.randn(5, 4)
    assert torch.equal(chain(x), model(x)["q"])


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (["d"], r"^Shared has no submodule d; split points are names such as "),
        (["blocks.*"], r"^Shared has no submodule blocks\.\*; split points are names such as a, b, c$"),
        ("b", r"^split points are a list of names, not the text 'b'$"),
        ([], r"^there are no split points; give the names of submodules, such as blocks\.\*$"),
    ],
)
def test_split_points_that_do_not_exist_are_refused(points: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        from_module(Shared(lambda self, x: self.b(self.a(x))), points, torch.randn(3, 4))


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (None, r"the example is a batch of inputs: a tensor \(B, \.\.\.\), or a tuple or dict"),
        ({"x": torch.randn(3, 4), "flag": True}, r"the example is a batch of inputs"),
        (torch.randn(1, 4), r"same number of rows, at least two, not \(1, 4\)$"),
        (
            (torch.randn(2, 4), torch.randn(3, 4)),
            r"same number of rows, at least two, not \(2, 4\), \(3, 4\)$",
        ),
    ],
)
def test_an_example_that_is_no_batch_is_refused(example: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        from_module(Shared(lambda self, x: self.b(self.a(x))), ["b"], example)


def test_a_model_for_one_size_of_a_batch_only_is_refused() -> None:
    model = Shared(lambda self, x: self.b(self.a(x).view(3, 4)))
    with pytest.raises(UserError, match=r"^Shared cannot be split at b: .*batches of 3 rows"):
        from_module(model, ["b"], torch.randn(3, 4))


def test_a_forward_that_draws_numbers_outside_torch_computes_something_else_and_is_refused() -> None:
    numbers = iter(range(1, 100))
    model = Shared(lambda self, x: self.b(self.a(x) * next(numbers)))
    with pytest.raises(UserError, match=r"in training, layers compute another result than the model \(they"):
        from_module(model, ["b"], torch.randn(3, 4))


@pytest.mark.parametrize(
    ("package", "make", "points"),
    [
        ("torchvision.models", lambda m: m.resnet18(num_classes=3), ["layer2", "layer4"]),
        ("timm", lambda m: m.create_model("vit_tiny_patch16_224", img_size=32, depth=2), ["blocks.1"]),
    ],
)
def test_models_of_torchvision_and_timm_where_they_can_be_imported(
    package: str, make: Callable[[Any], nn.Module], points: list[str]
) -> None:
    try:
        module = importlib.import_module(package)
    except (ImportError, RuntimeError) as error:  # PyPI's torchvision beside another build of torch
        pytest.skip(f"{package} cannot be imported here ({str(error).splitlines()[0]})")
    model = make(module)
    layers = from_module(model, points, models.images(2, 32))
    x, weights = models.images(3, 32), list(model.parameters())
    assert equal(computed(nn.Sequential(*layers), x, weights), computed(model, x, weights))
