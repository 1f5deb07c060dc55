"""Write the model card of an export: README.md in the Hub's format, from the facts in the run folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from backend.core.quantized import Quantization
from backend.errors import RunError
from backend.export.certificate import PAGE, Certificate
from backend.export.curves import draw_curves, read_curves
from backend.export.plain import PlainLora
from backend.export.trained import Trained
from backend.run.adapter_settings import vllm_rank
from backend.run.config import RunConfig, TuningConfig
from backend.run.folder import RunDir
from backend.run.methods import default_learning_rate
from backend.run.metrics import (
    ACCURACIES,
    EVAL_LOSS,
    EXACT_MATCH,
    LEARNING_RATE,
    REWARDS_CHOSEN,
    UNDECIDED,
    number,
    preference_words,
)
from backend.run.model_names import MODEL_ALIASES
from backend.run.records import read_evaluations, read_rare_record
from backend.run.reports import BASE, Evaluation, HeldOutScores
from backend.run.root import CARD, IMATRIX
from backend.run.schedule import learning_rate_factor, resolve_steps, steps_per_epoch, total_steps
from backend.utils.interval_utils import score_interval
from backend.utils.record_utils import record_from_json

CURVES = "curves.svg"
_SAMPLES = 5
_ACCURACY = f"eval/{ACCURACIES}"
_LIBRARIES = {"adapter": "peft", "merged": "transformers", "onnx": "onnx"}

_LOAD = {
    "adapter": """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("BASE"), "FOLDER")
rules = GenerationConfig.from_pretrained("FOLDER")  # the tokens that end an answer
""",
    "merged": """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForCausalLM.from_pretrained("FOLDER")
""",
    "onnx": """from onnxruntime import InferenceSession
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
session = InferenceSession("FOLDER/model.onnx")  # input_ids, attention_mask, position_ids, past_key_values.*
""",
    "gguf": """llama-server --model FILE --jinja
""",
    "ollama": """ollama create NAME --file Modelfile
ollama run NAME
""",
    "lora-gguf": """llama-server --model BASE.gguf --lora FILE --jinja
""",
}


def write_card(folder: Path, trained: Trained, target: str, precision: str, certificate: Certificate) -> None:
    """Write ``README.md`` and the picture of its curves into ``folder``, with facts up to the exported step."""
    run, config, base = trained.run, trained.config, trained.base_words
    last = trained.step or _result_step(run) or math.inf
    lines = _until(last, run.metrics().records)
    samples = _until(last, run.samples().records)
    curves = read_curves(lines)
    if curves:
        (folder / CURVES).write_text(draw_curves(curves, title=f"Loss of {run.id}"), encoding="utf-8")
    parts = [
        _front_matter(config, trained.base_name, target),
        f"# {_title(run, config)}\n",
        f"{_what(config, target, precision, base)}\n",
        _section("Training", _table(_training_facts(trained, lines))),
        _section("Data", _table(_data_facts(run))),
        _section("Curves", f"![Loss by step]({CURVES})" if curves else ""),
        _section("Before and after", _before_and_after(lines, None if trained.step else _scores(run))),
        _section("Checks of its answers", "" if trained.step else _checks(run)),
        _section("Answers on held-out rows", _samples(samples)),
        _section("How to load", _how_to_load(folder, trained, target)),
        _section("Does it match the trained model?", _parity(certificate)),
        _section("Limits", "\n".join(_limits(trained, target))),
    ]
    (folder / CARD).write_text("\n".join(part for part in parts if part), encoding="utf-8")


def _until(last: float, records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [dict(record) for record in records if record.get("step", 0) <= last]


def _front_matter(config: RunConfig, base_name: str | None, target: str) -> str:
    relation = "adapter" if target in {"adapter", "lora-gguf"} else "finetune"
    base = {"base_model": base_name, "base_model_relation": relation} if base_name else {}
    known: dict[str, Any] = base | {
        "pipeline_tag": "text-generation",
        "library_name": _LIBRARIES.get(target, "gguf"),
        "tags": ["tunesmith", config.tuning.method],
    }
    licence = _licence(config)
    if licence:
        known["license"] = licence.lower()
    return f"---\n{yaml.safe_dump(known, sort_keys=False, allow_unicode=True)}---\n"


def _licence(config: RunConfig) -> str:
    """Return the base's licence if it is known, else ""."""
    alias = MODEL_ALIASES.get(config.model.model_name_or_path)
    return alias.licence if alias else ""


def _title(run: RunDir, config: RunConfig) -> str:
    return config.name or run.id


