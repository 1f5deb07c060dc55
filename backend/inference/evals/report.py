"""A report as files: JSON, Markdown, JUnit XML, and tests that ask any server of OpenAI's kind the same questions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from backend.errors import InferenceError, TunesmithError
from backend.inference.evals.judge import Report, Turned, text_of
from backend.inference.evals.verdicts import OVERALL
from backend.run.reports import MetricScore, MetricVerdict
from backend.utils.file_utils import staged_folder
from backend.utils.record_utils import record_to_json
from backend.utils.text_utils import shorten, writable

SHOWN = 20
"""Questions that turned from right to wrong, as they stand in the Markdown."""
_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as plain values: the evaluation, what turned, and every answer with its scores."""
    return {
        **record_to_json(report.evaluation),
        "lost": [vars(each) for each in report.lost],
        "gained": [vars(each) for each in report.gained],
        "labels": {
            model: {"macro_f1": found.macro_f1(), "accuracy": found.accuracy(), "mistakes": found.worst()}
            for model, found in report.confusion.items()
        },
        "cases": [
            {
                "place": case.place,
                "prompt": case.prompt,
                "expected": case.row.get("expected", ""),
                "answers": {model: _answer(given[number]) for model, given in report.answers.items()},
                "scores": {
                    model: {metric: vars(score) for metric, score in given[number].items()}
                    for model, given in report.scores.items()
                },
            }
            for number, case in enumerate(report.cases)
        ],
    }


def _answer(answer: Any) -> dict[str, Any]:
    return {"error": answer.message} if isinstance(answer, TunesmithError) else {"text": text_of(answer)}


def share_words(score: MetricScore) -> str:
    """Return the share of rows that passed with its interval, and the mean score where that is another."""
    mean = "" if abs(score.mean - score.passed) < 5e-4 else f", mean {score.mean:.3f}"
    return f"{score.passed:.1%} ({score.low:.0%} to {score.high:.0%}){mean}"


def verdict_words(found: MetricVerdict) -> str:
    """Return a verdict as one line: the word, the difference with its interval, and the rows that differ."""
    return (
        f"{found.verdict}: {found.difference:+.3f} ({found.low:+.3f} to {found.high:+.3f}), n = {found.rows:,}, "
        f"{found.gained:,} rows gained and {found.lost:,} lost"
    )


def grid(report: Report) -> list[list[str]]:
    """Return a table of metrics by models: a line of names, then a line for each metric."""
    found = report.evaluation
    scores = {(each.metric, each.model): share_words(each) for each in found.scores}
    metrics = dict.fromkeys(each.metric for each in found.scores)
    return [
        ["", *found.models],
        *([metric, *(scores.get((metric, model), "–") for model in found.models)] for metric in metrics),
    ]


def as_markdown(report: Report) -> str:
    """Return the report as a page: the grid, the verdicts, what turned from right to wrong, and the labels."""
    found = report.evaluation
    chance = (
        ""
        if found.chance is None
        else f" Always giving the commonest answer would be right in {found.chance:.1%}."
    )
    opening = (
        f"# Evaluation on {found.rows:,} rows\n\n{_cell(found.source)}, step {found.step:,}. The share of rows that "
        f"pass, with its 95 % interval.{chance}"
    )
    parts = [
        opening,
        _table(grid(report)),
        "## Verdicts\n\nCorrected for the number of comparisons (Holm).",
        _table(
            [
                ["check", "against", "verdict"],
                *([each.metric, each.against, verdict_words(each)] for each in found.verdicts),
            ]
        ),
        _forgetting(found.forgetting),
        _section(f"Turned from right to wrong: {len(report.lost):,}", report.lost),
        _section(f"Turned from wrong to right: {len(report.gained):,}", report.gained),
    ]
    for model, labels in report.confusion.items():
        mistakes = [["expected", "answered", "rows"]]
        mistakes += [[name, said or "(another text)", f"{rows:,}"] for name, said, rows in labels.worst()]
        parts += [f"## Labels: {model}\n\nMacro F1 {labels.macro_f1():.3f}.", _table(mistakes)]
    return writable("\n\n".join(part for part in parts if part) + "\n")


def _forgetting(found: MetricVerdict | None) -> str:
    told = "The probability of right answers to general questions, beside the base: "
    return f"## Forgetting\n\n{told}{verdict_words(found)}." if found else ""


