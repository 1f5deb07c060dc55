"""What a run would train on, looked at first: backend/training/inputs.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.core import packages
from backend.errors import ConfigError, DataError, ModelError, TunesmithError, UnsoundDataError
from backend.run.config import RunConfig
from backend.run.settings import parse_config
from backend.training import inputs
from backend.training.inputs import check_inputs, read_inputs
from tests.runs import learner_folder, settings, write_rows

SOUND = [{"prompt": f"food number {number}", "completion": f"kind {number % 7}"} for number in range(60)]
REPEATED = [*SOUND[:20], *SOUND[:10]]
SECRET = {"prompt": "what is the key", "completion": "it is AKIAQ3EGRTV5HJLM7PWX, keep it"}


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learner_folder(tmp_path_factory.mktemp("learner") / "model")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def configured(learner: Path, tmp_path: Path) -> Any:
    def configure(rows: list[dict[str, Any]], **changes: Any) -> RunConfig:
        data = write_rows(tmp_path / "rows.jsonl", rows)
        accepted = {"data.accept": [], "data.validation": 0.1}
        return parse_config(settings(learner, data, accepted | changes))

    return configure


class TestWhatIsCheckedFirst:
    @pytest.mark.parametrize(
        ("changes", "kind", "code", "said"),
        [
            ({"data.train": "rows.json"}, DataError, "file-not-found", "Did you mean .*rows.jsonl"),
            ({"data.train": "./nowhere/x.csv"}, DataError, "file-not-found", "nowhere/x.csv does not exist"),
            ({"data.validation": "held.jsonl"}, DataError, "file-not-found", "held.jsonl does not exist"),
            ({"model.model_name_or_path": "smolm2-135m"}, ModelError, "model-not-found", "smollm2-135m"),
            ({"model.model_name_or_path": "empty"}, ModelError, "no-config", "config.json"),
            ({"data.max_length": 8}, DataError, "too-long", "rows are longer than 8 tokens"),
            ({"data.validation": "long.jsonl"}, DataError, "too-long", "1 of 1 row is longer"),
            ({"data.columns": {"prompt": "question"}}, DataError, "unknown-column", "question"),
        ],
    )
    def test_what_the_trainer_would_end_with(
        self, tmp_path: Path, learner: Path, changes: dict[str, Any], kind: type, code: str, said: str
    ) -> None:
        (tmp_path / "empty").mkdir()
        rows = write_rows(tmp_path / "rows.jsonl")
        write_rows(tmp_path / "long.jsonl", [{"prompt": "word " * 2000, "completion": "x"}])
        config = parse_config(settings(learner, rows, changes))
        with pytest.raises(TunesmithError, match=said) as caught:
            check_inputs(config)
        assert isinstance(caught.value, kind)
        assert caught.value.code == code


class TestStop:
    def test_sound_rows_pass_and_are_counted(self, configured: Any) -> None:
        found = check_inputs(configured(SOUND))
        assert (found.train_rows + found.validation_rows, found.stops) == (60, ())

    def test_rows_that_are_mixed_in_are_checked_too(self, configured: Any, tmp_path: Path) -> None:
        mixed = write_rows(tmp_path / "general.jsonl", REPEATED)
        with pytest.raises(UnsoundDataError, match="STOP") as caught:
            check_inputs(configured(SOUND, **{"data.mix": str(mixed)}))
        (problem,) = caught.value.problems
        assert problem.field == "duplicates"
        assert problem.message.startswith("Rows of data.mix: ")
        assert "of 30 rows (general.jsonl:" in problem.message
        found = check_inputs(configured(SOUND, **{"data.mix": str(mixed), "data.accept": ["duplicates"]}))
        assert any(each.title.startswith("Rows of data.mix: ") for each in found.findings)

    def test_a_finding_of_that_level_prevents_the_run_and_says_what_is_left(self, configured: Any) -> None:
        with pytest.raises(UnsoundDataError) as caught:
            check_inputs(configured(REPEATED, **{"data.validation": 0}))
        (problem,) = caught.value.problems
        assert caught.value.code == "unsound-data"
        assert problem.field == "duplicates"
        assert "10 of 30 rows (rows.jsonl:21, rows.jsonl:22, rows.jsonl:23 and more)" in problem.message
        assert problem.remedy == "The fix drop-duplicates leaves 20 of 30 rows."
        assert "data.accept: duplicates" in caught.value.remedy

    @pytest.mark.parametrize(
        ("written", "read", "prompt", "completion"),
        [
            ("gbk", "cp1252", "中国的首都是哪里?", "北京是中国的首都"),
            ("cp1251", "cp1252", "Как называется столица?", "Столица называется Москва"),
            ("utf-8", "cp1252", "Où est le café près du théâtre ?", "Il est à côté du théâtre"),
        ],
    )
    def test_r30_a_file_read_in_the_wrong_encoding_trains_nothing(
        self, learner: Path, tmp_path: Path, written: str, read: str, prompt: str, completion: str
    ) -> None:
        lines = ["prompt,completion", *(f"{prompt} {n},{completion} {n}" for n in range(40))]
        (tmp_path / "rows.csv").write_bytes("\n".join(lines).encode(written))
        changes = {"data.encoding": read, "data.validation": 0.1}
        with pytest.raises(UnsoundDataError) as caught:
            check_inputs(parse_config(settings(learner, tmp_path / "rows.csv", changes)))
        assert "damaged-text" in [problem.field for problem in caught.value.problems]
        assert (
            check_inputs(
                parse_config(settings(learner, tmp_path / "rows.csv", {**changes, "data.encoding": written}))
            ).stops
            == ()
        )

    def test_all_of_them_are_told_at_once(self, configured: Any) -> None:
        with pytest.raises(UnsoundDataError) as caught:
            check_inputs(configured([*REPEATED, SECRET], **{"data.validation": 0}))
        assert [problem.field for problem in caught.value.problems] == ["duplicates", "secrets"]

    def test_it_can_be_accepted_by_name_and_stays_known(self, configured: Any) -> None:
        config = configured(REPEATED, **{"data.validation": 0}).accepting(["duplicates"])
        found = check_inputs(config)
        assert found.stops == ()
        assert ("duplicates", "block", 10) in [(one.check, one.level, one.count) for one in found.findings]

    def test_what_is_accepted_lets_nothing_else_pass(self, configured: Any) -> None:
        config = configured([*REPEATED, SECRET], **{"data.validation": 0}).accepting(["duplicates"])
        with pytest.raises(UnsoundDataError) as caught:
            check_inputs(config)
        assert [problem.field for problem in caught.value.problems] == ["secrets"]

    def test_a_check_that_does_not_exist_is_no_acceptance(self, configured: Any) -> None:
        with pytest.raises(
            ConfigError, match=r"There is no check called 'duplicate'. Did you mean duplicates"
        ):
            check_inputs(configured(SOUND).accepting(["duplicate"]))

    def test_what_is_found_while_reading_can_be_accepted_where_it_is_not_there(self, configured: Any) -> None:
        names = ["unused-ratings", "unread-flags", "read-as-text", "rejected-rows"]
        assert check_inputs(configured(SOUND).accepting(names)).stops == ()

    def test_what_is_judged_by_column_counts_no_more_rows_than_there_are(self, configured: Any) -> None:
        rows = [{**row, "verdict": ["approved", "rejected"][n % 2]} for n, row in enumerate(SOUND)]
        with pytest.raises(UnsoundDataError) as caught:
            check_inputs(configured(rows))
        (problem,) = caught.value.problems
        assert problem.field == "unused-ratings"
        assert "not used: 60 rows (rows.jsonl:1 and more)" in problem.message

    def test_held_out_rows_that_are_trained_on_stop_the_run(self, configured: Any, tmp_path: Path) -> None:
        held = write_rows(tmp_path / "held.jsonl", SOUND[:5])
        with pytest.raises(UnsoundDataError) as caught:
            check_inputs(configured(SOUND, **{"data.validation": str(held)}))
        assert [problem.field for problem in caught.value.problems] == ["contamination"]
        assert "leaves 55 of 60 rows" in caught.value.problems[0].remedy

    def test_rows_that_the_method_does_not_learn_from_cannot_be_accepted(self, configured: Any) -> None:
        rows = [{"prompt": f"q {number}", "chosen": "good", "rejected": "fair"} for number in range(60)]
        config = configured(rows, **{"data.validation": 0}).accepting(
            ["untrainable-rows", "no-shared-prompt"]
        )
        with pytest.raises(UnsoundDataError, match="data check says STOP") as caught:
            read_inputs(config)
        (problem,) = caught.value.problems
        assert problem.field == "untrainable-rows"
        assert "`objective.method=dpo`" in problem.message
        assert problem.remedy == "Set objective.method to one of these, or train on other rows."
        assert caught.value.remedy == "Choose the method that fits the rows."

    def test_answers_as_they_are_are_not_for_a_preference_method(self, configured: Any) -> None:
        with pytest.raises(UnsoundDataError) as caught:
            read_inputs(configured(SOUND, **{"objective.method": "dpo"}))
        assert "untrainable-rows" in {problem.field for problem in caught.value.problems}

    def test_repeats_that_augmentation_adds_are_no_duplicates(self, configured: Any) -> None:
        rows = [*SOUND, *[{"prompt": f"rare {number}", "completion": "rare"} for number in range(3)]]
        assert check_inputs(configured(rows, **{"augmentation.oversample": 3.0})).stops == ()

    def test_of_a_large_set_only_what_can_stop_a_run_is_looked_for(
        self, configured: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(inputs, "THOROUGH_ROWS", 10)
        found = read_inputs(configured(REPEATED, **{"data.validation": 0}))
        assert [problem.field for problem in found.stops] == ["duplicates"]
        assert {one.check for one in found.findings} == {"duplicates"}


@pytest.mark.parametrize("setting", ["model.load_in_4bit", "model.load_in_8bit"])
def test_packed_weights_need_a_package_and_nothing_is_written_before(
    configured: Any, setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(SOUND, **{setting: True})
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(packages, "find_spec", {}.get)
    for check in (check_inputs, read_inputs):
        with pytest.raises(ModelError, match=f"{setting} needs the package bitsandbytes") as caught:
            check(config)
        assert caught.value.code == "needs-bitsandbytes"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"tuning.use_rslora": True}, []),
        (
            {"tuning.use_dora": True},
            ["With tuning.use_dora the result can be exported as a whole model only"],
        ),
    ],
    ids=str,
)
def test_what_can_be_exported_merged_only_is_told_before_training(
    changes: dict[str, Any], said: list[str], configured: Any
) -> None:
    found = check_inputs(configured(SOUND, **changes)).warnings
    assert [words.partition(" (")[0] for words in found if "exported" in words] == said
