"""A foreign reading of an export beside the trained model's own answers, as checks in plain words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from backend.export.certificate import Check, Light
from backend.export.panel import ODD_TEXTS, Answer, LongRow, Panel, exact_match
from backend.export.readers import Reading
from backend.inference.logprobs import first_difference

Weigh = Callable[[Sequence[int], Sequence[int]], Tensor]
"""(prompt, answer) → log-probabilities ``[answer, vocabulary]`` of the trained model, see ``answer_logprobs``."""


@dataclass(frozen=True)
class Tolerance:
    """How far an export of one precision may be from the trained model, and why.

    ``divergence`` is the mean Kullback-Leibler divergence in nats a token. ``tie`` is the difference of
    log-probability, in nats, under which two tokens count as equally likely, and ``others`` the share of answers
    that may differ beyond that.
    """

    divergence: float
    tie: float
    reason: str
    others: float = 0.0


_SAME = "the same numbers, only added up in another order"
_HALF = "each weight keeps 11 bits, and llama.cpp multiplies them with inputs of the same precision"
_BRAIN = "each weight keeps 8 bits"
_BLOCK = "32 weights share one scale"
FEW = 0.01
"""Share of answers that may turn at a token where 8 bits a weight or fewer decide."""

TOLERANCES = {
    "float32": Tolerance(2e-5, 0.005, _SAME),
    "F32": Tolerance(2e-5, 0.005, _SAME),
    "float16": Tolerance(1e-4, 0.02, "each weight keeps 11 bits"),
    "F16": Tolerance(1e-4, 0.02, _HALF),
    "bfloat16": Tolerance(1e-3, 0.1, _BRAIN, others=FEW),
    "BF16": Tolerance(1e-3, 0.1, f"{_BRAIN}, and so do the inputs in llama.cpp", others=FEW),
    "Q8_0": Tolerance(2e-3, 0.2, f"{_BLOCK} and keep 8 bits each", others=FEW),
    "Q6_K": Tolerance(2e-2, 0.5, "16 weights share one scale and keep 6 bits each", others=FEW),
    "Q5_1": Tolerance(3e-2, 0.6, f"{_BLOCK} and an offset, and keep 5 bits each", others=FEW),
    "Q5_0": Tolerance(4e-2, 0.7, f"{_BLOCK} and keep 5 bits each", others=FEW),
    "Q4_1": Tolerance(0.08, 1.0, f"{_BLOCK} and an offset, and keep 4 bits each", others=FEW),
    "Q4_0": Tolerance(0.1, 1.2, f"{_BLOCK} and keep 4 bits each", others=FEW),
}
COARSEST = Tolerance(0.3, 1.6, "blocks of weights share scales, and each keeps 4 bits or fewer", others=FEW)

RED_FACTOR = 4.0
"""A divergence above the tolerance is amber, and above this many times the tolerance red."""
LONG_FACTOR = 4.0
"""How many times the tolerance the few places after a long row may be off."""
MANY = 0.25
"""A greater share of answers that differ is red, unless it is a single one."""
SCORE_POINTS = 0.01
"""Exact match may fall by this much, or by one row, and stay green; by five times as much, amber."""


def compare(
    panel: Panel,
    answers: Sequence[Answer],
    reading: Reading,
    tokenizer: PreTrainedTokenizerBase,
    precision: str,
    weigh: Weigh,
) -> tuple[list[Check], dict[str, Any], list[dict[str, Any]]]:
    """The checks of a reading against the trained model, their figures, and rows as examples.

    ``weigh`` asks the trained model how likely a token was where an answer turns, wherever that is.
    """
    limit = TOLERANCES.get(precision, COARSEST)
    divergences = list(_divergences(answers, reading))
    mean, worst = sum(divergences) / len(divergences), max(divergences)
    before = exact_match(panel, [each.text for each in answers])
    after = exact_match(panel, [row["text"] for row in reading.rows])
    differences = [
        _difference(row.prompt_ids, answer, read["ids"], tokenizer, weigh)
        for row, answer, read in zip(panel.rows, answers, reading.rows, strict=True)
    ]
    checks = [
        _prompts(panel, reading, tokenizer),
        _texts(reading, tokenizer),
        _logits(mean, worst, limit, precision),
        _ends(panel, answers, reading),
        _greedy(answers, differences, limit),
        *_score(before, after, len(panel.rows)),
        *_long(panel.long, reading, limit),
    ]
    figures = {
        "mean_divergence_nats": mean if math.isfinite(mean) else None,  # which JSON cannot hold
        "largest_divergence_nats": worst if math.isfinite(worst) else None,
        "tolerance": asdict(limit),
        "tokens_compared": len(divergences),
        "equal_answers": sum(not each for each in differences),
        "exact_match": {"trained": before, "export": after},
    }
    return checks, figures, _examples(panel, answers, reading, differences)


def _prompts(panel: Panel, reading: Reading, tokenizer: PreTrainedTokenizerBase) -> Check:
    """Return whether every conversation became the same ids under the template that the export carries."""
    pairs = [(row.prompt_ids, read["prompt_ids"]) for row, read in zip(panel.rows, reading.rows, strict=True)]
    pairs += [(ids, read) for (_, ids), read in zip(panel.shapes, reading.shapes, strict=True)]
    odd = [(ours, theirs) for ours, theirs in pairs if ours != theirs]
    if not odd:
        return Check("prompt ids", Light.GREEN, f"{len(pairs)} conversations become the same ids.")
    ours, theirs = odd[0]
    place = first_difference(ours, theirs) or 0
    was, now = (_shown(tokenizer, ids[place : place + 4]) for ids in (ours, theirs))
    return Check(
        "prompt ids",
        Light.RED,
        f"{len(odd)} of {len(pairs)} conversations become other ids, first at token {place}: {was} was trained, "
        f"{now} is read. The export's chat template or its tokens are not those of training.",
    )


def _texts(reading: Reading, tokenizer: PreTrainedTokenizerBase) -> Check:
    """Return whether texts on which tokenizers part are cut the same way."""
    wanted = [tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids for text in ODD_TEXTS]
    odd = [
        text for text, ours, theirs in zip(ODD_TEXTS, wanted, reading.texts, strict=True) if ours != theirs
    ]
    if not odd:
        return Check(
            "odd texts",
            Light.GREEN,
            f"{len(wanted)} texts of numbers, spaces and scripts become the same ids.",
        )
    return Check(
        "odd texts",
        Light.AMBER,
        f"{len(odd)} of {len(wanted)} unusual texts become other ids, such as {odd[0]!r}: the reader cuts words by "
        "another rule.",
    )


def _divergences(answers: Sequence[Answer], reading: Reading) -> Iterator[float]:
    for answer, row in zip(answers, reading.rows, strict=True):
        if answer.logprobs is not None:
            yield from (
                divergence(ours, tops) for ours, tops in zip(answer.logprobs, row["tops"], strict=True)
            )


def divergence(trained: Tensor, tops: Sequence[Sequence[float]]) -> float:
    """Kullback-Leibler divergence in nats of a reading from the trained log-probabilities ``[vocabulary]``.

    Over the reader's likeliest tokens ``tops``, (id, log-probability), and all others taken as one. Not below 0;
    infinite where a number is not finite or an id is unknown.
    """
    ids = torch.tensor([int(each[0]) for each in tops])
    theirs = torch.tensor(
        [each[1] if each[1] is not None else math.nan for each in tops], dtype=torch.float64
    )
    if not len(ids) or int(ids.max()) >= len(trained) or not bool(theirs.isfinite().all()):
        return math.inf
    ours = trained[ids].double()
    rest = [max(1e-12, 1.0 - float(part.exp().sum())) for part in (ours, theirs)]
    total = float((ours.exp() * (ours - theirs)).sum()) + rest[0] * math.log(rest[0] / rest[1])
    return max(0.0, total) if math.isfinite(total) else math.inf


def _logits(mean: float, worst: float, limit: Tolerance, precision: str) -> Check:
    """Return whether the probabilities of the answers' tokens are those of the trained model."""
    said = (
        f"The probabilities are {mean:.2g} nats from the trained model's on average, {worst:.2g} at worst; "
        f"{precision} allows {limit.divergence:g} on average, because {limit.reason}."
    )
    if mean <= limit.divergence:
        return Check("probabilities", Light.GREEN, said)
    return Check("probabilities", Light.AMBER if mean <= RED_FACTOR * limit.divergence else Light.RED, said)


