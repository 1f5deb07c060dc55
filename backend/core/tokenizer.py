"""The renderer: messages or text in, token ids and loss mask out, and ids back to text.

Training, inference and export all use this room, so that a model sees at inference exactly the ids it was
trained on. Ids are always those of the model's own chat template.
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
"""The class that reads any tokenizer.json, as transformers calls it before and since version 5."""


@dataclass(frozen=True)
class Encoded:
    """One example: ``input_ids`` and, for each, whether it is a target of the loss (same length)."""

    input_ids: list[int]
    trained: list[bool]


def load_tokenizer(
    path: str | Path, *, chat_template: str | None = None, now: datetime | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer in folder ``path``, with a pad token and without truncation or padding set.

    ``chat_template`` replaces its own template, see ``set_chat_template``. ``now`` is the time that a template which
    prints the date prints, see ``set_template_time``.

    Where there is no pad token, EOS stands in: masks come from positions, never from pad ids, and the
    vocabulary is never resized. Raises ModelError: ``no-tokenizer``, ``damaged-tokenizer``, ``remote-code``,
    ``no-eos``, ``greedy-template``.
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
    with _collector_paused(), _Translated(folder):
        tokenizer = _read(folder)
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"The tokenizer in {folder} names no end-of-sequence token, so a model could never learn to stop.",
            code="no-eos",
            remedy="Set eos_token in its tokenizer_config.json.",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.init_kwargs.pop("auto_map", None)  # nothing that is saved later shall name the author's code
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
    """Return the ids at which the model in ``folder`` stops: ``eos_token_id`` of its own files, one or several."""
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
    """The tokenizer of ``folder``: one that its settings call general is what tokenizer.json says.

    For the others transformers knows classes of their own, and loads torch to find them, which takes seconds.
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
    """The template's own ids for a whole conversation; each answer and its end-of-turn token are trained.

    The ids end with the last trained token: what the template prints after it (a newline, a turn that nobody
    trains on) can teach nothing. Raises DataError (``nothing-trained``, ``template-refused``) and ModelError
    (``no-chat-template``, ``unmaskable-template``, ``no-turn-end``).
    """
    chat = _with_answers(render_answers(tokenizer, messages, tools=tools))
    encoding = _encoding(tokenizer, chat.text)
    return Encoded(*_masked(encoding.ids, encoding.offsets, chat.spans))


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, tools: Tools | None = None
) -> list[int]:
    """The ids that a model continues from: the conversation and the opening of the answer's turn.

    Raises DataError (``template-refused``) and ModelError (``no-chat-template``).
    """
    return _ids(tokenizer, render_prompt(tokenizer, messages, tools=tools))


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> Encoded:
    """Plain text, every token trained: BOS where this tokenizer puts one, the text, EOS."""
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
    """``encode_messages`` of every conversation, in order; for a whole data set in one call.

    Raises what ``encode_messages`` raises, with the number of the first conversation that cannot be encoded.
    """
    with _collector_paused():
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
    """Ids that end an answer: the tokenizer's EOS, the model's ``eos_token_ids``, the template's turn end."""
    given = [eos_token_ids] if isinstance(eos_token_ids, int) else list(eos_token_ids or ())
    stops = {_eos(tokenizer), *given}
    probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with suppress(DataError, ModelError):  # no template, or one without a turn end: the others stand
        stops.add(encode_messages(tokenizer, probe).input_ids[-1])
    return stops


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of ``ids``, special tokens left out, nothing cleaned up."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


class IncrementalDecoder:
    """Text pieces of a growing sequence; joined, they equal ``decode`` of all its ids.

    No piece ends inside a character: text is held back while its last bytes are unfinished, and a run of single
    bytes until it ends, since one more byte can change how the whole run reads.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._skipped = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        decoder = tokenizer.backend_tokenizer.decoder
        self._has_byte_tokens = decoder is not None and b"ByteFallback" in decoder.__getstate__()
        self._ids: list[int] = []
        self._start = 0  # of the window that is decoded again: what was emitted before is settled
        self._read = 0  # ids whose text has been emitted

    def push(self, token_id: int) -> str:
        """The text that ``token_id`` completes; "" while a character is unfinished."""
        if token_id in self._skipped:
            return ""
        self._ids.append(token_id)
        if self._has_byte_tokens and str(self._tokenizer.convert_ids_to_tokens(token_id)).startswith("<0x"):
            return ""
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


class _Translated:
    """Turns whatever reading a tokenizer raises into ModelError.

    The tokenizers library raises plain ``Exception`` from Rust, and only that exact class means a damaged file.
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
def _collector_paused() -> Iterator[None]:
    """Stop Python's collector from walking all of torch's objects while many containers are made.

    A vocabulary or a data set makes them by the 100,000; paused, a tokenizer loads in two thirds of the time.
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
    """The encoder of the last tokenizers used, until template, vocabulary or the date that some print changes."""
    return BatchEncoder(tokenizer)


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], number: int) -> RenderedChat:
    """A conversation and the spans trained in it; an error says which conversation it is."""
    try:
        return _with_answers(render_answers(tokenizer, messages))
    except (DataError, ModelError) as error:
        message = f"Conversation {number}: {error.message}"
        raise type(error)(message, code=error.code, remedy=error.remedy) from error


def _with_answers(chat: RenderedChat) -> RenderedChat:
    """Return ``chat``; raise DataError (``nothing-trained``) where none of it is trained."""
    if not chat.spans:
        raise DataError(
            "No token of this conversation would be trained.",
            code="nothing-trained",
            remedy="It needs at least one assistant message that is not marked trained: false.",
        )
    return chat


def _masked(ids: list[int], offsets: Sequence[Span], spans: Sequence[Span]) -> tuple[list[int], list[bool]]:
    """Trained: every token that shares a character with a span. Cut after the last of them."""
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
    """``[bos]`` where this tokenizer puts one before plain text, else nothing."""
    bos = tokenizer.bos_token_id
    ids = tokenizer.backend_tokenizer.encode("a", add_special_tokens=True).ids
    return [bos] if bos is not None and ids[:1] == [bos] else []


def _eos(tokenizer: PreTrainedTokenizerBase) -> int:
    eos: int = tokenizer.eos_token_id
    return eos
