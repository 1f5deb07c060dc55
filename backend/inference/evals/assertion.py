"""One assertion as it was written: its word, value and threshold, and how the value is filled in from a row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.errors import ConfigError, Problem
from backend.inference.evals.verdicts import OVERALL, Row, UndecidedError

KEYS = ("type", "value", "threshold", "weight", "metric")
NOT = "not-"
WITH_SCHEMA = ("is-json", "contains-json", "is-valid-openai-tools-call")
"""Their value is a schema, in which nothing is filled in."""
MOST = 1e15
"""A threshold or weight is below this."""
_FIELD = re.compile(r"\{\{\s*([^\W\d][\w-]*)\s*\}\}")
_TEMPLATE = re.compile(r"\{\{|\{%")


@dataclass(frozen=True)
class Assertion:
    """``word`` is the type without ``not-``, which is ``negated``; ``where`` names its place in errors."""

    word: str
    negated: bool
    value: Any
    threshold: float | None
    weight: float
    name: str
    where: str

    def refused(self, key: str, message: str, remedy: str) -> ConfigError:
        """Return the error about one of its keys, with code ``bad-assertion``."""
        return bad_assertion(f"{self.where}.{key}", message, remedy)

    def limit(self, otherwise: float, *, most: float = 1.0) -> float:
        """Return the threshold, or ``otherwise`` without one. Raises ConfigError for one outside 0 to ``most``."""
        found = otherwise if self.threshold is None else self.threshold
        if not 0 <= found <= most:
            raise self.refused("threshold", f"It is {found:g}.", f"Use a number from 0 to {most:g}.")
        return found

    def wanted(self, row: Row) -> Any:
        """Return the value, filled in from the row; without one, the answer that the row expects."""
        if self.value is not None:
            found = filled(self.value, row)
            if found == "" and self.value != "":  # any text contains an empty one
                raise UndecidedError(f"{self.value} is empty in this row.")
            return found
        if row.get("expected") in ("", None):
            raise UndecidedError("The row has no expected answer.")
        return row["expected"]

    def wanted_text(self, row: Row) -> str:
        """Return ``wanted`` as text."""
        return str(self.wanted(row))


def read_assertion(given: Mapping[str, Any], where: str) -> Assertion:
    """Return an assertion from its mapping. Raises ConfigError ``bad-assertion`` for a key it cannot have."""
    if not isinstance(given, Mapping) or not isinstance(given.get("type"), str):
        raise bad_assertion(where, "An assertion has no type.", "Write, for example, type: contains.")
    word = given["type"].removeprefix(NOT)
    keys = (*KEYS, "assert") if word == "assert-set" else KEYS
    unknown = [str(key) for key in given if key not in keys]
    if unknown:
        raise bad_assertion(
            f"{where}.{unknown[0]}", "An assertion has no such key here.", f"Its keys are {', '.join(keys)}."
        )
    value = given.get("value")
    if word not in WITH_SCHEMA:
        check_templates(value, f"{where}.value")
    if isinstance(value, str) and value.startswith("file://") and word != "python":
        raise bad_assertion(f"{where}.value", "It names a file.", "Write the value itself.")
    return Assertion(
        word,
        given["type"].startswith(NOT),
        value,
        _number(given, "threshold", where),
        _weight(given, where),
        _name(given, where),
        where,
    )


def bad_assertion(field: str, message: str, remedy: str) -> ConfigError:
    """Return the error about a key of an assertion."""
    return ConfigError([Problem(field, message, remedy)], code="bad-assertion")


def _number(given: Mapping[str, Any], key: str, where: str) -> float | None:
    found = given.get(key)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not abs(found) < MOST:
        raise bad_assertion(f"{where}.{key}", f"It is {found!r}.", "Use a number.")
    return float(found)


def _weight(given: Mapping[str, Any], where: str) -> float:
    found = _number(given, "weight", where)
    if found is not None and found < 0:
        raise bad_assertion(f"{where}.weight", f"It is {found:g}.", "Use 0 or more; at 0 it is only shown.")
    return 1.0 if found is None else found


def _name(given: Mapping[str, Any], where: str) -> str:
    found = given.get("metric", given["type"])
    if not isinstance(found, str) or not found.strip():
        raise bad_assertion(f"{where}.metric", f"It is {found!r}.", "Use a short name.")
    check_templates(found, f"{where}.metric", allowed=False)
    if found.strip() == OVERALL:
        raise bad_assertion(f"{where}.metric", "That is the name of the whole row.", "Use another name.")
    return found.strip()


def check_templates(value: Any, where: str, *, allowed: bool = True) -> None:
    """Refuse every template that is more than the name of a column in double braces. Raises ConfigError."""
    if isinstance(value, str):
        if _TEMPLATE.search(_FIELD.sub("", value) if allowed else value):
            raise bad_assertion(
                where,
                "It has a template that computes something.",
                "Only the name of a column in double braces can be filled in, such as {{expected}}.",
            )
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            check_templates(each, where, allowed=allowed)


def filled(value: Any, row: Row) -> Any:
    """Return ``value`` with each ``{{name}}`` replaced by that column of the row; a value that is one, by the whole.

    Raises UndecidedError for a column that the row does not have.
    """
    if isinstance(value, str):
        whole = _FIELD.fullmatch(value.strip())
        return (
            _column(row, whole[1]) if whole else _FIELD.sub(lambda found: str(_column(row, found[1])), value)
        )
    if isinstance(value, list):
        return [filled(each, row) for each in value]
    if isinstance(value, dict):
        return {key: filled(each, row) for key, each in value.items()}
    return value


def _column(row: Row, name: str) -> Any:
    if row.get(name) is None:
        raise UndecidedError(f"The row has no {name}.")
    return row[name]
