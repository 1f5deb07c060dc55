"""Compare a foreign reader's report on an export with the trained model's own answers, as checks."""

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
    """The allowed distance of an export of one precision from the trained model, and the reason.

    ``divergence`` is the mean Kullback-Leibler divergence in nats a token. ``tie`` is the difference of
    log-probability, in nats, under which two tokens count as equally likely, and ``others`` the share of answers
    that may differ beyond that.
    """

    divergence: float
    tie: float
    reason: str
    others: float = 0.0


_SAME = "the numbers are the same, only added up in another order"
_HALF = "each weight keeps 11 bits, and llama.cpp multiplies them with inputs of the same precision"
_BRAIN = "each weight keeps 8 bits"
_BLOCK = "32 weights share one scale"
FEW = 0.01
"""Share of answers that may change in precisions that keep 8 bits a weight or fewer."""

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
"""The few positions after a long row may be off by this many times the tolerance, since their mean varies more."""
MANY = 0.25
"""A larger share of different answers is red, unless it is a single answer."""
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
    """Return the checks of a reading against the trained model, their figures, and rows as examples.

    ``weigh`` returns the trained model's log-probabilities at the position where an answer differs.
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
    """Return the check that the export's template turns every conversation into the same ids."""
    pairs = [(row.prompt_ids, read["prompt_ids"]) for row, read in zip(panel.rows, reading.rows, strict=True)]
    pairs += [(ids, read) for (_, ids), read in zip(panel.shapes, reading.shapes, strict=True)]
    odd = [(ours, theirs) for ours, theirs in pairs if ours != theirs]
    if not odd:
        return Check("prompt ids", Light.GREEN, f"{len(pairs)} conversations give the same ids.")
    ours, theirs = odd[0]
    place = first_difference(ours, theirs) or 0
    was, now = (_shown(tokenizer, ids[place : place + 4]) for ids in (ours, theirs))
    return Check(
        "prompt ids",
        Light.RED,
        f"{len(odd)} of {len(pairs)} conversations give other ids, first at token {place}: {was} was trained, "
        f"{now} is read. The export's chat template or its tokens are not those of training.",
    )


def _texts(reading: Reading, tokenizer: PreTrainedTokenizerBase) -> Check:
    """Return the check that texts which tokenizers often split differently are split the same way."""
    wanted = [tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids for text in ODD_TEXTS]
    odd = [
        text for text, ours, theirs in zip(ODD_TEXTS, wanted, reading.texts, strict=True) if ours != theirs
    ]
    if not odd:
        return Check(
            "odd texts",
            Light.GREEN,
            f"{len(wanted)} texts of numbers, spaces and scripts give the same ids.",
        )
    return Check(
        "odd texts",
        Light.AMBER,
        f"{len(odd)} of {len(wanted)} unusual texts give other ids, such as {odd[0]!r}: the reader splits words by "
        "another rule.",
    )


def _divergences(answers: Sequence[Answer], reading: Reading) -> Iterator[float]:
    for answer, row in zip(answers, reading.rows, strict=True):
        if answer.logprobs is not None:
            yield from (
                divergence(ours, tops) for ours, tops in zip(answer.logprobs, row["tops"], strict=True)
            )


def divergence(trained: Tensor, tops: Sequence[Sequence[float]]) -> float:
    """Return the KL divergence in nats of a reading from the ``trained`` log-probabilities ``[vocabulary]``.

    It is computed over the reader's likeliest tokens ``tops``, (id, log-probability), with all others as one outcome.
    Never negative; infinite if a number is not finite or an id is unknown.
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
    """Return the check that the probabilities of the answers' tokens are those of the trained model."""
    finding = (
        f"The probabilities are {mean:.2g} nats from the trained model's on average, {worst:.2g} at worst; "
        f"{precision} allows {limit.divergence:g} on average, because {limit.reason}."
    )
    if mean <= limit.divergence:
        return Check("probabilities", Light.GREEN, finding)
    return Check(
        "probabilities", Light.AMBER if mean <= RED_FACTOR * limit.divergence else Light.RED, finding
    )


