"""A behaviour spec: a file of promptfoo's shape, read as far as it is deterministic.

``defaultTest.assert`` holds for every row of a data file and for every test of the spec. What is not read is refused
with its place, except for what says which program runs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from backend.data.records import Message
from backend.errors import ConfigError, Problem
from backend.inference.evals.assertion import check_templates, filled
from backend.inference.evals.assertions import ALONE, Means, close_all, make_verifiers
from backend.inference.evals.verdicts import Row, UndecidedError, Verifier
from backend.utils.config_utils import parse_yaml

Prompt: TypeAlias = str | list[Message]
TOP_KEYS = ("description", "prompts", "defaultTest", "tests")
TEST_KEYS = ("description", "vars", "assert", "threshold", "metadata")
IGNORED = ("providers", "tags", "outputPath", "sharing", "evaluateOptions", "commandLineOptions")
"""What says with which models, and how, promptfoo runs the file; here it is asked of the models of a run."""
EXACT_MATCH = {"type": "exact-match"}


@dataclass(frozen=True)
class Case:
    """One question: where it stands, its prompt, what checks know of it, the checks, and the score it needs."""

    place: str
    prompt: Prompt
    row: Row
    checks: tuple[Verifier, ...]
    threshold: float | None = None


@dataclass(frozen=True)
class Spec:
    """The ``checks`` of every row, and the ``cases`` that the file itself asks. ``close`` it when done."""

    checks: tuple[Verifier, ...]
    threshold: float | None = None
    cases: tuple[Case, ...] = ()

    def with_rows(self, rows: Sequence[tuple[str, Prompt, Row]]) -> list[Case]:
        """Return a case for each row (place, prompt, what is known of it), after those of the file.

        Raises ConfigError ``bad-spec`` where no check is meant for rows.
        """
        if rows and not self.checks:
            raise _bad("defaultTest.assert", "There are no assertions for rows.", "Write some there.")
        return [
            *self.cases,
            *(Case(place, prompt, row, self.checks, self.threshold) for place, prompt, row in rows),
        ]

    def close(self) -> None:
        """End what the checks have started."""
        close_all(self.checks)
        for case in self.cases:
            close_all(case.checks)


def exact_match_spec() -> Spec:
    """Return the spec that is meant where none is given: the answer is the expected one."""
    return Spec(make_verifiers([EXACT_MATCH], "assert"))


def read_spec(path: Path, means: Means = ALONE) -> Spec:
    """Return the spec in a YAML or JSON file.

    Raises ConfigError: ``bad-spec`` for what is not read or missing, and what ``parse_yaml`` and ``make_verifiers``
    raise.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(str(path), f"It cannot be read: {error}.", "Give a YAML or JSON file.") from error
    given = parse_yaml(text, where=str(path))
    _require_keys(given, (*TOP_KEYS, *IGNORED), "")
    everywhere = _mapping(given.get("defaultTest", {}), "defaultTest")
    _require_keys(everywhere, TEST_KEYS, "defaultTest")
    checks = (
        make_verifiers(everywhere["assert"], "defaultTest.assert", means) if everywhere.get("assert") else ()
    )
    threshold = _threshold(everywhere, "defaultTest")
    template = _template(given.get("prompts"))
    tests = given.get("tests", [])
    if not isinstance(tests, list):
        raise _bad("tests", "It is no list of tests.", "Write them into this file; other files are not read.")
    if not tests and not checks:
        raise _bad(str(path), "It asks nothing.", "Write defaultTest.assert for all rows, or tests.")
    cases = []
    for number, test in enumerate(tests):
        where = f"tests[{number}]"
        _require_keys(_mapping(test, where), TEST_KEYS, where)
        row = {"expected": "", **_variables(everywhere, "defaultTest"), **_variables(test, where)}
        own = make_verifiers(test["assert"], f"{where}.assert", means) if test.get("assert") else ()
        if not own and not checks:
            raise _bad(f"{where}.assert", "It has no assertion.", "Write some, or defaultTest.assert.")
        limit = _threshold(test, where)
        cases.append(
            Case(
                f"{path.name}:{where}",
                _prompt(template, row, where),
                row,
                (*own, *checks),
                threshold if limit is None else limit,
            )
        )
    return Spec(checks, threshold, tuple(cases))


def _bad(field: str, message: str, remedy: str) -> ConfigError:
    return ConfigError([Problem(field, message, remedy)], code="bad-spec")


def _require_keys(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    odd = [str(key) for key in given if key not in known]
    if odd:
        place = f"{where}.{odd[0]}" if where else odd[0]
        raise _bad(place, "This part of a spec is not read here.", f"What is read: {', '.join(known)}.")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _bad(where, f"It is {value!r:.60}.", "Write vars and assert.")
    return value


def _threshold(given: Mapping[str, Any], where: str) -> float | None:
    found = given.get("threshold")
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= 1:
        raise _bad(f"{where}.threshold", f"It is {found!r}.", "Use a number from 0 to 1.")
    return float(found)


def _variables(given: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    found = _mapping(given.get("vars") or {}, f"{where}.vars")
    for name, value in found.items():
        if isinstance(value, list):
            raise _bad(f"{where}.vars.{name}", "It is a list, for a test of each.", "Write them as tests.")
        if isinstance(value, str) and value.startswith("file://"):
            raise _bad(f"{where}.vars.{name}", "It names a file.", "Write the text itself.")
    return found


def _template(prompts: Any) -> str | None:
    given = [prompts] if isinstance(prompts, str) else prompts
    if not given:
        return None
    if not isinstance(given, list) or len(given) != 1 or not isinstance(given[0], str):
        raise _bad(
            "prompts", "There is not one text.", "Models are compared here, not prompts: leave one of them."
        )
    if given[0].startswith("file://"):
        raise _bad("prompts", "It names a file.", "Write the prompt itself.")
    check_templates(given[0], "prompts")
    return given[0]


def _prompt(template: str | None, row: Row, where: str) -> str:
    if template is None and not isinstance(row.get("prompt"), str):
        raise _bad(
            f"{where}.vars",
            "It has no prompt.",
            "Write vars.prompt, or prompts with variables in braces.",
        )
    try:
        return str(filled(template or row["prompt"], row))
    except UndecidedError as missing:
        raise _bad(f"{where}.vars", f"The prompt needs more. {missing}", "Add it.") from missing