def _what(config: RunConfig, target: str, precision: str, base: str) -> str:
    forms = {
        "adapter": "A LoRA adapter",
        "merged": f"A merged model in {precision}",
        "lora-gguf": "A LoRA adapter as a GGUF file",
        "onnx": f"A merged model as an ONNX graph in {precision}",
    }
    form = forms.get(target, f"A GGUF file in {precision}")
    return f"{form}, fine-tuned from {base} with Tunesmith ({config.tuning.method})."


def _result_step(run: RunDir) -> int | None:
    """Return the step whose model is the run's result; None before there is one."""
    outcome = run.read_outcome()
    return outcome.step if outcome else None


def _objective_facts(config: RunConfig) -> Iterator[tuple[str, Any]]:
    """Yield how the run learned, where it was not by supervised fine-tuning."""
    objective = config.objective
    if config.data.teacher_logprobs:
        about = (
            f"{objective.kd_alpha:g} × its divergence + {objective.kd_ce_alpha:g} × the loss on the answers"
        )
        yield "learned from a teacher", f"{Path(config.data.teacher_logprobs).name}: {about}"
    if objective.method == "sft":
        return
    yield "learned by", objective.method
    yield "losses", ", ".join(f"{name} × {weight:g}" for name, weight in objective.losses.items())
    yield "beta", f"{objective.beta_or_default:g}" if objective.facts.is_preference else None
    if objective.facts.samples:
        named = [*(each["type"] for each in objective.rewards), *objective.reward_funcs]
        yield "rewards", ", ".join(Path(name).name for name in named)
        yield "answers to each prompt", objective.num_generations
    yield "reference", "the model before training" if objective.facts.needs_reference else None


