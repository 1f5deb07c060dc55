"""The training rows with a share of other rows mixed in, such as general ones against forgetting. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from backend.core.encoding.dataset import EncodedRows
from backend.core.encoding.examples import Example

_STREAM = 1
"""Part of the seed, so that this draw is another one than the order of the rows."""


@dataclass(frozen=True)
class Mixture(Sequence[Example]):
    """The examples of ``own``, followed by as many of ``other`` as make up ``share`` (above 0, below 1) of them all.

    Which ones of ``other`` these are changes from epoch to epoch: they are dealt out in a random order, all of them
    before one comes again. They are a pure function of (``seed``, epoch), so a resumed run, and every process of
    several, sees the same. A mixture is a sequence as it is in epoch 0; a call gives the examples of any epoch.
    ``vary`` replaces examples of ``own`` where augmentation changes them.
    """

    own: EncodedRows
    other: EncodedRows
    share: float
    seed: int
    vary: Callable[[int, Sequence[int]], list[Example]] | None = None

    @property
    def mixed_in(self) -> int:
        """The number of examples of ``other`` in an epoch, 1 or more."""
        return max(1, round(len(self.own) * self.share / (1 - self.share)))

    def drawn(self, epoch: int) -> np.ndarray:
        """Return the indices of the examples of ``other`` in an epoch, counted from 0; int64 [mixed_in]."""
        count, there = self.mixed_in, len(self.other)
        first = epoch * count
        rounds = range(first // there, (first + count - 1) // there + 1)
        orders = [np.random.default_rng([self.seed, number, _STREAM]).permutation(there) for number in rounds]
        skipped = first - rounds[0] * there
        return np.concatenate(orders)[skipped : skipped + count]

    def __call__(self, epoch: int, indices: Sequence[int]) -> list[Example]:
        """Return the examples of ``epoch`` at ``indices``, in their order."""
        rows = len(self.own)
        drawn = self.drawn(epoch)
        own = [index for index in indices if index < rows]
        examples = iter(self.vary(epoch, own) if self.vary else [self.own[index] for index in own])
        return [next(examples) if index < rows else self.other[int(drawn[index - rows])] for index in indices]

    def __len__(self) -> int:
        return len(self.own) + self.mixed_in

    @property
    def group(self) -> int:
        """The number of consecutive examples that make one row: 1, since answers that are compared are not mixed."""
        return 1

    @property
    def row_count(self) -> int:
        """The number of examples of an epoch."""
        return len(self)

    @property
    def documents(self) -> int:
        """The number of rows of ``own``, a text in several pieces counted once."""
        return self.own.documents

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        places = range(len(self))[index]
        return self(0, [places])[0] if isinstance(places, int) else self(0, places)

    @property
    def is_complete(self) -> bool:
        """True if all rows of ``own`` are tokenised."""
        return self.own.is_complete

    @property
    def tokens(self) -> int:
        """The tokens of an epoch, those of ``other`` at their mean length."""
        return self.own.tokens + round(self.other.tokens * self.mixed_in / len(self.other))

    @property
    def trained_tokens(self) -> int:
        """The targets of the loss in an epoch, those of ``other`` at their mean number."""
        return self.own.trained_tokens + round(self.other.trained_tokens * self.mixed_in / len(self.other))

    @property
    def cut(self) -> list[str]:
        """Places of rows that were too long and are cut."""
        return self.own.cut + self.other.cut

    @property
    def dropped(self) -> list[str]:
        """Places of rows that were too long and are left out."""
        return self.own.dropped + self.other.dropped

    def tokenise_next(self) -> bool:
        """Tokenise the next block of rows; return True if there may be more. Raises what ``encode`` raises."""
        return self.own.tokenise_next()

    def require_fit(self, longest: int, vocabulary: int) -> None:
        """Apply ``examples.require_fit`` to all rows, to those not yet tokenised when they are."""
        self.own.require_fit(longest, vocabulary)
        self.other.require_fit(longest, vocabulary)
