"""What `launch.bench` measures of models of every form."""

from __future__ import annotations

from launch.report.bench_section import Section

_MODELS = ("Gpt2", "Bert", "ResNet18", "Vit", "SkipMlp", "TwoInputs", "Regression", "MultiLabel")

MODEL_SECTIONS = (
    Section(
        "models",
        "Models of every form, by engine",
        "The tasks of examples/whole_models.py, two stages, eight epochs of batches of 32: small models of "
        "Hugging Face, split by `from_module` (GPT-2, BERT, ResNet-18 with an eighth of its channels, ViT), "
        "skip connections over two cuts, two inputs, regression, several labels per sample. One run of each, "
        "while other programs kept the cores busy: compare accuracies, not speeds. The ViT is far from the "
        "end of its training, and learns more slowly with late gradients (delayed) and with local ones.",
        (
            "sweep --engines backprop 1f1b delayed local cdni --stages 2 --epochs 8 --batch-size 32 "
            f"--vary task={'/'.join(f'examples.whole_models:{name}' for name in _MODELS)}",
        ),
        minutes=12,
    ),
)
