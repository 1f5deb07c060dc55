"""The training examples of an epoch when augmentation varies the rows.

A row's variation is a pure function of (seed, epoch, index): a resumed run, and every process of several, sees the
same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from backend.core.encoding.dataset import EncodedRows
from backend.core.encoding.examples import Example
from backend.core.encoding.row import encode_each
from backend.core.encoding.token_cache import TokenTable
from backend.data.augmentation import augment
from backend.data.records import Row
from backend.errors import TunesmithError
from backend.run.config import AugmentationConfig


@dataclass(frozen=True)
class VariedRows:
    """A function (epoch, indices) -> the examples at these indices in that epoch, counted from 0.

    ``encoded``: the unvaried ``rows`` as examples, used for rows that do not vary, and for variations that the
    template rejects or that are longer than ``max_length`` tokens. So an epoch always has all its rows.
    """

    rows: Sequence[Row]
    encoded: EncodedRows
    tokenizer: PreTrainedTokenizerBase
    augmentation: AugmentationConfig
    max_length: int
    seed: int

    def __call__(self, epoch: int, indices: Sequence[int]) -> list[Example]:
        """Return the examples of ``epoch`` at ``indices``, in their order."""
        numbers = self.encoded.numbers[list(indices)].tolist()
        rows = [self.rows[number] for number in numbers]
        varied = [
            augment(row, self.augmentation, seed=self.seed, epoch=epoch, index=number)
            for row, number in zip(rows, numbers, strict=True)
        ]
        changed = [place for place, row in enumerate(rows) if varied[place] is not row]
        examples = [self.encoded[index] for index in indices]
        for place, example in zip(changed, self._encode([varied[place] for place in changed]), strict=True):
            examples[place] = example or examples[place]
        return examples

    def _encode(self, rows: Sequence[Row]) -> list[Example | None]:
        try:
            table = TokenTable.of(list(encode_each(rows, self.tokenizer)))
        except TunesmithError:
            return [self._encode([row])[0] for row in rows] if len(rows) > 1 else [None]
        return [
            Example(ids, trained, row.place) if len(ids) <= self.max_length else None
            for row, (ids, trained) in zip(rows, table, strict=True)
        ]