def _section(title: str, turned: Sequence[Turned]) -> str:
    lines = [[each.prompt, each.expected, each.before, each.after, each.reason] for each in turned[:SHOWN]]
    return (
        f"## {title}\n\n{_table([['question', 'expected', 'right', 'wrong', 'why'], *lines])}"
        if lines
        else ""
    )


def _table(lines: Sequence[Sequence[str]]) -> str:
    rows = ["| " + " | ".join(map(_cell, line)) + " |" for line in lines]
    return "\n".join([rows[0], "|---" * len(lines[0]) + "|", *rows[1:]])


def _cell(text: str) -> str:
    return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", shorten(text, 160))


def as_junit(report: Report) -> bytes:
    """Return the report as JUnit XML: a suite for each model, a test for each row, that of the tuned model last."""
    root = ET.Element("testsuites", name="evaluation")
    for model, given in report.scores.items():
        failed = [scores for scores in given if not scores[OVERALL].passed]
        suite = ET.SubElement(
            root, "testsuite", name=_xml(model), tests=str(len(given)), failures=str(len(failed)), errors="0"
        )
        for case, scores, answer in zip(report.cases, given, report.answers[model], strict=True):
            test = ET.SubElement(suite, "testcase", classname=_xml(model), name=_xml(case.place))
            if not scores[OVERALL].passed:
                reason = _xml(scores[OVERALL].reason)
                ET.SubElement(test, "failure", message=reason).text = _xml(text_of(answer))
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))


def _xml(text: str) -> str:
    return _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)


_TESTS = '''"""Ask a server of OpenAI's kind the questions of cases.jsonl, and check its answers as spec.yaml says.

    MODEL=name OPENAI_BASE_URL=http://127.0.0.1:8000/v1 pytest {name}
"""

import json
import os
import urllib.request
from pathlib import Path

import pytest

from backend.inference.evals.judge import scores_of
from backend.inference.evals.spec import Case, read_spec
from backend.inference.evals.verdicts import OVERALL, Answer

HERE = Path(__file__).parent
SPEC = read_spec(HERE / "spec.yaml")
ROWS = [json.loads(line) for line in (HERE / "cases.jsonl").read_text(encoding="utf-8").splitlines()]
CASES = SPEC.with_rows([(row["place"], row["prompt"], row["row"]) for row in ROWS])


def answer(case):
    messages = [{{"role": "user", "content": case.prompt}}] if isinstance(case.prompt, str) else case.prompt
    body = {{"model": os.environ["MODEL"], "messages": messages, "temperature": 0, "max_tokens": {tokens}}}
    if isinstance(case.row.get("tools"), list):
        body["tools"] = case.row["tools"]
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"].rstrip("/") + "/chat/completions",
        json.dumps(body).encode(),
        {{"Content-Type": "application/json", "Authorization": "Bearer " + os.environ.get("OPENAI_API_KEY", "none")}},
    )
    with urllib.request.urlopen(request, timeout=600) as response:
        choice = json.load(response)["choices"][0]
    message = choice["message"]
    return Answer(message.get("content") or "", choice.get("finish_reason"),
                  tool_calls=tuple(message.get("tool_calls") or ()))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.place)
def test_answer(case: Case) -> None:
    found = scores_of(case, answer(case))[OVERALL]
    assert found.passed, found.reason
'''


def check_report_folder(folder: Path) -> None:
    """Raise InferenceError ``report-exists`` where a report would replace something."""
    if folder.exists():
        raise InferenceError(
            f"{folder} exists already.", remedy="Choose another folder as `out`.", code="report-exists"
        )


def write_report(
    folder: Path, report: Report, spec: str, rows: Iterable[Mapping[str, Any]], max_new_tokens: int
) -> list[Path]:
    """Write the report as a new folder, whole or not at all, and return its files.

    ``spec`` is the text of the spec, ``rows`` the rows beside it, each with ``place``, ``prompt`` and ``row``. Raises
    OSError and what ``check_report_folder`` raises.
    """
    check_report_folder(folder)
    lines = "".join(json.dumps(dict(row), default=str) + "\n" for row in rows)
    files = {
        "report.json": json.dumps(as_json(report), indent=1, default=str).encode(),
        "report.md": as_markdown(report).encode(),
        "junit.xml": as_junit(report),
        "spec.yaml": spec.encode(),
        "cases.jsonl": lines.encode(),
        "test_answers.py": _TESTS.format(name="test_answers.py", tokens=max_new_tokens).encode(),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with staged_folder(folder) as staging:
        for name, content in files.items():
            (staging / name).write_bytes(content)
    return [folder / name for name in files]
