"""Measures of how alike two texts are: edit distance, ROUGE, BLEU, the token F1 of SQuAD, and the number in a text.

The tests hold them against rouge-score, sacrebleu and transformers.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence

_WORD = re.compile(r"[^\W_]+")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+|(?=\.\d))(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?!\d))?"
)


def squad_normalised(text: str) -> str:
    """Return the text as SQuAD compares answers: lower case, without punctuation and articles, single spaces."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def token_f1(said: str, wanted: str) -> float:
    """Return the F1 of the words of two texts as SQuAD counts it, 0 to 1; 1 for two texts without a word."""
    one, other = (squad_normalised(text).split() for text in (said, wanted))
    return _f1(_shared(one, other), len(one), len(other)) if one and other else float(one == other)


def rouge_n(said: str, wanted: str, n: int = 1) -> float:
    """Return ROUGE-N (Lin 2004) as an F1 of n-grams, 0 to 1. Words are letters and digits of any script."""
    one, other = (_grams(rouge_words(text), n) for text in (said, wanted))
    return _f1(_shared(one, other), len(one), len(other))


def rouge_l(said: str, wanted: str) -> float:
    """Return ROUGE-L (Lin 2004): the F1 of the longest common subsequence of words, 0 to 1."""
    one, other = rouge_words(said), rouge_words(wanted)
    return _f1(common_subsequence(one, other), len(one), len(other))


def rouge_words(text: str) -> list[str]:
    """Return the words of a text for ROUGE; of English text those of rouge-score without its stemmer."""
    return _WORD.findall(text.lower())


def common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, by bits of one long number (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for place, word in enumerate(other):
        places[word] = places.get(word, 0) | 1 << place
    whole = (1 << len(other)) - 1
    row = whole
    for word in one:
        met = row & places.get(word, 0)
        row = ((row + met) | (row - met)) & whole
    return len(other) - row.bit_count()


def edit_distance(one: str, other: str) -> int:
    """Return the Levenshtein distance, by bits of one long number (Myers 1999, in the form of Hyyrö 2003)."""
    if not one:
        return len(other)
    places: dict[str, int] = {}
    for place, sign in enumerate(one):
        places[sign] = places.get(sign, 0) | 1 << place
    whole, last = (1 << len(one)) - 1, 1 << (len(one) - 1)
    up, down, distance = whole, 0, len(one)
    for sign in other:
        met = places.get(sign, 0)
        straight = met | down
        slanted = ((((met & up) + up) ^ up) | met) & whole
        right_up = down | (whole & ~(slanted | up))
        right_down = up & slanted
        distance += bool(right_up & last) - bool(right_down & last)
        right_up, right_down = (right_up << 1 | 1) & whole, right_down << 1 & whole
        up = right_down | (whole & ~(straight | right_up))
        down = right_up & straight
    return distance


def bleu(said: str, wanted: str) -> float:
    """Return BLEU of one sentence, 0 to 1, as ``sacrebleu.sentence_bleu`` does by default.

    N-grams up to 4 or as many words as there are, tokens of mteval-v13a; the n-th precision that is zero counts as
    2^-n of one match (NIST's smoothing, Chen and Cherry 2014, method 3).
    """
    one, other = (bleu_tokens(text) for text in (said, wanted))
    halved, logs = 1.0, []
    matched = 0
    for n in range(1, 5):
        said_grams, wanted_grams = _grams(one, n), _grams(other, n)
        if not said_grams:
            break
        shared = _shared(said_grams, wanted_grams)
        matched += shared
        if not shared:
            halved /= 2
        logs.append(math.log((shared or halved) / len(said_grams)))
    if not matched:
        return 0.0
    brevity = min(0.0, 1 - len(other) / len(one))
    return math.exp(brevity + sum(logs) / len(logs))


_V13A = (
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
_ENTITIES = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}


def bleu_tokens(text: str) -> list[str]:
    """Return the tokens of NIST's mteval-v13a: marks apart from words, but not within numbers."""
    line = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, sign in _ENTITIES.items():
        line = line.replace(entity, sign)
    line = f" {line} "
    for pattern, apart in _V13A:
        line = pattern.sub(apart, line)
    return line.split()


def last_number(text: str) -> float | None:
    """Return the last number in a text, with or without commas between thousands; None if there is none."""
    found = [match[0] for match in _NUMBER.finditer(text.replace("\N{MINUS SIGN}", "-"))]
    number = float(found[-1].replace(",", "")) if found else math.nan
    return number if math.isfinite(number) else None


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the cosine of the angle between two vectors, -1 to 1; 0 if one of them is zero."""
    lengths = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / lengths if lengths else 0.0


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def _shared(one: Iterable[object], other: Iterable[object]) -> int:
    return (Counter(one) & Counter(other)).total()


def _f1(shared: int, one: int, other: int) -> float:
    return 2 * shared / (one + other) if shared else 0.0
