"""The configuration of a run, made and read: backend/run/settings.py."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from backend.errors import ConfigError, ModelError, RunError
from backend.run.config import LONGEST_TEMPLATE, RunConfig, commented_yaml, config_schema, config_yaml
from backend.run.folder import CONFIG_END, RunDir
from backend.run.settings import parse_config, resolve_config, run_config, template_text, with_absolute_paths
from backend.utils.config_utils import apply_overrides, dotted_names, parse_yaml, to_yaml
from tests.backend.run.test_config import BESIDE, OTHER_AND_WRONG, value_of


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "runs", "a", config_yaml(absolute(training={"max_steps": 20})))


def keep(run: RunDir, text: str) -> None:
    run.config.write_text(f"{text}{CONFIG_END}\n")


def in_environment(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    """Set a variable for each setting, its value written as YAML has it."""
    for name, value in settings.items():
        monkeypatch.setenv(f"TUNESMITH__{name.upper().replace('.', '__')}", json.dumps(value))


def absolute(**sections: dict[str, Any]) -> RunConfig:
    return with_absolute_paths(parse_config({"data": {"train": "rows.jsonl"}} | sections))


def test_paths_of_data_and_paraphrases(tmp_path: Path) -> None:
    config = absolute(
        data={"train": "rows.jsonl", "validation": "~/held.csv"}, augmentation={"paraphrases": "review.jsonl"}
    )
    assert config.data.train == str(tmp_path / "rows.jsonl")
    assert config.data.validation == str(tmp_path / "held.csv")
    assert config.augmentation.paraphrases == str(tmp_path / "review.jsonl")


def test_what_is_no_path_stays(tmp_path: Path) -> None:
    config = absolute(data={"train": "hf://owner/name"})
    assert (config.data.train, config.data.validation) == ("hf://owner/name", 0.1)
    assert config.augmentation.paraphrases == ""
    assert config == with_absolute_paths(config)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("mine", "{home}/mine"),
        ("~/mine", "{home}/mine"),
        ("org/model", "org/model"),
        ("~no-such-person/model", "~no-such-person/model"),
    ],
)
def test_a_model_is_a_folder_where_there_is_one(given: str, kept: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    config = absolute(model={"model_name_or_path": given})
    assert config.model.model_name_or_path == kept.format(home=tmp_path)


def test_an_alias_is_one_even_beside_a_folder_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "smollm2-135m").mkdir()
    config = absolute(model={"model_name_or_path": "smollm2-135m"})
    assert config.model.model_name_or_path == "smollm2-135m"


JINJA = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.mark.parametrize("given", ["my.jinja", "~/my.jinja", "./my.jinja"])
def test_a_template_file_is_kept_as_its_text(given: str, tmp_path: Path) -> None:
    (tmp_path / "my.jinja").write_text(JINJA)
    config = absolute(model={"chat_template": given})
    (tmp_path / "my.jinja").write_text("edited")
    assert config.model.chat_template == JINJA
    assert with_absolute_paths(config) == config


@pytest.mark.parametrize("setting", ["chatml", "no-thinking", JINJA])
def test_a_named_template_and_jinja_itself_stay(setting: str) -> None:
    assert template_text(setting) == setting


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"no template in here", "bad-template"),
        (b"\xff\xfe\xff", "unknown-template"),
        (JINJA.encode() + b" " * LONGEST_TEMPLATE, "bad-template"),
    ],
)
def test_a_template_file_that_cannot_be_kept_is_refused(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        template_text(str(path))
    assert caught.value.code == code


def test_a_template_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match=r"nowhere\.jinja") as caught:
        absolute(model={"chat_template": "nowhere.jinja"})
    assert caught.value.code == "unknown-template"


class TestReading:
    def test_it_is_what_the_run_was_made_with(self, run: RunDir) -> None:
        assert run_config(run) == absolute(training={"max_steps": 20})

    def test_it_is_parsed_once_and_again_when_it_changed(self, run: RunDir) -> None:
        before = run_config(run)
        same = run_config(run)
        run.config.write_text(run.config.read_text().replace("max_steps: 20", "max_steps: 21"))

        assert same is before
        assert run_config(run).training.max_steps == 21

    def test_what_this_version_cannot_use_is_named_with_its_file(self, run: RunDir) -> None:
        run.config.write_text(
            run.config.read_text().replace("max_steps: 20", "max_steps: 20\n  maxsteps: 20")
        )
        with pytest.raises(ConfigError, match="maxsteps"):
            run_config(run)
        run.config.write_text("a: [" + run.config.read_text())
        with pytest.raises(ConfigError, match=r"config\.yaml"):
            run_config(run)

    def test_one_that_was_cut_short_is_damaged(self, run: RunDir) -> None:
        run.config.write_text("seed: 1\n")
        with pytest.raises(RunError, match=r"config\.yaml"):
            run_config(run)


OLDER: dict[str, Any] = {
    "seed": 7,
    "model": {"model_name_or_path": "org/model", "dtype": "float32"},
    "data": {"train": "rows.jsonl", "validation": 0.2},
    "tuning": {"method": "full"},
    "training": {"max_steps": 8, "learning_rate": 0.003},
    "evaluation": {"eval_steps": 4},
}


class TestOfAnOlderVersion:
    """A file that an earlier release wrote: what it says stays, and what it could not know takes its default."""

    @pytest.mark.parametrize("version", [{}, {"version": 1}], ids=["without a version", "version 1"])
    def test_it_migrates_by_its_defaults(self, run: RunDir, version: dict[str, int]) -> None:
        keep(run, to_yaml(version | OLDER))
        config = run_config(run)
        said = {name: value_of(config, name) for name in leaves(OLDER)}
        assert said == leaves(OLDER)
        unsaid = set(dotted_names(config_schema())) - said.keys() - {"version"}
        defaults = parse_config({"data": {"train": "rows.jsonl"}})
        assert [name for name in unsaid if value_of(config, name) != value_of(defaults, name)] == []
        assert len(unsaid) > 60

    def test_read_and_written_again_it_is_a_file_of_today(self, run: RunDir) -> None:
        keep(run, to_yaml(OLDER))
        whole = config_yaml(run_config(run))
        assert leaves(parse_yaml(whole, where="x")).items() >= leaves(OLDER).items()
        keep(run, whole)
        assert config_yaml(run_config(run)) == whole

    @pytest.mark.parametrize("version", [0, 2, "1.0"])
    def test_a_format_that_there_never_was_or_is_not_yet_is_refused(self, run: RunDir, version: Any) -> None:
        keep(run, to_yaml(OLDER | {"version": version}))
        with pytest.raises(ConfigError, match="a format that this version does not read") as caught:
            run_config(run)
        assert "newer one" in str(caught.value)


def leaves(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a configuration by their dotted names."""
    inner = {name: part for name, part in sections.items() if isinstance(part, dict)}
    return {name: value for name, value in sections.items() if name not in inner} | {
        f"{section}.{name}": value for section, part in inner.items() for name, value in part.items()
    }


