"""Words that tell what a column holds: names of ratings, marks and metadata, and tests of single texts."""

from __future__ import annotations

import re

from backend.data.chat import MASKED_KEYS, TRAINED_KEYS
from backend.data.families import RATINGS, REJECTED
from backend.data.shapes import FLAGS

SENTENCE_WORDS = 3
SENTENCE_CHARACTERS = 300
"""Characters of a text by which it is judged; the rest would cost time and tell nothing new."""

WORSE = re.compile(
    r"(?:^|[^a-z])(?:incorrect|wrong|bad|worse|worst|negative|rejected|dispreferred|distractor)(?=[^a-z]|$)"
)
"""Names of columns that hold bad answers."""
SCORED = re.compile(r"(?:^|[^a-z])(?:scores?|rewards?|upvotes?|downvotes?)(?=[^a-z]|$)")
"""Names of measures that a set of good answers may have too."""
CONTENT = re.compile(
    r"(?:^|[^a-z])(?:reasoning|thinking|thoughts?|rationale|explanation|cot|chain_of_thought|hint|options?|choices?"
    r"|ending\d?|instructions?)(?=[^a-z]|\d|$)"
)
"""Names of columns that are text whatever stands in them."""
TEMPLATE_SETTINGS = "chat_template_kwargs"
"""TRL's column of variables that a row sets for the chat template."""
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")

_RATING = re.compile(
    r"(?:^|[^a-z])(?:kto|ratings?|rated|scores?|thumbs?|upvotes?|downvotes?|stars|rewards?|preferred|preference"
    r"|dispreferred|rejected|chosen|winner|loser|helpfulness|harmfulness|is_?good|is_?bad|is_?correct|liked|desirable)"
    r"(?=[^a-z]|$)"
)
_NO_RATING = re.compile(r"(?:^|[^a-z])(?:language|lang|similarity|perplexity|distance)(?=[^a-z]|$)")
_MAYBE_RATING = re.compile(
    r"(?:^|[^a-z])(?:verdict|helpful|(?:is_?)?valid|passed|approved|upvoted|downvoted|judge?ments?|hallucinat\w+|wrong"
    r"|bewertung|beurteilung|sterne|calificaci[oó]n|valoraci[oó]n|puntuaci[oó]n|[eé]valuation|acceptable)(?=[^a-z]|$)"
    r"|评分|评价|评级|得分|打分|是否正确"
)
"""Names of ratings that mean other things too, so that the values must look like ratings as well."""
_JUDGEMENT = re.compile(
    r"[-+]?\d+(?:\.\d+)?%?|true|false|yes|no|good|bad|up|down|(?:un)?desirable|(?:un)?acceptable|(?:dis)?like[ds]?"
    r"|positive|negative|correct|incorrect|right|wrong|chosen|rejected|accepted|high|low|poor|excellent",
    re.IGNORECASE,
)
_OTHER_MEANINGS = "true false yes no 1.0 0.0 +1 -1 up down positive negative right"
_VERDICTS = frozenset(word for word in FLAGS if len(word) > 1 or not word.isascii()).difference(
    _OTHER_MEANINGS.split()
)
"""Words that judge an answer, whatever the column is called."""
_PRAISE = frozenset({"high", "excellent", *(word for word, good in FLAGS.items() if good)})
_SPLITS = frozenset({"split", "subset", "partition", "set", "fold", "usage"})
_MARK_WORDS = (
    "exclude excluded include included deleted is_deleted discard discarded keep skip skipped ignore ignored remove "
    "removed use_for_training is_train is_test"
)
_MARKS = frozenset({*TRAINED_KEYS, *MASKED_KEYS, *_MARK_WORDS.split()})
"""Names of flags that say whether a row is for training."""
_METADATA_WORDS = (
    "id ids idx index uuid guid hash sha256 md5 checksum url uri link source origin dataset subset config split file "
    "filename path domain site lang language locale author user username model license licence version date time "
    "timestamp created updated year email tag tags keyword keywords categories topics meta metadata"
)
_METADATA = frozenset(_METADATA_WORDS.split())
"""Last words of names of columns that say where a row is from or what it is about."""
_METADATA_OBJECTS = frozenset({"meta", "metadata", "extra", "extra_info", "info", "annotations", "features"})
_CODE = re.compile(r"\S*(?:://|[/\\_#@]|\d\S*[a-z]\S*\d)\S*", re.IGNORECASE)
"""One word that is an address, a path, an identifier or a hash."""
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Letters of scripts that put no space between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""


def lowered(name: str) -> str:
    """Return a column's name as it is compared: without spaces around it, in lower case."""
    return name.strip().lower()


def names_rating(name: str) -> bool:
    """Return whether a column of this name judges an answer."""
    name = lowered(name)
    return (name in RATINGS or bool(_RATING.search(name))) and not _NO_RATING.search(name)


def may_name_rating(name: str) -> bool:
    """Return whether a column of this name judges an answer if its values look like judgements."""
    return bool(_MAYBE_RATING.search(lowered(name)))


def names_worse(name: str) -> bool:
    """Return whether a column of this name holds rejected answers by a usual name for them."""
    return lowered(name) in REJECTED


def names_split(name: str) -> bool:
    """Return whether a column of this name may say which split a row belongs to."""
    return lowered(name) in _SPLITS


def names_mark(name: str) -> bool:
    """Return whether a column of this name may say if a row is for training."""
    return lowered(name) in _MARKS


def names_metadata(name: str) -> bool:
    """Return whether a column is named after where rows are from: ``prompt_id``, ``data_source``, ``model_name``."""
    words = re.split(r"[^a-z0-9]+", lowered(name).removesuffix("_at"))
    return words[-1] in _METADATA or (words[-1] == "name" and words[0] in _METADATA)


def names_metadata_object(name: str) -> bool:
    """Return whether an object of this name describes the row and holds nothing of its text."""
    return lowered(name) in _METADATA_OBJECTS


def is_verdict(text: str) -> bool:
    """Return whether a text is a word that judges an answer, whatever the column is called."""
    return text.lower() in _VERDICTS


def is_judgement(text: str) -> bool:
    """Return whether a text may judge an answer under a fitting name: a verdict, a number, yes or no."""
    return is_verdict(text) or bool(_JUDGEMENT.fullmatch(text))


def is_praise(text: str) -> bool:
    """Return whether a text says that an answer is good."""
    return text.lower() in _PRAISE


def is_sentence(text: str) -> bool:
    """Return whether a text says something: three words or more, and no date, number, address or code."""
    text = text[:SENTENCE_CHARACTERS]
    digits = sum(map(str.isdigit, text))
    if 4 * digits >= len(text):
        return False
    spoken = [word for word in text.split() if any(map(str.isalpha, word))]
    return len(spoken) >= SENTENCE_WORDS or len(_UNSPACED.findall(text)) > SENTENCE_WORDS


def is_worded(text: str) -> bool:
    """Return whether a text is made of words rather than of numbers, dates, addresses or identifiers."""
    text = text[:SENTENCE_CHARACTERS]
    return (
        2 * sum(map(str.isdigit, text)) < len(text)
        and not _CODE.fullmatch(text)
        and any(map(str.isalpha, text))
    )
