from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from dni_async.errors import UserError
from tasks.base import Task
from tasks.registry import BUILT_IN, create, create_any, text_of
from tasks.sequence.adding import Adding
from tasks.sequence.argmax import Argmax
from tasks.sequence.copying import Copy, RepeatCopy
from tasks.sequence.two_timescale import TwoTimescale
from tasks.text.gpt import BpeGpt, CharGpt
from tasks.text.induction import Induction
from tasks.text.layered import CharLMStack, WordLMStack
from tasks.text.through_time import CharLM, WordLM
from tasks.vision.cifar import CifarCnn
from tasks.vision.digits import DigitsFcn
from tasks.vision.mnist import MnistCnn, MnistFcn
from tasks.vision.residual import MnistResidual
from tasks.vision.vit import Vit

OWN = """
from __future__ import annotations
from typing import Optional
from tasks.base import Task

class Base(Task):
    def layers(self): return []
    def data(self, root): return [], []

class Everything(Base):
    def __init__(self, *, i: int = 1, f: float = 1.0, b: bool = False, s: str = "",
                 sizes: tuple[int, ...] = (1,), two: tuple[int, float] = (1, 1.0), maybe: int | None = 3,
                 old: Optional[float] = None, either: int | float = 0, bare=2,
                 pair=(1, 2), listed: list[int] = []):
        self.got = {key: value for key, value in locals().items() if key != "self"}

class Needy(Base):
    def __init__(self, path, more: int): self.path, self.more = path, more

class Forward(Base):
    def __init__(self, n: "OnlyForTypeCheckers" = 3): self.n = n

class Picky(Base):
    def __init__(self, n: int = 3): raise ValueError("n must be\\n prime")

class Half(Task):
    def layers(self): return []

class Stranger: pass
function = len
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's own in the working folder, not importable from anywhere else."""
    name = f"own_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    return name


def test_built_in_tasks_are_found_by_name() -> None:
    assert {name: type(create_any(name)) for name in BUILT_IN} == {
        "mnist-fcn": MnistFcn,
        "mnist-cnn": MnistCnn,
        "mnist-residual": MnistResidual,
        "digits-fcn": DigitsFcn,
        "cifar-cnn": CifarCnn,
        "vit": Vit,
        "copy": Copy,
        "repeat-copy": RepeatCopy,
        "adding": Adding,
        "argmax": Argmax,
        "char-lm": CharLM,
        "word-lm": WordLM,
        "char-lm-stack": CharLMStack,
        "gpt-char": CharGpt,
        "gpt-bpe": BpeGpt,
        "induction": Induction,
        "word-lm-stack": WordLMStack,
        "two-timescale": TwoTimescale,
    }
    assert all(create_any(name).name == name for name in BUILT_IN)


def settings_of(task: Task) -> dict[str, Any]:
    """Return the attributes of a task, and of the tasks among them."""
    return {
        name: (type(value), settings_of(value)) if isinstance(value, Task) else value
        for name, value in vars(task).items()
    }


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_name_and_the_settings_of_a_task_make_the_same_task(name: str) -> None:
    task = create_any(name)
    found, args = text_of(task)
    assert found == name and settings_of(create_any(found, args)) == settings_of(task)


def test_the_settings_of_a_task_are_those_that_it_has_as_attributes() -> None:
    name, args = text_of(create("mnist-fcn", ["depth=3", "width=64"]))
    assert name == "mnist-fcn" and {"depth=3", "width=64"} <= set(args)


def test_a_task_over_time_is_no_layered_task() -> None:
    with pytest.raises(UserError, match=r"copy is a task over time.*train it with launch\.train$"):
        create("copy")
    with pytest.raises(UserError, match=r"train it with launch\.train, or take char-lm-stack$"):
        create("char-lm")


def test_settings_reach_the_constructor() -> None:
    task = create("mnist-fcn", ["depth=3", "width=64", "subset=1000"])
    assert isinstance(task, MnistFcn)
    assert (task.depth, task.width, task.subset) == (3, 64, 1000)


