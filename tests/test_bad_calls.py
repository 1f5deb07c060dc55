"""Every public function that can refuse is seen to refuse: with an error of ours, its code, and what to do.

Most do so in the test file of their own module, where the guard below looks for it. The table holds the others, which
people reach through another function; ``THROUGH`` names the test of those that cannot be called alone.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from transformers import ViTConfig, ViTModel

from backend import errors
from backend.core.gguf.convert import gguf_config, unpack_gguf
from backend.core.gguf.file import GgufFile
from backend.core.model_loader import load_skeleton
from backend.data.chat import as_given, refuse_media
from backend.data_pipeline import teacher_of
from backend.errors import (
    ConfigError,
    DataError,
    ExportError,
    InferenceError,
    ModelError,
    RunError,
    TunesmithError,
)
from backend.export.contents import check_gguf
from backend.export.hub import check_push
from backend.export.plain import matrix_name
from backend.export.vocabulary import check_tokenizer
from backend.inference.decoding_mode import decoding_mode
from backend.inference.engines import check_precision
from backend.inference.model_source import ModelSource, tuned_folder
from backend.inferencer import Inferencer
from backend.manager.run_manager import RunManager
from backend.run.config import RunConfig, TuningConfig
from backend.run.folder import RunDir
from backend.run.lifecycle import Event
from backend.run.locks import RunLocks
from backend.run.records import read_data_check, read_evaluations, read_reward_audit
from backend.training.beside_lora import token_rows
from backend.training.inputs import stopping
from backend.training.lora import add_lora
from backend.training.reach import Reach
from tests.house import ROOMS, ROOT, dotted, parsed
from tests.tiny import tiny_model, tiny_tokenizer

NO_MODEL = GgufFile(Path("x.gguf"), {"general.architecture": "nonsense"}, {})


def new_run(place: Path) -> RunDir:
    return RunDir.create(place, "a", "seed: 1")


def gone(place: Path) -> RunDir:
    return RunDir(place / "20260101-000000-a-0001")


def damaged(place: Path) -> RunDir:
    run = new_run(place)
    run.data_check_file.write_text('{"findings": 5}', encoding="utf-8")
    run.reward_audit_file.write_text('{"prompts": 5}', encoding="utf-8")
    return run


def without_cache(_: Path) -> object:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    return decoding_mode(ViTModel(ViTConfig(**sizes, image_size=8, patch_size=8)))


def without_teacher(place: Path) -> object:
    file = {"train": "rows.jsonl", "teacher_logprobs": str(place / "x.safetensors")}
    return teacher_of(RunConfig.model_validate({"data": file}), tiny_tokenizer(), [])


def file_of(place: Path, name: str, text: str) -> Path:
    (place / name).write_text(text, encoding="utf-8")
    return place / name


def nothing_to_load(place: Path) -> object:
    (place / "config.json").write_text('{"model_type": "nonsense"}', encoding="utf-8")
    return load_skeleton(place)


def at_work(place: Path) -> None:
    run = new_run(place)
    with run.lock():
        run.begin_attempt(("a",))
        RunManager(place).require_unneeded(run)


def entered(enter: Callable[[Path], Any], place: Path) -> None:
    with enter(place):
        pytest.fail("it was entered")


BAD: dict[str, tuple[Callable[[Path], object], type[TunesmithError], str]] = {
    "core.gguf.convert.gguf_config": (lambda _: gguf_config(NO_MODEL), ModelError, "unsupported-gguf"),
    "core.gguf.convert.unpack_gguf": (
        lambda place: unpack_gguf(NO_MODEL, place / "new"),
        ModelError,
        "unsupported-gguf",
    ),
    "core.model_loader.load_skeleton": (nothing_to_load, ModelError, "model-not-loadable"),
    "data.chat.refuse_media": (lambda _: refuse_media({"images": ["a.png"]}), DataError, "bad-row"),
    "data.chat.as_given": (
        lambda _: as_given("[{'role': 'user', 'content': 'a'}]", "messages"),
        DataError,
        "bad-row",
    ),
    "data_pipeline.teacher_of": (without_teacher, DataError, "bad-teacher"),
    "export.contents.check_gguf": (
        lambda place: check_gguf(place / "x.gguf", place, None, {}, None, set()),  # type: ignore[arg-type]
        ModelError,
        "damaged-gguf",
    ),
    "export.hub.check_push": (lambda _: check_push("a name", dry_run=True), ExportError, "bad-repo"),
    "export.plain.matrix_name": (lambda _: matrix_name("x.lora_C.weight"), ExportError, "merged-only"),
    "export.vocabulary.check_tokenizer": (
        lambda place: list(check_tokenizer(place, tiny_tokenizer())),
        ModelError,
        "no-tokenizer",
    ),
    "inference.model_source.tuned_folder": (
        lambda place: tuned_folder(new_run(place)),
        RunError,
        "unfinished-run",
    ),
    "inference.model_source.held": (
        partial(entered, lambda place: ModelSource(place, None, place, (), run=gone(place)).held()),
        RunError,
        "no-such-run",
    ),
    "inference.engines.check_precision": (
        lambda _: check_precision("int3"),
        InferenceError,
        "bad-precision",
    ),
    "inference.decoding_mode.decoding_mode": (without_cache, ModelError, "cannot-generate"),
    "manager.run_manager.require_unneeded": (at_work, RunError, "illegal-transition"),
    "run.records.read_evaluations": (
        lambda place: read_evaluations(file_of(place, "evaluation.json", "{")),
        RunError,
        "damaged-run",
    ),
    "inferencer.answer_batch": (
        lambda _: Inferencer.answer_batch(Mock(Inferencer), ["a"], tools=[]),
        InferenceError,
        "bad-tools",
    ),
    "run.folder.read_reward_audit": (
        lambda place: damaged(place).read_reward_audit(),
        RunError,
        "damaged-run",
    ),
    "run.records.read_reward_audit": (
        lambda place: read_reward_audit(file_of(place, "reward-audit.json", "{")),
        RunError,
        "damaged-run",
    ),
    "run.folder.read_data_check": (
        lambda place: damaged(place).read_data_check(),
        RunError,
        "damaged-run",
    ),
    "run.records.read_data_check": (
        lambda place: read_data_check(damaged(place).data_check_file),
        RunError,
        "damaged-run",
    ),
    "run.folder.require": (lambda place: gone(place).require(Event.QUEUE), RunError, "no-such-run"),
    "run.folder.hold_for_reading": (
        partial(entered, lambda place: gone(place).hold_for_reading()),
        RunError,
        "no-such-run",
    ),
    "run.folder.hold_still": (
        partial(entered, lambda place: gone(place).hold_still()),
        RunError,
        "no-such-run",
    ),
    "run.folder.hold_for_deleting": (
        partial(entered, lambda place: gone(place).hold_for_deleting()),
        RunError,
        "no-such-run",
    ),
    "run.locks.read": (
        partial(entered, lambda place: RunLocks(place / "no", place / "lock").read()),
        RunError,
        "no-such-run",
    ),
    "run.locks.still": (
        partial(entered, lambda place: RunLocks(place / "no", place / "lock").still()),
        RunError,
        "no-such-run",
    ),
    "run.locks.delete": (
        partial(entered, lambda place: RunLocks(place / "no", place / "lock").delete()),
        RunError,
        "no-such-run",
    ),
    "training.beside_lora.token_rows": (
        lambda _: token_rows(tiny_model(), [10**6], tied=False),
        ModelError,
        "unusable-tokens",
    ),
    "training.inputs.stopping": (
        lambda _: stopping(None, None, ["nonsense"]),  # type: ignore[arg-type]
        ConfigError,
        "bad-config",
    ),
    "training.lora.add_lora": (
        lambda _: add_lora(tiny_model(), TuningConfig(lora_target_modules=["nonsense"]), Reach.everything()),
        ModelError,
        "no-target-modules",
    ),
}
THROUGH = {
    "core.templates.probe.probe": (
        "tests/backend/core/templates/test_answer_spans.py",
        "unmaskable-template",
    ),
    "core.templates.turn_end.stop": ("tests/backend/core/templates/test_turn_end.py", "no-turn-end"),
    "export.trained.plain": ("tests/backend/export/test_forms.py", "merged-only"),
    "training.checkpoint.save_checkpoint": (
        "tests/faults/test_f14_f16_checkpoints_on_bad_disks.py",
        "disk-full",
    ),
    "training.inputs.require_sound": ("tests/backend/training/test_inputs.py", "unsound-data"),
    "training.beside_lora.require_shared": ("tests/backend/core/test_model_loader.py", "tied-target"),
}
"""Methods of objects that only another function makes: the test file that calls that one, and the code it sees."""


@pytest.mark.parametrize("name", BAD)
def test_a_bad_call_is_refused_in_words(name: str, tmp_path: Path) -> None:
    call, kind, code = BAD[name]
    with pytest.raises(kind) as caught:
        call(tmp_path)
    assert (type(caught.value), caught.value.code) == (kind, code)
    assert re.fullmatch(r".{10,}", caught.value.message, re.DOTALL)


@pytest.mark.parametrize("name", THROUGH)
def test_those_that_cannot_be_called_alone_are_refused_through_another(name: str) -> None:
    file, code = THROUGH[name]
    text = (ROOT / file).read_text(encoding="utf-8")
    assert f'code == "{code}"' in text


# --- the guard --------------------------------------------------------------------------------------------

OURS = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, TunesmithError)
}


@dataclass(frozen=True)
class Refusing:
    """A public function of the back end whose docstring says which of our errors it raises."""

    name: str
    test: Path
    kinds: frozenset[str]


def refusing(path: Path) -> Iterator[Refusing]:
    test = ROOT / "tests" / path.relative_to(ROOT).with_name(f"test_{path.name}")
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            said = re.search(r"\bRaises?\b.*", ast.get_docstring(node) or "", re.DOTALL)
            kinds = frozenset(re.findall(r"\w+Error\b", said[0])) & OURS.keys() if said else frozenset[str]()
            if kinds:
                yield Refusing(f"{dotted(path).removeprefix('backend.')}.{node.name}", test, kinds)


def expected_in(text: str) -> set[str]:
    """The kinds of errors that a test file expects with ``pytest.raises``, and all that they stand for."""
    named = {
        word for found in re.findall(r"raises\(([^)]*)", text) for word in re.findall(r"\w+Error\b", found)
    }
    return {
        name
        for name, kind in OURS.items()
        for wanted in named & OURS.keys()
        if issubclass(kind, OURS[wanted])
    }


def is_tried(function: Refusing, text: str) -> bool:
    """Whether a test file names the function and expects an error that it raises."""
    return bool(
        re.search(rf"\b{function.name.rpartition('.')[2]}\b", text) and function.kinds & expected_in(text)
    )


REFUSING = [function for path in ROOMS for function in refusing(path)]


def test_every_function_that_can_refuse_is_seen_to() -> None:
    untried = {
        function.name
        for function in REFUSING
        if not is_tried(function, function.test.read_text(encoding="utf-8"))
    }
    assert untried - BAD.keys() - THROUGH.keys() == set()


def test_the_table_holds_functions_that_there_are() -> None:
    names = {function.name for function in REFUSING}
    assert (BAD.keys() | THROUGH.keys()) - names == set()
    assert len(names) > 180


@pytest.mark.parametrize(
    ("text", "tried"),
    [
        ("with pytest.raises(DataError):\n    read_it()", True),
        ("with pytest.raises(TunesmithError):\n    read_it()", True),
        ("with pytest.raises(RunError):\n    read_it()", False),
        ("with pytest.raises(DataError):\n    read_another()", False),
    ],
)
def test_one_that_is_not_tried_would_be_seen(text: str, tried: bool) -> None:
    assert is_tried(Refusing("data.x.read_it", Path("x"), frozenset({"DataError"})), text) == tried
