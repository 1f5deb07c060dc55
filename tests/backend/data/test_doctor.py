import json
import re
from pathlib import Path

import pytest

from backend.data import doctor, store
from backend.data.checks import ALL, Check, Scan
from backend.data.doctor import Report, examine, run_checks
from backend.data.load import load_rows
from tests.backend.data.rows import pairs


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


SOUND = [{"prompt": f"What is {n} plus {n}?", "completion": f"It is {2 * n}, of course."} for n in range(60)]


def report_on(path, rows, **more):
    return examine(load_rows(write(path, rows), max_rejected_share=0.5), "train.jsonl", **more)


def test_sound_rows_give_a_clean_report(tmp_path):
    report = report_on(tmp_path / "t.jsonl", SOUND)
    assert report.findings == ()
    assert (report.exit_code, report.rows, report.rejected) == (0, 60, 0)
    assert dict(report.not_run)["contamination"] == "no evaluation rows were given"
    assert dict(report.not_run)["too-long"] == "no model was given"


def test_findings_come_by_harm_with_examples_and_fix(tmp_path):
    rows = [*SOUND, {"prompt": "a", "completion": ""}, {"prompt": "b {{name}}", "completion": "x"}, SOUND[0]]
    report = report_on(tmp_path / "t.jsonl", rows)
    assert [(each.check, each.level) for each in report.findings] == [
        ("empty-answers", "block"),
        ("duplicates", "warn"),
        ("placeholders", "warn"),
    ]
    empty = report.findings[0]
    assert empty.fix_is_chosen
    assert (empty.count, empty.share, empty.fix) == (1, round(1 / 63, 6), "drop-empty")
    assert empty.examples[0].place == "t.jsonl:61"
    assert report.exit_code == 1


def test_rejected_rows_block(tmp_path):
    report = report_on(tmp_path / "t.jsonl", [*SOUND, {"prompt": f"my hf_{'aB' * 17}"}])
    assert [each.check for each in report.findings] == ["rejected-rows"]
    said = """the field 'completion' is missing: {"prompt": "my [Hugging Face token]"}"""
    assert report.findings[0].examples[0].detail == said
    assert report.blocks


def test_the_same_rows_give_the_same_bytes(tmp_path):
    rows = [*SOUND, *SOUND[:5], {"prompt": "a", "completion": ""}]
    one, two = (report_on(tmp_path / f"{name}.jsonl", rows).to_json() for name in ("t", "t"))
    assert one == two
    content = json.loads(one)
    assert content["version"] == 1
    assert content["blocks"] is True
    assert content["findings"][0]["examples"][0] == {"detail": 'the answer is ""', "place": "t.jsonl:66"}


def test_no_rows_run_no_check():
    findings, not_run = run_checks(Scan(()))
    assert findings == ()
    assert {reason for _, reason in not_run} == {"there is no row"}


def test_a_level_rises_with_the_share():
    check = Check(
        1,
        "x",
        "t",
        "info",
        "h",
        by_row=lambda row: (row.place.endswith("1") and "d") or None,
        escalate=(0.2, "warn"),
    )
    rows = pairs([("q", "a")] * 10)
    assert run_checks(Scan(rows), [check])[0][0].level == "info"
    assert run_checks(Scan(rows[:4]), [check])[0][0].level == "warn"


def test_a_report_without_findings_does_not_block():
    report = Report("s", "0", 1, 0, 0, "read as text", (), ())
    assert not report.blocks


@pytest.mark.parametrize(
    ("key", "check", "level"),
    [
        ('"weigth": 0', "unread-flags", "block"),
        ('"weigth": false', "unread-flags", "block"),
        ('"weigth": 0.5', "unread-keys", "warn"),
        ('"weigth": "heavy"', "unread-keys", "warn"),
    ],
)
def test_keys_that_nobody_reads_are_a_finding_and_flags_stop(tmp_path, key, check, level):
    turns = '{"role": "user", "content": "q", "id": 1}, {"role": "assistant", "content": "a"'
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"messages": [{turns}, {key}}}]}}\n{{"messages": [{turns}}}]}}\n')
    report = examine(load_rows(path), "rows.jsonl")
    found = [each for each in report.findings if each.check in {"unread-keys", "unread-flags"}]
    assert [(each.check, each.count, each.share, each.level) for each in found] == [(check, 1, 0.5, level)]
    assert "did you mean 'weight'?" in found[0].examples[0].detail