@pytest.mark.parametrize(
    ("arg", "value"),
    [
        ("i=-7", -7),
        ("f=1e-3", 1e-3),
        ("f=2", 2.0),
        ("b=true", True),
        ("b=No", False),
        ("s=a=b, c", "a=b, c"),
        ("s=", ""),
        ("sizes=3", (3,)),
        ("sizes=3, 4,5", (3, 4, 5)),
        ("sizes=3,", (3,)),
        ("sizes=", ()),
        ("two=3,0.5", (3, 0.5)),
        ("maybe=None", None),
        ("maybe=4", 4),
        ("old=0.5", 0.5),
        ("either=1.5", 1.5),
        ("bare=9", 9),
        ("pair=5,6", (5, 6)),
    ],
)
def test_a_value_is_read_as_its_annotation_or_default_says(own: str, arg: str, value: object) -> None:
    task = create(f"{own}:Everything", [arg])
    got = task.got[arg.partition("=")[0]]  # type: ignore[attr-defined]
    assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize(
    ("arg", "complaint"),
    [
        ("i=1.5", r"\(i=1\.5\): give int"),
        ("i=", r"\(i=\): give int"),
        ("f=fast", r"\(f=fast\): give float"),
        ("b=maybe", r"\(b=maybe\): give bool"),
        ("sizes=1,x", r"\(sizes=1,x\): give tuple\[int, \.\.\.\]"),
        ("sizes=1,,2", r"\(sizes=1,,2\)"),
        ("two=3", r"\(two=3\): give tuple\[int, float\]"),
        ("maybe=x", r"\(maybe=x\): give int \| None"),
        ("either=x", r"\(either=x\): give int \| float"),
        ("listed=1", r"cannot be given as text \(listed=1\)"),
        ("depth=1", r"unknown task setting \(depth\): Everything takes i, f, b, s, sizes, two,"),
        ("i", r"without a value \(i\): write key=value"),
        ("=3", r"without a value \(=3\)"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(own: str, arg: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        create(f"{own}:Everything", [arg])


def test_a_setting_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"given twice \(depth\)"):
        create("mnist-fcn", ["depth=1", "depth=2"])


def test_a_needed_setting_that_is_missing_is_named(own: str) -> None:
    assert create(f"{own}:Needy", ["path=x", "more=1"]).path == "x"  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"missing \(more\): Needy needs it"):
        create(f"{own}:Needy", ["path=x"])


def test_a_class_without_constructor_takes_no_settings(own: str) -> None:
    assert create(f"{own}:Base").name == "Base"
    with pytest.raises(UserError, match=r"unknown task setting \(x\): Base takes none at all"):
        create(f"{own}:Base", ["x=1"])


def test_an_annotation_that_cannot_be_resolved_leaves_the_default_to_say(own: str) -> None:
    assert create(f"{own}:Forward", ["n=4"]).n == 4  # type: ignore[attr-defined]


def test_the_task_itself_may_refuse_its_settings(own: str) -> None:
    with pytest.raises(UserError, match="depth is 0; it must be at least 1"):
        create("mnist-cnn", ["depth=0"])
    with pytest.raises(
        UserError, match=rf"refuses its settings \({own}:Picky n=4\): ValueError: n must be prime"
    ):
        create(f"{own}:Picky", ["n=4"])


@pytest.mark.parametrize("name", ["mnist", "", ":", "my_task:", ":MyTask", "my_pkg.my_task.MyTask"])
def test_an_unknown_name_is_answered_with_the_known_ones(name: str) -> None:
    with pytest.raises(UserError, match=r"unknown task .*mnist-fcn, .*mnist-residual, .*my_module:MyTask"):
        create(name)


@pytest.mark.parametrize(
    ("class_name", "complaint"),
    [
        ("Nothing", r"class not found \(Nothing\)"),
        ("Stranger", r"no task \(own_\d+:Stranger\): derive"),
        ("function", r"no task \(own_\d+:function\): derive"),
        ("Half", r"not complete \(own_\d+:Half\): define data"),
    ],
)
def test_a_class_that_is_not_a_task_is_refused(own: str, class_name: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        create(f"{own}:{class_name}")


@pytest.mark.parametrize("module", ["not_there", "not_there.at_all", "tasks.not_there"])
def test_a_missing_module_is_named(module: str) -> None:
    with pytest.raises(UserError, match=rf"module not found \({module}\)"):
        create(f"{module}:MyTask")


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("\n1 / 0\n", r"ZeroDivisionError: division by zero \(raised at broken_0\.py:2\)"),
        (
            "import not_there\n",
            r"ModuleNotFoundError: No module named 'not_there' \(raised at broken_1\.py:1\)",
        ),
        ("def f(:\n", r"SyntaxError: invalid syntax \(broken_2\.py, line 1\)"),
        ("raise SystemExit(0)\n", r"SystemExit: 0 \(raised at broken_3\.py:1\)"),
    ],
)
def test_a_module_that_fails_is_named_with_the_place(
    tmp_path: Path, code: str, complaint: str, request: pytest.FixtureRequest
) -> None:
    module = complaint.partition("broken_")[2][:1]
    (tmp_path / f"broken_{module}.py").write_text(code)
    with pytest.raises(
        UserError, match=rf"cannot be imported \(broken_{module}\): mend {complaint}"
    ) as caught:
        create(f"broken_{module}:MyTask")
    assert "\n" not in str(caught.value)
