"""Chat templates by name: well-known ones for base models without a template, and forms of a model's own.

Each ends an answer with a special token that the tokenizer already has and that is trained, so that the model learns
to stop. No token is ever added to the vocabulary. A BOS that the tokenizer adds to plain text is printed first.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from backend.core.templates.answer_spans import render_answers
from backend.core.templates.template import special_tokens
from backend.errors import DataError, ModelError
from backend.run.settings import TEMPLATE_NAMES, template_text

_TURNS = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}ASSISTANT"
    "{% elif message['role'] == 'system' %}SYSTEM"
    "{% elif message['role'] == 'user' %}USER"
    "{% else %}{{ raise_exception('Only system, user and assistant speak here') }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}OPENING{% endif %}"
)


def _turns(before: str, *, system: str, user: str, assistant: str, opening: str) -> str:
    """A template from the text around each role's ``{}``; ``before`` stands where there is no system message."""
    lead = f"{{% if messages[0]['role'] != 'system' %}}{{{{ {before!r} }}}}{{% endif %}}" if before else ""
    parts = {"ASSISTANT": assistant, "SYSTEM": system, "USER": user}
    turns = _TURNS.replace("OPENING", f"{{{{ {opening!r} }}}}" if opening else "")
    for name, text in parts.items():
        head, tail = text.split("{}")
        turns = turns.replace(name, f"{{{{ {head!r} + message['content'] + {tail!r} }}}}", 1)
    return lead + turns


_ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_END = "<end of turn>"

TEMPLATES = {
    # OpenAI's chat markup, as Qwen, SmolLM and others use it
    "chatml": _turns(
        "",
        system=f"<|im_start|>system\n{{}}{_END}\n",
        user=f"<|im_start|>user\n{{}}{_END}\n",
        assistant=f"<|im_start|>assistant\n{{}}{_END}\n",
        opening="<|im_start|>assistant\n",
    ),
    # wording of github.com/tatsu-lab/stanford_alpaca, train.py; the answer on a line of its own, as most print it
    "alpaca": _turns(
        f"{_ALPACA}\n\n",
        system="{}\n\n",
        user="### Instruction:\n{}\n\n### Response:",
        assistant=f"\n{{}}{_END}\n\n",
        opening="\n",
    ),
    # github.com/lm-sys/FastChat, conversation.py, vicuna_v1.1
    "vicuna": _turns(
        f"{_VICUNA} ", system="{} ", user="USER: {} ASSISTANT:", assistant=f" {{}}{_END}", opening=""
    ),
    # no markers at all: the question, a line break, the answer
    "plain": _turns("", system="{}\n", user="{}\n", assistant=f"{{}}{_END}\n", opening=""),
}

FORMS = {"thinking": "true", "no-thinking": "false"}
"""Forms of a model's own template, and the value of its variable ``enable_thinking`` (Qwen 3's name) in each."""


def set_chat_template(tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    """Replace the template of ``tokenizer`` by one of ``TEMPLATE_NAMES``, a Jinja file, or Jinja text.

    Raises ModelError: ``unknown-template``, ``no-such-form`` if its own template has no thinking switch,
    ``bad-template`` for one that cannot be run, ``unmaskable-template`` and ``no-turn-end`` for one whose answers
    could not be trained.
    """
    if template in FORMS:
        tokenizer.chat_template = _form(tokenizer.chat_template, template)
    else:
        tokenizer.chat_template = (
            _named(tokenizer, template) if template in TEMPLATES else template_text(template)
        )
    probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        render_answers(tokenizer, probe)
    except (DataError, ModelError) as error:
        if isinstance(error, ModelError) and error.code != "bad-template":
            raise
        raise ModelError(
            f"The chat template in model.chat_template cannot be used: {error.message}",
            remedy=f"Mend it, or use one of {', '.join(TEMPLATE_NAMES)}.",
            code="bad-template",
        ) from error


def _form(own: object, name: str) -> str:
    """Return the model's own template with ``enable_thinking`` set before it."""
    if not isinstance(own, str) or "enable_thinking" not in own:
        raise ModelError(
            f"This model's chat template has no {name} form: it knows no enable_thinking.",
            remedy="Give model.chat_template a Jinja file: the model's own, changed where it opens an answer.",
            code="no-such-form",
        )
    return f"{{%- set enable_thinking = {FORMS[name]} %}}{own}"


def _named(tokenizer: PreTrainedTokenizerBase, name: str) -> str:
    """Return the named template with this tokenizer's end-of-turn token, and its BOS if it adds one to plain text."""
    own = (
        "<|im_end|>"
        if name == "chatml" and "<|im_end|>" in special_tokens(tokenizer)
        else tokenizer.eos_token
    )
    bos = tokenizer.bos_token
    first = tokenizer.backend_tokenizer.encode("a", add_special_tokens=True).tokens[0]
    return ("{{ bos_token }}" if bos and first == bos else "") + TEMPLATES[name].replace(_END, own)