@pytest.mark.parametrize(("name", "found"), [("rows.txt", ["read-as-text"]), ("rows.jsonl", [])])
def test_rows_in_a_file_of_plain_text_stop(tmp_path, name, found):
    path = write(tmp_path / name, SOUND)
    loaded = load_rows(path)
    report = examine(loaded, name)
    assert [each.check for each in report.findings if each.level == "block"] == found
    assert len(loaded.warnings) == len(found)


LONG = "The answer to this question is that nobody has ever counted them all, not even once, "
PLUMS = {"prompt": "how many of the small red plums are ripe nownownow", "completion": "x"}
PRESS = {"prompt": "a third way", "completion": "Press the red button twice, then wait."}
FAULTY = [
    *SOUND,
    *[{"prompt": f"Tell me about number {n}", "completion": f"{LONG}{n}."} for n in range(12)],
    *[{"prompt": f"Who is guest {n}?", "completion": f"Guest {n} sits at table {n * 7}."} for n in range(30)],
    *[SOUND[3]] * 3,
    *[{"prompt": "how many of the small red plums are ripe " + "now" * n, "completion": "x"} for n in (1, 2)],
    {"prompt": "What is 7 plus 7?", "completion": "It is 15, I think."},
    {"prompt": "Say: the quick brown fox, please", "completion": "the quick brown fox"},
    {
        "prompt": "cut",
        "completion": "This is a long answer of many words. It ends before it comes to an and the",
    },
    {"prompt": "other letters", "completion": "это совсем другой язык"},
    {"prompt": "a", "completion": "word " * 400},
    {"prompt": "one way to ask", "completion": "Press the red button twice, then wait."},
    {"prompt": "and quite another", "completion": "Press the red button twice, then wait."},
    {"prompt": "b", "completion": ""},
    {"prompt": "c", "completion": "n/a"},
]
LABELS = [*["meat"] * 60, *["fish"] * 20, "Fish"]
LABELLED = [{"prompt": f"food {n}", "completion": label} for n, label in enumerate(LABELS)]
JUDGED = [{"prompt": f"q{n}", "chosen": f"a long reply {n}", "rejected": f"no {n}"} for n in range(30)]
BREAKS_OFF = "no, this is how it goes. It was made by the people of the town for the"
CONTRADICTED = [
    {"prompt": "q0", "chosen": "a", "rejected": "b"},
    {"prompt": "q0", "chosen": "b", "rejected": "a"},
    *[{"prompt": f"p{n}", "chosen": f"Yes, {n}.", "rejected": f"{BREAKS_OFF} {n} the"} for n in range(10)],
]
PRAISED = [{"prompt": f"q{n}", "completion": f"reply {n}", "label": 1} for n in range(30)]
REPEATED = [{"prompt": f"question {n}", "completion": "ok"} for n in range(30)]
SWAPPED = [{"prompt": f"It is {n}.", "completion": f"What is number {n}?"} for n in range(30)]
RATED = [{"prompt": f"q{n}", "completion": f"reply {n}", "label": n > 1} for n in range(30)]


def test_rows_that_are_not_in_memory_give_the_same_bytes_of_report(tmp_path, monkeypatch):
    held_out = load_rows(write(tmp_path / "held.jsonl", [*SOUND[:2], PLUMS, PRESS])).rows

    def reports():
        sets = enumerate((FAULTY, LABELLED, JUDGED, CONTRADICTED, RATED, PRAISED, REPEATED, SWAPPED))
        more = {"validation": held_out, "method": "sft"}
        return [report_on(tmp_path / f"{n}.jsonl", rows, **more) for n, rows in sets]

    in_memory = reports()
    monkeypatch.setattr(store, "IN_MEMORY_BYTES", 0)
    assert [each.to_json() for each in reports()] == [each.to_json() for each in in_memory]
    over_all = {check.slug for check in ALL if check.over_all and check.needs in (None, "validation")}
    found = {finding.check for report in in_memory for finding in report.findings}
    assert over_all - found == set()