class TestOfACommandLine:
    @pytest.fixture(autouse=True)
    def _no_settings_around(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _ = [monkeypatch.delenv(name) for name in os.environ if name.startswith("TUNESMITH__")]

    def test_file_then_environment_then_flags(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "run.yaml").write_text(
            "seed: 1\ndata: {train: x}\ntraining: {max_steps: 1, warmup_steps: 1}"
        )
        monkeypatch.setenv("TUNESMITH__SEED", "2")
        monkeypatch.setenv("TUNESMITH__TRAINING__MAX_STEPS", "2")
        config = resolve_config(["run.yaml", "--training.max_steps", "3"])
        assert (config.seed, config.training.max_steps, config.training.warmup_steps) == (2, 3, 1)

    def test_an_environment_variable_that_is_wrong_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TUNESMITH__TRAINING__MAX_STEPS", "many")
        with pytest.raises(ConfigError, match=r"training\.max_steps: 'many'"):
            resolve_config(["--data.train", "x"])

    @pytest.mark.parametrize("name", OTHER_AND_WRONG)
    def test_every_setting_can_come_from_the_environment(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = {"data.train": "rows.jsonl", **BESIDE.get(name, {}), name: OTHER_AND_WRONG[name][0]}
        in_environment(monkeypatch, settings)
        assert resolve_config([]) == with_absolute_paths(parse_config(apply_overrides({}, settings)))

    @pytest.mark.parametrize("name", OTHER_AND_WRONG)
    def test_a_wrong_value_of_any_of_them_is_refused_by_its_name(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        in_environment(monkeypatch, {"data.train": "rows.jsonl", name: OTHER_AND_WRONG[name][1]})
        with pytest.raises(ConfigError) as caught:
            resolve_config([])
        assert [problem.field for problem in caught.value.problems] == [name]

    def test_paths_do_not_depend_on_where_the_trainer_stands(self, tmp_path: Path) -> None:
        config = resolve_config(["--data.train", "rows.jsonl"])
        assert config.data.train == str(tmp_path / "rows.jsonl")

    def test_a_template_is_kept_however_long_it_is(self) -> None:
        jinja = "{% for m in messages %}{{ m['content'] }}{% endfor %}" + "{# long #}" * 1000
        config = resolve_config(["--data.train", "x", f"--model.chat_template={jinja}"])
        assert config.model.chat_template == jinja

    def test_the_file_that_init_writes_is_taken(self, tmp_path: Path) -> None:
        (tmp_path / "run.yaml").write_text(commented_yaml())
        config = resolve_config(["run.yaml"])
        assert config.data.train == str(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(("given", "kept"), [("first", True), ("nowhere", False)])
def test_an_adapter_to_train_further_is_found_from_any_folder(
    given: str, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first").mkdir()
    monkeypatch.chdir(tmp_path)
    found = absolute(tuning={"adapter_name_or_path": given}).tuning.adapter_name_or_path
    assert found == {True: str(tmp_path / given), False: given}[kept]


def test_reward_functions_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = absolute(objective={"method": "grpo", "reward_funcs": ["mine.py:f"]})
    assert config.objective.reward_funcs == [f"{tmp_path}/mine.py:f"]
    assert with_absolute_paths(config) == config
