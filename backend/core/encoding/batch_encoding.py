"""Encode many conversations without running the chat template or the tokenizer on each of them.

The template's shape gives the fixed text between the messages' contents, and a cache gives the ids of words. Both are
used only where they are proved to give the ids that ``encode_messages`` does; other rows come back as None.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from transformers import PreTrainedTokenizerBase

from backend.core.encoding.word_cache import WordCache, word_cache
from backend.core.templates.shape import TemplateShape, TemplateShapes
from backend.core.templates.template import SURROGATE, Message, is_trained, special_tokens

Row = tuple[list[int], list[bool]]

_PLAIN_KEYS = frozenset({"role", "content", "trained", "weight"})
_BLOCK_ROWS = 1024


@dataclass(frozen=True)
class _Piece:
    """Fixed text of a shape: plain text ``head``, the ``ids`` from first to last special token, plain text ``tail``.

    Without a special token ``ids`` is empty and all is ``tail``.
    """

    head: str
    ids: tuple[int, ...]
    tail: str


@dataclass
class _Plan:
    """One row, cut at special tokens: the ``texts`` between them and the ``fixed`` ids after each text.

    ``boundaries``: for each text, the number of characters before a trained answer. ``ends``: how many of the ids
    after it end that answer; 0 if no trained answer begins in it.
    """

    texts: list[str] = field(default_factory=list)
    boundaries: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    fixed: list[tuple[int, ...]] = field(default_factory=list)

    def add_piece(self, text: str, boundary: int, piece: _Piece, *, ends: int) -> tuple[str, int, int]:
        """End the current text at the piece's first special token; return (text, boundary, ends) after its last."""
        if not piece.ids:
            return text + piece.tail, boundary, ends
        self.texts.append(text + piece.head)
        self.boundaries.append(boundary)
        self.ends.append(ends)
        self.fixed.append(piece.ids)
        return piece.tail, 0, 0


class BatchEncoder:
    """Encodes rows for one tokenizer; ``encode`` returns None for each row that needs ``encode_messages``."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._shapes = TemplateShapes(tokenizer)
        self._words: WordCache | None = word_cache(tokenizer)
        self._special = re.compile("|".join(map(re.escape, special_tokens(tokenizer))))
        self._pieces: dict[tuple[str, ...], tuple[TemplateShape, list[_Piece]] | None] = {}

    def encode(self, conversations: Sequence[Sequence[Message]]) -> list[Row | None]:
        """Return the ids and mask of each conversation, cut after its last trained token."""
        if self._words is None:
            return [None] * len(conversations)
        rows: list[Row | None] = []
        for start in range(0, len(conversations), _BLOCK_ROWS):
            plans = [self._plan(row) for row in conversations[start : start + _BLOCK_ROWS]]
            texts = [text for plan in plans if plan for text in plan.texts]
            boundaries = [boundary for plan in plans if plan for boundary in plan.boundaries]
            found = iter(self._words.encode(texts, boundaries))
            rows += [
                _assemble(plan, list(islice(found, len(plan.texts)))) if plan else None for plan in plans
            ]
        return rows

    def _plan(self, messages: Sequence[Message]) -> _Plan | None:
        if not all(map(_is_plain, messages)):
            return None
        known = self._known(tuple([message["role"] for message in messages]))
        if known is None:
            return None
        shape, pieces = known
        if not all(shape.conditions.met_by(message["content"]) for message in messages):
            return None
        plan = _Plan()
        text, boundary, ends = plan.add_piece("", 0, pieces[0], ends=0)
        for index, message in enumerate(messages):
            if message["role"] == "assistant" and is_trained(message):
                boundary, ends = len(text) - shape.leads[index], shape.ends[index]
            text += message["content"]
            text, boundary, ends = plan.add_piece(text, boundary, pieces[index + 1], ends=ends)
        return plan

    def _known(self, roles: tuple[str, ...]) -> tuple[TemplateShape, list[_Piece]] | None:
        if roles not in self._pieces:
            self._pieces[roles] = self._find(roles)
        return self._pieces[roles]

    def _find(self, roles: tuple[str, ...]) -> tuple[TemplateShape, list[_Piece]] | None:
        shape = self._shapes.get(roles)
        if shape is None:
            return None
        pieces = [self._piece(text) for text in shape.pieces]
        begins = all(lead <= len(pieces[index].tail) for index, lead in shape.leads.items())
        return (shape, pieces) if begins and not self._overlapping(shape) else None

    def _piece(self, text: str) -> _Piece:
        found = list(self._special.finditer(text))
        if not found:
            return _Piece("", (), text)
        start, stop = found[0].start(), found[-1].end()
        ids = self._tokenizer.backend_tokenizer.encode(text[start:stop], add_special_tokens=False).ids
        return _Piece(text[:start], tuple(ids), text[stop:])

    def _overlapping(self, shape: TemplateShape) -> bool:
        """True if an added token could begin in a content and overlap a special token of the shape, or extend one."""
        used = {match for piece in shape.pieces for match in self._special.findall(piece)}
        added = [token.content for token in self._tokenizer.added_tokens_decoder.values()]
        return any(_collide(special, other) for special in used for other in added if other != special)


def _is_plain(message: Message) -> bool:
    """True if a message has only a role and a text content, and that content is valid Unicode."""
    content = message.get("content")
    return (
        _PLAIN_KEYS.issuperset(message)
        and type(content) is str
        and type(message.get("role")) is str
        and (content.isascii() or not SURROGATE.search(content))
    )


def _collide(special: str, other: str) -> bool:
    suffixes = (other[start:] for start in range(1, len(other)))
    return other.startswith(special) or any(s.startswith(special) or special.startswith(s) for s in suffixes)


def _assemble(plan: _Plan, encoded: list[tuple[list[int], int]]) -> Row | None:
    """Return the ids and mask of a row; None if nothing in it is trained."""
    ids: list[int] = []
    trained: list[bool] = []
    length = 0
    for (words, before), ends, fixed in zip(encoded, plan.ends, plan.fixed, strict=True):
        ids += words
        ids += fixed
        if ends:
            trained += (
                [False] * before + [True] * (len(words) - before + ends) + [False] * (len(fixed) - ends)
            )
            length = len(trained) - len(fixed) + ends
        else:
            trained += [False] * (len(words) + len(fixed))
    return (ids[:length], trained[:length]) if length else None