def _long(row: LongRow | None, reading: Reading, limit: Tolerance) -> Iterator[Check]:
    """Return whether the probabilities are the trained model's where positions or windows change with the length."""
    if row is None:
        return
    if row.logprobs is None:
        said = f"A row beyond {row.beyond:,} tokens takes too long here; only settings are compared for it."
        yield Check("long rows", Light.GREEN, said)
        return
    found = [divergence(ours, tops) for ours, tops in zip(row.logprobs, reading.long, strict=True)]
    mean, allowed = sum(found) / len(found), LONG_FACTOR * limit.divergence
    said = (
        f"After {len(row.prompt_ids):,} tokens, beyond the {row.beyond:,} where positions or windows change, the "
        f"probabilities are {mean:.2g} nats from the trained model's; {allowed:g} are allowed."
    )
    light = Light.GREEN if mean <= allowed else Light.AMBER if mean <= RED_FACTOR * allowed else Light.RED
    yield Check("long rows", light, said)


def _ends(panel: Panel, answers: Sequence[Answer], reading: Reading) -> Check:
    """Return whether answers end where the trained model's end."""
    odd = [
        row.place
        for row, answer, read in zip(panel.rows, answers, reading.rows, strict=True)
        if answer.ended and not read["ended"] and read["ids"][: len(answer.ids) - 1] == answer.ids[:-1]
    ]
    ended = sum(answer.ended for answer in answers)
    if odd:
        return Check(
            "end tokens",
            Light.RED,
            f"{len(odd)} of {ended} answers go on after the token that ended them in training, first {odd[0]}: the "
            "export does not name that token as an end.",
        )
    return Check("end tokens", Light.GREEN, f"{ended} answers end by themselves, and in the export as well.")