def _long(row: LongRow | None, reading: Reading, limit: Tolerance) -> Iterator[Check]:
    """Yield the check of the probabilities beyond the length where the model's positions or windows change."""
    if row is None:
        return
    if row.logprobs is None:
        finding = f"A row beyond {row.beyond:,} tokens would take too long here; only settings were compared."
        yield Check("long rows", Light.GREEN, finding)
        return
    found = [divergence(ours, tops) for ours, tops in zip(row.logprobs, reading.long, strict=True)]
    mean, allowed = sum(found) / len(found), LONG_FACTOR * limit.divergence
    finding = (
        f"After {len(row.prompt_ids):,} tokens, beyond the {row.beyond:,} where positions or windows change, the "
        f"probabilities are {mean:.2g} nats from the trained model's; {allowed:g} are allowed."
    )
    light = Light.GREEN if mean <= allowed else Light.AMBER if mean <= RED_FACTOR * allowed else Light.RED
    yield Check("long rows", light, finding)


def _ends(panel: Panel, answers: Sequence[Answer], reading: Reading) -> Check:
    """Return the check that answers end where the trained model's answers end."""
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
    return Check("end tokens", Light.GREEN, f"{ended} answers end by themselves, in the export too.")


def _difference(
    prompt: Sequence[int],
    answer: Answer,
    ids: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    weigh: Weigh,
) -> dict[str, Any] | None:
    """Return the first token that differs, its place, and by how many nats the trained model prefers its own token.

    None if no token differs. End tokens are not compared here, since not every reader reports them; see ``_ends``. If
    the export ends where the trained model goes on, the gap is that to the likeliest end token.
    """
    special = sorted(set(tokenizer.all_special_ids))
    places = [place for place, i in enumerate(answer.ids) if i not in special]
    ours, theirs = [answer.ids[place] for place in places], [i for i in ids if i not in special]
    if ours == theirs:
        return None
    first = first_difference(ours, theirs) or 0
    place = places[first] if first < len(ours) else (places[-1] + 1 if places else 0)
    was, now = (_shown(tokenizer, tokens[first : first + 1]) or "the end" for tokens in (ours, theirs))
    gap = None
    if place < len(answer.ids):
        weights = weigh(prompt, answer.ids[: place + 1])[-1]
        others = [i for i in theirs[first : first + 1] or special if i < len(weights)]
        gap = float(weights.max() - weights[others].max()) if others else None
    return {"place": first, "trained": was, "export": now, "gap": gap}


def _greedy(
    answers: Sequence[Answer], differences: Sequence[dict[str, Any] | None], limit: Tolerance
) -> Check:
    """Return the check that greedy answers are the same, except where two tokens are nearly equally likely."""
    odd = [each for each in differences if each]
    if not odd:
        return Check("greedy answers", Light.GREEN, f"All {len(answers)} answers are equal, token by token.")
    ties = [each for each in odd if each["gap"] is not None and each["gap"] <= limit.tie]
    first = next((each for each in odd if each not in ties), odd[0])
    gap = "" if first["gap"] is None else f", {first['gap']:.2g} nats less likely in training"
    finding = (
        f"{len(odd)} of {len(answers)} answers differ, first at token {first['place']}: {first['trained']} in "
        f"training, {first['export']} in the export{gap}."
    )
    if len(ties) == len(odd):
        return Check("greedy answers", Light.GREEN, f"{finding} That is a tie within {limit.tie:g} nats.")
    share = (len(odd) - len(ties)) / len(answers)
    if share <= limit.others:
        return Check(
            "greedy answers", Light.GREEN, f"{finding} In this precision one answer in a hundred may change."
        )
    many = share > MANY and len(odd) - len(ties) > 1
    return Check("greedy answers", Light.RED if many else Light.AMBER, finding)


def _score(trained: float | None, exported: float | None, rows: int) -> Iterator[Check]:
    """Yield the check that the share of expected answers has not fallen."""
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
    """Return five rows to show, those that differ first."""
    order = sorted(range(len(panel.rows)), key=lambda index: differences[index] is None)[:5]
    found = []
    for index in order:
        each = differences[index]
        difference = f"token {each['place']}: {each['trained']} → {each['export']}" if each else ""
        row = panel.rows[index]
        found.append(
            {
                "place": row.place,
                "expected": row.expected,
                "trained": answers[index].text,
                "export": reading.rows[index]["text"],
                "difference": difference,
            }
        )
    return found


def _shown(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return ids as their text in quotes; as numbers if one is unknown."""
    known = [i for i in ids if 0 <= i < len(tokenizer)]
    return repr(tokenizer.decode(known)) if len(known) == len(ids) and ids else ", ".join(map(str, ids))
