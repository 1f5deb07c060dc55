"""Who is asked by ``tunesmith evaluate``: base, base with examples, checkpoints, other runs and the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress

from backend.commands import lazy
from backend.commands.output import say
from backend.data.records import Row
from backend.inference.evals.judge import Answered
from backend.inference.evals.shots import choose_shots, with_shots
from backend.inference.evals.spec import Case
from backend.inference.evals.verdicts import Answer
from backend.inference.scores import Preferences
from backend.run.folder import RunDir
from backend.run.reports import BASE
from backend.run.settings import run_config

if TYPE_CHECKING:
    from backend.inferencer import Inferencer

TUNED = "tuned"
ALL = "all"


@dataclass(frozen=True)
class Contender:
    """A model by its name in the report, how it is opened, and the examples before each question."""

    name: str
    source: RunDir
    options: dict[str, Any]
    shots: list[dict[str, Any]] = field(default_factory=list)


def contenders(
    folder: RunDir, few_shot: int, checkpoints: Sequence[str], others: Sequence[RunDir]
) -> Iterator[Contender]:
    """Yield the models in the order of the report: the base first, the result last."""
    yield Contender(BASE, folder, {"base": True})
    if few_shot:
        config = run_config(folder)
        train = lazy.data_pipeline.load(config.data, seed=config.seed).train
        shots = choose_shots(train, few_shot, config.seed)
        yield Contender(f"{BASE}, {few_shot} examples", folder, {"base": True}, shots)
    steps = [str(step) for step in folder.checkpoint_steps()] if ALL in checkpoints else checkpoints
    for step in dict.fromkeys(steps):
        name = f"step {step}" if step.isdigit() else step
        yield Contender(name, folder, {"checkpoint": step})
    taken = {BASE, TUNED}
    for other in {each.path.resolve(): each for each in others}.values():
        name = str(other.path) if other.id in taken else other.id
        taken.add(name)
        yield Contender(name, other, {})
    yield Contender(TUNED, folder, {})


@dataclass(frozen=True)
class Asking:
    """The questions, with the tools of each, and how they are asked."""

    cases: Sequence[Case]
    tools: Sequence[list[dict[str, Any]] | None]
    max_new_tokens: int
    quiet: bool

    def of(self, model: Inferencer, shots: Sequence[dict[str, Any]]) -> list[Answered]:
        """Return the answers of a model, with a bar on a terminal."""
        prompts = [with_shots(case.prompt, shots) if shots else case.prompt for case in self.cases]
        console = Console(stderr=True)
        with Progress(console=console, disable=self.quiet or not console.is_terminal) as bars:
            task = bars.add_task("answering", total=len(prompts))
            found = model.answer_batch(
                prompts,
                tools=self.tools,
                progress=lambda n: bars.advance(task, n),
                max_new_tokens=self.max_new_tokens,
            )
        return [_answer(each) for each in found]


def _answer(given: Any) -> Answered:
    """Return an answer of a model as checks take it; an error as it is."""
    if isinstance(given, Exception):
        return given  # type: ignore[return-value]
    logprob = sum(token.logprob for token in given.tokens)
    return Answer(given.text, given.finish, len(given.tokens), logprob)


def answer_all(
    folder: RunDir,
    models: Sequence[Contender],
    asking: Asking,
    pairs: Sequence[Row],
    base_model: str | None,
) -> tuple[dict[str, list[Answered]], dict[str, list[float]], Preferences | None]:
    """Return the answers of every model; what base and result know of general things; how they prefer the pairs."""
    general: dict[str, list[float]] = {}
    answers: dict[str, list[Answered]] = {}
    logprobs: dict[str, list[tuple[float, float]]] = {}
    for each in models:
        if not asking.quiet:
            say(f"Answering {len(asking.cases)} rows with the {each.name} model")
        moved = base_model if each.source == folder else None
        with lazy.inferencer.Inferencer(each.source, base_model=moved, **each.options) as model:
            answers[each.name] = asking.of(model, each.shots)
            if each.name in {BASE, TUNED}:
                rows = lazy.forgetting.general_rows()
                general[each.name] = lazy.general.answer_probabilities(model, rows)
            if pairs and each.name in {BASE, TUNED}:
                data = run_config(folder).data
                logprobs[each.name] = lazy.pair_accuracy.pair_logprobs(model, pairs, data)
    return answers, general, Preferences.of(**logprobs) if pairs else None
