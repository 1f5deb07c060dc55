from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from backend.utils import lean_imports
from backend.utils.lean_imports import install, is_awake, is_ours

NAME = "tunesmith_sleepy"


def no_mark(fn: object) -> object:
    return fn


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that sleeps, answers ``mark`` asleep, and counts how often it is read."""
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "import sys\n"
        "sys.reads = getattr(sys, 'reads', 0) + 1\n"
        "from . import inner\n"
        "from .inner import THING\n"
        "mark = 'the real one'\n"
    )
    (folder / "inner.py").write_text("THING = object()\n")
    (folder / "apart.py").write_text("ALONE = 1\n")
    (folder / "other.py").write_text(f"from {NAME} import THING\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(lean_imports._ASLEEP, NAME, {"mark": no_mark})
    monkeypatch.setattr(lean_imports, "_READ_ALONE", {f"{NAME}.apart"})
    monkeypatch.setattr(sys, "reads", 0, raising=False)
    install()
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        del sys.modules[name]


def imported(name: str = NAME) -> ModuleType:
    return importlib.import_module(name)


def reads() -> int:
    return vars(sys)["reads"]


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        (["python", "/usr/bin/tunesmith", "train", "rows.jsonl"], True),
        (["python", "-P", "-u", "-m", "backend.trainer_main", "runs/a"], True),
        (["python", "-m", "tunesmith", "--help"], True),
        (["python", "/usr/bin/pytest", "-m", "model"], False),
        (["python", "-m", "pytest", "-m", "tunesmith"], False),
        (["python", "-c", "from backend.inferencer import Inferencer"], False),
        (["python", "-m"], False),
        (["python"], False),
    ],
)
def test_a_program_of_ours_is_known_by_its_command(words: list[str], ours: bool) -> None:
    assert is_ours(words) == ours


def test_a_program_that_only_uses_the_back_end_imports_as_ever() -> None:
    code = "import sys, backend; print([type(each).__name__ for each in sys.meta_path])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "_Finder" not in done.stdout


@pytest.mark.usefixtures("package")
class TestSleepers:
    def test_importing_one_reads_nothing(self) -> None:
        assert imported().__name__ == NAME
        assert not is_awake(NAME)
        assert reads() == 0

    def test_the_first_attribute_reads_it_once(self) -> None:
        module = imported()
        assert module.THING is module.inner.THING
        assert is_awake(NAME)
        assert reads() == 1

    def test_it_is_a_plain_module_afterwards(self) -> None:
        module = imported()
        assert module.THING
        assert type(module) is ModuleType
        with pytest.raises(AttributeError, match="has no attribute 'absent'"):
            _ = module.absent

    def test_what_it_does_not_have_is_an_attribute_error_at_first_too(self) -> None:
        with pytest.raises(AttributeError, match="has no attribute 'absent'"):
            _ = imported().absent
        assert is_awake(NAME)

    def test_some_things_it_answers_asleep_and_as_itself_when_awake(self) -> None:
        module = imported()
        assert module.mark(3) == 3
        assert not is_awake(NAME)
        assert module.THING
        assert module.mark == "the real one"

    def test_a_module_below_is_read_after_it_and_once(self) -> None:
        inner = imported(f"{NAME}.inner")
        assert inner is imported().inner
        assert inner.THING is imported().THING
        assert inner.__spec__ is not None
        assert inner.__spec__.origin == inner.__file__
        assert reads() == 1

    def test_a_module_below_that_it_does_not_import_itself(self) -> None:
        assert imported(f"{NAME}.other").THING is imported().THING

    def test_a_module_below_that_needs_nothing_of_it(self) -> None:
        assert imported(f"{NAME}.apart").ALONE == 1
        assert not is_awake(NAME)

    def test_it_counts_as_installed(self) -> None:
        imported()
        assert importlib.util.find_spec(NAME) is not None
        assert reads() == 0

    def test_threads_see_all_of_it(self) -> None:
        module = imported()
        seen: list[object] = []
        threads = [threading.Thread(target=lambda: seen.append(module.THING)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [module.THING] * 8
        assert reads() == 1

    def test_what_ends_its_reading_is_raised_and_the_next_import_reads_again(self, package: Path) -> None:
        (package / "__init__.py").write_text("raise ImportError('no such processor')\n")
        module = imported()
        with pytest.raises(ImportError, match="no such processor"):
            _ = module.THING
        assert NAME not in sys.modules


def test_a_package_that_is_not_installed_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lean_imports._ASLEEP, "tunesmith_absent", {})
    install()
    assert importlib.util.find_spec("tunesmith_absent") is None
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("tunesmith_absent")


def test_it_is_installed_once() -> None:
    install()
    install()
    assert sum(isinstance(finder, lean_imports._Finder) for finder in sys.meta_path) == 1


@pytest.mark.parametrize("decorated", [lean_imports._unmarked, lean_imports._unmarked(recursive=False)])
def test_a_mark_returns_the_function(decorated: object) -> None:
    assert callable(decorated)
    assert decorated(no_mark) is no_mark


def run(code: str) -> str:
    """Run ``code`` as a program of ours would."""
    code = f"from backend.utils.lean_imports import install; install()\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
class TestLibraries:
    """What this is for, on the libraries that are installed, each in a new process."""

    def test_a_model_and_peft_import_no_compiler_no_spread_tensors_and_no_bitsandbytes(self) -> None:
        code = (
            "import sys, peft, transformers.models.llama.modeling_llama as llama\n"
            "from backend.utils.lean_imports import is_awake\n"
            "heavy = ['sympy', 'torch._inductor', 'torch.distributed.tensor', 'networkx']\n"
            "print([name for name in heavy if name in sys.modules], is_awake('torch._dynamo'), "
            "is_awake('bitsandbytes'))"
        )
        assert run(code) == "[] False False"

    def test_the_compiler_compiles_when_it_is_asked_to(self) -> None:
        code = (
            "import torch, transformers.masking_utils\n"
            "double = torch.compile(lambda x: x * 2, backend='eager')\n"
            "print(double(torch.ones(2)).tolist(), torch._dynamo.config.error_on_nested_fx_trace)"
        )
        assert run(code) == "[2.0, 2.0] True"

    def test_peft_knows_bitsandbytes_once_it_is_used(self) -> None:
        pytest.importorskip("bitsandbytes")
        code = (
            "import peft\n"
            "from peft.import_utils import is_bnb_4bit_available as is_there\n"
            "before = is_there()\n"
            "import bitsandbytes.nn\n"
            "print(before, is_there(), bitsandbytes.nn.Linear4bit.__name__)"
        )
        assert run(code) == "False True Linear4bit"
