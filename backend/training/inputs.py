"""Check the inputs of a run (rows, chat template, model) before anything is written.

Every way to start a run calls this, so that a STOP of the data check stops them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from backend import data_pipeline
from backend.core.encoding.template_faults import seen_by, template_sentences
from backend.core.model_folder import check_files, check_model_folder
from backend.core.model_resolver import resolve_model
from backend.core.packages import require_bitsandbytes
from backend.core.tokenizer import load_tokenizer
from backend.data.checks import ALL, OF_PROMPTS, Check
from backend.data.checks.template import TEMPLATE_CHECKS
from backend.data.doctor import NAMES, Finding, Report, examine
from backend.data.fixes import mend
from backend.data_pipeline import Dataset
from backend.errors import ConfigError, Problem, UnsoundDataError, marked
from backend.run.adapter_settings import merged_only
from backend.run.config import DataConfig, RunConfig, TuningConfig
from backend.run.methods import usual_method
from backend.run.reports import DataFinding

THOROUGH_ROWS = 20_000
"""Up to this many rows all checks run before training, in seconds; with more rows, only those that can stop it."""
_SHOWN_PLACES = 3
REFUSED = frozenset({"untrainable-rows"})
"""STOP findings that cannot be accepted: the method does not learn from such rows. (Over-long rows are refused later,
when all rows are tokenised.)"""


@dataclass(frozen=True)
class Inputs:
    """The inputs of a run: the model's folder, how the rows were read, and their counts.

    ``usual_method``: the training method that rows of their kind are usually given to.

    ``sha256``: the fingerprint of each source. ``findings``: those of the data check, most harmful first. ``stops``:
    those of them that prevent the run, with the number of rows that their fix leaves.
    """

    model: str
    read_as: str
    sha256: Mapping[str, str]
    train_rows: int
    validation_rows: int
    trained_questions: int
    usual_method: str
    warnings: tuple[str, ...]
    tokens_per_epoch: int
    trained_tokens_per_epoch: int
    findings: tuple[DataFinding, ...]
    stops: tuple[Problem, ...]


def check_inputs(config: RunConfig, *, all_now: bool = True) -> Inputs:
    """Load data, tokenizer and model settings as the trainer will, and return what was found; nothing is written.

    The trainer reads and hashes everything again: what was checked is what is trained on. With ``all_now`` False only
    the first rows of a large data set are tokenised, the rest during training.

    Raises UnsoundDataError if the data check says STOP, else the TunesmithError that the trainer would end with.
    """
    from backend.training.optimizer import check_optimizer  # noqa: PLC0415 - torch and peft load here
    from backend.training.tuning import check_tuning  # noqa: PLC0415

    found = read_inputs(config, all_now=all_now)
    check_model_folder(Path(found.model))
    if found.stops:
        raise unsound(config, found.stops)
    check_tuning(Path(found.model), config.tuning)
    check_optimizer(config.training)
    return found


def read_inputs(config: RunConfig, *, all_now: bool = True) -> Inputs:
    """Return what ``check_inputs`` does, STOP or not, without the checks of the model that need torch."""
    dataset = data_pipeline.load(config.data, seed=config.seed, augmentation=config.augmentation)
    folder = resolve_model(config.model.model_name_or_path, revision=config.model.revision)
    check_files(folder)
    if config.model.quantization:
        require_bitsandbytes("model.load_in_4bit" if config.model.load_in_4bit else "model.load_in_8bit")
    tokenizer = load_tokenizer(folder, chat_template=config.model.chat_template)
    checked = _checked(dataset, tokenizer, config)
    stops = tuple(problem for part in checked for problem in stopping(*part, config.data.accept))
    report = checked[0][0]
    if any(each.field in REFUSED for each in stops):
        raise unsound(config, stops)
    train_rows = data_pipeline.training_examples(dataset, tokenizer, config, all_now=all_now)
    data_pipeline.teacher_of(config, tokenizer, train_rows)
    held_out = 0
    if config.objective.facts.samples:
        from backend.training.rewards import Rewards  # noqa: PLC0415 - what judges texts is loaded here

        Rewards.of(config.objective).close()
        held_out = len(dataset.validation)
    elif dataset.validation:
        method = config.objective.method
        held_out = data_pipeline.encode(dataset.validation, tokenizer, config.data, method=method).row_count
    asked_twice = len(dataset.trained_questions())
    return Inputs(
        model=str(folder),
        read_as=dataset.reading,
        sha256=dataset.fingerprints,
        train_rows=train_rows.row_count,
        validation_rows=held_out,
        trained_questions=asked_twice,
        usual_method=usual_method(dataset.source.rows[0].kind),
        warnings=(
            *dataset.warnings,
            *template_sentences(report.findings, report.rows),
            *_trained_questions(asked_twice, len(dataset.validation), config.data),
            *_merged_only(config.tuning),
        ),
        tokens_per_epoch=train_rows.tokens,
        trained_tokens_per_epoch=train_rows.trained_tokens,
        findings=_all_noted(checked),
        stops=stops,
    )


def noted(report: Report) -> tuple[DataFinding, ...]:
    """Return the findings of a report in the form that a run stores, most harmful first."""
    return tuple(
        DataFinding(
            each.check,
            each.title,
            each.level,
            each.count,
            each.harm,
            tuple(example.place for example in each.examples),
        )
        for each in report.findings
    )


def data_report(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> Report:
    """Run the data check on the rows of a run, before augmentation.

    Over-long and unreadable rows are not among its findings: they are reported where they are refused, since
    ``data.truncation`` and ``data.max_rejected_share`` may allow them.
    """
    thorough = len(dataset.source.rows) <= THOROUGH_ROWS
    samples = config.objective.facts.samples
    return examine(
        dataset.source,
        config.data.train,
        validation=dataset.validation,
        **seen_by(tokenizer),
        epochs=config.training.num_train_epochs,
        method=config.objective.method,
        checks=[
            check
            for check in ALL
            if (thorough or _matters(check)) and (not samples or check.slug in OF_PROMPTS)
        ],
    )


def _matters(check: Check) -> bool:
    """True if a check can stop a run, or is about side effects of the chat template."""
    stops = check.level == "block" or (check.escalate is not None and check.escalate[1] == "block")
    return stops or check in TEMPLATE_CHECKS


def _checked(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, config: RunConfig
) -> list[tuple[Report, Dataset]]:
    """Return the report on the rows of a run, and one on the rows that are mixed in, each with what it is about."""
    found = [(data_report(dataset, tokenizer, config), dataset)]
    if dataset.mix_source is None or config.data.mix is None:
        return found
    mixed = replace(dataset, source=dataset.mix_source, validation=(), mix_source=None)
    fits = mixed.source.rows[0].kind in config.objective.facts.rows
    objective = config.objective if fits else config.objective.model_copy(update={"method": "sft"})
    data = config.data.model_copy(update={"train": config.data.mix})
    report = data_report(mixed, tokenizer, config.model_copy(update={"objective": objective, "data": data}))
    titled = [replace(each, title=f"Rows of data.mix: {each.title}") for each in report.findings]
    return [*found, (replace(report, findings=tuple(titled)), mixed)]


def _all_noted(checked: Sequence[tuple[Report, Dataset]]) -> tuple[DataFinding, ...]:
    return tuple(finding for report, _ in checked for finding in noted(report))


def require_sound(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, config: RunConfig
) -> tuple[DataFinding, ...]:
    """Return the findings in the rows of a run. Raises UnsoundDataError for a STOP that was not accepted."""
    checked = _checked(dataset, tokenizer, config)
    if stops := tuple(problem for part in checked for problem in stopping(*part, config.data.accept)):
        raise unsound(config, stops)
    return _all_noted(checked)


def stopping(report: Report, dataset: Dataset, accepted: Sequence[str]) -> tuple[Problem, ...]:
    """Return the STOP findings that were not accepted, with their rows and the number of rows each fix leaves.

    Raises ConfigError if ``accepted`` names a check that does not exist.
    """
    if unknown := [name for name in accepted if name not in NAMES]:
        raise ConfigError([_unknown_check(name) for name in unknown])
    passed = set(accepted) - REFUSED
    found = [each for each in report.findings if each.level == "block" and each.check not in passed]
    return tuple(_problem(each, dataset) for each in found)


def _unknown_check(name: str) -> Problem:
    near = get_close_matches(name, NAMES, 1)
    meant = f"Did you mean {near[0]}?" if near else f"Use the name of a check: {', '.join(sorted(NAMES))}."
    return Problem("data.accept", f"There is no check called {name!r}.", meant)


def _problem(finding: Finding, dataset: Dataset) -> Problem:
    rows = len(dataset.source.rows)
    places = ", ".join(example.place for example in finding.examples[:_SHOWN_PLACES])
    about = "about " if finding.is_estimate else ""
    more = " and more" if finding.count > len(finding.examples) else ""
    of = f" of {rows:,}" if finding.count <= rows else ""  # columns are judged before rows are held out
    message = f"{finding.title}: {about}{finding.count:,}{of} rows ({places}{more}). {finding.harm}"
    return Problem(finding.check, message, _way_out(finding, dataset))


def _way_out(finding: Finding, dataset: Dataset) -> str:
    rows = len(dataset.source.rows)
    if finding.check in REFUSED:
        return "Set objective.method to one of these, or train on other rows."
    if finding.fix is None:
        return "There is no fix that is safe for every such row: mend them by hand."
    left = len(mend(dataset.source.rows, [finding.fix], dataset.validation).rows)
    return f"The fix {finding.fix} leaves {left:,} of {rows:,} rows."


def unsound(config: RunConfig, stops: Sequence[Problem]) -> UnsoundDataError:
    """Return the error that names ``stops`` and their remedies."""
    names = [each.field for each in stops]
    may_pass = [name for name in names if name not in REFUSED]
    accept = f", or name what you accept in data.accept: {', '.join(may_pass)}" if may_pass else ""
    mend = "Mend the rows" if may_pass else "Choose the method that fits the rows"
    return UnsoundDataError(
        f"{config.data.train}: the data check says STOP.", stops, remedy=f"{mend}{accept}."
    )


def _merged_only(tuning: TuningConfig) -> list[str]:
    """Return the warning that the result cannot be exported as an adapter, if that is so."""
    named = ", ".join(f"tuning.{name}" for name in merged_only(tuning.model_dump()))
    words = (
        f"With {named} the result can be exported as a whole model only (merged, gguf, ollama or onnx), not as an "
        "adapter: other programs do not read such adapters."
    )
    return [words] if named else []


def _trained_questions(count: int, held_out: int, data: DataConfig) -> list[str]:
    """Return the warning about held-out rows whose question is also in a training row, if there are any."""
    words = (
        f"{count:,} of the {held_out:,} held-out rows ask what training rows ask: scores on them prove nothing. "
        f"A data check of {data.train} names them, with {marked('validation', str(data.validation))}."
    )
    return [words] if count else []
