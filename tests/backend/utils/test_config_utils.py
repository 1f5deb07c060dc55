"""YAML, overrides and environment become one plain dict: backend/utils/config_utils.py."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from backend.errors import ConfigError
from backend.utils.config_utils import (
    MAX_DEPTH,
    MAX_YAML_BYTES,
    apply_overrides,
    closest,
    dotted_names,
    environment_overrides,
    field_schema,
    parse_flags,
    parse_value,
    parse_yaml,
    read_yaml,
    to_yaml,
)


class TestYaml:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("", {}),
            ("# nothing\n", {}),
            ("a: 1", {"a": 1}),
            ("a: 1e-3", {"a": 0.001}),
            ("a: 1E5", {"a": 100_000.0}),
            ("a: -2.5e+3\nb: [1e2, x]", {"a": -2500.0, "b": [100.0, "x"]}),
            ("a: 'é e-3'", {"a": "é e-3"}),
            ("a: {b: {c: ~}}", {"a": {"b": {"c": None}}}),
            ("1: x\nyes: y\nnull: z", {"1": "x", "yes": "y", "null": "z"}),
            ("<<: {a: 1}", {"<<": {"a": 1}}),
            ("a: 2020-01-01", {"a": "2020-01-01"}),
            ("a: 12e", {"a": "12e"}),
            ("a: 010\nb: 0777\nc: 00", {"a": "010", "b": "0777", "c": "00"}),
            ("a: 1:30\nb: 1:30.5\nc: 12:30:45", {"a": "1:30", "b": "1:30.5", "c": "12:30:45"}),
            (
                "a: no\nb: on\nc: Yes\nd: true\ne: FALSE",
                {"a": "no", "b": "on", "c": "Yes", "d": True, "e": False},
            ),
            ("a: 1_000\nb: 0x10\nc: 0b11", {"a": "1_000", "b": "0x10", "c": "0b11"}),
            ("a: +7\nb: -3\nc: .5\nd: 2.", {"a": 7, "b": -3, "c": 0.5, "d": 2.0}),
        ],
    )
    def test_a_plain_mapping(self, text: str, value: dict[str, Any]) -> None:
        assert parse_yaml(text, where="run.yaml") == value

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("a: &x [1]\nb: *x", "line 2: aliases are not allowed"),
            ("a: 1\nb: 2\na: 3", "line 3: a is set twice"),
            ("s:\n  a: 1\n  a: 2", "line 3: a is set twice"),
            ("a: !!python/object/apply:os.system [ls]", "line 1"),
            ("a: !mine 5", "line 1"),
            ("a: !!binary aGk=", "line 1"),
            ("a: !!set {b, c}", "line 1"),
            ("a: [1", "line 1"),
            ("a: b: c", "line 1"),
            ("\ta: 1", "line 1"),
            ("a: \x00", "not valid YAML"),
            ("[1]: x", "line 1"),
            ("? {a: 1}\n: x", "line 1"),
            ("- 1", "is not a mapping"),
            ("just text", "is not a mapping"),
            ("a: 1\n---\nb: 2", "expected a single document"),
            ("a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested deeper"),
            ("a: " + "[" * 100_000, "nested deeper"),
            ("a: " + "x" * MAX_YAML_BYTES, "larger than"),
        ],
    )
    def test_all_else_is_refused_with_place_and_reason(self, text: str, said: str) -> None:
        with pytest.raises(ConfigError) as caught:
            parse_yaml(text, where="run.yaml")
        (problem,) = caught.value.problems
        assert (problem.field, caught.value.code) == ("run.yaml", "bad-yaml")
        assert said in problem.message
        assert problem.remedy
        assert "\n" not in str(problem)

    def test_the_deepest_that_is_allowed(self) -> None:
        depth = MAX_DEPTH - 1
        assert parse_yaml("a: " + "[" * depth + "]" * depth, where="x")

    @given(st.text(max_size=200) | st.text("[]{}:,&*!|>-?'\"# \n\tabe01.", max_size=60))
    @example("? [a]\n: b")
    @example("<<: 5")
    @example("=: 1")
    @example("a: 0b")
    @example("a: 1__0:99")
    def test_any_text_is_a_mapping_or_a_refusal(self, text: str) -> None:
        assert {type(key) for key in parsed(text)} <= {str}


def parsed(text: str) -> dict[str, Any]:
    """What the text means; nothing where it is refused as it should be."""
    with contextlib.suppress(ConfigError):
        return parse_yaml(text, where="x")
    return {}


class TestReadingAFile:
    def test_with_a_byte_order_mark(self, tmp_path: Path) -> None:
        path = tmp_path / "run.yaml"
        path.write_bytes(b"\xef\xbb\xbfseed: 3\n")
        assert read_yaml(path) == {"seed": 3}

    def test_a_missing_one_with_the_likeliest_name(self, tmp_path: Path) -> None:
        (tmp_path / "run.yaml").write_text("seed: 3")
        with pytest.raises(ConfigError, match=r"there is no such file. Did you mean .*run\.yaml\?") as caught:
            read_yaml(tmp_path / "ru.yaml")
        assert caught.value.code == "no-config"

    @pytest.mark.parametrize(
        ("name", "said"),
        [("nowhere/at/all.yaml", "no such file"), ("zzzzzz", "no such file"), (".", "is a folder")],
    )
    def test_a_missing_one_with_nothing_like_it(self, tmp_path: Path, name: str, said: str) -> None:
        with pytest.raises(ConfigError, match=rf"{said}\. Give the path of a YAML file\."):
            read_yaml(tmp_path / name)

    def test_latin_letters_in_another_encoding(self, tmp_path: Path) -> None:
        path = tmp_path / "run.yaml"
        path.write_bytes("name: Küche".encode("latin-1"))
        with pytest.raises(ConfigError, match=r"is not UTF-8 \(byte 7\)"):
            read_yaml(path)

    def test_a_path_the_system_refuses(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read: File name too long") as caught:
            read_yaml(tmp_path / ("x" * 300))
        assert caught.value.code == "no-config"

    def test_a_file_without_end_is_not_read_to_its_end(self, tmp_path: Path) -> None:
        path = tmp_path / "run.yaml"
        with path.open("wb") as file:
            os.truncate(file.fileno(), 2**40)
        with pytest.raises(ConfigError, match="larger than"):
            read_yaml(path)


class TestOneValue:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("3", 3),
            ("-1", -1),
            ("1e-4", 0.0001),
            ("0.5", 0.5),
            ("true", True),
            ("null", None),
            ("~", None),
            ("[q_proj, v_proj]", ["q_proj", "v_proj"]),
            ("{prompt: question}", {"prompt": "question"}),
            ("rows.jsonl", "rows.jsonl"),
            ("'5'", "5"),
            ("'1e5'", "1e5"),
            ("['1e5', 1e5]", ["1e5", 100000.0]),
            ('"a # b"', "a # b"),
            ("", ""),
            ("run #3", "run #3"),
            ("# not a comment", "# not a comment"),
            ("2020-01-01", "2020-01-01"),
            ("[broken", "[broken"),
            ("!!python/name:os.system", "!!python/name:os.system"),
            ("&a [*a]", "&a [*a]"),
            ("  spaced  ", "  spaced  "),
        ],
    )
    def test_as_yaml_would_read_it(self, text: str, value: Any) -> None:
        assert parse_value(text) == value
        assert type(parse_value(text)) is type(value)

    @given(st.text(max_size=60))
    @example("? [a]\n: b")
    def test_text_is_never_changed(self, text: str) -> None:
        value = parse_value(text)
        changed = isinstance(value, str) and value != text
        assert not changed or text[0] in "'\""


class TestFlags:
    @pytest.mark.parametrize(
        ("tokens", "flags"),
        [
            ([], {}),
            (["--seed", "3"], {"seed": 3}),
            (["--seed=3", "--a.b=c=d"], {"seed": 3, "a.b": "c=d"}),
            (["--training.max-steps", "-1"], {"training.max_steps": -1}),
            (["--name="], {"name": ""}),
            (["--a.b", "1", "--a.b", "2"], {"a.b": 2}),
        ],
    )
    def test_dotted_names_and_values(self, tokens: list[str], flags: dict[str, Any]) -> None:
        assert parse_flags(tokens) == flags

    @pytest.mark.parametrize(
        ("tokens", "field", "said"),
        [
            (["seed", "3"], "seed", "is not a setting"),
            (["--seed", "3", "stray"], "stray", "is not a setting"),
            (["-s", "3"], "-s", "is not a setting"),
            (["--"], "--", "is not a setting"),
            (["--seed"], "seed", "has no value"),
            (["--seed", "--name", "x"], "seed", "has no value"),
        ],
    )
    def test_what_is_no_flag(self, tokens: list[str], field: str, said: str) -> None:
        with pytest.raises(ConfigError, match=said) as caught:
            parse_flags(tokens)
        assert caught.value.problems[0].field == field
        assert caught.value.code == "bad-flag"


class TestOverrides:
    def test_each_is_set_and_nothing_else(self) -> None:
        raw = {"a": {"b": 1, "c": 2}, "d": None, "e": 5}
        assert apply_overrides(raw, {"a.b": 9, "d.x": 1, "new.deep.key": 3, "e": 6}) == {
            "a": {"b": 9, "c": 2},
            "d": {"x": 1},
            "e": 6,
            "new": {"deep": {"key": 3}},
        }
        assert raw == {"a": {"b": 1, "c": 2}, "d": None, "e": 5}

    @pytest.mark.parametrize("value", [3, "text", [1]])
    def test_never_through_a_single_value(self, value: Any) -> None:
        with pytest.raises(ConfigError, match="a is a single value, not a section") as caught:
            apply_overrides({"a": value}, {"a.b": 1})
        assert caught.value.problems[0].field == "a.b"

    def test_from_the_environment(self) -> None:
        environ = {
            "TUNESMITH__TRAINING__LEARNING_RATE": "1e-4",
            "TUNESMITH__SEED": "7",
            "TUNESMITH_CACHE": "/elsewhere",
            "HOME": "/home",
        }
        assert environment_overrides(environ) == {"seed": 7, "training.learning_rate": 0.0001}

    def test_from_the_environment_with_another_prefix(self) -> None:
        assert environment_overrides({"X_A": "1", "TUNESMITH__SEED": "2"}, prefix="X_") == {"a": 1}


SCHEMA = {
    "properties": {
        "seed": {"type": "integer"},
        "training": {"$ref": "#/$defs/Training"},
        "mode": {"$ref": "#/$defs/Mode"},
    },
    "$defs": {
        "Training": {"properties": {"learning_rate": {"type": "number"}, "max_steps": {"type": "integer"}}},
        "Mode": {"enum": ["a", "b"]},
    },
}


class TestNames:
    def test_the_leaves_of_a_schema_in_order(self) -> None:
        assert dotted_names(SCHEMA) == ["seed", "training.learning_rate", "training.max_steps", "mode"]

    @pytest.mark.parametrize(
        ("name", "found"),
        [
            ("seed", {"type": "integer"}),
            ("training.max_steps", {"type": "integer"}),
            ("training.nothing", {}),
            ("nothing", {}),
            ("seed.deeper.still", {}),
        ],
    )
    def test_one_setting_of_a_schema(self, name: str, found: dict[str, Any]) -> None:
        assert field_schema(name, SCHEMA) == found

    @pytest.mark.parametrize(
        ("typed", "meant"),
        [
            ("sed", "seed"),
            ("training.lerning_rate", "training.learning_rate"),
            ("learning_rat", "training.learning_rate"),
            ("trainig.max_step", "training.max_steps"),
            ("wholly different", ""),
            ("", ""),
        ],
    )
    def test_the_name_most_likely_meant(self, typed: str, meant: str) -> None:
        assert closest(typed, dotted_names(SCHEMA)) == meant
        assert closest(typed, []) == ""


class TestWriting:
    @pytest.mark.parametrize(
        "text",
        ["0E0", "12e4567", "-1e5", ".5e1", "1.e+3", "0x1F", "2020-01-01", "no", "null", "", " a", "#", "é\n"],
    )
    def test_text_that_looks_like_something_else_stays_text(self, text: str) -> None:
        assert parse_yaml(to_yaml({"a": text}), where="x") == {"a": text}
        assert yaml.safe_load(to_yaml({"a": text})) == {"a": text}

    @given(
        st.recursive(
            st.one_of(
                st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)
            ),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
            ),
            max_leaves=6,
        )
    )
    def test_what_is_written_is_read(self, value: object) -> None:
        assert parse_yaml(to_yaml({"a": value}), where="x") == {"a": value}

    def test_it_keeps_the_order(self) -> None:
        assert to_yaml({"b": 1, "a": {"d": [1e-05], "c": None}}) == "b: 1\na:\n  d:\n  - 1.0e-05\n  c: null\n"

    def test_what_yaml_cannot_hold_is_refused(self) -> None:
        with pytest.raises(yaml.YAMLError, match="cannot represent"):
            to_yaml({"a": object()})


def test_what_it_reads_is_what_yaml_reads() -> None:
    """Our loader differs from the library's only in what it refuses and in what is a number or true."""
    text = "a: [1, 0o17, 3.5, .5, true, null, text, 'q', \"d\\n\"]\nb: |\n  two\n  lines\n"
    assert parse_yaml(text, where="x") == yaml.safe_load(text)
