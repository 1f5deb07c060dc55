"""Rows as the model will see them: every token, whether it is trained, who put it there, and what an epoch costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from backend.core.encoding import examples
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
    """One token: ``text`` is what it covers, "" for a further token of one character.

    ``trained`` tokens are targets of the loss, ``context`` is only read, ``cut`` never reaches the model.
    ``from_template``: the chat template or the tokenizer put it there, not the person. ``ends_turn``: it is the
    trained token by which the model learns to stop.
    """

    id: int
    text: str
    state: State
    from_template: bool
    ends_turn: bool


@dataclass(frozen=True)
class PreviewRow:
    """One row, token by token. ``problem`` says why it cannot be used; it may have no tokens then."""

    place: str
    fate: Fate
    tokens: tuple[PreviewToken, ...]
    problem: str = ""


@dataclass(frozen=True)
class LengthBin:
    """How many rows have from ``low`` to ``high`` tokens, both included."""

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
    """What one pass over the training rows costs. ``is_estimate``: worked out from a sample of the rows.

    ``rows`` are those that train; ``cut``, ``dropped`` and ``refused`` count the others.
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
    """The first training rows token by token, and the whole training side in figures.

    ``rejected`` counts the records that could not be read at all. ``varied`` are rows that augmentation changes in
    the first epoch, before and after; ``varied_share`` says what part of the training rows does change, 0 to 1.
    ``warnings``: what of the rows is not read, and what the chat template does to them that nobody sees.
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


def preview(
    dataset: Dataset,
    data: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    rows_per_step: int,
    rows: int = 3,
    augmentation: AugmentationConfig | None = None,
) -> Preview:
    """Show the first ``rows`` training rows of a run on ``dataset``, its lengths and the cost of an epoch.

    A row that cannot be used is part of the answer, with the reason.
    """
    measured = dataset.train[:MEASURED_ROWS]
    varied = varied_pairs(measured, augmentation or AugmentationConfig(), seed=seed)
    measures = [_measure(row, tokenizer, data) for row in _sampled(dataset.train)]
    stops = stop_token_ids(tokenizer)
    return Preview(
        read_as=dataset.reading,
        train_rows=len(dataset.train),
        validation_rows=len(dataset.validation),
        rejected=len(dataset.rejected),
        rows=tuple(preview_row(row, tokenizer, data, stops) for row in dataset.train[:rows]),
        lengths=_lengths([each.length for each in measures if each.length]),
        epoch=_epoch(dataset, measures, rows_per_step),
        varied=tuple(varied[:VARIED_SHOWN]),
        varied_share=len(varied) / len(measured) if measured else 0.0,
        warnings=(*dataset.warnings, *template_warnings(dataset.train, tokenizer)),
    )


def preview_row(
    row: Row, tokenizer: PreTrainedTokenizerBase, data: DataConfig, stops: set[int] | None = None
) -> PreviewRow:
    """One row token by token; ``stops`` are the ids that end a turn, worked out when not given."""
    stops = stop_token_ids(tokenizer) if stops is None else stops
    try:
        encoded = encode_row(row, tokenizer)
    except TunesmithError as error:
        return PreviewRow(row.place, "refused", (), str(error))
    fate, problem = _fate(encoded, data)
    pieces = _pieces(row, encoded, tokenizer)
    tokens = []
    for index, (token, trained) in enumerate(zip(encoded.input_ids, encoded.trained, strict=True)):
        text, from_template = pieces[index]
        state: State = "cut" if index >= data.max_length else "trained" if trained and index else "context"
        tokens.append(PreviewToken(token, text, state, from_template, trained and token in stops))
    return PreviewRow(row.place, fate, tuple(tokens), problem)


def _fate(encoded: Encoded, data: DataConfig) -> tuple[Fate, str]:
    """What becomes of a row, as ``data_pipeline.encode`` decides it, and why when that is not the whole row."""
    too_long = f"It has {len(encoded.input_ids):,} tokens and data.max_length is {data.max_length:,}"
    words: dict[examples.Fate, tuple[Fate, str]] = {
        "untrained": ("refused", "It has no token to learn: its answer is empty."),
        "whole": ("whole", ""),
        "too-long": ("refused", f"{too_long}, so a run would stop here."),
        "dropped": ("dropped", f"{too_long}, so it is left out."),
        "cut": ("cut", f"{too_long}: the end is cut off."),
    }
    return words[examples.fate_of(encoded.trained, data)]


def _measure(row: Row, tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> _Measure:
    try:
        encoded = encode_row(row, tokenizer)
    except TunesmithError:
        return _Measure("refused", 0, 0, 0)
    fate, _ = _fate(encoded, data)
    length = len(encoded.input_ids)
    if fate in {"refused", "dropped"}:
        return _Measure(fate, length, 0, 0)
    return _Measure(fate, length, min(length, data.max_length), sum(encoded.trained[1 : data.max_length]))


def _sampled(rows: Sequence[Row]) -> Sequence[Row]:
    """At most ``MEASURED_ROWS`` rows, evenly spread."""
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
    kept = scaled(fates.count("whole") + fates.count("cut"))
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
    """Return for each token the text it covers and whether the template put it there."""
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
    """The person's texts one after the other, with whatever the tokenizer puts before and after them."""
    body: list[tuple[str, bool]] = []
    for text in texts:
        body += [(piece, False) for piece in _token_texts(text, tokenizer)]
    names = tokenizer.convert_ids_to_tokens(encoded.input_ids)
    lead = len(names) - len(body) - 1
    return [*((name, True) for name in names[:lead]), *body, (names[-1], True)]


def _token_texts(text: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Return the characters of each token of a text that stands for itself."""
    return _texts(text, tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).offsets)


def _texts(text: str, offsets: Sequence[Span]) -> Iterator[str]:
    """The characters of each token; those that two tokens share go to the first, gaps to the token after them."""
    done = 0
    for _, stop in offsets:
        yield text[done : max(done, stop)]
        done = max(done, stop)


def _content_spans(text: str, row: Row, tokenizer: PreTrainedTokenizerBase) -> list[Span]:
    """Return where the person's words stand in ``text``, the rendered conversation.

    Each content is rendered once more as a mark, which shows where the template prints it. Where the template prints
    something else around such a mark, the content is looked for behind those before it.
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
