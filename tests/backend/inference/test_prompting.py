"""Prompts of one model. Rendering itself is tested with the tokenizer and the inferencer."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.errors import InferenceError, TunesmithError
from backend.inference.constraint import Constraint
from backend.inference.model_source import find_model
from backend.inference.prompting import PromptRenderer
from tests.tiny import tiny_model, tiny_model_folder


@pytest.fixture(scope="module")
def renderer(tiny_folder: Path) -> PromptRenderer:
    return PromptRenderer(find_model(tiny_folder), tiny_model(vocab_size=400))


def test_a_text_is_a_users_message(renderer: PromptRenderer) -> None:
    own = renderer.tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}], add_generation_prompt=True
    )
    assert renderer.render("hello") == own["input_ids"]


def test_plain_text_is_continued_without_a_template(renderer: PromptRenderer) -> None:
    ids = renderer.render_text("hello world")
    assert renderer.tokenizer.decode(ids).endswith("hello world")
    assert "user" not in renderer.tokenizer.decode(ids)


def test_tools_are_shown_to_the_template(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path / "qwen", family="qwen3")
    template = "{% if tools %}{{ tools | tojson }}{% endif %}{{ messages[0].content }}"
    (folder / "chat_template.jinja").write_text(template)
    renderer = PromptRenderer(find_model(folder), tiny_model())
    tool = {"type": "function", "function": {"name": "weigh", "parameters": {}}}
    assert "weigh" in renderer.tokenizer.decode(renderer.render("hello", tools=[tool]))


def test_without_a_form_there_is_no_matcher(renderer: PromptRenderer) -> None:
    assert renderer.matcher(None) is None
    assert renderer.matcher(Constraint.choice("a")) is not None


@pytest.mark.parametrize("prompt", ["", " ", [], 5, ["text"], "word " * 600, [{"role": "user"}]])
def test_what_cannot_be_rendered(renderer: PromptRenderer, prompt: object) -> None:
    with pytest.raises(TunesmithError) as caught:
        renderer.render(prompt)
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["", "word " * 600])
def test_plain_text_that_cannot_be_continued(renderer: PromptRenderer, text: str) -> None:
    with pytest.raises(InferenceError):
        renderer.render_text(text)