def _difference(
    prompt: Sequence[int],
    answer: Answer,
    ids: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    weigh: Weigh,
) -> dict[str, Any] | None:
    """The first token that differs, its place, and how much likelier the trained model holds its own; None if none.

    End tokens are not compared: readers differ in whether they report them, see ``_ends``. An export that ends
    where the trained model goes on is weighed by the likeliest of them.
    """
    special = sorted(set(tokenizer.all_special_ids))
    places = [place for place, i in enumerate(answer.ids) if i not in special]
    ours, theirs = [answer.ids[place] for place in places], [i for i in ids if i not in special]
    if ours == theirs:
        return None
    first = first_difference(ours, theirs) or 0
    place = places[first] if first < len(ours) else (places[-1] + 1 if places else 0)
    was, now = (_shown(tokenizer, said[first : first + 1]) or "the end" for said in (ours, theirs))
    gap = None
    if place < len(answer.ids):
        weights = weigh(prompt, answer.ids[: place + 1])[-1]
        others = [i for i in theirs[first : first + 1] or special if i < len(weights)]
        gap = float(weights.max() - weights[others].max()) if others else None
    return {"place": first, "trained": was, "export": now, "gap": gap}


def _greedy(
    answers: Sequence[Answer], differences: Sequence[dict[str, Any] | None], limit: Tolerance
) -> Check:
    """Return whether the likeliest answers are the same, near ties aside."""
    odd = [each for each in differences if each]
    if not odd:
        return Check("greedy answers", Light.GREEN, f"All {len(answers)} answers are equal, token by token.")
    ties = [each for each in odd if each["gap"] is not None and each["gap"] <= limit.tie]
    first = next((each for each in odd if each not in ties), odd[0])
    gap = "" if first["gap"] is None else f", {first['gap']:.2g} nats less likely in training"
    said = (
        f"{len(odd)} of {len(answers)} answers differ, first at token {first['place']}: {first['trained']} was "
        f"trained, {first['export']} is said{gap}."
    )
    if len(ties) == len(odd):
        return Check("greedy answers", Light.GREEN, f"{said} That is a tie within {limit.tie:g} nats.")
    share = (len(odd) - len(ties)) / len(answers)
    if share <= limit.others:
        return Check(
            "greedy answers", Light.GREEN, f"{said} This precision may turn one answer in a hundred."
        )
    many = share > MANY and len(odd) - len(ties) > 1
    return Check("greedy answers", Light.RED if many else Light.AMBER, said)


def _score(trained: float | None, exported: float | None, rows: int) -> Iterator[Check]:
    """Return whether the task is still solved as well."""
    if trained is None or exported is None:
        return
    allowed = max(SCORE_POINTS, 1.0 / rows)
    lost = trained - exported
    light = Light.GREEN if lost <= allowed + 1e-9 else Light.AMBER if lost <= 5 * allowed else Light.RED
    yield Check(
        "exact match", light, f"{exported:.1%} of {rows} rows answered as expected, {trained:.1%} as trained."
    )


def _examples(
    panel: Panel,
    answers: Sequence[Answer],
    reading: Reading,
    differences: Sequence[dict[str, Any] | None],
) -> list[dict[str, Any]]:
    """Rows to show: those that differ first, five in all."""
    order = sorted(range(len(panel.rows)), key=lambda index: differences[index] is None)[:5]
    found = []
    for index in order:
        each = differences[index]
        told = f"token {each['place']}: {each['trained']} → {each['export']}" if each else ""
        row = panel.rows[index]
        found.append(
            {
                "place": row.place,
                "expected": row.expected,
                "trained": answers[index].text,
                "export": reading.rows[index]["text"],
                "difference": told,
            }
        )
    return found


def _shown(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Ids as the text they stand for, quoted; unknown ones by number."""
    known = [i for i in ids if 0 <= i < len(tokenizer)]
    return repr(tokenizer.decode(known)) if len(known) == len(ids) and ids else ", ".join(map(str, ids))
