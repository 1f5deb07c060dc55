"""RunConfig: every knob of a run, once, with its type, bound, default and help.

Command-line flags, YAML, the JSON schema, the forms of the studio and the reference in the docs are all
derived from this module. Names follow TRL and Hugging Face where those have one.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from backend.run.methods import OBJECTIVES, TUNINGS, Objective
from backend.utils.config_utils import dotted_names, field_schema, parse_value, to_yaml

LONGEST_TEMPLATE = 100_000
"""Characters of a chat template that a run keeps."""

StepsOrShare = Annotated[float, Field(ge=0)]


def _one_place(template: str) -> str:
    if template.count("{prompt}") != 1:
        raise ValueError("it must hold {prompt} exactly once")
    return template


PromptTemplate = Annotated[str, AfterValidator(_one_place)]


def _known_start(name: str) -> str:
    if not re.fullmatch(r"default|pissa|pissa_niter_\d{1,3}|olora", name):
        raise ValueError("it is none of default, pissa, pissa_niter_16 (or another number) and olora")
    return name


LoraStart = Annotated[str, AfterValidator(_known_start)]


class Section(BaseModel):
    """A part of the configuration: frozen, strict about unknown keys, with text for every field."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_as_number(cls, value: Any, info: Any) -> Any:
        """YAML's yes/no must not pass for 1/0."""
        annotation = str(cls.model_fields[info.field_name].annotation)
        if isinstance(value, bool) and "bool" not in annotation:
            raise ValueError(f"{str(value).lower()} is not a number or text")
        return value


class ModelConfig(Section):
    """Which model to start from."""

    model_name_or_path: str = Field("smollm2-135m", min_length=1, max_length=4096)
    """A local folder, a .gguf file, a Hugging Face id, or the alias smollm2-135m."""

    revision: str | None = Field(None, min_length=1, max_length=256)
    """Branch, tag or commit of a Hugging Face id; empty for the default branch."""

    chat_template: str | None = Field(None, min_length=1, max_length=LONGEST_TEMPLATE)
    """A chat template instead of its own: chatml, alpaca, vicuna, plain, a Jinja file, or its form no-thinking."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the frozen weights during training; auto takes bfloat16 where the processor has it."""

    load_in_4bit: bool = False
    """Store the frozen weights of linear layers in 4 bits (QLoRA) and compute in dtype; needs bitsandbytes."""

    load_in_8bit: bool = False
    """Store the frozen weights of linear layers in 8 bits and compute in dtype; needs bitsandbytes."""

    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    """The sixteen values of a 4-bit weight: nf4 fits weights better than fp4."""

    use_bnb_nested_quant: bool = False
    """Store the scales of 4-bit weights in 8 bits too (double quantization): another 0.4 bits a weight less."""

    @property
    def quantization(self) -> Literal["nf4", "fp4", "int8"] | None:
        """How the frozen weights of linear layers are stored; None where they are not quantized."""
        if self.load_in_4bit:
            return self.bnb_4bit_quant_type
        return "int8" if self.load_in_8bit else None


class DataConfig(Section):
    """Which rows to train on and which to hold out."""

    train: str = Field(min_length=1, max_length=4096)
    """The rows to train on: a file, folder, pattern, archive or hub id; docs/data.md lists the formats."""

    validation: str | float = Field(0.1, union_mode="left_to_right")
    """The held-out rows: a file, or the share of the training rows to hold out; 0 for none."""

    split_by: Literal["prompt", "answer", "document"] = "prompt"
    """What rows share to stay on one side of the split, unless a column is mapped to group; a document is a file."""

    columns: dict[str, str] = {}
    """Names of your columns, as role: column, for example prompt: question; empty to detect them."""

    max_length: int = Field(1024, ge=8, le=1_048_576)
    """Longest example in tokens; longer ones are refused or cut, as data.truncation says."""

    truncation: Literal["error", "cut", "drop"] = "error"
    """What to do with an example longer than max_length: stop, cut its end, or leave it out; cpt splits texts."""

    max_rejected_share: float = Field(0.0, ge=0, le=1)
    """Share of unreadable rows to put up with before the run refuses to start."""

    encoding: str | None = Field(None, min_length=1, max_length=64)
    """Encoding of text files, such as cp1252; empty to go by their first bytes, else UTF-8."""

    delimiter: str | None = Field(None, min_length=1, max_length=1)
    """What parts the cells of a table, such as ; in quotes; empty to find it from the first rows."""

    sheet: str | None = Field(None, min_length=1, max_length=256)
    """The sheet of a workbook to read; empty where it has one."""

    whole_file: bool = False
    """Make one row of each text file instead of one a line."""

    mix: str | None = Field(None, min_length=1, max_length=4096)
    """Other rows to mix in against forgetting, texts or chats: a file, folder or hub id; empty for none."""

    mix_share: float = Field(0.1, gt=0, lt=1)
    """Share of the examples of an epoch that come from data.mix; each epoch takes others."""

    teacher_logprobs: str | None = Field(None, min_length=1, max_length=4096)
    """What a teacher says of these rows, as tunesmith data logprobs writes it, to distil it; empty for no teacher."""

    sha256: dict[str, str] = {}
    """SHA-256 of each source as it was checked, filled in when a run is made; a run refuses other data."""

    accept: list[str] = []
    """Checks of the data whose STOP does not prevent the run, such as duplicates; the run and its card name them."""

    skip_rows: list[str] = []
    """Training rows to leave out, by their place, such as train.jsonl:12; an unknown place is an error."""

    @field_validator("validation", mode="before")
    @classmethod
    def _path_or_share(cls, value: Any) -> Any:
        try:
            share = float(value)
        except (TypeError, ValueError, OverflowError):
            if value != "" and not isinstance(value, int):
                return value
            share = -1.0
        if not 0 <= share < 1:
            raise ValueError("neither a file nor a share from 0 to below 1")
        return share


