"""Load tokenizers; messages or text -> token ids and loss mask; ids -> text.

Training, inference and export all use this module, so that at inference a model sees exactly the ids it was trained
on. The ids are always those of the model's own chat template.
"""

from __future__ import annotations

import gc
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType

from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from backend.core.encoding.batch_encoding import BatchEncoder
from backend.core.model_folder import read_object, refuse_code
from backend.core.templates.answer_spans import RenderedChat, render_answers
from backend.core.templates.guard import try_template
from backend.core.templates.named import set_chat_template
from backend.core.templates.template import (
    Message,
    Span,
    Tools,
    check_unicode,
    render_prompt,
    set_end_tokens,
    set_template_time,
    template_time,
)
from backend.errors import DataError, ModelError

_GENERAL = frozenset({"PreTrainedTokenizerFast", "TokenizersBackend"})
"""The class that reads any tokenizer.json: its names before and since transformers 5."""


@dataclass(frozen=True)
class Encoded:
    """One example: ``input_ids``, and ``trained[i]``, True if token i is a target of the loss."""

    input_ids: list[int]
    trained: list[bool]


def load_tokenizer(
    path: str | Path, *, chat_template: str | None = None, now: datetime | None = None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer in folder ``path``, with a pad token and with truncation and padding switched off.

    ``chat_template`` replaces its own template, see ``set_chat_template``. ``now`` is the time for a template that
    prints the date, see ``set_template_time``. If there is no pad token, EOS takes its place: masks come from
    positions, never from pad ids, and the vocabulary is never resized. Raises ModelError: ``no-tokenizer``,
    ``damaged-tokenizer``, ``remote-code``, ``no-eos``, ``greedy-template``.
    """
    folder = Path(path)
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            f"{folder} has no tokenizer.json.",
            code="no-tokenizer",
            remedy="Put the model's tokenizer.json and tokenizer_config.json beside its weights.",
        )
    for name in ("config.json", "tokenizer_config.json"):
        refuse_code(folder / name)
    with _gc_paused(), _ModelErrors(folder):
        tokenizer = _read(folder)
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"The tokenizer in {folder} names no end-of-sequence token, so a model could never learn to stop.",
            code="no-eos",
            remedy="Set eos_token in its tokenizer_config.json.",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.init_kwargs.pop("auto_map", None)  # or every copy saved later would refer to its author's code
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    set_template_time(tokenizer, now)
    set_end_tokens(tokenizer, _model_stops(folder))
    if chat_template is not None:
        set_chat_template(tokenizer, chat_template)
    own = tokenizer.chat_template
    for template in own.values() if isinstance(own, dict) else filter(None, [own]):
        try_template(template)
    return tokenizer


def _model_stops(folder: Path) -> set[int]:
    """Return the model's stop ids: ``eos_token_id`` of the files in ``folder``, one or several."""
    stops: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            settings = read_object(folder / name, missing="no-config", damaged="damaged-config")
            named = settings.get("eos_token_id")
            stops.update(
                each for each in (named if isinstance(named, list) else [named]) if type(each) is int
            )
    return stops


def _read(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of ``folder``, without AutoTokenizer if its settings name the general class.

    AutoTokenizer imports torch to look for a special class, which takes seconds.
    """
    settings = folder / "tokenizer_config.json"
    named = (
        read_object(settings, missing="no-tokenizer", damaged="damaged-tokenizer")
        if settings.is_file()
        else {}
    )
    if named.get("tokenizer_class") in _GENERAL:
        return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    from transformers import AutoTokenizer  # noqa: PLC0415

    return AutoTokenizer.from_pretrained(
        str(folder), use_fast=True, trust_remote_code=False, local_files_only=True
    )


def encode_messages(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, tools: Tools | None = None
) -> Encoded:
    """Return the template's ids for a whole conversation; each answer and its end-of-turn token are trained.

    The ids end with the last trained token: what follows it (a newline, a turn that is not trained) has no effect on
    the loss. Raises DataError (``nothing-trained``, ``template-refused``) and ModelError
    (``no-chat-template``, ``unmaskable-template``, ``no-turn-end``).
    """
    chat = _with_answers(render_answers(tokenizer, messages, tools=tools))
    encoding = _encoding(tokenizer, chat.text)
    return Encoded(*_masked(encoding.ids, encoding.offsets, chat.spans))


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, tools: Tools | None = None
) -> list[int]:
    """Return the ids that a model continues: the conversation and the beginning of the answer's turn.

    Raises DataError (``template-refused``) and ModelError (``no-chat-template``).
    """
    return _ids(tokenizer, render_prompt(tokenizer, messages, tools=tools))


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> Encoded:
    """Return plain text with every token trained: BOS if this tokenizer adds one, the text, EOS."""
    ids = [*_opening(tokenizer), *_ids(tokenizer, text), _eos(tokenizer)]
    return Encoded(ids, [True] * len(ids))


def encode_prompt_completion(tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> Encoded:
    """Return a prompt, not trained, then completion and EOS, trained; for a model without a chat template.

    The two are tokenised separately, as at inference, where the completion does not exist yet.
    """
    head = [*_opening(tokenizer), *_ids(tokenizer, prompt)]
    tail = [*_ids(tokenizer, completion), _eos(tokenizer)]
    return Encoded(head + tail, [False] * len(head) + [True] * len(tail))


def encode_batch(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Message]]
) -> list[Encoded]:
    """Return ``encode_messages`` of every conversation, in order, much faster than one by one.

    Raises what ``encode_messages`` raises, naming the number of the first conversation that cannot be encoded.
    """
    with _gc_paused():
        size = tokenizer.backend_tokenizer.get_vocab_size()
        today = template_time(tokenizer).date()
        encoder = _batch_encoder(tokenizer, str(tokenizer.chat_template), size, today)
        rows = encoder.encode(conversations)
        slow = [index for index, row in enumerate(rows) if row is None]
        rendered = [_rendered(tokenizer, conversations[index], index + 1) for index in slow]
        encodings = tokenizer.backend_tokenizer.encode_batch(
            [chat.text for chat in rendered], add_special_tokens=False
        )
        for index, encoding, chat in zip(slow, encodings, rendered, strict=True):
            rows[index] = _masked(encoding.ids, encoding.offsets, chat.spans)
        return [Encoded(*row) for row in rows if row]


def stop_token_ids(
    tokenizer: PreTrainedTokenizerBase, eos_token_ids: int | Iterable[int] | None = None
) -> set[int]:
    """Return the ids that end an answer: the tokenizer's EOS, ``eos_token_ids``, the template's end of turn."""
    given = [eos_token_ids] if isinstance(eos_token_ids, int) else list(eos_token_ids or ())
    stops = {_eos(tokenizer), *given}
    probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with suppress(DataError, ModelError):  # no template, or one without a turn end
        stops.add(encode_messages(tokenizer, probe).input_ids[-1])
    return stops


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return the text of ``ids`` without special tokens and without cleaning up spaces."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


class IncrementalDecoder:
    """Decode a growing sequence piece by piece; the pieces joined equal ``decode`` of all ids.

    No piece ends inside a character: text is held back while its last bytes are incomplete. A run of byte tokens is
    held back to its end, since one more byte can change how the whole run decodes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._skipped = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        decoder = tokenizer.backend_tokenizer.decoder
        self._has_byte_tokens = decoder is not None and b"ByteFallback" in decoder.__getstate__()
        self._ids: list[int] = []
        # Only a window of ids is decoded again for each token; a token's text can depend on the one before it, so the
        # window begins one emitted piece earlier.
        self._start = 0
        self._emitted = 0  # ids whose text has been returned

    def push(self, token_id: int) -> str:
        """Return the text that ``token_id`` completes; "" while a character is incomplete."""
        if token_id in self._skipped:
            return ""
        self._ids.append(token_id)
        if self._has_byte_tokens and str(self._tokenizer.convert_ids_to_tokens(token_id)).startswith("<0x"):
            return ""
        return self._emit(final=False)

    def finish(self) -> str:
        """Return the text still held back, incomplete bytes as U+FFFD."""
        return self._emit(final=True)

    def _emit(self, *, final: bool) -> str:
        before = decode(self._tokenizer, self._ids[self._start : self._emitted])
        after = decode(self._tokenizer, self._ids[self._start :])
        if len(after) <= len(before) or (after.endswith("\ufffd") and not final):
            return ""
        self._start, self._emitted = self._emitted, len(self._ids)
        return after[len(before) :]


class _ModelErrors:
    """A context that turns the errors of reading a tokenizer into ModelError.

    The tokenizers library raises plain ``Exception`` from Rust, so that exact class is caught too, and no subclass.
    """

    _KNOWN = (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError)

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is Exception or isinstance(error, self._KNOWN):
            raise ModelError(
                f"The tokenizer in {self._folder} cannot be read: {error}.",
                code="damaged-tokenizer",
                remedy="Download the model again, or copy the tokenizer files of its base model here.",
            ) from error


@contextmanager
def _gc_paused() -> Iterator[None]:
    """Pause Python's garbage collector inside the block.

    A vocabulary or a data set creates containers by the 100,000, and each collection walks all of torch's objects.
    Paused, a tokenizer loads in two thirds of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@lru_cache(maxsize=2)
def _batch_encoder(
    tokenizer: PreTrainedTokenizerBase, _template: str, _size: int, _today: date
) -> BatchEncoder:
    """Return a cached encoder; the extra arguments make a new one when template, vocabulary or date change."""
    return BatchEncoder(tokenizer)


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], number: int) -> RenderedChat:
    """Return a rendered conversation with its trained spans; an error names its ``number``."""
    try:
        return _with_answers(render_answers(tokenizer, messages))
    except (DataError, ModelError) as error:
        message = f"Conversation {number}: {error.message}"
        raise type(error)(message, code=error.code, remedy=error.remedy) from error


def _with_answers(chat: RenderedChat) -> RenderedChat:
    """Return ``chat``. Raises DataError ``nothing-trained`` if no part of it is trained."""
    if not chat.spans:
        raise DataError(
            "No token of this conversation would be trained.",
            code="nothing-trained",
            remedy="It needs at least one assistant message that is not marked trained: false.",
        )
    return chat


def _masked(ids: list[int], offsets: Sequence[Span], spans: Sequence[Span]) -> tuple[list[int], list[bool]]:
    """Return (ids, trained): tokens that share a character with a span are trained; cut after the last."""
    trained = [False] * len(ids)
    begins, ends = [begin for begin, _ in offsets], [end for _, end in offsets]
    last = 0
    for start, stop in spans:
        first, last = bisect_right(ends, start), bisect_left(begins, stop)
        trained[first:last] = [True] * (last - first)
    return ids[:last], trained[:last]


def _encoding(tokenizer: PreTrainedTokenizerBase, text: str) -> Encoding:
    check_unicode(text)
    encoding: Encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    return encoding


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = _encoding(tokenizer, text).ids
    return ids


def _opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return ``[bos]`` if this tokenizer adds one before plain text, else []."""
    bos = tokenizer.bos_token_id
    ids = tokenizer.backend_tokenizer.encode("a", add_special_tokens=True).ids
    return [bos] if bos is not None and ids[:1] == [bos] else []


def _eos(tokenizer: PreTrainedTokenizerBase) -> int:
    eos: int = tokenizer.eos_token_id
    return eos