def _training_facts(trained: Trained, lines: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    run, config = trained.run, trained.config
    environment = run.read_environment()
    logged = [line[LEARNING_RATE] for line in lines if LEARNING_RATE in line]
    tuning, training = config.tuning, config.training
    yield "run", run.id
    yield "method", tuning.method
    yield from _objective_facts(config)
    if (
        not tuning.trains_all and tuning.adapter_name_or_path is None
    ):  # else they are those of another adapter
        yield "rank, alpha, dropout", f"{tuning.lora_r}, {tuning.lora_alpha}, {tuning.lora_dropout:g}"
        yield "modules", tuning.lora_target_modules
        yield from _further_settings(tuning)
    ended = _result_step(run)
    yield "steps", ended if trained.step is None else f"{trained.step} of {ended or 'a run that goes on'}"
    done, rows = trained.step or ended or 0, environment.data.train_rows
    passes = done / steps_per_epoch(rows, training.rows_per_step) if rows else 0
    yield "epochs", f"{passes:.3g}" if passes else None
    yield "rows a step", training.rows_per_step
    peak = _peak_rate(trained, done, rows) if done and rows else max(logged, default=None)
    yield "peak learning rate", None if peak is None else f"{peak:g}"
    yield "schedule", training.lr_scheduler_type
    yield "longest row, tokens", config.data.max_length
    yield "seed", config.seed
    yield "trained in", environment.plan.dtype if environment.plan else None
    yield "base stored in", trained.quantization.words if trained.quantization else None
    yield "versions", ", ".join(f"{name} {number}" for name, number in environment.versions.items())
    yield "base model's fingerprint", environment.facts.model if environment.facts else None


def _further_settings(tuning: TuningConfig) -> Iterator[tuple[str, str]]:
    """Yield each setting of the adapter that is not usual and has no line of its own."""
    told = {"method", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"}
    for name, field in TuningConfig.model_fields.items():
        if name not in told and (value := getattr(tuning, name)) != field.get_default():
            yield name, json.dumps(value)


def _peak_rate(trained: Trained, done: int, rows: int) -> float:
    """Return the highest learning rate of the first ``done`` steps, reached at the end of the warm-up."""
    training, width = trained.config.training, trained.model.config.get_text_config().hidden_size
    peak = training.learning_rate or default_learning_rate(
        trained.config.tuning.method, width, trained.config.objective.method, optim=training.optim
    )
    steps = total_steps(rows, training)
    warmup = resolve_steps(training.warmup_steps, steps)
    return peak * learning_rate_factor(training, steps)(min(done, max(1, warmup)))


def _data_facts(run: RunDir) -> Iterator[tuple[str, Any]]:
    environment = run.read_environment()
    if environment.attempt == 0:  # nothing is recorded yet, and counts of 0 would be wrong
        return
    data = environment.data
    for key in ("train_rows", "validation_rows", "tokens", "trained_tokens"):
        yield key.replace("_", " ").replace("validation", "held-out"), getattr(data, key)
    if data.documents not in {0, data.train_rows}:
        yield "documents that the train rows are cut from", data.documents
    for path, digest in (environment.facts.data if environment.facts else {}).items():
        yield f"SHA-256 of {Path(path).name}", digest
    for key in ("rejected_rows", "cut_rows", "dropped_rows"):
        yield key.replace("_", " "), len(getattr(data, key)) or None
    check = run.read_data_check()
    for finding in check.findings:
        if finding.check in check.accepted:
            yield (
                f"trained in spite of {finding.check}",
                f"{finding.count:,} rows: {finding.title}. {finding.harm}",
            )


def _scores(run: RunDir) -> HeldOutScores | None:
    """Return the scores of ``tunesmith evaluate`` for this result; None if there are none, or for another step."""
    try:
        found = read_rare_record(run.scores_file, lambda value: record_from_json(HeldOutScores, value))
    except RunError:
        return None
    return found if found and found.step == _result_step(run) else None


def _checks(run: RunDir) -> str:
    """Return tables of the evaluations of this result, with the verdicts against the base; "" without any."""
    try:
        found = read_evaluations(run.evaluation_file).of_step(_result_step(run) or 0)
    except RunError:
        return ""
    return "\n\n".join(map(_evaluation, found))


def _evaluation(found: Evaluation) -> str:
    shares = {(each.metric, each.model): each for each in found.scores}
    table = [f"| {_cell(found.source)}, {found.rows:,} rows | base | tuned | verdict |", "|---|---|---|---|"]
    for each in (each for each in found.verdicts if each.against == BASE):
        sides = (shares[each.metric, BASE], shares[each.metric, found.models[-1]])
        cells = [_cell(each.metric), *(_share_words(side.passed, side.rows) for side in sides)]
        verdict = f"{each.verdict}, {each.difference:+.3f} ({each.low:+.3f} to {each.high:+.3f})"
        table.append("| " + " | ".join([*cells, verdict]) + " |")
    return "\n".join(table)


def _before_and_after(lines: list[dict[str, Any]], scores: HeldOutScores | None) -> str:
    """Return a table of the first and the last evaluation; "" without two evaluations."""
    found = [line for line in lines if line.get("kind") == "eval"]
    if len(found) < 2:
        return ""
    first, last = found[0], found[-1]
    table = [f"| | step {first['step']} | step {last['step']} |", "|---|---|---|"]
    losses = " | ".join(f"{float(line[EVAL_LOSS]):.4f}" for line in (first, last))
    is_preference = any(f"eval/{REWARDS_CHOSEN}" in line for line in found)
    table.append(f"| held-out loss{'' if is_preference else ', nats a token'} | {losses} |")
    if all(_ACCURACY in line for line in (first, last)):
        shares = " | ".join(_preferred(line) for line in (first, last))
        table.append(f"| better answer preferred, of {last.get('rows')} held-out pairs | {shares} |")
    if scores and scores.pairs:
        pairs = [_share_words(share, scores.pairs) for share in (scores.base_prefers, scores.tuned_prefers)]
        table.append(f"| better answer likelier, of {scores.pairs:,} held-out pairs | {' | '.join(pairs)} |")
        gained = _share_words(scores.gained, scores.pairs)
        table.append(f"| better answer gained more, of {scores.pairs:,} held-out pairs | | {gained} |")
    if scores:
        table.append(
            f"| exact match on {scores.rows:,} held-out rows | {scores.base:.1%} | {scores.tuned:.1%} |"
        )
    elif EXACT_MATCH in last:  # the untrained model is not scored in training
        table.append(f"| exact match | | {last[EXACT_MATCH]:.1%} |")
    return "\n".join(table)


def _share_words(share: float, of: int) -> str:
    low, high = score_interval(round(share * of), of)
    return f"{share:.1%} ({max(0.0, low):.1%} to {min(1.0, high):.1%})"


def _preferred(line: Mapping[str, Any]) -> str:
    undecided = preference_words(line, "eval/") == UNDECIDED
    return "undecided" if undecided else f"{number(line[_ACCURACY]):.1%}"


def _samples(records: list[dict[str, Any]]) -> str:
    """Return a table of sample answers at the first and the last evaluation; "" without samples."""
    if not records:
        return ""
    first, last = min(r["step"] for r in records), max(r["step"] for r in records)
    before = {r["row"]: r["generated"] for r in records if r["step"] == first}
    table = [f"| question | expected | step {first} | step {last} |", "|---|---|---|---|"]
    for record in [r for r in records if r["step"] == last][:_SAMPLES]:
        cells = (record["prompt"], record["expected"], before.get(record["row"], ""), record["generated"])
        table.append("| " + " | ".join(_cell(str(cell)) for cell in cells) + " |")
    return "\n".join(table)


def _how_to_load(folder: Path, trained: Trained, target: str) -> str:
    file = next((path.name for path in sorted(folder.glob("*.gguf")) if not path.name.endswith(IMATRIX)), "")
    named = trained.base_name or "path/to/the/base/model"
    form = _load_quantized(trained) if target == "adapter" and trained.quantization else _LOAD[target]
    body = form.replace("FOLDER", ".").replace("BASE", named).replace("FILE", file)
    code = f"```{'python' if target in _LIBRARIES else 'console'}\n{body}```"
    if target not in {"adapter", "lora-gguf"}:
        return code
    plain = trained.plain()
    by_vllm = target == "adapter" and not trained.quantization
    served = _for_vllm(named, trained.slug, plain.config["r"]) if by_vllm else ""
    return "\n\n".join(filter(None, [trained.base_place, _folded(plain), code, served]))


def _folded(plain: PlainLora) -> str:
    """Return a sentence on the settings of training that are no longer in the adapter's own; "" without any."""
    names = ", ".join(plain.folded)
    return (
        f"What {names} did in training is in the weights, so that every program applies it alike."
        if names
        else ""
    )


def _for_vllm(base: str, name: str, rank: int) -> str:
    most = vllm_rank(rank)
    if most is None:
        return f"vLLM takes no adapter of rank {rank}; export the run merged for it."
    flag = f" --max-lora-rank {most}" if most > 16 else ""  # vLLM's default is 16
    return f"```console\nvllm serve {base} --enable-lora{flag} --lora-modules {name}=.\n```"


def _load_quantized(trained: Trained) -> str:
    """Return the code that loads an adapter over its base in 4 or 8 bits, with the values it had in training."""
    stored = trained.quantization
    if stored is None or stored.kind == "int8":
        settings = "load_in_8bit=True"
    else:
        settings = (
            f'load_in_4bit=True, bnb_4bit_quant_type="{stored.kind}", bnb_4bit_use_double_quant={stored.nested}, '
            f'bnb_4bit_compute_dtype="{_dtype(stored)}"'
        )
    dtype = _dtype(stored) if stored else "float32"
    return f"""from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
stored = BitsAndBytesConfig({settings})
base = AutoModelForCausalLM.from_pretrained("BASE", dtype="{dtype}", quantization_config=stored)
model = PeftModel.from_pretrained(base, "FOLDER")
rules = GenerationConfig.from_pretrained("FOLDER")  # the tokens that end an answer
"""


def _dtype(stored: Quantization) -> str:
    return str(stored.dtype).removeprefix("torch.")


def _parity(certificate: Certificate) -> str:
    reasons = "".join(f"\n- {reason}" for reason in certificate.reasons)
    return f"The parity certificate is **{certificate.light}**; see [{PAGE}]({PAGE}).{reasons}"


def _limits(trained: Trained, target: str) -> Iterator[str]:
    """Yield the limits of what is known about the model, a list item each."""
    config, base = trained.config, trained.base_words
    yield "- It was fine-tuned on the rows above and nothing else."
    if trained.base_note:
        yield f"- {trained.base_note}"
    if trained.quantization and target in {"adapter", "lora-gguf"}:
        yield f"- {trained.rounded_base_note}"
    elif trained.quantization:
        yield (
            f"- Its weights are those of {base} in {trained.quantization.words}, unpacked, with the adapter added in "
            "float32: what was trained, and not the weights as they were published."
        )
    if target == "adapter" and trained.adapts_experts:
        yield (
            "- It adapts experts as transformers 5 stores them. Under transformers 4, which stores those of most "
            "families differently, peft leaves their part out without an error."
        )
    yield f"- It may share every weakness of {base}."
    yield "- The held-out rows come from the same source as the training rows. Other questions were not measured."
    yield "- Safety, fairness and other languages were not measured."
    if not _licence(config):
        yield f"- The licence of {base} is not recorded here: look it up before you share this model."
    yield "- The rights in the training rows belong to their owner; this card says nothing more about them."


def _table(facts: Iterator[tuple[str, Any]]) -> str:
    rows = [f"| {name} | {_cell(str(value))} |" for name, value in facts if value not in (None, "")]
    return "\n".join(["| | |", "|---|---|", *rows]) if rows else ""


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}\n" if body else ""


def _cell(text: str) -> str:
    """Return text escaped for a cell of a Markdown table: one line, no column marks, no markup."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())