class AugmentationConfig(Section):
    """How training rows vary from epoch to epoch. All off by default; held-out rows and answers never change."""

    share: float = Field(1.0, ge=0, le=1)
    """Probability that a row may vary at all in an epoch; the others stay as they are."""

    prompt_templates: list[PromptTemplate] = []
    """Phrasings with {prompt} in them; each time one of them, or none, is put around the first prompt."""

    noise: float = Field(0.0, ge=0, le=0.1)
    """Probability for a user turn of losing its capitals, losing its end mark, and a doubled space, each."""

    typos: float = Field(0.0, ge=0, le=0.03)
    """Probability for a letter of a plain word in a user turn of a typing mistake."""

    drop_system: float = Field(0.0, ge=0, le=1)
    """Probability of leaving out the system message."""

    sub_turns: float = Field(0.0, ge=0, le=1)
    """Probability of ending a chat of several answers at an earlier one."""

    oversample: float = Field(1.0, ge=1, le=3)
    """Rows of rare answers are repeated towards the most common one, each at most this many times; 1 for off."""

    paraphrases: str = Field("", max_length=4096)
    """A file of reworded prompts that a person has reviewed; the accepted ones become further rows."""


LossName = Literal[
    "sigmoid",
    "robust",
    "ipo",
    "hinge",
    "sigmoid_norm",
    "apo_zero",
    "apo_down",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "sft",
    "kto",
    "apo_zero_unpaired",
    "dapo",
    "dr_grpo",
    "grpo",
]


def _assertion(value: Any) -> Any:
    """Return a reward given as text, such as equals or {type: regex, value: yes}, as a mapping."""
    read = parse_value(value) if isinstance(value, str) else value
    return {"type": read} if isinstance(read, str) else read


Assertion = Annotated[dict[str, Any], BeforeValidator(_assertion)]


