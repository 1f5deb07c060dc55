"""A report as files: backend/inference/evals/report.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from backend.errors import InferenceError
from backend.inference.evals.assertions import make_verifiers
from backend.inference.evals.judge import Report, judge
from backend.inference.evals.report import (
    as_json,
    as_junit,
    as_markdown,
    check_report_folder,
    grid,
    share_words,
    verdict_words,
    write_report,
)
from backend.inference.evals.spec import Case
from backend.inference.evals.verdicts import Answer
from backend.run.reports import MetricScore, MetricVerdict

FAILED = InferenceError("It is too long.", remedy="Cut it.", code="too-long")
GENERAL = {"base": [0.5, 0.75, 0.25], "tuned": [0.5, 0.5, 0.25]}
SPEC = "defaultTest: {assert: [{type: label}]}"
ROWS = [
    {"place": f"a:{n}", "prompt": f"q|{n}", "row": {"prompt": f"q|{n}", "expected": "x"}} for n in range(3)
]


@pytest.fixture
def report() -> Report:
    checks = make_verifiers([{"type": "label"}], "assert")
    cases = [Case(str(row["place"]), str(row["prompt"]), dict(row["row"]), checks) for row in ROWS]  # type: ignore[call-overload]
    given = {
        "base": [Answer("x"), Answer("y"), Answer("x")],
        "tuned": [Answer("\0<\ud800"), Answer("x"), FAILED],
    }
    return judge(cases, given, general=GENERAL, tuned="tuned", source="a|b.yaml", step=7)


def test_as_json_it_can_be_read_again(report: Report) -> None:
    told = json.loads(json.dumps(as_json(report)))
    assert (told["step"], told["rows"], told["models"]) == (7, 3, ["base", "tuned"])
    assert [each["place"] for each in told["lost"]] == ["a:0", "a:2"]
    assert told["cases"][2]["answers"] == {"base": {"text": "x"}, "tuned": {"error": "It is too long."}}
    assert told["cases"][1]["scores"]["tuned"]["label"]["passed"] is True
    assert told["labels"]["base"]["accuracy"] == pytest.approx(2 / 3)


def test_as_a_page(report: Report) -> None:
    page = as_markdown(report)
    assert "# Evaluation on 3 rows" in page
    assert "| label | 66.7% (20% to 94%) | 33.3% (6% to 80%) |" in page
    assert "Turned from right to wrong: 2" in page
    assert r"q\|0" in page
    assert "\0" not in page
    assert page.encode("utf-8")
    assert "Macro F1" in page
    assert "beside the base: no difference seen: -0.083" in page


def test_as_junit(report: Report) -> None:
    base, tuned = ET.fromstring(as_junit(report))  # noqa: S314 - we wrote it
    assert (base.attrib["name"], base.attrib["tests"], base.attrib["failures"]) == ("base", "3", "1")
    failures = [case.find("failure") for case in tuned]
    assert [failure is not None for failure in failures] == [True, False, True]
    assert tuned[2][0].attrib["message"] == "It is too long."
    assert tuned[0][0].text == "\N{REPLACEMENT CHARACTER}<\N{REPLACEMENT CHARACTER}"


def test_words_for_people() -> None:
    score = MetricScore("a", "base", 40, 0.5, 0.35, 0.65, 0.5)
    assert share_words(score) == "50.0% (35% to 65%)"
    verdict = MetricVerdict("a", "base", 1_200, -0.125, -0.25, -0.01, 0.03, "worse", 4, 9)
    assert verdict_words(verdict) == "worse: -0.125 (-0.250 to -0.010), n = 1,200, 4 rows gained and 9 lost"


def test_a_grid_has_a_line_for_each_metric(report: Report) -> None:
    assert [len(line) for line in grid(report)] == [3, 3]
    assert grid(report)[0] == ["", "base", "tuned"]


def test_a_folder_that_is_there_is_left_alone(report: Report, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    for refused in (check_report_folder, lambda folder: write_report(folder, report, SPEC, ROWS, 8)):
        with pytest.raises(InferenceError, match="exists already") as caught:
            refused(tmp_path / "report")
        assert caught.value.code == "report-exists"
    assert list((tmp_path / "report").iterdir()) == []


class _Server(BaseHTTPRequestHandler):
    """Says x to every question but the second."""

    def do_POST(self) -> None:
        asked: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = "y" if asked["messages"][-1]["content"] == "q|1" else "x"
        body = json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Server) as opened:
        thread = Thread(target=opened.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{opened.server_port}/v1"
        opened.shutdown()
        thread.join()


def test_its_tests_ask_any_server_of_openais_kind(report: Report, server: str, tmp_path: Path) -> None:
    files = write_report(tmp_path / "new" / "report", report, SPEC, ROWS, 8)
    assert [path.name for path in files if not path.is_file()] == []
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--noconftest",
        "-c",
        os.devnull,
    ]
    done = subprocess.run(
        [*command, str(files[-1])],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[4],
        env={**os.environ, "MODEL": "m", "OPENAI_BASE_URL": server},
    )
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    assert "It is 'y', not 'x'." in done.stdout
