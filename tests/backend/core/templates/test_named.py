"""Templates by name print what their field prints, and what they train is the answer and its end."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from backend.core.templates.named import FORMS, TEMPLATES, set_chat_template
from backend.core.templates.template import render, render_prompt
from backend.core.tokenizer import (
    encode_batch,
    encode_messages,
    encode_prompt,
    encode_prompt_completion,
    load_tokenizer,
    stop_token_ids,
)
from backend.errors import DataError, ModelError
from backend.run.settings import TEMPLATE_NAMES
from tests.tiny import FAMILIES, Family, tiny_tokenizer

EOS = "<|endoftext|>"
SYSTEM = {"role": "system", "content": "Be kind."}
TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "More"},
    {"role": "assistant", "content": "Bye."},
]
ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
PRINTED = {
    "chatml": (
        "<|im_start|>user\nHi{end}\n<|im_start|>assistant\nHello.{end}\n"
        "<|im_start|>user\nMore{end}\n<|im_start|>assistant\nBye.{end}\n"
    ),
    "alpaca": (
        ALPACA + "\n\n### Instruction:\nHi\n\n### Response:\nHello.{end}\n\n"
        "### Instruction:\nMore\n\n### Response:\nBye.{end}\n\n"
    ),
    "vicuna": VICUNA + " USER: Hi ASSISTANT: Hello.{end}USER: More ASSISTANT: Bye.{end}",
    "plain": "Hi\nHello.{end}\nMore\nBye.{end}\n",
}
LED = {
    "chatml": "<|im_start|>system\nBe kind.{end}\n<|im_start|>user\n",
    "alpaca": "Be kind.\n\n### Instruction:\n",
    "vicuna": "Be kind. USER: ",
    "plain": "Be kind.\nHi\n",
}


def base(template: str, family: Family = "base") -> PreTrainedTokenizerFast:
    """The tokenizer of a family with a named template in place of its own, if any."""
    tokenizer = tiny_tokenizer(family)
    set_chat_template(tokenizer, template)
    return tokenizer


def end_of(tokenizer: PreTrainedTokenizerFast, name: str) -> str:
    return {"chatml": "<|im_end|>"}.get(name, "") if "<|im_end|>" in tokenizer.get_vocab() else ""


def test_the_tables_name_every_template() -> None:
    assert PRINTED.keys() == LED.keys() == TEMPLATES.keys()


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("family", FAMILIES)
def test_id_for_id_what_is_printed_up_to_the_last_trained_token(family: Family, name: str) -> None:
    tokenizer = base(name, family)
    end = end_of(tokenizer, name) or tokenizer.eos_token
    expected = PRINTED[name].replace("{end}", end)
    assert render(tokenizer, TURNS) == expected
    whole = tokenizer(expected, add_special_tokens=False)["input_ids"]
    encoded = encode_messages(tokenizer, TURNS)
    assert encoded.input_ids == whole[: len(encoded.input_ids)]
    assert set(tokenizer.decode(whole[len(encoded.input_ids) :])) <= {"\n"}
    assert encode_batch(tokenizer, [TURNS]) == [encoded]
    ends = tokenizer.convert_tokens_to_ids(end)
    trained = [i for i, learns in zip(encoded.input_ids, encoded.trained, strict=True) if learns]
    assert "".join(tokenizer.decode(trained).split()) == f"Hello.{end}Bye.{end}"
    assert encoded.input_ids[-1] == ends
    assert ends in stop_token_ids(tokenizer)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_system_message_stands_where_the_default_stood(name: str) -> None:
    text = render(base(name), [SYSTEM, *TURNS])
    assert text.startswith(LED[name].replace("{end}", EOS))
    assert (ALPACA in text, VICUNA in text) == (False, False)


contents = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@pytest.mark.parametrize("name", TEMPLATES)
@given(asked=contents, answer=contents)
def test_training_goes_on_from_the_prompt_of_inference(name: str, asked: str, answer: str) -> None:
    """The rendered prompt is the beginning of the rendered row, and what follows is the answer and its end."""
    tokenizer = base(name)
    row = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    prompt, whole = render_prompt(tokenizer, row[:1]), render(tokenizer, row)
    assert whole.startswith(prompt)
    assert whole[len(prompt) :].strip() == f"{answer}{EOS}".strip()


def test_a_beginning_that_the_tokenizer_puts_there_itself_is_printed() -> None:
    tokenizer = tiny_tokenizer("llama3")
    bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[bos]
    )
    set_chat_template(tokenizer, "plain")
    assert render(tokenizer, TURNS[:2]) == "<|begin_of_text|>Hi\nHello.<|end_of_text|>\n"
    assert encode_messages(tokenizer, TURNS[:2]).input_ids.count(bos[1]) == 1


def test_the_names_are_those_that_a_configuration_may_hold() -> None:
    assert (*TEMPLATES, *FORMS) == TEMPLATE_NAMES


def test_a_file_and_jinja_itself(tmp_path: Path) -> None:
    jinja = "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"
    path = tmp_path / "mine.jinja"
    path.write_text(jinja)
    assert base(str(path)).chat_template == base(jinja).chat_template == jinja


@pytest.mark.parametrize(
    ("template", "code", "said"),
    [
        ("chatlm", "unknown-template", "chatml, alpaca, vicuna, plain"),
        ("nowhere/mine.jinja", "unknown-template", "No such file"),
        ("{% for m in messages %}", "bad-template", "model.chat_template"),
        ("{{ messages[0]['name'].upper() }}", "bad-template", "model.chat_template"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "no-turn-end", "never learn to stop"),
        ("{{ eos_token }}", "unmaskable-template", "cannot be masked"),
    ],
)
def test_what_cannot_be_trained_with_is_refused(template: str, code: str, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        base(template)
    assert caught.value.code == code
    assert said in str(caught.value)


@pytest.mark.parametrize("family", ["base", "chatml"])
def test_a_template_that_knows_no_thinking_has_no_form_without(family: Family) -> None:
    with pytest.raises(ModelError, match="no no-thinking form") as caught:
        base("no-thinking", family)
    assert caught.value.code == "no-such-form"


def test_a_form_is_the_models_own_template_told_whether_to_think() -> None:
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.chat_template += "{% if enable_thinking is false %}{{ '<think></think>' }}{% endif %}"
    own = render_prompt(tokenizer, TURNS[:1])
    set_chat_template(tokenizer, "no-thinking")
    assert render_prompt(tokenizer, TURNS[:1]) == own + "<think></think>"
    set_chat_template(tokenizer, "thinking")
    assert tokenizer.chat_template.startswith("{%- set enable_thinking = true %}")


def test_a_role_that_nobody_knows_is_refused_by_row() -> None:
    with pytest.raises(DataError, match="Only system, user and assistant"):
        render(base("plain"), [{"role": "tool", "content": "4"}])


def test_loading_with_a_template(tiny_folder: Path) -> None:
    loaded = load_tokenizer(tiny_folder, chat_template="alpaca")
    assert (
        encode_prompt(loaded, TURNS[:1])
        == loaded(f"{ALPACA}\n\n### Instruction:\nHi\n\n### Response:\n", add_special_tokens=False)[
            "input_ids"
        ]
    )
    assert load_tokenizer(tiny_folder).chat_template != loaded.chat_template


def test_a_single_exchange_needs_none() -> None:
    tokenizer = tiny_tokenizer("base")
    assert encode_prompt_completion(tokenizer, "Hi", "Hello.").trained[-1]
    with pytest.raises(ModelError, match="no chat template") as caught:
        encode_messages(tokenizer, TURNS)
    assert "model.chat_template" in caught.value.remedy