class ObjectiveConfig(Section):
    """What the model learns from: answers, plain text, answers compared or judged, or rewards for its own."""

    method: Literal["sft", "cpt", "dpo", "kto", "orpo", "cpo", "simpo", "grpo"] = "sft"
    """sft learns answers, cpt texts; dpo, orpo, cpo, simpo compare answers, kto has marks, grpo rewards its own."""

    beta: float | None = Field(None, gt=0, le=1000)
    """How firmly a preference loss holds on to the starting model; empty for 0.1, for simpo 2.5."""

    loss_type: list[LossName] = []
    """The loss, or several to add up, such as sigmoid, sft; empty for the first in docs/methods.md."""

    loss_weights: list[float] = []
    """A weight for each loss in loss_type; empty for 1 each."""

    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of pairs that may be the wrong way round, for the losses sigmoid (cDPO), robust and exo_pair."""

    desirable_weight: float = Field(1.0, gt=0, le=1000)
    """Weight of good answers in kto; raise it if there are fewer of them."""

    undesirable_weight: float = Field(1.0, gt=0, le=1000)
    """Weight of bad answers in kto; raise it if there are fewer of them."""

    cpo_alpha: float = Field(1.0, ge=0, le=1000)
    """Weight in cpo of the loss on the better answers themselves."""

    simpo_gamma: float = Field(1.375, ge=0, le=1000)
    """How much better the better answer must be in simpo, as a margin on beta times the log-probability per token."""

    kd_alpha: float = Field(0.9, ge=0, le=1000)
    """Weight in distillation of the divergence from the teacher in data.teacher_logprobs."""

    kd_ce_alpha: float = Field(0.1, ge=0, le=1000)
    """Weight in distillation of the usual loss on the answers in the rows."""

    rewards: list[Assertion] = []
    """What grpo rewards: assertions such as {type: equals}, with a weight each; docs/grpo.md lists them."""

    reward_funcs: list[str] = []
    """Functions of your own that reward answers in grpo, as file.py:function with TRL's parameters."""

    reward_weights: list[float] = []
    """A weight for each of rewards, then of reward_funcs; empty for those in rewards, else 1."""

    reward_timeout: float = Field(60.0, gt=0, le=86_400)
    """Seconds that a function of reward_funcs may take for the answers to one prompt."""

    num_generations: int = Field(8, ge=2, le=1024)
    """Answers that grpo samples to each prompt and compares with each other."""

    max_completion_length: int = Field(128, ge=1, le=65_536)
    """Longest answer that grpo samples, in tokens."""

    temperature: float = Field(1.0, gt=0, le=10)
    """Temperature at which grpo samples; its gradient is that of the distribution at this temperature."""

    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Divide rewards in grpo by their spread within a group of answers, within the step, or not."""

    mask_truncated_completions: bool = False
    """Learn nothing from answers that reach max_completion_length in grpo."""

    @property
    def facts(self) -> Objective:
        """The facts about the method."""
        return OBJECTIVES[self.method]

    @property
    def losses(self) -> Mapping[str, float]:
        """The weight of each loss by its name; empty for a method that has one loss only."""
        names: Sequence[str] = self.loss_type or self.facts.losses[:1]
        return dict(zip(names, self.loss_weights or itertools.repeat(1.0), strict=False))

    @field_validator("loss_type", "loss_weights", "reward_weights", "reward_funcs", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Take one value, or text with commas between several, as a list."""
        if isinstance(value, str):
            return [part for part in re.split(r"\s*,\s*", value.strip()) if part]
        return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value

    @property
    def beta_or_default(self) -> float:
        """``beta``, or where it is empty that of the method; 0 for a method without one."""
        return self.beta or self.facts.beta or 0.0


