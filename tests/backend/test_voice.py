"""Prompts of one model: backend/voice.py. Rendering itself is tested with the tokenizer and the inferencer."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.core.constraint import Constraint
from backend.errors import InferenceError, TunesmithError
from backend.model_source import find_model
from backend.voice import LoadedBase, Voice
from tests.runs import SHORT, make_run
from tests.tiny import tiny_model, tiny_model_folder


@pytest.fixture(scope="module")
def voice(tiny_folder: Path) -> Voice:
    return Voice(find_model(tiny_folder), tiny_model(vocab_size=400))


def test_a_text_is_a_users_message(voice: Voice) -> None:
    own = voice.tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}], add_generation_prompt=True
    )
    assert voice.render("hello") == own["input_ids"]


def test_plain_text_is_continued_without_a_template(voice: Voice) -> None:
    ids = voice.render_text("hello world")
    assert voice.tokenizer.decode(ids).endswith("hello world")
    assert "user" not in voice.tokenizer.decode(ids)


def test_tools_are_shown_to_the_template(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path / "qwen", family="qwen3")
    template = "{% if tools %}{{ tools | tojson }}{% endif %}{{ messages[0].content }}"
    (folder / "chat_template.jinja").write_text(template)
    voice = Voice(find_model(folder), tiny_model())
    tool = {"type": "function", "function": {"name": "weigh", "parameters": {}}}
    assert "weigh" in voice.tokenizer.decode(voice.render("hello", tools=[tool]))


def test_a_template_of_the_run_is_used_for_its_base_as_well(
    tiny_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    made = make_run(tmp_path, tiny_folder, rows_file, SHORT | {"model.chat_template": "alpaca"})
    loaded, run, plain = LoadedBase(tiny_folder), find_model(made, base=True), find_model(tiny_folder)
    voice = loaded.voice(run)
    assert "### Instruction:\nhello" in voice.tokenizer.decode(voice.render("hello"))
    assert loaded.voice(plain).render("hello") != voice.render("hello")
    assert loaded.voice(run) is voice


def test_without_a_form_there_is_no_matcher(voice: Voice) -> None:
    assert voice.matcher(None) is None
    assert voice.matcher(Constraint.choice("a")) is not None


@pytest.mark.parametrize("prompt", ["", " ", [], 5, ["text"], "word " * 600, [{"role": "user"}]])
def test_what_cannot_be_rendered(voice: Voice, prompt: object) -> None:
    with pytest.raises(TunesmithError) as caught:
        voice.render(prompt)
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["", "word " * 600])
def test_plain_text_that_cannot_be_continued(voice: Voice, text: str) -> None:
    with pytest.raises(InferenceError):
        voice.render_text(text)
