"""The page of `make report` says what the reports say, and what `make mutation` leaves out is left out."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from benchmarks import mutation
from benchmarks.mutation import functions_at, lines_of, modules, settings
from benchmarks.suite_report import Room, gathered, page, room_of
from tests.house import ROOT
from tests.mutants.equivalent import EQUIVALENT


@pytest.mark.parametrize(
    ("path", "room"),
    [
        ("backend/run/config.py", "backend/run"),
        ("backend/core/engine/library.py", "backend/core"),
        ("backend/errors.py", "backend"),
        ("tests/backend/run/test_config.py", "backend/run"),
        ("tests/app/pages/test_run.py", "app"),
        ("tests/faults/test_f01_killed_trainer.py", "tests/faults"),
        ("tests/test_docs.py", "tests"),
    ],
)
def test_a_file_belongs_to_a_room(path: str, room: str) -> None:
    assert room_of(Path(path).parts) == room


def test_figures_come_from_the_reports(tmp_path: Path) -> None:
    case = "<testcase classname='tests.backend.run.test_x.TestY' name='test_z[a.b]' time='1'>"
    noted = "<properties><property name='wall' value='2.5'/><property name='cpu' value='1.5'/></properties>"
    (tmp_path / "test.xml").write_text(f"<testsuite time='9'>{case}{noted}</testcase></testsuite>")
    covered = {"num_statements": 8, "covered_lines": 7, "num_branches": 2, "covered_branches": 2}
    (tmp_path / "coverage.json").write_text(json.dumps({"files": {"backend/run/a.py": {"summary": covered}}}))
    mutated = {"backend/run/a.py": {"date": "2026-12-01", "killed": 3, "survived": 1}}
    (tmp_path / "mutation.json").write_text(json.dumps(mutated))
    room = gathered(tmp_path)["backend/run"]
    assert (room.tests, room.seconds, room.slowest) == (1, 1.5, 2.5)
    assert (room.covered["run"], room.covered["whole"]) == (9, 10)
    assert (room.mutants["killed"], room.mutants["survived"]) == (3, 1)


def test_without_reports_there_is_what_the_tests_say_themselves(tmp_path: Path) -> None:
    rooms = gathered(tmp_path)
    assert rooms["backend/run"].faults > 3
    assert {"transformers", "peft"} <= rooms["backend/training"].oracles
    assert {room.tests for room in rooms.values()} == {0}


def test_a_weak_figure_is_marked_and_a_missing_one_is_a_dash() -> None:
    room = Room(tests=2, seconds=3.0, slowest=0.5)
    room.covered.update(run=97, whole=100)
    room.mutants.update(killed=9, survived=1)
    shown = page({"backend/<run>": room})
    assert re.findall(r'class="([\w ]+)"', shown) == ["share weak", "share", "none", "none"]
    assert "backend/&lt;run&gt;" in shown
    assert ("97.0 %" in shown, "90.0 %" in shown) == (True, True)
    assert "prefers-color-scheme: dark" in shown


class TestMutation:
    def test_a_room_is_a_module_or_a_package(self) -> None:
        assert modules("backend/run/locks") == [Path("backend/run/locks.py")]
        assert Path("backend/run/config.py") in modules("backend/run")
        with pytest.raises(SystemExit, match="no module is there"):
            modules("backend/nowhere")

    def test_a_module_has_its_test_file(self) -> None:
        assert (ROOT / mutation.tests_of(Path("backend/run/locks.py"))).is_file()

    def test_a_changed_line_is_in_its_functions(self) -> None:
        source = "def a():\n    pass\n\nclass B:\n    def c(self):\n        def d():\n            pass\n"
        assert [functions_at(source, {line}) for line in (2, 4, 5, 7)] == [{"a"}, set(), {"c"}, {"c", "d"}]

    def test_mutmut_is_told_which_modules_and_which_tests(self) -> None:
        told = tomllib.loads(settings([Path("backend/run/locks.py")]))["tool"]["mutmut"]
        assert told["only_mutate"] == ["backend/run/locks.py"]
        assert told["pytest_add_cli_args_test_selection"] == ["tests/backend/run/test_locks.py"]
        assert "docs" in told["also_copy"]

    def test_a_mutant_is_known_by_its_lines(self) -> None:
        diff = "--- mutation diff ---\n--- a\n+++ b\n@@ -1 +1 @@\n a\n-    x = 1\n+    x = 2\n b\n"
        assert lines_of(diff) == ("x = 1", "x = 2")

    def test_those_that_change_nothing_stand_in_the_code(self) -> None:
        gone = [each for each in EQUIVALENT if each.was not in (ROOT / each.file).read_text(encoding="utf-8")]
        assert gone == []
