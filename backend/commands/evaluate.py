"""``tunesmith evaluate``: the judge of a run, beside its base, its checkpoints and other runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from backend.commands import lazy
from backend.commands.contenders import TUNED, Asking, answer_all, contenders
from backend.commands.infer import MaxNewTokens
from backend.commands.options import AsJson, BaseModel, RunsFolder, find_run
from backend.commands.output import print_json, say
from backend.commands.tables import table
from backend.data.load import load_rows
from backend.data.records import Record, Row
from backend.data.sources import read
from backend.errors import InferenceError, RunError
from backend.inference.evals.assertions import Means
from backend.inference.evals.judge import Answered, Report, judge, shown_prompt, text_of
from backend.inference.evals.report import as_json as report_json
from backend.inference.evals.report import check_report_folder, grid, verdict_words, write_report
from backend.inference.evals.spec import EXACT_MATCH, Spec, exact_match_spec, read_spec
from backend.inference.evals.verdicts import Answer
from backend.inference.scores import Comparison, Preferences, compare, write_evaluation, write_scores
from backend.run.folder import RunDir
from backend.run.reports import BASE
from backend.run.settings import run_config
from backend.utils.config_utils import to_yaml
from backend.utils.interval_utils import score_interval
from backend.utils.path_utils import user_path

if TYPE_CHECKING:
    from backend.inferencer import Inferencer


def evaluate(
    run: Annotated[str, Parameter(help="A run's folder, id or name, or latest.")],
    *,
    data: Annotated[
        Path | None, Parameter(help="Rows to score; the run's held-out rows if left out.")
    ] = None,
    spec: Annotated[
        Path | None,
        Parameter(help="What answers must be like, in a file of promptfoo's shape; exact match if left out."),
    ] = None,
    few_shot: Annotated[
        int, Parameter(help="Also judge the base with this many training rows as examples.")
    ] = 0,
    checkpoint: Annotated[
        tuple[str, ...],
        Parameter(
            negative=(), help="Also judge this checkpoint: a step, best, latest or all; may be repeated."
        ),
    ] = (),
    against: Annotated[
        tuple[str, ...], Parameter(negative=(), help="Also judge the result of this run; may be repeated.")
    ] = (),
    rows: Annotated[int, Parameter(help="Score at most this many rows.")] = 1000,
    show: Annotated[int, Parameter(help="Answers to print side by side.")] = 5,
    out: Annotated[
        Path | None,
        Parameter(
            help="A new folder for the report as JSON, Markdown and JUnit XML, and as tests for pytest."
        ),
    ] = None,
    python: Annotated[
        bool, Parameter(negative=(), help="Allow python assertions, which run the code of the spec.")
    ] = False,
    max_new_tokens: MaxNewTokens = 32,
    base_model: BaseModel = None,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> int:
    """Judge a run against its base, on held-out rows or a spec: better, worse or no difference seen, with intervals.

    Of pairs of answers it also says how often the better one is preferred. The model card shows what was found, and a
    result that is worse than its base is not uploaded.

    Examples
    --------
    tunesmith evaluate RUN

    tunesmith evaluate RUN --spec spec.yaml --few-shot 4 --checkpoint all --out report
    """
    folder = find_run(runs, run)
    spec = spec and user_path(spec)
    if out is not None:
        out = user_path(out)
        check_report_folder(out)
    others = [find_run(runs, name) for name in against]
    with _opened_spec(folder, spec, base_model, python=python) as opened:
        questions = _Questions.of(folder, data, rows, has_spec=spec is not None)
        cases = opened.with_rows([(each.place, each.prompt, each.known) for each in questions.asked])
        if not cases:
            raise InferenceError(
                "There are no rows with an answer to score.", remedy="Give --data.", code="no-rows"
            )
        tools = [*(None for _ in opened.cases), *(each.tools for each in questions.asked)]
        asking = Asking(cases, tools, max_new_tokens, quiet=as_json)
        models = list(contenders(folder, few_shot, checkpoint, others))
        answers, general, preferences = answer_all(folder, models, asking, questions.pairs, base_model)
        source = " on ".join(path.name for path in (spec, data) if path) or "held-out rows"
        report = judge(cases, answers, general=general, tuned=TUNED, source=source)
    plain = [(each.place, each.prompt, each.known["expected"]) for each in questions.asked]
    found = _exact_match(plain, answers, len(opened.cases))
    _keep(folder, report, found, preferences, held_out=data is None, judged=data is None or spec is not None)
    if out is not None:
        lines = [{"place": each.place, "prompt": each.prompt, "row": each.known} for each in questions.asked]
        text = (
            spec.read_text(encoding="utf-8") if spec else to_yaml({"defaultTest": {"assert": [EXACT_MATCH]}})
        )
        write_report(out, report, text, lines, max_new_tokens)
    if as_json:
        print_json(_record(folder, report, found, preferences))
    else:
        _print(report, show)
        _print_preferences(preferences)
        say(f"The report is in {out}" if out else f"Next: tunesmith chat {shlex.quote(run)}")
    return 0


# --- what is asked ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Question:
    """A row that is asked, with what the checks know of it."""

    place: str
    prompt: Any
    known: dict[str, Any]
    tools: list[dict[str, Any]] | None


@dataclass(frozen=True)
class _Questions:
    """The rows that are asked, and the pairs of answers among them."""

    asked: list[_Question]
    pairs: list[Row] = field(default_factory=list)

    @classmethod
    def of(cls, folder: RunDir, data: Path | None, most: int, *, has_spec: bool) -> _Questions:
        """Return at most ``most`` rows of a file, or held-out rows of a run; those without an answer for a spec."""
        given = load_rows(data).rows if data else lazy.data_pipeline.held_out_rows(run_config(folder))
        columns = _columns(data) if data else {}
        asked = []
        for row in given:
            place, prompt, expected = lazy.data_pipeline.as_prompt(row)
            if prompt and (expected or has_spec):
                known = {**columns.get(place, {}), "prompt": shown_prompt(prompt), "expected": expected}
                tools = row.tool_list()
                asked.append(_Question(place, prompt, known | ({"tools": tools} if tools else {}), tools))
        return cls(asked[:most], [row for row in given if row.kind == "preference"][:most])


def _columns(data: Path) -> dict[str, dict[str, Any]]:
    """Return the columns of each row of a file by its place, for the templates of a spec."""
    path = user_path(data)
    found = read(path) if path.is_file() else ()
    return {item.place: dict(item.cells) for item in found if isinstance(item, Record)}


@contextmanager
def _opened_spec(
    folder: RunDir, file: Path | None, base_model: str | None, *, python: bool
) -> Iterator[Spec]:
    """The spec in a file, or exact match, until its checks have ended."""
    vectors = _Vectors(folder, base_model)
    spec = read_spec(file, Means(vectors, python=python, folder=file.parent)) if file else exact_match_spec()
    try:
        yield spec
    finally:
        spec.close()
        vectors.close()


class _Vectors:
    """Vectors of texts by the base model of a run, which is loaded when the first is asked for."""

    def __init__(self, folder: RunDir, base_model: str | None) -> None:
        self._open: Callable[[], Inferencer] = lambda: lazy.inferencer.Inferencer(
            folder, base=True, base_model=base_model
        )
        self._model: Inferencer | None = None

    def __call__(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """Return a vector of each text; an empty one is as a space."""
        self._model = self._model or self._open()
        limit = self._model.context_length
        ids = [self._model.tokenizer(text or " ")["input_ids"][:limit] for text in texts]
        vectors: list[list[float]] = lazy.embedding.embed_texts(self._model.model, ids)
        return vectors

    def close(self) -> None:
        """Free the model."""
        if self._model is not None:
            self._model.close()


# --- what is kept and shown -------------------------------------------------------------------------------


def _exact_match(plain: list[Any], answers: dict[str, list[Answered]], skipped: int) -> Comparison | None:
    """Return the exact match of base and result on the rows with an answer; None without any."""
    places = [place for place, (*_, expected) in enumerate(plain) if expected]
    if not places:
        return None
    texts = {
        name: [given[skipped + place] for place in places]
        for name, given in answers.items()
        if name in {BASE, TUNED}
    }
    said = {
        name: [text_of(each) if isinstance(each, Answer) else each for each in given]
        for name, given in texts.items()
    }
    return compare([plain[place] for place in places], **said)


def _keep(
    run: RunDir,
    report: Report,
    found: Comparison | None,
    preferences: Preferences | None,
    *,
    held_out: bool,
    judged: bool,
) -> None:
    """Write what was found beside the result; where the disk refuses, say so and go on."""
    try:
        if held_out and found:
            write_scores(run, found, preferences)
        if judged:
            write_evaluation(run, report.evaluation)
    except (OSError, RunError) as error:
        reason = getattr(error, "strerror", None) or error
        sys.stderr.write(f"The scores could not be kept in {run.path} ({reason}).\n")


def _record(
    run: RunDir, report: Report, found: Comparison | None, preferences: Preferences | None
) -> dict[str, Any]:
    exact = {"unanswered": found.unanswered, "exact_match": found.exact_match} if found else {}
    more = {"preferences": _as_shares(preferences)} if preferences else {}
    return {"run": run.id, **report_json(report), **exact, **more}


def _print(report: Report, show: int) -> None:
    """Print the answers side by side, those that turned from right to wrong first; the grid; the verdicts."""
    numbers = {case.place: number for number, case in enumerate(report.cases)}
    turned = [numbers[each.place] for each in report.lost]
    order = [*turned, *(number for number in range(len(report.cases)) if number not in set(turned))][:show]
    lines = [
        [
            shown_prompt(report.cases[number].prompt),
            str(report.cases[number].row.get("expected", "")),
            *(text_of(given[number]).strip() for given in report.answers.values()),
        ]
        for number in order
    ]
    evaluation = report.evaluation
    title = "A few answers" if not turned else f"A few answers; {len(turned)} turned from right to wrong"
    table(["question", "expected", *evaluation.models], lines, title=title)
    head, *body = grid(report)
    table([f"{evaluation.rows:,} rows", *head[1:]], body)
    verdicts = [[each.metric, each.against, verdict_words(each)] for each in evaluation.verdicts]
    table(["check", "against", "the tuned model is"], verdicts)
    if evaluation.chance is not None:
        say(f"Always giving the commonest answer would be right in {evaluation.chance:.1%}.")
    if evaluation.forgetting:
        say(f"Probability of right answers to general questions: {verdict_words(evaluation.forgetting)}.")
    for model, labels in report.confusion.items():
        say(f"Macro F1 of the labels, {model}: {labels.macro_f1():.3f}.")
    unasked = sum(not isinstance(each, Answer) for each in report.answers[TUNED])
    if unasked:
        say(f"{unasked} rows are too long for the model or refused by its template: they count as wrong.")


def _as_shares(found: Preferences) -> dict[str, Any]:
    """Return the number of pairs, and each share with its 95 % interval."""
    counts = {"base": found.base, "tuned": found.tuned, "gained": found.gained}
    return {"pairs": found.pairs} | {
        name: {"share": count / found.pairs, "interval": score_interval(count, found.pairs)}
        for name, count in counts.items()
    }


def _print_preferences(found: Preferences | None) -> None:
    """Print how often the better answer of a pair is preferred; nothing without pairs."""
    if found is None:
        return

    def words(count: int) -> str:
        low, high = score_interval(count, found.pairs)
        return f"{count / found.pairs:.1%} ({max(0.0, low):.0%} to {min(1.0, high):.0%})"

    rows = [
        ("it is the likelier one", words(found.base), words(found.tuned)),
        ("training raised it more than the worse one", "", words(found.gained)),
    ]
    table([f"better answer of {found.pairs:,} pairs, 95 % interval", "base", "tuned"], rows)
