"""Encode each kind of row (chat, text, tokens, segments) as token ids with a mask on what is trained."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from transformers import PreTrainedTokenizerBase

from backend.core.encoding.examples import has_targets
from backend.core.tokenizer import (
    Encoded,
    encode_batch,
    encode_messages,
    encode_prompt_completion,
    encode_text,
)
from backend.data.records import Row
from backend.errors import DataError, ModelError, TunesmithError, marked
from backend.run.methods import methods_for

ROWS_AT_ONCE = 1024
_OF_THE_MODEL = frozenset({"no-chat-template", "bad-template"})  # faults of the model: an error names no row
IGNORED_LABEL = -100
"""Label of a token that is not trained, as in transformers and TRL."""


def encode_each(rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase) -> Iterator[Encoded]:
    """Yield every row encoded, untruncated, in order; plain chats in batches. Raises what ``encode_row`` does.

    A judged answer is encoded like any other.
    """
    for plain, group in itertools.groupby(rows, key=lambda row: _is_plain_chat(row, tokenizer)):
        if not plain:
            yield from (_at_row(row, _encode_named(row, tokenizer)) for row in group)
            continue
        while chunk := list(itertools.islice(group, ROWS_AT_ONCE)):
            try:
                encoded = encode_batch(tokenizer, [row.messages for row in chunk])
            except TunesmithError:
                encoded = [_encode_named(row, tokenizer) for row in chunk]
            yield from (_at_row(row, one) for row, one in zip(chunk, encoded, strict=True))


def _is_plain_chat(row: Row, tokenizer: PreTrainedTokenizerBase) -> bool:
    return row.kind in {"chat", "judged"} and row.tools is None and tokenizer.chat_template is not None


def _encode_named(row: Row, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Encode one row; an error names its place."""
    try:
        return encode_row(row, tokenizer)
    except (DataError, ModelError) as error:
        if error.message.startswith(row.place) or error.code in _OF_THE_MODEL:
            raise
        raise type(error)(f"{row.place}: {error.message}", remedy=error.remedy, code=error.code) from error


def encode_row(row: Row, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Return one row as ids and mask, untruncated. Raises DataError and ModelError if the template rejects it.

    A pair of answers is two rows: encode its ``answers``.
    """
    if row.kind == "preference":
        raise wrong_kind(row, "sft")
    if row.kind == "tokens":
        return Encoded(list(row.input_ids), [label != IGNORED_LABEL for label in row.labels])
    if row.kind == "segments":
        return _encode_segments(row, tokenizer)
    if row.text is not None:
        return _encode_document(row.place, row.text, tokenizer)
    if tokenizer.chat_template is None:
        return encode_prompt_completion(tokenizer, *single_exchange(row))
    return encode_messages(tokenizer, row.messages, tools=row.tool_list())


def wrong_kind(row: Row, method: str) -> DataError:
    """Return the error for a row of a kind that the objective ``method`` does not learn from."""
    what = {
        "preference": "a pair of a better and a worse answer",
        "judged": "an answer marked good or bad",
        "chat": "an answer to a prompt",
        "text": "a plain text",
    }
    first, *others = methods_for(row.kind)
    also = f" (or {', '.join(others)})" if others else ""
    mix = ", or mix a share of them into texts with `data.mix`" if method == "cpt" else ""
    kind = what.get(row.kind, f"a row of {row.kind}")
    return DataError(
        f"{row.place} is {kind}, from which the method {method} does not learn.",
        remedy=f"Set {marked('objective.method', first)}{also}, or give other rows{mix}.",
        code="wrong-rows",
    )


def _encode_document(place: str, text: str, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    if not text.strip():  # with its BOS and EOS it would teach a model to end before it begins
        raise DataError(
            f"{place} is an empty text: there is nothing to learn.",
            remedy="Leave the row out.",
            code="nothing-trained",
        )
    return encode_text(tokenizer, text)


def _encode_segments(row: Row, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Encode text segments without a template, each tokenised by itself and trained or not."""
    ids: list[int] = []
    trained: list[bool] = []
    for text, learns in row.segments:
        piece = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        ids += piece
        trained += [learns] * len(piece)
    return Encoded(ids, trained)


def _at_row(row: Row, encoded: Encoded) -> Encoded:
    if not has_targets(encoded.trained):
        raise DataError(
            f"{row.place} has no token to learn: its answer is empty.",
            remedy="Give the row an answer or leave it out.",
            code="nothing-trained",
        )
    return encoded


def single_exchange(row: Row) -> tuple[str, str]:
    """Return the prompt and the answer of a row as texts, for a model without a chat template.

    Raises DataError ``no-chat-template`` for any other conversation.
    """
    roles = [message["role"] for message in row.messages]
    if roles != ["user", "assistant"]:
        raise DataError(
            f"{row.place} is a conversation ({', '.join(roles)}), and this model has no chat template.",
            remedy="Set model.chat_template, for example to chatml, or use prompt and completion rows.",
            code="no-chat-template",
        )
    return str(row.messages[0]["content"]), str(row.messages[1]["content"])
