"""Preview of training rows token by token: what is trained, what the template added; and the size of an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from backend.core.encoding import examples
from backend.core.encoding.pieces import is_text, piece_count
from backend.core.encoding.row import encode_row
from backend.core.encoding.template_faults import template_warnings
from backend.core.templates.answer_spans import render_answers
from backend.core.templates.probe import Chat, printed
from backend.core.templates.template import Span, render
from backend.core.tokenizer import Encoded, stop_token_ids
from backend.data.augmentation import Pair, varied_pairs
from backend.data.dataset import Dataset
from backend.data.records import Row
from backend.errors import TunesmithError
from backend.run.config import AugmentationConfig, DataConfig
from backend.run.schedule import steps_per_epoch

State = Literal["trained", "context", "cut"]
Fate = Literal["whole", "cut", "dropped", "refused"]

MEASURED_ROWS = 2_000
BINS = 10
VARIED_SHOWN = 20


@dataclass(frozen=True)
class PreviewToken:
    """One token. ``text`` is the characters it covers, "" for all but the first token of one character.

    A ``trained`` token is a target of the loss, ``context`` is input only, ``cut`` is truncated away.
    ``from_template``: added by the chat template or the tokenizer. ``ends_turn``: the trained token from which the
    model learns to stop.
    """

    id: int
    text: str
    state: State
    from_template: bool
    ends_turn: bool


@dataclass(frozen=True)
class PreviewRow:
    """One row, token by token. ``problem``: the reason why it is not used whole; it may have no tokens then."""

    place: str
    fate: Fate
    tokens: tuple[PreviewToken, ...]
    problem: str = ""


@dataclass(frozen=True)
class LengthBin:
    """The number of rows with ``low`` to ``high`` tokens, both included."""

    low: int
    high: int
    rows: int


@dataclass(frozen=True)
class Lengths:
    """The lengths of the training rows in tokens, before anything is cut."""

    shortest: int
    median: int
    longest: int
    bins: tuple[LengthBin, ...]


@dataclass(frozen=True)
class Epoch:
    """The size of one pass over the training rows. ``is_estimate``: extrapolated from a sample.

    ``rows`` counts those that are trained on, cut ones included; ``dropped`` and ``refused`` are not among them.
    """

    rows: int
    steps: int
    tokens: int
    trained_tokens: int
    cut: int
    dropped: int
    refused: int
    is_estimate: bool


@dataclass(frozen=True)
class Preview:
    """The first training rows token by token, and statistics of all training rows.

    ``rejected`` counts records that could not be read. ``varied`` are rows that augmentation changes in the first
    epoch, before and after; ``varied_share`` is the share of rows that it changes, 0 to 1. ``warnings``: parts of
    rows that are not read, and side effects of the chat template.
    """

    read_as: str
    train_rows: int
    validation_rows: int
    rejected: int
    rows: tuple[PreviewRow, ...]
    lengths: Lengths
    epoch: Epoch
    varied: tuple[Pair, ...] = ()
    varied_share: float = 0.0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Measure:
    fate: Fate
    length: int
    kept: int
    trained: int
    examples: int = 1


def preview(
    dataset: Dataset,
    data: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    rows_per_step: int,
    rows: int = 3,
    augmentation: AugmentationConfig | None = None,
    cuts_texts: bool = False,
) -> Preview:
    """Return the first ``rows`` training rows of a run on ``dataset``, its row lengths and the size of an epoch.

    A row that cannot be used is included, with the reason. ``cuts_texts``: the method cuts long texts into pieces.
    """
    measured = dataset.train[:MEASURED_ROWS]
    varied = varied_pairs(measured, augmentation or AugmentationConfig(), seed=seed)
    measures = [
        _measure(answer, tokenizer, data, cuts_texts)
        for row in _sampled(dataset.train)
        for answer in row.answers()
    ]
    stops = stop_token_ids(tokenizer)
    return Preview(
        read_as=dataset.reading,
        train_rows=len(dataset.train),
        validation_rows=len(dataset.validation),
        rejected=len(dataset.rejected),
        rows=tuple(
            preview_row(answer, tokenizer, data, stops, cuts_texts=cuts_texts)
            for row in dataset.train[:rows]
            for answer in row.answers()
        ),
        lengths=_lengths([each.length for each in measures if each.length]),
        epoch=_epoch(dataset, measures, rows_per_step),
        varied=tuple(varied[:VARIED_SHOWN]),
        varied_share=len(varied) / len(measured) if measured else 0.0,
        warnings=(*dataset.warnings, *template_warnings(dataset.train, tokenizer)),
    )


def preview_row(
    row: Row,
    tokenizer: PreTrainedTokenizerBase,
    data: DataConfig,
    stops: set[int] | None = None,
    *,
    cuts_texts: bool = False,
) -> PreviewRow:
    """Return one row token by token; ``stops`` are the ids that end a turn, by default those of the tokenizer.

    ``cuts_texts`` as in ``preview``: of a text that becomes several pieces the first is shown.
    """
    stops = stop_token_ids(tokenizer) if stops is None else stops
    try:
        encoded = encode_row(row, tokenizer)
    except TunesmithError as error:
        return PreviewRow(row.place, "refused", (), str(error))
    fate, problem = _fate(encoded, data)
    pieces = _pieces(row, encoded, tokenizer)
    shown = encoded
    if (count := _examples(encoded, data, cuts_texts)) > 1:
        length, limit = len(encoded.input_ids), data.max_length
        fate, problem = "whole", f"It has {length:,} tokens and becomes {count:,} pieces; this is the first."
        shown = Encoded(encoded.input_ids[:limit], encoded.trained[:limit])
    tokens = []
    for index, (token, trained) in enumerate(zip(shown.input_ids, shown.trained, strict=True)):
        text, from_template = pieces[index]
        state: State = "cut" if index >= data.max_length else "trained" if trained and index else "context"
        tokens.append(PreviewToken(token, text, state, from_template, trained and token in stops))
    return PreviewRow(row.place, fate, tuple(tokens), problem)


def _fate(encoded: Encoded, data: DataConfig) -> tuple[Fate, str]:
    """Return how much of a row a run uses, as ``examples.row_use`` decides, with the reason if not all of it."""
    too_long = f"It has {len(encoded.input_ids):,} tokens and data.max_length is {data.max_length:,}"
    words: dict[examples.RowUse, tuple[Fate, str]] = {
        "untrained": ("refused", "It has no token to learn: its answer is empty."),
        "whole": ("whole", ""),
        "too-long": ("refused", f"{too_long}, so a run would stop here."),
        "dropped": ("dropped", f"{too_long}, so it is left out."),
        "cut": ("cut", f"{too_long}: the end is cut off."),
    }
    return words[examples.row_use(encoded.trained, data)]


def _examples(encoded: Encoded, data: DataConfig, cuts_texts: bool) -> int:
    """Return how many examples a row makes, if it is used."""
    if cuts_texts and is_text(np.array(encoded.trained, bool)):
        return piece_count(len(encoded.input_ids), data.max_length)
    return 1


def _measure(row: Row, tokenizer: PreTrainedTokenizerBase, data: DataConfig, cuts_texts: bool) -> _Measure:
    try:
        encoded = encode_row(row, tokenizer)
    except TunesmithError:
        return _Measure("refused", 0, 0, 0)
    fate, _ = _fate(encoded, data)
    length = len(encoded.input_ids)
    if (count := _examples(encoded, data, cuts_texts)) > 1:
        return _Measure("whole", length, length + count - 1, length - 1, count)
    if fate in {"refused", "dropped"}:
        return _Measure(fate, length, 0, 0)
    return _Measure(fate, length, min(length, data.max_length), sum(encoded.trained[1 : data.max_length]))


def _sampled(rows: Sequence[Row]) -> Sequence[Row]:
    """Return at most ``MEASURED_ROWS`` rows, evenly spread."""
    return rows[:: max(1, -(-len(rows) // MEASURED_ROWS))]


def _lengths(lengths: Sequence[int]) -> Lengths:
    if not lengths:
        return Lengths(0, 0, 0, ())
    ordered = sorted(lengths)
    low, high = ordered[0], ordered[-1]
    width = max(1, -(-(high - low + 1) // BINS))
    starts = range(low, high + 1, width)
    counts = [0] * len(starts)
    for length in ordered:
        counts[(length - low) // width] += 1
    bins = (LengthBin(start, start + width - 1, count) for start, count in zip(starts, counts, strict=True))
    return Lengths(low, ordered[len(ordered) // 2], high, tuple(bins))


def _epoch(dataset: Dataset, measures: Sequence[_Measure], rows_per_step: int) -> Epoch:
    scale = len(dataset.train) / max(1, len(measures))

    def scaled(amount: int) -> int:
        return round(amount * scale)

    fates = [each.fate for each in measures]
    kept = scaled(sum(each.examples for each in measures if each.fate in {"whole", "cut"}))
    return Epoch(
        rows=kept,
        steps=steps_per_epoch(kept, rows_per_step),
        tokens=scaled(sum(each.kept for each in measures)),
        trained_tokens=scaled(sum(each.trained for each in measures)),
        cut=scaled(fates.count("cut")),
        dropped=scaled(fates.count("dropped")),
        refused=scaled(fates.count("refused")),
        is_estimate=len(measures) < len(dataset.train),
    )


def _pieces(row: Row, encoded: Encoded, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, bool]]:
    """Return for each token the text it covers and whether the template added it."""
    if row.kind == "tokens":
        return [(tokenizer.decode([token], skip_special_tokens=False), False) for token in row.input_ids]
    if row.kind == "segments":
        return [(piece, False) for text, _ in row.segments for piece in _token_texts(text, tokenizer)]
    if row.text is not None:
        return _framed([row.text], encoded, tokenizer)
    if tokenizer.chat_template is None:
        return _framed([str(message["content"]) for message in row.messages], encoded, tokenizer)
    text = render_answers(tokenizer, row.messages, tools=row.tool_list()).text
    offsets = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).offsets
    own = _content_spans(text, row, tokenizer)
    return [
        (piece, not any(begin < stop and start < end for begin, end in own))
        for (start, stop), piece in zip(offsets, _texts(text, offsets), strict=True)
    ]


def _framed(
    texts: Sequence[str], encoded: Encoded, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[str, bool]]:
    """Return the tokens of ``texts``, and those that the tokenizer adds before and after them."""
    body: list[tuple[str, bool]] = []
    for text in texts:
        body += [(piece, False) for piece in _token_texts(text, tokenizer)]
    names = tokenizer.convert_ids_to_tokens(encoded.input_ids)
    lead = len(names) - len(body) - 1
    return [*((name, True) for name in names[:lead]), *body, (names[-1], True)]


def _token_texts(text: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield the characters of each token of a text tokenised by itself."""
    return _texts(text, tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).offsets)


def _texts(text: str, offsets: Sequence[Span]) -> Iterator[str]:
    """Yield the characters of each token; shared ones go to the first token, gaps to the token after them."""
    done = 0
    for _, stop in offsets:
        yield text[done : max(done, stop)]
        done = max(done, stop)


def _content_spans(text: str, row: Row, tokenizer: PreTrainedTokenizerBase) -> list[Span]:
    """Return where the messages' contents stand in ``text``, the rendered conversation.

    Each content is replaced by a mark and rendered again, which shows where the template prints it. If the template
    prints other text around the mark, the content is searched for after those before it.
    """
    tools = row.tool_list()
    chat = Chat(tokenizer, row.messages, tools, render(tokenizer, row.messages, tools=tools), frozenset())
    spans: list[Span] = []
    for index, message in enumerate(row.messages):
        places = printed(chat, index)
        if places is None:
            content = message["content"].strip()
            start = text.find(content, spans[-1][1] if spans else 0)
            places = [(start, start + len(content))] if start >= 0 else []
        spans += places
    return spans
