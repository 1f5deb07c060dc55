"""The training rows of any epoch as examples, where augmentation lets them vary.

What a row becomes depends on (seed, epoch, index) alone: a resume, or any number of workers that share the indices
out among themselves, sees the same rows.
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
    """Calling it with an epoch, from 0, and indices gives the examples at these indices in that epoch.

    ``encoded`` are ``rows`` as examples; a row that does not vary is as it is there. One whose variation the
    template refuses, or that would be longer than ``max_length`` tokens, is used as it was: an epoch has all its
    rows, always.
    """

    rows: Sequence[Row]
    encoded: EncodedRows
    tokenizer: PreTrainedTokenizerBase
    augmentation: AugmentationConfig
    max_length: int
    seed: int

    def __call__(self, epoch: int, indices: Sequence[int]) -> list[Example]:
        """The examples of ``epoch`` at ``indices``, in their order."""
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
