"""Find near-duplicate texts: MinHash signatures compared by locality-sensitive hashing.

Signatures: Broder, "On the resemblance and containment of documents" (1997). Bands: Leskovec, Rajaraman and Ullman,
"Mining of Massive Datasets", section 3.4. A pair of similarity ``s`` agrees in some band with probability
``1 - (1 - s**4)**16``: 0.5 at s = 0.45, 0.99 at s = 0.71.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import xxhash

PERMUTATIONS = 64
BANDS = 16
GRAM = 5
SHORT_WORDS = 20
BATCH_TEXTS = 512
BATCH_PAIRS = 65_536
MAX_PIECES = 16_384

Hashes = npt.NDArray[np.uint64]
Signatures = npt.NDArray[np.uint32]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_STEPS = tuple(np.uint64(pow(0x9E3779B97F4A7C15, power, 2**64)) for power in range(1, GRAM + 1))


def gram_hashes(text: str) -> Hashes:
    """Return 64-bit hashes of the pieces of a normalised text, at least one.

    Pieces are word 5-grams, or character 5-grams of a text under 20 words; of a very long text the first
    ``MAX_PIECES`` words count.
    """
    words = text.split(" ", MAX_PIECES)[:MAX_PIECES]
    if len(words) < SHORT_WORDS:
        pieces = np.frombuffer(text[:MAX_PIECES].encode("utf-32-le", "surrogatepass"), np.uint32).astype(
            np.uint64
        )
    else:
        digest = xxhash.xxh3_64_intdigest
        pieces = np.array([digest(word.encode("utf-8", "surrogatepass")) for word in words], np.uint64)
    count = max(1, len(pieces) - GRAM + 1)
    joined = np.zeros(count, np.uint64)
    for place, step in enumerate(_STEPS[: len(pieces)]):
        joined += pieces[place : place + count] * step
    joined ^= joined >> np.uint64(32)
    joined *= _GOLDEN
    return joined ^ (joined >> np.uint64(29))


def signatures(texts: Iterable[str], seed: int = 0) -> Signatures:
    """Return the MinHash signatures of normalised texts, ``[texts, 64]``; texts are taken a few at a time."""
    rng = np.random.default_rng(seed)
    factors = rng.integers(1, 2**64, PERMUTATIONS, dtype=np.uint64) | np.uint64(1)
    offsets = rng.integers(0, 2**64, PERMUTATIONS, dtype=np.uint64)
    result = bytearray()
    iterator = iter(texts)
    while batch := [gram_hashes(text) for text in itertools.islice(iterator, BATCH_TEXTS)]:
        firsts = np.cumsum([0, *(len(hashes) for hashes in batch[:-1])])
        joined = np.concatenate(batch)
        table = np.empty((len(batch), PERMUTATIONS), np.uint32)
        for column, (factor, offset) in enumerate(zip(factors, offsets, strict=True)):
            mixed = ((joined * factor + offset) >> np.uint64(32)).astype(np.uint32)
            table[:, column] = np.minimum.reduceat(mixed, firsts)
        result += table.tobytes()
    return np.frombuffer(result, np.uint32).reshape(-1, PERMUTATIONS)


def candidate_pairs(table: Signatures) -> npt.NDArray[np.int64]:
    """Return the pairs (earlier, later) of rows that agree in a whole band, ``[pairs, 2]``, sorted, each once.

    In a band a row is paired only with the first row of its bucket and the row before it: all pairs would be
    quadratic in the number of equal rows.
    """
    found = [np.empty((0, 2), np.int64)]
    for order, starts in map(_buckets, _band_keys(table)):
        places = np.arange(len(order))
        first = np.maximum.accumulate(np.where(starts, places, 0))
        later = places[~starts]
        found.append(np.stack([order[first[later]], order[later]], axis=1))
        found.append(np.stack([order[later - 1], order[later]], axis=1))
    return np.asarray(np.unique(np.concatenate(found), axis=0), np.int64)


def _band_keys(table: Signatures) -> Iterator[Hashes]:
    """Yield for each band one 64-bit key per row."""
    width = PERMUTATIONS // BANDS
    for band in range(BANDS):
        halves = np.ascontiguousarray(table[:, band * width : (band + 1) * width]).view(np.uint64)
        yield halves[:, 0] * _GOLDEN ^ halves[:, 1]


def _buckets(keys: Hashes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the row numbers sorted by key, then number, and True where a new key begins."""
    order = np.argsort(keys, kind="stable").astype(np.int64)
    starts = np.ones(len(order), np.bool_)
    starts[1:] = keys[order[1:]] != keys[order[:-1]]
    return order, starts


def similarity(left: Signatures, right: Signatures) -> npt.NDArray[np.float64]:
    """Return the estimated Jaccard similarity row by row, 0 to 1; the standard error is 0.06 at most."""
    return np.asarray((left == right).mean(axis=-1), np.float64)


def near_duplicates(texts: Iterable[str], threshold: float = 0.8, seed: int = 0) -> dict[int, int]:
    """Return ``{later: earlier}`` for each text that nearly repeats an earlier one, by numbers.

    ``texts`` must be normalised; empty ones have no duplicates. Texts are near when the estimated Jaccard similarity
    of their pieces is at least ``threshold`` (0 to 1).
    """
    filled, table = _of_filled(texts, seed)
    if len(filled) < 2:
        return {}
    pairs = candidate_pairs(table)
    found: dict[int, int] = {}
    for start in range(0, len(pairs), BATCH_PAIRS):
        some = pairs[start : start + BATCH_PAIRS]
        near = some[similarity(table[some[:, 0]], table[some[:, 1]]) >= threshold]
        for earlier, later in near.tolist():
            found.setdefault(filled[later], filled[earlier])
    return {later: _root(found, later) for later in sorted(found)}


def overlap(
    texts: Iterable[str], others: Iterable[str], threshold: float = 0.8, seed: int = 0
) -> dict[int, int]:
    """Return ``{text: other}``, by numbers, for each of ``texts`` that nearly repeats one of ``others``."""
    mine, table = _of_filled(texts, seed)
    theirs, other = _of_filled(others, seed)
    if not mine or not theirs:
        return {}
    found: dict[int, int] = {}
    for keys, other_keys in zip(_band_keys(table), _band_keys(other), strict=True):
        order = np.argsort(other_keys, kind="stable")
        place = np.minimum(np.searchsorted(other_keys[order], keys), len(order) - 1)
        match = order[place]
        hits = np.flatnonzero(other_keys[match] == keys)
        near = similarity(table[hits], other[match[hits]]) >= threshold
        for number in hits[near].tolist():
            found.setdefault(mine[number], theirs[int(match[number])])
    return dict(sorted(found.items()))


def _of_filled(texts: Iterable[str], seed: int) -> tuple[array[int], Signatures]:
    """Return the numbers of the texts that are not empty, and their signatures."""
    numbers = array("q")

    def filled() -> Iterator[str]:
        for number, text in enumerate(texts):
            if text:
                numbers.append(number)
                yield text

    table = signatures(filled(), seed)
    return numbers, table


def _root(found: dict[int, int], number: int) -> int:
    while number in found:
        number = found[number]
    return number