class TuningConfig(Section):
    """How the model is made trainable."""

    method: Literal["lora", "full"] = "lora"
    """lora trains small adapter matrices beside frozen weights; full trains every weight."""

    @property
    def trains_all(self) -> bool:
        """True if every weight is trained, so that the result is a model and no adapter."""
        return TUNINGS[self.method].trains_all

    lora_r: int = Field(16, ge=1, le=1024)
    """Rank of the LoRA matrices: more rank, more capacity, more memory."""

    lora_alpha: int = Field(32, ge=1, le=8192)
    """LoRA scale: the update is multiplied by lora_alpha / lora_r."""

    use_rslora: bool = False
    """Divide lora_alpha by the square root of the rank, not by the rank (rsLoRA), so that a high rank learns more."""

    use_dora: bool = False
    """Train the length of each output's weights beside their direction (DoRA); slower, and few servers read it."""

    init_lora_weights: LoraStart = "default"
    """Where the matrices start: default at no change; pissa, pissa_niter_16 (faster) or olora at the base's own."""

    rank_pattern: dict[str, Annotated[int, Field(ge=1, le=1024)]] = {}
    """Another rank for some modules, as name: rank, for example down_proj: 8; a name may be a regular expression."""

    alpha_pattern: dict[str, Annotated[int, Field(ge=1, le=8192)]] = {}
    """Another lora_alpha for some modules, as name: alpha, for example down_proj: 16."""

    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of adapter inputs set to zero in training."""

    lora_target_modules: str | list[str] = "all-linear"
    """Modules that get an adapter: all-linear, or a list of module names such as q_proj, v_proj."""

    exclude_modules: list[str] = []
    """Modules that get no adapter although lora_target_modules names them, such as down_proj."""

    layers_to_transform: list[Annotated[int, Field(ge=0)]] = []
    """Numbers of the layers that get an adapter, counted from 0; empty for all."""

    modules_to_save: list[str] = []
    """Layers to train whole beside the adapter, such as embed_tokens, lm_head; the result is served merged only."""

    trainable_token_indices: list[int | str] = []
    """Tokens whose rows in embeddings and head are trained, by id or text such as <tool>; served merged only."""

    adapter_name_or_path: str | None = Field(None, min_length=1, max_length=4096)
    """An adapter to train further: its folder or that of its run; rank, scale and modules are then its own."""

    qat_scheme: Literal["Q4_0"] | None = None
    """Let the last steps compute with the weights of a GGUF export in this precision; empty for no such export."""

    fake_quant_after_n_steps: StepsOrShare = 0.7
    """Steps before qat_scheme begins to round the weights; below 1 a share of all steps."""

    @field_validator(
        *("lora_target_modules", "exclude_modules", "layers_to_transform", "modules_to_save"), mode="before"
    )
    @classmethod
    def _names(cls, value: Any) -> Any:
        """Take one name or number, or several with commas between them, as a list; all else as it is."""
        if isinstance(value, int) and not isinstance(value, bool):
            return [value]
        names = re.fullmatch(r"[\w.]+(\s*,\s*[\w.]+)*", value.strip()) if isinstance(value, str) else None
        return re.split(r"\s*,\s*", names[0]) if names else value


class TrainingConfig(Section):
    """How long and how fast to learn, and when to save."""

    num_train_epochs: float = Field(2.0, gt=0, le=10_000)
    """Passes over the training rows."""

    max_steps: int = Field(-1, ge=-1, le=100_000_000)
    """Stop after this many optimizer steps, whatever the epochs say; -1 or 0 to go by epochs."""

    per_device_train_batch_size: int = Field(16, ge=1, le=65_536)
    """Examples in one step before accumulation."""

    gradient_accumulation_steps: int = Field(1, ge=1, le=65_536)
    """Batches summed into one optimizer step; the loss stays the exact mean over all their trained tokens."""

    nproc_per_node: int = Field(1, ge=1, le=64)
    """Processes that train together on a machine, each with a GPU or its share of the cores; each adds a batch."""

    nnodes: int = Field(1, ge=1, le=1024)
    """Machines that train together over a folder they share; torchrun starts the processes on each."""

    micro_batch_tokens: int = Field(1024, ge=8, le=1_048_576)
    """Tokens computed at once; lower it when memory is short. It changes the result by rounding only."""

    gradient_checkpointing: bool = False
    """Keep less of the forward pass and compute it again: less memory for long rows, about a third more time."""

    layers_implementation: Literal["auto", "transformers", "tunesmith"] = "auto"
    """Whose code computes the layers; auto takes Tunesmith's own on a processor where it is proved equal."""

    optim: Literal["adamw_torch", "adafactor", "muon", "lion_32bit", "lion_8bit", "adamw_8bit"] = (
        "adamw_torch"
    )
    """The optimizer, by its name in transformers; others than adamw_torch mainly save memory in full fine-tuning."""

    learning_rate: float | None = Field(None, gt=0, le=10)
    """Peak learning rate; empty to choose it by method, model width and optimizer."""

    loraplus_lr_ratio: float | None = Field(None, ge=1, le=1000)
    """LoRA+: how many times faster the B matrices learn than the A matrices, such as 16; empty for the same rate."""

    embedding_learning_rate: float | None = Field(None, gt=0, le=10)
    """Peak learning rate of embeddings and head where they are trained, often a tenth; empty for the usual one."""

    lr_scheduler_type: Literal[
        "linear",
        "cosine",
        "constant",
        "cosine_with_min_lr",
        "polynomial",
        "inverse_sqrt",
        "warmup_stable_decay",
    ] = "linear"
    """Shape of the learning rate after warm-up, by the names of transformers."""

    min_lr_rate: float = Field(0.1, ge=0, le=1)
    """Where cosine_with_min_lr and warmup_stable_decay end, as a share of the peak learning rate."""

    num_decay_steps: StepsOrShare = 0.2
    """Steps at the end in which warmup_stable_decay lowers the rate; below 1 a share of all steps."""

    polynomial_power: float = Field(1.0, gt=0, le=100)
    """How steeply polynomial falls: 1 is a line, 2 a parabola that flattens out."""

    warmup_steps: StepsOrShare = 0.05
    """Steps of linear warm-up; below 1 it is a share of all steps."""

    weight_decay: float = Field(0.0, ge=0, le=1)
    """Weight decay, on matrices only; about 5 times that of AdamW for Lion."""

    adam_beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW decay of the first moment."""

    adam_beta2: float = Field(0.999, ge=0, lt=1)
    """AdamW decay of the second moment."""

    adam_epsilon: float = Field(1e-8, gt=0, le=1)
    """AdamW epsilon."""

    max_grad_norm: float = Field(1.0, ge=0, le=1e6)
    """Gradients are scaled down to this global L2 norm; 0 for no clipping."""

    neftune_noise_alpha: float | None = Field(None, gt=0, le=100)
    """Strength of NEFTune noise on the embeddings while training, 5 to 15 where it helps; empty for none."""

    save_steps: StepsOrShare = 0.1
    """Steps between checkpoints; below 1 a share of all steps; 0 to save at the end only."""

    save_total_limit: int = Field(2, ge=1, le=10_000)
    """Newest checkpoints to keep; the best one is kept besides."""

    @property
    def rows_per_step(self) -> int:
        """Examples that go into one optimizer step."""
        processes = self.nproc_per_node * self.nnodes
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * processes


class EvaluationConfig(Section):
    """How the held-out rows are used while training."""

    eval_steps: StepsOrShare = 0.25
    """Steps between evaluations; below 1 a share of all steps; 0 to evaluate at the end only."""

    sample_rows: int = Field(4, ge=0, le=1024)
    """Held-out rows whose answers are written out at each evaluation: always the same ones."""

    score_rows: int = Field(160, ge=0, le=100_000)
    """Held-out rows scored by exact match at the end, when answers are short; 0 for none."""

    max_new_tokens: int = Field(32, ge=1, le=4096)
    """Longest answer to generate, in tokens."""

    forgetting_panel: bool | None = None
    """Follow the loss on general texts that ship with Tunesmith, to see forgetting; empty for: in cpt only."""

    early_stopping_patience: int | None = Field(None, ge=1, le=10_000)
    """Evaluations in a row without a lower held-out loss that end the training; empty to train every step."""

    load_best_model_at_end: bool = False
    """Keep the model of the lowest held-out loss as the result, not the last one; early stopping always does."""


class LoggingConfig(Section):
    """What is written down while training."""

    logging_steps: int = Field(1, ge=1, le=1_000_000)
    """Steps between lines in metrics.jsonl and points in TensorBoard."""

    tensorboard: bool = True
    """Write TensorBoard event files beside metrics.jsonl."""


class RunConfig(Section):
    """Everything that decides a run. Stored whole as config.yaml in the run folder and never changed."""

    version: Literal[1] = 1
    """Version of this file format."""

    name: str = Field("", max_length=64, pattern=r"^[^\x00-\x1f/\\]*$")
    """A name of your own for the run; empty to name it after the data."""

    seed: int = Field(42, ge=0, le=2**31 - 1)
    """Seed of everything random: split, order, adapter start, dropout, sampling."""

    model: ModelConfig = ModelConfig()
    data: DataConfig
    augmentation: AugmentationConfig = AugmentationConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    tuning: TuningConfig = TuningConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    logging: LoggingConfig = LoggingConfig()

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, value: Any) -> Any:
        """A section that is absent or empty in YAML means all its defaults."""
        if isinstance(value, Mapping):
            return {"data": {}} | {
                key: part for key, part in value.items() if part is not None or key not in cls.model_fields
            }
        return value

    @property
    def watches_forgetting(self) -> bool:
        """True if the loss on general texts is measured at each evaluation."""
        asked = self.evaluation.forgetting_panel
        return self.objective.method == "cpt" if asked is None else asked

    def accepting(self, checks: Sequence[str]) -> RunConfig:
        """Return the same configuration with these checks of the data accepted, beside those that are already."""
        both = dict.fromkeys([*self.data.accept, *checks])
        return self.model_copy(update={"data": self.data.model_copy(update={"accept": list(both)})})

    def pinned(self, sha256: Mapping[str, str]) -> RunConfig:
        """The same for data of these SHA-256 by source, as they were checked; a run of it refuses other data."""
        return self.model_copy(update={"data": self.data.model_copy(update={"sha256": dict(sha256)})})


@cache
def config_schema() -> Mapping[str, Any]:
    """The JSON schema of a configuration file, as forms, docs and editors read it: made once, to be read only."""
    return RunConfig.model_json_schema()


def config_yaml(config: RunConfig) -> str:
    """The whole configuration as YAML: every setting, resolved, in schema order."""
    return to_yaml(config.model_dump(mode="json"))


def commented_yaml() -> str:
    """A starting file: every setting with its default and its help as a comment above it."""
    schema = config_schema()
    lines = ["# A Tunesmith run. Only data.train is required; every other line shows its default."]
    section = ""
    for name in dotted_names(schema):
        field = field_schema(name, schema)
        head, _, key = name.rpartition(".")
        if head != section:
            section = head
            lines += ["", f"{head}:"]
        indent = "  " if head else ""
        default = json.dumps(field.get("default", "rows.jsonl"))
        lines += [f"{indent}# {field.get('description', '')}", f"{indent}{key}: {default}"]
    return "\n".join(lines) + "\n"
