"""The file of a teacher's log-probabilities: backend/core/encoding/teacher.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.core.encoding.teacher import (
    Provenance,
    Said,
    Teacher,
    template_sha256,
    tokenizer_sha256,
    write_teacher,
)
from backend.errors import DataError
from tests.backend.core.rows import random_rows
from tests.tiny import tiny_tokenizer

ROWS = random_rows([6, 9, 7])
TOKENIZER = tiny_tokenizer()
ABOUT = Provenance(
    "smollm2", "f", tokenizer_sha256(TOKENIZER), template_sha256(TOKENIZER), 2, 1.5, "r.jsonl", "s", 64
)


def _said(number: int) -> Said:
    tokens = int(ROWS[number].trained[1:].sum())
    ids = np.arange(2 * tokens, dtype=np.int32).reshape(tokens, 2) + number
    return Said(ids, np.full((tokens, 3), -number - 0.25, np.float32))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.teacher.safetensors"
    write_teacher(path, [(ROWS[number], _said(number)) for number in (0, 1, 1)], ABOUT)
    return path


def test_what_is_written_is_read_and_rows_that_repeat_are_kept_once(file: Path, tmp_path: Path) -> None:
    teacher = Teacher(file)
    again = write_teacher(tmp_path / "b", [(ROWS[1], _said(1))] * 3, ABOUT)

    assert (teacher.provenance, again) == (ABOUT, 1)
    for number in (0, 1):
        found, wanted = teacher.of(replace(ROWS[number], row="elsewhere:7")), _said(number)
        assert found.ids.tolist() == wanted.ids.tolist()
        assert found.logprobs.tolist() == wanted.logprobs.tolist()
    teacher.require_for(ROWS[:2], TOKENIZER)


def test_rows_it_has_not_read_are_named(file: Path) -> None:
    longer = replace(ROWS[0], trained=np.roll(ROWS[0].trained, -1))
    with pytest.raises(
        DataError, match=r"before 2 of the 3 rows were as they are now \(row 3, row 1\)"
    ) as caught:
        Teacher(file).require_for([ROWS[1], ROWS[2], longer], TOKENIZER)
    assert caught.value.code == "another-teacher"
    with pytest.raises(KeyError):
        Teacher(file).of(ROWS[2])


@pytest.mark.parametrize(
    ("family", "template", "told"),
    [("llama3", None, "another tokenizer"), ("chatml", "{{ messages }}", "another chat template")],
)
def test_another_tokenizer_or_template_is_said(
    file: Path, family: str, template: str | None, told: str
) -> None:
    tokenizer = tiny_tokenizer(family)  # type: ignore[arg-type]
    tokenizer.chat_template = template or tokenizer.chat_template
    with pytest.raises(DataError, match=told):
        Teacher(file).require_for(ROWS[:1], tokenizer)


def test_ids_beyond_the_vocabulary_are_said(file: Path) -> None:
    with pytest.raises(DataError, match="token id"):
        Teacher(file).require_fit(3)
    Teacher(file).require_fit(512)


@pytest.mark.parametrize("bytes_kept", [0, 40, -9])
def test_a_damaged_file_is_one_sentence(file: Path, bytes_kept: int) -> None:
    file.write_bytes(file.read_bytes()[:bytes_kept])
    with pytest.raises(DataError, match="holds no log-probabilities of a teacher") as caught:
        Teacher(file)
    assert caught.value.code == "bad-teacher"


def test_a_file_that_is_not_there_or_another_one_is_one_sentence(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(2)}, tmp_path / "other")
    for name in ("missing", "other"):
        with pytest.raises(DataError, match="holds no log-probabilities"):
            Teacher(tmp_path / name)
