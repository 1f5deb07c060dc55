"""llama.cpp as a reader: backend/export/read_with_llama_cpp.py, in its own process as always."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from backend.export.forms import write_form
from backend.export.panel import Panel, PanelRow
from backend.export.readers import read_back
from backend.inference.prompting import text_ids
from tests.backend.export.conftest import Asked, ask
from tests.backend.export.results import finished


def gguf_of(asked: Asked, folder: Path) -> Path:
    return write_form(asked.fresh(), "gguf", "F32", folder, max_shard_size="5GB")[0]


def test_half_a_character_does_not_hide_its_weight(llama: Asked, tmp_path: Path) -> None:
    """Random models say single bytes all the time; each place still has its probabilities."""
    reading = read_back("llama_cpp", gguf_of(llama, tmp_path), llama.panel, llama.answers)
    assert all(len(place) == 24 for row in reading.rows for place in row["tops"])
    assert all(
        a[1] >= b[1] for row in reading.rows for tops in row["tops"] for a, b in itertools.pairwise(tops)
    )


def test_answers_end_where_the_model_ends_them(learned: Asked, tmp_path: Path) -> None:
    reading = read_back("llama_cpp", gguf_of(learned, tmp_path), learned.panel, learned.answers)
    assert [row["ended"] for row in reading.rows] == [each.ended for each in learned.answers]
    assert [row["text"] for row in reading.rows] == [each.text for each in learned.answers]


def test_a_text_is_continued_without_a_template(tmp_path: Path) -> None:
    asked = ask(finished(tmp_path / "base", family="base"), rows=2)
    (tmp_path / "out").mkdir()
    reading = read_back("llama_cpp", gguf_of(asked, tmp_path / "out"), asked.panel, asked.answers)
    assert [row["prompt_ids"] for row in reading.rows] == [row.prompt_ids for row in asked.panel.rows]


@pytest.mark.parametrize("text", ["<|im_start|> 12  34", "ünï\n\n x"])
def test_plain_texts_are_cut_alike(text: str, llama: Asked, tmp_path: Path) -> None:
    tokenizer = llama.trained.tokenizer
    ids = text_ids(tokenizer, text)
    panel = Panel([PanelRow("p", None, text, None, "", ids)], [], 1)
    answers = [replace(llama.answers[0], ids=[1], logprobs=None)]
    assert read_back("llama_cpp", gguf_of(llama, tmp_path), panel, answers).rows[0]["prompt_ids"] == ids


def test_it_is_reached_past_any_proxy(llama: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    reading = read_back("llama_cpp", gguf_of(llama, tmp_path), llama.panel, llama.answers)
    assert len(reading.rows) == len(llama.panel.rows)
