"""Settings as widgets: app/forms.py, held against the schema of RunConfig."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from hypothesis import given, strategies
from streamlit.testing.v1 import AppTest

from app.forms import BASIC, FIXED, PRESETS, command_line, command_words, settings
from backend.errors import Problem
from backend.run.config import config_schema
from backend.run.settings import parse_config
from backend.utils.config_utils import apply_overrides, dotted_names, field_schema, parse_flags
from tests.backend.run.test_config import BESIDE, OTHER_AND_WRONG

NAMES = [name for name in dotted_names(config_schema()) if name not in FIXED]
OTHER: dict[str, tuple[Any, Any]] = {
    # what a person enters, and the value it means
    "model.dtype": ("float32", "float32"),
    "data.validation": ("held-out.jsonl", "held-out.jsonl"),
    "data.columns": ("prompt: question\ncompletion: a: b", {"prompt": "question", "completion": "a: b"}),
    "data.delimiter": (";", ";"),
    "data.sha256": (
        "hf://owner/name: 0123\nrows.jsonl:4567",
        {"hf://owner/name": "0123", "rows.jsonl": "4567"},
    ),
    "data.split_by": ("answer", "answer"),
    "data.truncation": ("cut", "cut"),
    "augmentation.prompt_templates": ("Please: {prompt}\n\n", ["Please: {prompt}"]),
    "augmentation.oversample": ("2", 2.0),
    "augmentation.noise": ("0.05", 0.05),
    "augmentation.typos": ("0.01", 0.01),
    "tuning.method": ("full", "full"),
    "tuning.lora_target_modules": ("q_proj, v_proj", ["q_proj", "v_proj"]),
    "tuning.init_lora_weights": ("pissa_niter_4", "pissa_niter_4"),
    "tuning.rank_pattern": ("down_proj: 8\n.*q_proj: 4", {"down_proj": 8, ".*q_proj": 4}),
    "tuning.alpha_pattern": ("down_proj: 8", {"down_proj": 8}),
    "tuning.layers_to_transform": ("0\n3", [0, 3]),
    "tuning.trainable_token_indices": ("49152\n<tool>", [49152, "<tool>"]),
    "training.lr_scheduler_type": ("cosine", "cosine"),
    "training.optim": ("adafactor", "adafactor"),
    "training.learning_rate": ("2e-5", 2e-5),
    "training.loraplus_lr_ratio": ("16", 16.0),
    "training.adam_epsilon": ("1e-10", 1e-10),
    "logging.tensorboard": (False, False),
}
BY_KIND = {
    # how a value of each kind is entered
    "lines": lambda value: "\n".join(map(str, value)),
    "number": str,
    "mixed": str,
}


def form(names: tuple, start: dict, problems: list) -> None:  # type: ignore[type-arg]
    """A page with these settings and nothing else."""
    import streamlit as st

    from app.forms import change, draw, mark, typed

    if "begun" not in st.session_state:
        st.session_state["begun"] = True
        change(start)
    left = mark(problems, draw(list(names)))
    st.session_state["left"] = [one.field for one in left]
    st.session_state["result"] = dict(typed())


def shown(*names: str, start: dict[str, Any] | None = None, problems: list[Problem] | None = None) -> AppTest:
    app = AppTest.from_function(form, args=(names, start or {}, problems or []), default_timeout=30)
    return app.run()


def widget(app: AppTest, name: str) -> Any:
    kinds = (app.text_input, app.number_input, app.selectbox, app.multiselect, app.toggle, app.text_area)
    (found,) = [each for kind in kinds for each in kind if each.key.startswith(f"setting {name} ")]
    return found


def other(name: str) -> tuple[Any, Any]:
    """Something else than the default, as it is entered and as it is meant."""
    meant, _ = OTHER_AND_WRONG[name]
    entered = BY_KIND.get(settings()[name].kind, lambda value: value)
    return OTHER.get(name) or (entered(meant), meant)


def test_no_setting_is_left_out() -> None:
    assert list(settings()) == NAMES
    assert set(BASIC) <= set(NAMES)
    assert len(NAMES) > 35


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_can_be_reached_and_means_what_was_entered(name: str) -> None:
    app = shown(name)
    entered, meant = other(name)
    assert app.session_state["result"] == {}
    widget(app, name).set_value(entered).run()
    assert app.session_state["result"] == {name: meant}
    config = parse_config(
        apply_overrides({"data": {"train": "rows.jsonl"}}, BESIDE.get(name, {}) | {name: meant})
    )
    section, _, key = name.rpartition(".")
    assert getattr(getattr(config, section) if section else config, key) == meant


@pytest.mark.parametrize("name", NAMES)
def test_what_was_typed_before_stands_there_again(name: str) -> None:
    _, meant = other(name)
    app = shown(name, start={name: meant})
    assert app.session_state["result"] == {name: meant}
    assert app.run().session_state["result"] == {name: meant}


@pytest.mark.parametrize("name", NAMES)
def test_every_widget_has_a_label_and_the_help_of_the_schema(name: str) -> None:
    drawn = widget(shown(name), name)
    assert drawn.label == settings()[name].label
    assert settings()[name].help in drawn.help
    assert f"`{name}`" in drawn.help
    assert field_schema(name, config_schema())["description"] in drawn.help


def test_labels_are_words_and_standard_terms() -> None:
    labels = {name: setting.label for name, setting in settings().items()}
    assert labels["training.num_train_epochs"] == "Epochs"
    assert labels["tuning.lora_dropout"] == "LoRA dropout"
    assert labels["training.neftune_noise_alpha"] == "NEFTune noise alpha"
    assert labels["tuning.init_lora_weights"] == "Initial LoRA weights"
    assert labels["training.optim"] == "Optimizer"
    assert labels["objective.cpo_alpha"] == "CPO alpha"
    assert labels["objective.undesirable_weight"] == "Weight of bad answers"
    assert labels["training.nproc_per_node"] == "Processes per machine"
    assert len(set(labels.values())) == len(labels)


def test_going_back_to_the_default_forgets() -> None:
    app = shown("training.learning_rate", start={"training.learning_rate": 1e-3})
    widget(app, "training.learning_rate").set_value("").run()
    assert app.session_state["result"] == {}


@pytest.mark.parametrize("name", ["training.warmup_steps", "data.max_rejected_share"])
def test_a_number_that_is_none_stays_for_the_message(name: str) -> None:
    app = shown(name)
    widget(app, name).set_value("much").run()
    assert app.run().session_state["result"] == {name: "much"}
    assert shown(name, start={name: "much"}).session_state["result"] == {name: "much"}


def test_all_linear_stays_a_word_and_a_share_a_number() -> None:
    app = shown("tuning.lora_target_modules", "data.validation")
    widget(app, "tuning.lora_target_modules").set_value("q_proj").run()
    widget(app, "data.validation").set_value("0.2").run()
    assert app.session_state["result"] == {"tuning.lora_target_modules": "q_proj", "data.validation": 0.2}


def test_a_problem_stands_beside_its_field_and_the_others_come_back() -> None:
    problems = [Problem("seed", "is odd.", "Take *another*."), Problem("name", "is long.", "")]
    app = shown("seed", problems=problems)
    assert [each.value for each in app.error] == [r"is odd\. Take \*another\*\."]
    assert app.session_state["left"] == ["name"]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_configuration_that_differs_from_the_defaults(preset: str) -> None:
    purpose, values = PRESETS[preset]
    assert purpose.endswith(".")
    assert parse_config(apply_overrides({"data": {"train": "x"}}, values)) != parse_config(
        {"data": {"train": "x"}}
    )
    assert all(value != settings()[name].default for name, value in values.items())


TEXTS = strategies.text(strategies.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1)


@given(TEXTS, TEXTS, strategies.floats(0, 10, exclude_min=True))
def test_the_command_means_what_was_typed(name: str, column: str, rate: float) -> None:
    values = {"name": name, "data.columns": {"prompt": column}, "training.learning_rate": rate}
    assert parse_flags(command_words(values)) == values
    assert shlex.split(command_line(values))[2:] == command_words(values)


@pytest.mark.parametrize("text", ["123", "yes", "null", "1e-3", "[a]", "~", "'quoted'", "a # b", ""])
def test_a_text_that_looks_like_something_else_stays_a_text(text: str) -> None:
    assert parse_flags(command_words({"name": text})) == {"name": text}


def test_what_was_typed_outlives_a_reload_of_the_browser() -> None:
    shown("name", start={"name": "mine"})
    assert shown("name").session_state["result"] == {"name": "mine"}
