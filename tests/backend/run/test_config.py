"""Every knob, once: backend/run/config.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from backend.errors import ConfigError
from backend.run.config import RunConfig, Section, TuningConfig, commented_yaml, config_schema, config_yaml
from backend.run.settings import parse_config
from backend.utils.config_utils import apply_overrides, dotted_names, field_schema, parse_yaml

# Every setting with a value that is not its default, and with one that must be refused.
OTHER_AND_WRONG: dict[str, tuple[Any, Any]] = {
    "version": (1, 2),
    "name": ("Küche №1", "a/b"),
    "seed": (7, -1),
    "model.model_name_or_path": ("org/model", ""),
    "model.revision": ("main", ""),
    "model.chat_template": ("chatml", ""),
    "model.dtype": ("bfloat16", "float16"),
    "model.load_in_4bit": (True, "perhaps"),
    "model.load_in_8bit": (True, "perhaps"),
    "model.bnb_4bit_quant_type": ("fp4", "int4"),
    "model.use_bnb_nested_quant": (True, "perhaps"),
    "data.train": ("other.csv", ""),
    "data.validation": ("held.jsonl", 1.0),
    "data.split_by": ("answer", "row"),
    "data.columns": ({"prompt": "question"}, ["prompt"]),
    "data.max_length": (8, 7),
    "data.truncation": ("cut", "left"),
    "data.max_rejected_share": (0.5, 1.01),
    "data.encoding": ("cp1252", ""),
    "data.delimiter": (";", ";;"),
    "data.sheet": ("Rows", ""),
    "data.whole_file": (True, "perhaps"),
    "data.mix": ("general.jsonl", ""),
    "data.mix_share": (0.5, 1.0),
    "data.teacher_logprobs": ("rows.teacher.safetensors", ""),
    "data.sha256": ({"rows.jsonl": "ab12"}, ["ab12"]),
    "data.accept": (["duplicates"], "duplicates"),
    "data.skip_rows": (["train.jsonl:12"], "train.jsonl:12"),
    "augmentation.share": (0.5, 1.5),
    "augmentation.prompt_templates": (["A {prompt}"], "A {prompt}"),
    "augmentation.noise": (0.1, 0.2),
    "augmentation.typos": (0.01, 0.04),
    "augmentation.drop_system": (1.0, -0.1),
    "augmentation.sub_turns": (0.5, 1.1),
    "augmentation.oversample": (3.0, 3.5),
    "augmentation.paraphrases": ("review.jsonl", 5),
    "objective.method": ("orpo", "ppo"),
    "objective.beta": (0.3, 0),
    "objective.loss_type": (["hinge"], "hinges"),
    "objective.loss_weights": ([0.5], "much"),
    "objective.label_smoothing": (0.1, 0.5),
    "objective.kd_alpha": (0.5, -1.0),
    "objective.kd_ce_alpha": (0.5, -1.0),
    "objective.desirable_weight": (1.3, 0),
    "objective.undesirable_weight": (1.3, 0),
    "objective.cpo_alpha": (0.0, -1),
    "objective.simpo_gamma": (0.0, -1),
    "objective.rewards": ([{"type": "equals"}], 5),
    "objective.reward_funcs": (["mine.py:f"], {"a": 1}),
    "objective.reward_weights": ([0.5], "much"),
    "objective.reward_timeout": (5.0, 0),
    "objective.num_generations": (2, 1),
    "objective.max_completion_length": (1, 0),
    "objective.temperature": (0.7, 0),
    "objective.scale_rewards": ("none", "all"),
    "objective.mask_truncated_completions": (True, "perhaps"),
    "tuning.method": ("full", "magic"),
    "tuning.lora_r": (1, 0),
    "tuning.lora_alpha": (1, 0),
    "tuning.lora_dropout": (0.5, 1.0),
    "tuning.use_rslora": (True, "perhaps"),
    "tuning.use_dora": (True, "perhaps"),
    "tuning.init_lora_weights": ("pissa_niter_16", "pisa"),
    "tuning.rank_pattern": ({"down_proj": 8}, "down_proj"),
    "tuning.alpha_pattern": ({"down_proj": 8}, ["down_proj"]),
    "tuning.lora_target_modules": (["q_proj"], 5),
    "tuning.exclude_modules": (["down_proj"], 5),
    "tuning.layers_to_transform": ([0, 3], "first"),
    "tuning.modules_to_save": (["embed_tokens", "lm_head"], 5),
    "tuning.trainable_token_indices": ([7, "<tool>", "8"], 5),
    "tuning.adapter_name_or_path": ("runs/first", ""),
    "tuning.qat_scheme": ("Q4_0", "Q4_K_M"),
    "tuning.fake_quant_after_n_steps": (0.5, -1),
    "training.num_train_epochs": (0.5, 0),
    "training.max_steps": (10, -2),
    "training.per_device_train_batch_size": (1, 0),
    "training.gradient_accumulation_steps": (4, 0),
    "training.nproc_per_node": (2, 0),
    "training.nnodes": (2, 0),
    "training.micro_batch_tokens": (8, 7),
    "training.gradient_checkpointing": (True, "perhaps"),
    "training.layers_implementation": ("transformers", "torch"),
    "training.optim": ("muon", "sgd"),
    "training.learning_rate": (1e-05, 0),
    "training.loraplus_lr_ratio": (16.0, 0.5),
    "training.embedding_learning_rate": (1e-05, 0),
    "training.lr_scheduler_type": ("cosine", "step"),
    "training.min_lr_rate": (0.5, 1.5),
    "training.num_decay_steps": (30.0, -1),
    "training.polynomial_power": (2.0, 0),
    "training.warmup_steps": (100.0, -1),
    "training.weight_decay": (0.1, 1.5),
    "training.adam_beta1": (0.5, 1.0),
    "training.adam_beta2": (0.5, 1.0),
    "training.adam_epsilon": (1e-06, 0),
    "training.max_grad_norm": (0.0, -1),
    "training.neftune_noise_alpha": (5.0, 0),
    "training.save_steps": (0.0, -0.1),
    "training.save_total_limit": (1, 0),
    "evaluation.eval_steps": (0.0, -1),
    "evaluation.sample_rows": (0, -1),
    "evaluation.score_rows": (0, -1),
    "evaluation.max_new_tokens": (1, 0),
    "evaluation.forgetting_panel": (True, "perhaps"),
    "evaluation.early_stopping_patience": (3, 0),
    "evaluation.load_best_model_at_end": (True, "perhaps"),
    "logging.logging_steps": (5, 0),
    "logging.tensorboard": (False, "perhaps"),
}
BESIDE: dict[str, dict[str, Any]] = {
    "model.bnb_4bit_quant_type": {"model.load_in_4bit": True},
    "model.use_bnb_nested_quant": {"model.load_in_4bit": True},
    "objective.beta": {"objective.method": "dpo"},
    "objective.loss_type": {"objective.method": "dpo"},
    "objective.loss_weights": {"objective.method": "dpo"},
    "objective.kd_alpha": {"data.teacher_logprobs": "t.safetensors"},
    "objective.kd_ce_alpha": {"data.teacher_logprobs": "t.safetensors"},
    "objective.label_smoothing": {"objective.method": "dpo", "objective.loss_type": "robust"},
    "objective.desirable_weight": {"objective.method": "kto"},
    "objective.undesirable_weight": {"objective.method": "kto"},
    "objective.cpo_alpha": {"objective.method": "cpo"},
    "objective.simpo_gamma": {"objective.method": "simpo"},
    "tuning.fake_quant_after_n_steps": {"tuning.qat_scheme": "Q4_0"},
    **{
        f"objective.{name}": {"objective.method": "grpo", "objective.rewards": ["equals"]}
        for name in (
            *(
                "reward_funcs",
                "rewards",
                "reward_timeout",
                "reward_weights",
                "num_generations",
                "temperature",
            ),
            *("max_completion_length", "scale_rewards", "mask_truncated_completions"),
        )
    },
}
"""What a setting needs beside it to mean anything."""
NAMES = list(OTHER_AND_WRONG)
SECTIONS = ["model", "data", "augmentation", "objective", "tuning", "training", "evaluation", "logging"]
SCHEMA = config_schema()


def is_number(name: str) -> bool:
    field = field_schema(name, SCHEMA)
    kinds = {branch.get("type") for branch in [field, *field.get("anyOf", [])]}
    return bool(kinds & {"integer", "number"}) and name not in {"version", "data.validation"}


NUMBERS = [name for name in NAMES if is_number(name)]


def plain(changes: dict[str, Any]) -> dict[str, Any]:
    return apply_overrides({}, {"data.train": "rows.jsonl"} | changes)


def value_of(config: RunConfig, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def refused(raw: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_config(raw)
    return caught.value


BOUNDS = {
    "seed": "[0, 2147483647]",
    "data.max_length": "[8, 1048576]",
    "data.max_rejected_share": "[0, 1]",
    "data.mix_share": "(0, 1)",
    "augmentation.share": "[0, 1]",
    "augmentation.noise": "[0, 0.1]",
    "augmentation.typos": "[0, 0.03]",
    "augmentation.drop_system": "[0, 1]",
    "augmentation.sub_turns": "[0, 1]",
    "augmentation.oversample": "[1, 3]",
    "objective.beta": "(0, 1000]",
    "objective.label_smoothing": "[0, 0.5)",
    "objective.desirable_weight": "(0, 1000]",
    "objective.undesirable_weight": "(0, 1000]",
    "objective.cpo_alpha": "[0, 1000]",
    "objective.simpo_gamma": "[0, 1000]",
    "objective.kd_alpha": "[0, 1000]",
    "objective.kd_ce_alpha": "[0, 1000]",
    "objective.reward_timeout": "(0, 86400]",
    "objective.num_generations": "[2, 1024]",
    "objective.max_completion_length": "[1, 65536]",
    "objective.temperature": "(0, 10]",
    "tuning.lora_r": "[1, 1024]",
    "tuning.lora_alpha": "[1, 8192]",
    "tuning.lora_dropout": "[0, 1)",
    "tuning.fake_quant_after_n_steps": "[0, inf)",
    "training.num_train_epochs": "(0, 10000]",
    "training.max_steps": "[-1, 100000000]",
    "training.per_device_train_batch_size": "[1, 65536]",
    "training.gradient_accumulation_steps": "[1, 65536]",
    "training.nproc_per_node": "[1, 64]",
    "training.nnodes": "[1, 1024]",
    "training.micro_batch_tokens": "[8, 1048576]",
    "training.learning_rate": "(0, 10]",
    "training.loraplus_lr_ratio": "[1, 1000]",
    "training.embedding_learning_rate": "(0, 10]",
    "training.min_lr_rate": "[0, 1]",
    "training.num_decay_steps": "[0, inf)",
    "training.polynomial_power": "(0, 100]",
    "training.warmup_steps": "[0, inf)",
    "training.weight_decay": "[0, 1]",
    "training.adam_beta1": "[0, 1)",
    "training.adam_beta2": "[0, 1)",
    "training.adam_epsilon": "(0, 1]",
    "training.max_grad_norm": "[0, 1000000]",
    "training.neftune_noise_alpha": "(0, 100]",
    "training.save_steps": "[0, inf)",
    "training.save_total_limit": "[1, 10000]",
    "evaluation.eval_steps": "[0, inf)",
    "evaluation.sample_rows": "[0, 1024]",
    "evaluation.score_rows": "[0, 100000]",
    "evaluation.max_new_tokens": "[1, 4096]",
    "evaluation.early_stopping_patience": "[1, 10000]",
    "logging.logging_steps": "[1, 1000000]",
}
"""What each number may be: [ and ] belong to it, ( and ) do not."""


def ends(interval: str) -> list[tuple[float, bool, int]]:
    """The two ends of an interval that are numbers: the end, whether it belongs to it, and the way out."""
    low, high = interval[1:-1].split(", ")
    both = [(float(low), interval[0] == "[", -1), (float(high), interval[-1] == "]", 1)]
    return [end for end in both if math.isfinite(end[0])]


def next_to(name: str, value: float, way: int) -> float:
    """The next value of a setting that there is above (1) or below (-1) this one."""
    field = field_schema(name, SCHEMA)
    kinds = {branch.get("type") for branch in [field, *field.get("anyOf", [])]}
    return value + way if "integer" in kinds else math.nextafter(value, way * math.inf)


def is_taken(name: str, value: float) -> bool:
    """Whether a setting may have this value, whatever stands beside it."""
    try:
        RunConfig.model_validate(plain({name: value}))
    except ValidationError:
        return False
    return True


class TestBounds:
    def test_every_number_has_its_bounds_here(self) -> None:
        assert sorted(BOUNDS) == sorted(NUMBERS)

    @pytest.mark.parametrize("name", BOUNDS)
    def test_a_number_is_tried_below_at_and_above_each_end(self, name: str) -> None:
        for end, belongs, out in ends(BOUNDS[name]):
            tried = [next_to(name, end, -out), end, next_to(name, end, out)]
            assert [is_taken(name, value) for value in tried] == [True, belongs, False], end


class TestEverySetting:
    def test_the_table_above_names_them_all(self) -> None:
        assert sorted(NAMES) == sorted(dotted_names(SCHEMA))
        assert len(NUMBERS) > 20

    @pytest.mark.parametrize("name", NAMES)
    def test_goes_through_yaml_and_back(self, name: str) -> None:
        config = parse_config(plain({**BESIDE.get(name, {}), name: OTHER_AND_WRONG[name][0]}))
        assert value_of(config, name) == OTHER_AND_WRONG[name][0]
        assert parse_config(parse_yaml(config_yaml(config), where="x")) == config
        assert yaml.safe_load(config_yaml(config)) == config.model_dump(mode="json")

    @pytest.mark.parametrize("name", [name for name in NAMES if name not in {"version", "data.train"}])
    def test_the_other_value_is_not_the_default(self, name: str) -> None:
        assert value_of(parse_config(plain({})), name) != OTHER_AND_WRONG[name][0]

    @pytest.mark.parametrize("name", NAMES)
    def test_out_of_range_is_named_with_a_remedy(self, name: str) -> None:
        (problem,) = refused(plain({name: OTHER_AND_WRONG[name][1]})).problems
        assert problem.field == name
        assert repr(OTHER_AND_WRONG[name][1]) in problem.message
        assert problem.remedy

    def test_all_problems_come_at_once(self) -> None:
        error = refused(plain({name: wrong for name, (_, wrong) in OTHER_AND_WRONG.items()}))
        assert sorted(problem.field for problem in error.problems) == sorted(NAMES)
        assert str(error).count("\n") == len(NAMES) - 1

    @pytest.mark.parametrize("value", [True, math.nan, math.inf, "many", [1], 10**400], ids=range(6))
    @pytest.mark.parametrize("name", NUMBERS)
    def test_a_number_is_a_finite_number(self, name: str, value: Any) -> None:
        assert [problem.field for problem in refused(plain({name: value})).problems] == [name]

    @pytest.mark.parametrize("name", NAMES)
    def test_has_help(self, name: str) -> None:
        description = field_schema(name, SCHEMA)["description"]
        assert len(description) > 10
        assert description.endswith(".")


class TestWhatIsRefused:
    @pytest.mark.parametrize("value", [1.5, -0.1, True, "", math.nan, math.inf, [1], {}, 10**400])
    def test_a_share_that_is_none(self, value: Any) -> None:
        assert [p.field for p in refused(plain({"data.validation": value})).problems] == ["data.validation"]

    @pytest.mark.parametrize("template", ["no place", "{prompt}{prompt}"])
    def test_a_phrasing_without_its_one_place(self, template: str) -> None:
        (problem,) = refused(plain({"augmentation.prompt_templates": [template]})).problems
        assert problem.field == "augmentation.prompt_templates"
        assert "exactly once" in problem.message

    @pytest.mark.parametrize("raw", [[1], 5, "text", None])
    def test_what_is_no_mapping(self, raw: Any) -> None:
        assert refused(raw).problems

    @pytest.mark.parametrize("name", ["a/b", "a\\b", "a\nb", "a\0b", "x" * 65])
    def test_a_name_no_folder_can_carry(self, name: str) -> None:
        assert [problem.field for problem in refused(plain({"name": name})).problems] == ["name"]


class TestWhatIsTaken:
    def test_only_the_file_is_needed(self) -> None:
        config = parse_config({"data": {"train": "rows.jsonl"}})
        assert (config.seed, config.tuning.method, config.data.validation) == (42, "lora", 0.1)

    def test_an_unknown_section_is_an_error_even_when_it_is_empty(self) -> None:
        with pytest.raises(ConfigError, match="trainig: there is no such setting"):
            parse_config({"data": {"train": "rows.jsonl"}, "trainig": None})

    @pytest.mark.parametrize("section", sorted(set(SECTIONS) - {"data"}))
    def test_an_empty_section_means_its_defaults(self, section: str) -> None:
        assert parse_config(plain({section: None})) == parse_config(plain({}))

    @pytest.mark.parametrize(
        ("given_value", "kept"), [("0.2", 0.2), (0, 0.0), (0.999, 0.999), ("held.csv", "held.csv")]
    )
    def test_validation_is_a_share_or_a_file(self, given_value: Any, kept: Any) -> None:
        assert parse_config(plain({"data.validation": given_value})).data.validation == kept

    def test_nothing_changes_a_configuration(self) -> None:
        config = parse_config(plain({}))
        with pytest.raises(ValueError, match="frozen"):
            config.seed = 3  # type: ignore[misc]
        with pytest.raises(ValueError, match="frozen"):
            config.data.train = "x"  # type: ignore[misc]


class TestYaml:
    def test_the_commented_file_parses_back_to_the_defaults(self) -> None:
        assert parse_config(parse_yaml(commented_yaml(), where="x")) == parse_config(plain({}))

    def test_the_commented_file_explains_every_setting(self) -> None:
        text = commented_yaml()
        helps = [field_schema(name, SCHEMA)["description"] for name in NAMES]
        assert [line for line in helps if f"# {line}\n" not in text] == []

    def test_the_schema_refuses_unknown_keys_everywhere(self) -> None:
        schema = config_schema()
        sections = [schema, *schema["$defs"].values()]
        assert len(sections) == len(SECTIONS) + 1
        assert all(section["additionalProperties"] is False for section in sections)

    def test_sections_are_what_they_say(self) -> None:
        assert all(issubclass(kind, Section) for kind in Section.__subclasses__())
        assert RunConfig in Section.__subclasses__()


_keys = st.sampled_from([part for name in NAMES for part in name.split(".")]) | st.text(max_size=8)
_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(10**400)
_plain = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=12,
)


def parsed(raw: Any) -> RunConfig | ConfigError:
    try:
        return parse_config(raw)
    except ConfigError as error:
        return error


def again(result: RunConfig | ConfigError) -> RunConfig | ConfigError:
    """A configuration after a trip through YAML; an error as it is."""
    if isinstance(result, ConfigError):
        return result
    return parse_config(parse_yaml(config_yaml(result), where="x"))


@given(_plain | st.fixed_dictionaries({}, optional=dict.fromkeys(("data", "training", "model"), _plain)))
@example({"data": {"train": "x", "validation": 10**400}})
@example({"data": {"train": "x", "validation": "held out: #1.csv"}})
@example({1: 2})
@example({"data": {"train": "x", "columns": {"a": ["b"]}}})
def test_any_plain_data_is_a_configuration_or_a_named_refusal(raw: Any) -> None:
    result = parsed(raw)
    assert again(result) == result
    assert all(p.field and p.message and p.remedy for p in getattr(result, "problems", ()))


def test_a_step_takes_the_batches_of_all_processes_and_of_accumulation() -> None:
    training = {
        "per_device_train_batch_size": 5,
        "gradient_accumulation_steps": 3,
        "nproc_per_node": 2,
        "nnodes": 3,
    }
    assert parse_config(plain({"training": training})).training.rows_per_step == 90


BEST = "evaluation.load_best_model_at_end"
HELD_OUT = ["data.validation", "evaluation.eval_steps"]


@pytest.mark.parametrize("setting", [{"evaluation.early_stopping_patience": 2}, {BEST: True}], ids=str)
@pytest.mark.parametrize("missing", [HELD_OUT[:1], HELD_OUT[1:], HELD_OUT], ids=str)
def test_what_goes_by_held_out_rows_is_refused_without_them(
    setting: dict[str, Any], missing: list[str]
) -> None:
    error = refused(plain(setting | dict.fromkeys(missing, 0)))
    assert [problem.field for problem in error.problems] == list(setting) * len(missing)
    assert [name in str(error) for name in missing] == [True] * len(missing)


@pytest.mark.parametrize("validation", ["held.jsonl", 0.2])
def test_what_goes_by_held_out_rows_takes_a_file_or_a_share(validation: float | str) -> None:
    assert parse_config(plain({"data.validation": validation, BEST: True})).evaluation.load_best_model_at_end


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("all-linear", "all-linear"),
        ("q_proj", ["q_proj"]),
        ("q_proj,v_proj", ["q_proj", "v_proj"]),
        (" q_proj , mlp.up_proj ", ["q_proj", "mlp.up_proj"]),
        (["q_proj"], ["q_proj"]),
        (r".*\.(q|v)_proj", r".*\.(q|v)_proj"),
        (r".*layers\.\d{1,2}\.mlp\..*", r".*layers\.\d{1,2}\.mlp\..*"),
    ],
)
def test_target_modules_are_names_with_commas_a_list_or_a_pattern(
    given: str | list[str], expected: str | list[str]
) -> None:
    assert TuningConfig(lora_target_modules=given).lora_target_modules == expected


@pytest.mark.parametrize(
    ("given", "expected"), [(3, [3]), ("0", [0]), ("0, 3", [0, 3]), ([1, "2"], [1, 2])], ids=str
)
def test_layers_are_numbers_with_commas_or_a_list(given: Any, expected: list[int]) -> None:
    assert TuningConfig(layers_to_transform=given).layers_to_transform == expected
