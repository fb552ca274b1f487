from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni_async.errors import UserError
from dni_async.networks import TokenHeadSG, head
from dni_async.networks.sampled_softmax import SampledSoftmax
from dni_async.partition.flops import flop_counter

ROWS, WIDTH, CLASSES = 6, 5, 50


def example() -> tuple[Tensor, nn.Linear, Tensor]:
    """Features, an output layer, and labels of few classes, some of which do not count."""
    torch.manual_seed(0)
    output = nn.Linear(WIDTH, CLASSES).double()
    with torch.no_grad():
        output.bias.normal_()
    return torch.randn(ROWS, WIDTH, dtype=torch.float64), output, torch.tensor([3, 7, -1, 3, 40, -1])


def partition(logits: Tensor, chosen: Tensor, labels: Tensor, negatives: int) -> Tensor:
    """The sum under the logarithm, class by class, for each row of logits (N, V)."""
    present = {c for c in labels.tolist() if c >= 0}
    total = sum(logits[:, c].exp() for c in present)
    for c in chosen.tolist():
        if c not in present:
            total = total + logits[:, c].exp() * CLASSES / negatives
    return torch.as_tensor(total)


def test_the_estimate_is_the_cross_entropy_over_labels_and_weighted_drawn_classes() -> None:
    features, output, labels = example()
    softmax = SampledSoftmax(9)
    drawn = torch.randint(CLASSES, (9,), generator=softmax.generator.clone_state())
    counted = labels >= 0
    logits = output(features)[counted]
    own = logits[torch.arange(len(logits)), labels[counted]]
    wanted = (partition(logits, drawn, labels, 9).log() - own).sum()
    torch.testing.assert_close(softmax(features, output, labels), wanted)


def test_with_many_draws_the_gradient_is_that_of_all_classes() -> None:
    features, output, labels = example()
    leaf = features.requires_grad_()
    (sampled,) = torch.autograd.grad(SampledSoftmax(200_000)(leaf, output, labels), leaf)
    full = F.cross_entropy(output(leaf), labels, ignore_index=-1, reduction="sum")
    (exact,) = torch.autograd.grad(full, leaf)
    torch.testing.assert_close(sampled, exact, rtol=0.03, atol=0.01)


def test_a_label_that_does_not_count_has_no_gradient() -> None:
    features, output, labels = example()
    leaf = features.requires_grad_()
    (gradient,) = torch.autograd.grad(SampledSoftmax(9)(leaf, output, labels), leaf)
    assert (gradient.abs().amax(1) > 0).tolist() == (labels >= 0).tolist()


def test_a_resumed_head_draws_the_classes_that_it_would_have_drawn() -> None:
    features = torch.randn(2, 3, WIDTH)
    labels = torch.tensor([[1, 2, 3], [4, 5, -1]])
    first, second = (TokenHeadSG(WIDTH, CLASSES, negatives=7) for _ in range(2))
    before = first.synthesize(features, labels)
    second.load_state_dict(first.state_dict())
    after = first.synthesize(features, labels)
    assert torch.equal(second.synthesize(features, labels), after)
    assert not torch.equal(before, after)


def test_a_head_over_all_classes_has_no_random_numbers_in_its_state() -> None:
    assert not any("sampled" in name for name in TokenHeadSG(WIDTH, CLASSES).state_dict())


def test_an_automatic_cut_counts_the_classes_that_are_computed() -> None:
    """A product forward and two backward, of 6 positions with 2 + 7 classes instead of 1,000."""
    h, labels = torch.randn(2, 3, WIDTH), torch.tensor([[1, 2, 1], [2, 1, -1]])
    flops = []
    for negatives in (0, 7):
        network = TokenHeadSG(WIDTH, 1000, negatives=negatives)
        with flop_counter() as counter:
            network.synthesize(h, labels)
        flops.append(counter.get_total_flops())
    assert flops == [3 * 2 * 6 * WIDTH * classes for classes in (1000, 2 + 7)]


def test_a_vocabulary_that_is_too_large_for_all_of_its_classes_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(head, "MOST_LOGITS", 6 * CLASSES - 1)
    h, labels = torch.randn(2, 3, WIDTH), torch.zeros(2, 3, dtype=torch.long)
    TokenHeadSG(WIDTH, CLASSES, negatives=7).synthesize(h, labels)
    with pytest.raises(UserError) as error:
        TokenHeadSG(WIDTH, CLASSES).synthesize(h, labels)
    assert str(error.value) == (
        "the SG network's softmax of 6 labels over 50 classes has more than 299 logits; set --sg.negatives "
        "1024, or make batches smaller"
    )
