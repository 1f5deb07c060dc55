from backend.data.checks.base import Scan
from backend.data.checks.template import TEMPLATE_CHECKS
from backend.data.doctor import run_checks
from tests.backend.data.rows import pair

ROWS = [pair("a", "b", "f:1"), pair("c", "d", "f:2")]


def test_each_fault_is_named_with_its_rows():
    faults = {
        "f:1": {},
        "f:2": {"lost-parts": "left out: the tools", "added-words": "each answer begins with 'x'"},
    }
    findings, not_run = run_checks(Scan(ROWS, look=lambda row: faults[row.place]), TEMPLATE_CHECKS)
    assert {each.check: each.examples[0].detail for each in findings} == faults["f:2"]
    assert {(each.count, each.share, each.level) for each in findings} == {(1, 0.5, "warn")}
    assert not_run == ()


def test_without_a_model_they_do_not_run():
    findings, not_run = run_checks(Scan(ROWS), TEMPLATE_CHECKS)
    assert findings == ()
    assert {reason for _, reason in not_run} == {"no model was given"}


def test_a_row_is_looked_at_once():
    seen = []
    run_checks(Scan(ROWS, look=lambda row: seen.append(row.place) or {}), TEMPLATE_CHECKS)
    assert seen == ["f:1", "f:2"]
