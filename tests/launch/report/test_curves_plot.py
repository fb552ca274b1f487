"""The picture of the curves is a PNG file of the promised size with something on it."""

import pytest

from launch.report.curves_plot import plot_curves
from tests.support.pixels import pixels, share
from tests.support.summaries import summary, validated

FORWARD, BACKWARD = (0x3F, 0x78, 0xC9), (0xE8, 0x83, 0x3A)


def test_curves_show_losses_and_accuracy(tmp_path):
    plot_curves(summary(), tmp_path / "curves.png")
    image = pixels(tmp_path / "curves.png")
    assert image.shape == (480, 1200, 3)
    assert share(image[:, :600], BACKWARD) > 0.0005  # test loss, left
    assert share(image[:, 600:], FORWARD) > 0.0005  # accuracy, right


@pytest.mark.parametrize(
    "epochs", [[], [{"epoch": 1, "loss": 0.5, "test_loss": None, "test_accuracy": None, "seconds": 1.0}]]
)
def test_curves_of_a_single_evaluation_are_drawn(epochs, tmp_path):
    plot_curves(summary(epochs=epochs, metric_name="negative error"), tmp_path / "curves.png")
    assert pixels(tmp_path / "curves.png").shape == (480, 1200, 3)


def test_a_run_with_validation_has_curves(tmp_path):
    run = validated()
    plot_curves(run, tmp_path / "curves.png")
    image = pixels(tmp_path / "curves.png")
    assert share(image[:, :600], BACKWARD) > 0.0005  # validation loss, left
    assert share(image[:, 600:], FORWARD) > 0.0005  # accuracy, right