def test_ratings_that_nobody_reads_stop_a_run_and_words_are_looked_at(tmp_path):
    beside = [{"score": 0.5, "note": f"Sum {n} of the book", "other": f"And {n} again"} for n in range(60)]
    report = report_on(tmp_path / "t.jsonl", [row | more for row, more in zip(SOUND, beside, strict=True)])
    found = {each.check: (each.level, each.count, each.examples[0].detail) for each in report.findings}
    assert found == {
        "unused-ratings": ("block", 60, "score: 0.5"),
        "unused-columns": ("warn", 60, "note: Sum 0 of the book"),
    }
    assert "`columns.context=note`" in report.findings[1].harm
    assert "`columns.label=score`" in report.findings[0].harm
    warnings = load_rows(tmp_path / "t.jsonl").warnings
    assert [each.partition(" (")[0] for each in warnings] == [
        "A column is not used: 'score'",
        "A column is not used: 'note'",
        "A column is not used: 'other'",
    ]


def test_secrets_in_a_column_that_is_not_used_are_not_shown(tmp_path):
    rows = [row | {"note": f"the key of every one of these many sums is hf_{'x' * 34}"} for row in SOUND]
    (finding,) = report_on(tmp_path / "t.jsonl", rows).findings
    assert "hf_x" not in finding.examples[0].detail


def test_every_finding_of_the_reading_has_a_name_that_can_be_accepted() -> None:
    source = Path(doctor.__file__).read_text(encoding="utf-8")
    named = set(re.findall(r'check="([a-z-]+)"', source)) | set(
        re.findall(r'"((?:unread|unused|lower|equal)-[a-z]+)"', source)
    )
    assert named <= doctor.NAMES
    assert len(named) == 10


@pytest.mark.parametrize(
    ("rows", "named"),
    [(JUDGED, "dpo, kto, orpo, cpo, simpo"), (RATED, "kto"), (SOUND, None)],
    ids=["pairs", "judged", "answers"],
)
def test_without_a_run_the_methods_that_fit_are_named_and_nothing_is_stopped(tmp_path, rows, named):
    report = report_on(tmp_path / "t.jsonl", rows)
    assert "untrainable-rows" not in {each.check for each in report.findings}
    assert report.shape.endswith(f"; to be learned with {named}") is (named is not None)
    assert ("learned with" in report.shape) is (named is not None)


def test_the_method_of_a_run_decides_which_rows_stop_it(tmp_path):
    (finding,) = (
        each
        for each in report_on(tmp_path / "t.jsonl", JUDGED, method="sft").findings
        if each.level == "block"
    )
    assert (finding.check, finding.count) == ("untrainable-rows", 30)
    assert "`objective.method=dpo` or `objective.method=kto`" in finding.harm
    assert not report_on(tmp_path / "u.jsonl", JUDGED, method="dpo").blocks
    assert report_on(tmp_path / "v.jsonl", SOUND, method="dpo").blocks


@pytest.mark.parametrize(
    ("lower", "equal", "found"),
    [
        (2, 0, {"lower-scored": ("warn", 2)}),
        (20, 0, {"lower-scored": ("block", 20)}),
        (2, 3, {"lower-scored": ("warn", 2), "equal-scores": ("info", 3)}),
        (0, 0, {}),
    ],
)
def test_pairs_whose_scores_contradict_them_are_named(tmp_path, lower, equal, found):
    scores = [*[(1, 2)] * lower, *[(2, 2)] * equal, *[(2, 1)] * (30 - lower - equal)]
    rows = [
        row | {"score_chosen": one, "score_rejected": other}
        for row, (one, other) in zip(JUDGED, scores, strict=True)
    ]
    report = report_on(tmp_path / "t.jsonl", rows)
    named = {each.check: each for each in report.findings if each.check in {"lower-scored", "equal-scores"}}
    assert {name: (each.level, each.count) for name, each in named.items()} == found
    assert all(
        "`columns.chosen=rejected`" in each.harm for name, each in named.items() if name == "lower-scored"
    )
