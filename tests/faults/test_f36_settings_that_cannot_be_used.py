"""F36: a wrong setting is refused by its name before a folder is made or a process is started."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from backend.commands.cli import main
from backend.errors import ConfigError
from backend.run.config import config_schema, config_yaml
from backend.run.settings import parse_config
from backend.utils.config_utils import apply_overrides, dotted_names, parse_yaml

FIELDS = dotted_names(config_schema())
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, -(10**400), 2**63, -1, 0]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["\0", "../../x", "1e999", "\ud800", "nan", "true", "0x10", "-0"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def complaints(raw: dict[str, Any]) -> list[str]:
    """The fields that are complained of; none when the configuration is taken."""
    try:
        config = parse_config(raw)
    except ConfigError as error:
        return [problem.field for problem in error.problems if problem.message and problem.remedy] or ["none"]
    assert parse_config(parse_yaml(config_yaml(config), where="again")) == config
    return []


@given(field=st.sampled_from(FIELDS), value=JUNK)
def test_f36_any_value_is_taken_and_kept_or_refused_by_name(field: str, value: Any) -> None:
    raw = apply_overrides({"data": {"train": "rows.jsonl"}}, {field: value})
    assert set(complaints(raw)) <= {field}


@given(
    st.recursive(JUNK, lambda inner: st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6)
)
def test_f36_any_shape_is_a_configuration_or_a_list_of_problems(value: Any) -> None:
    raw = {"data": {"train": "rows.jsonl"}, "training": value, "extra": value}
    assert "extra" in complaints(raw)


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("training: {learning_rate: .nan}", "training.learning_rate"),
        ("training: {learning_rate: .inf}", "training.learning_rate"),
        ("training: {max_steps: yes}", "training.max_steps"),
        (f"training: {{max_steps: {10**30}}}", "training.max_steps"),
        ("training: {lerning_rate: 1}", "training.learning_rate"),
        ("version: 2", "version"),
        ("version: 0", "version"),
        ('name: "a/b"', "name"),
        ("seed: -1", "seed"),
    ],
)
def test_f36_the_command_line_names_it_and_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, field: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(f"data: {{train: rows.jsonl}}\n{line}\n")
    assert main(["train", "run.yaml"]) == 2
    assert field in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_f36_nan_never_reaches_the_stored_configuration() -> None:
    stored = yaml.safe_load(config_yaml(parse_config({"data": {"train": "rows.jsonl"}})))
    numbers = [
        value for section in stored.values() if isinstance(section, dict) for value in section.values()
    ]
    assert all(math.isfinite(value) for value in numbers if isinstance(value, float))
