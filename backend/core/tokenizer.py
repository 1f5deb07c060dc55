"""The renderer: messages or text in, token ids and loss mask out, and ids back to text.

Training, inference and export all use this room, so that a model sees at inference exactly the ids it was
trained on. Ids are always those of the model's own chat template. Floor F1; imports errors and template only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from backend.core.template import Message, answer_spans, render
from backend.errors import DataError, ModelError

Tools = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Encoded:
    """One example: ``input_ids`` and, for each, whether it is a target of the loss (same length)."""

    input_ids: list[int]
    trained: list[bool]


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in folder ``path``, with a pad token and without truncation or padding set.

    Where there is no pad token, EOS stands in: masks come from positions, never from pad ids, and the vocabulary
    is never resized. Raises ModelError: ``no-tokenizer``, ``slow-tokenizer``, ``no-eos``.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise ModelError(
            f"{path} has no tokenizer that can be read: {error}.",
            code="no-tokenizer",
            remedy="Put tokenizer.json and tokenizer_config.json beside the weights.",
        ) from error
    if not tokenizer.is_fast:
        raise ModelError(
            f"{path} has only a slow tokenizer.",
            code="slow-tokenizer",
            remedy="Save it with tokenizer.json (a fast tokenizer) beside the weights.",
        )
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"The tokenizer in {path} names no end-of-sequence token, so a model could never learn to stop.",
            code="no-eos",
            remedy="Set eos_token in its tokenizer_config.json.",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def encode_messages(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, tools: Tools | None = None
) -> Encoded:
    """The template's own ids for a whole conversation; each answer and its end-of-turn token are trained.

    The ids end with the last end-of-turn token that is trained: what the template prints after it (a newline, a
    turn nobody trains on) can teach nothing. Raises DataError ``nothing-trained`` or ``template-refused`` and
    ModelError ``unmaskable-template`` or ``no-turn-end``.
    """
    text = render(tokenizer, messages, tools=tools)
    spans = answer_spans(tokenizer, messages, text, tools=tools)
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    ids: list[int] = encoding.ids
    trained = [False] * len(ids)
    for start, stop in spans:
        end = _turn_end(tokenizer, text, ids, encoding.offsets, stop)
        for index, (left, right) in enumerate(encoding.offsets[: end + 1]):
            trained[index] |= right > start and left < right
    return _cut(ids, trained)


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, tools: Tools | None = None
) -> list[int]:
    """The ids a model continues from: the conversation and the template's generation prompt."""
    text = render(tokenizer, messages, tools=tools, generation_prompt=True)
    return _ids(tokenizer, text)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> Encoded:
    """Plain text, every token trained: BOS where this tokenizer's convention adds one, then text, then EOS."""
    ids = [*_opening(tokenizer), *_ids(tokenizer, text), _eos(tokenizer)]
    return Encoded(ids, [True] * len(ids))


def encode_prompt_completion(tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> Encoded:
    """A prompt, not trained, then completion and EOS, trained; for a model without a chat template.

    The two are tokenised apart, as at inference, where the completion does not exist yet.
    """
    head = [*_opening(tokenizer), *_ids(tokenizer, prompt)]
    tail = [*_ids(tokenizer, completion), _eos(tokenizer)]
    return Encoded(head + tail, [False] * len(head) + [True] * len(tail))


def encode_batch(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Message]]
) -> list[Encoded]:
    """``encode_messages`` for many rows."""
    return [encode_messages(tokenizer, messages) for messages in conversations]


def stop_token_ids(
    tokenizer: PreTrainedTokenizerBase, eos_token_ids: int | Iterable[int] | None = None
) -> set[int]:
    """Ids that end an answer: the tokenizer's EOS, ``eos_token_ids`` of the model, and the template's turn end."""
    given = [eos_token_ids] if isinstance(eos_token_ids, int) else list(eos_token_ids or ())
    stops = {_eos(tokenizer), *given}
    if tokenizer.chat_template is not None:
        probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        stops.add(encode_messages(tokenizer, probe).input_ids[-1])
    return stops


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of ``ids``, special tokens left out, nothing cleaned up."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


class IncrementalDecoder:
    """Text pieces of a growing sequence; joined, they equal ``decode`` of all its ids.

    No piece ends inside a character: text is held back while its last bytes are unfinished.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = 0
        self._read = 0

    def push(self, token_id: int) -> str:
        """The text that ``token_id`` completes; "" while a character is unfinished."""
        self._ids.append(token_id)
        return self._take(final=False)

    def finish(self) -> str:
        """Whatever is still held back, unfinished bytes as U+FFFD."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> str:
        before = decode(self._tokenizer, self._ids[self._start : self._read])
        after = decode(self._tokenizer, self._ids[self._start :])
        if len(after) <= len(before) or (after.endswith("\ufffd") and not final):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return after[len(before) :]


def find_special_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Special tokens spelt out in ``text``, in order: the template's parser would take them for real ones."""
    special = _special_ids(tokenizer)
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    return [
        token for token, token_id in zip(encoding.tokens, encoding.ids, strict=True) if token_id in special
    ]


def _turn_end(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    stop: int,
) -> int:
    """Index of the special token that ends the turn whose answer ends at character ``stop``."""
    special = _special_ids(tokenizer)
    for index, (left, _) in enumerate(offsets):
        if left >= stop and ids[index] in special:
            if text[stop:left].strip():
                break
            return index
    raise ModelError(
        "This model's chat template does not end an answer with a special token, so the model could never learn "
        "to stop.",
        code="no-turn-end",
        remedy="Use a template that prints the end-of-sequence token after each answer.",
    )


def _cut(ids: list[int], trained: list[bool]) -> Encoded:
    if True not in trained:
        raise DataError(
            "No token of this conversation would be trained.",
            code="nothing-trained",
            remedy="It needs at least one assistant message that is not marked trained: false.",
        )
    length = len(trained) - trained[::-1].index(True)
    return Encoded(ids[:length], trained[:length])


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """``[bos]`` where this tokenizer puts one before plain text, else nothing."""
    bos = tokenizer.bos_token_id
    ids = tokenizer.backend_tokenizer.encode("a", add_special_tokens=True).ids
    return [bos] if bos is not None and ids[:1] == [bos] else []


def _eos(tokenizer: PreTrainedTokenizerBase) -> int:
    eos: int = tokenizer.eos_token_id
    return eos


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    marked = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return marked | set(tokenizer.all_special_ids)
