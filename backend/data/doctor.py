"""The data doctor: run every check over a set of rows and report the findings, most harmful first.

The same rows give the same report, byte for byte. Checks that need a model's tokens get an encoder passed in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice

from backend.data.checks import ALL, Check, Example, Level, Scan
from backend.data.checks.base import EncodedRow, sampled_rows
from backend.data.checks.secrets import redact
from backend.data.formats import how_to_use
from backend.data.load import Loaded
from backend.data.records import Rejected, Row
from backend.data.unused import Holds
from backend.errors import marked
from backend.run.methods import JUDGED, PAIRS, methods_for
from backend.utils.text_utils import shorten

EXAMPLES = 3
REPORT_VERSION = 1

_FLAGS_HARM = (
    "If such a flag says which answers to train, the others are trained here all the same. Call it weight, where 0 "
    "leaves an answer out of training, or take it away."
)
_KEYS_HARM = "What stands under them changes nothing: the model neither reads nor learns it."
_MARKS_HARM = "Rows that are marked as held out or left out are trained like the others."
_SCORES_HARM = "They change nothing: every row counts the same."
_RATINGS_HARM = "Every answer is trained as a good one, the bad ones too."
_LOWER_HARM = (
    "These pairs teach the worse answer. Leave them out; if most pairs are so, the columns are likely swapped, which "
    "is put right by"
)
_EQUAL_HARM = "Nothing says which of their answers is better; such pairs may do more harm than good."
_OF_READING = (
    "rejected-rows",
    "unread-flags",
    "unread-keys",
    "unused-ratings",
    "unused-marks",
    "unused-scores",
    "unused-columns",
    "lower-scored",
    "equal-scores",
    "read-as-text",
)
NAMES = frozenset((*(check.slug for check in ALL), *_OF_READING))
"""The slug of every possible finding."""
_ORDER: dict[Level, int] = {"block": 0, "warn": 1, "info": 2}


@dataclass(frozen=True)
class Finding:
    """The result of one check: how many rows, three examples, the harm, and a fix if there is one.

    ``share`` is the fraction of affected rows, 0 to 1, or None for a finding about the whole set. ``is_estimate``:
    computed from a sample of the rows. ``fix_is_chosen``: the fix is applied by default; others may remove what is
    meant and need a look first.
    """

    number: int
    check: str
    title: str
    level: Level
    count: int
    share: float | None
    harm: str
    examples: tuple[Example, ...]
    fix: str | None
    is_estimate: bool = False
    fix_is_chosen: bool = False


@dataclass(frozen=True)
class Report:
    """All findings about a source, most harmful first, and the checks that could not run, with reasons."""

    source: str
    sha256: str
    rows: int
    rejected: int
    validation_rows: int
    shape: str
    findings: tuple[Finding, ...]
    not_run: tuple[tuple[str, str], ...]

    @property
    def blocks(self) -> bool:
        """True if a finding should stop a run."""
        return any(finding.level == "block" for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """0 if nothing blocks, 1 if something does (2 is for sources that cannot be read)."""
        return int(self.blocks)

    def to_json(self) -> str:
        """Return the report as indented JSON; equal reports are equal byte for byte."""
        content = {"version": REPORT_VERSION, "blocks": self.blocks, **asdict(self)}
        return json.dumps(content, ensure_ascii=False, indent=2, sort_keys=True) + "\n"


def examine(
    loaded: Loaded,
    source: str,
    *,
    validation: Sequence[Row] = (),
    encode: Callable[[Row], EncodedRow] | None = None,
    look: Callable[[Row], Mapping[str, str]] | None = None,
    end_ids: Iterable[int] = (),
    max_length: int | None = None,
    epochs: float = 1.0,
    special_ids: Iterable[int] = (),
    decode: Callable[[Sequence[int]], str] | None = None,
    method: str | None = None,
    checks: Sequence[Check] = ALL,
) -> Report:
    """Return the report on loaded rows.

    ``encode`` may raise ``DataError`` for rows that it refuses; ``Scan`` explains the other parameters. Without
    ``encode`` and ``look`` the checks of tokens and template do not run.
    """
    scan = Scan(
        loaded.rows,
        validation,
        loaded.rejected,
        encode,
        look,
        frozenset(end_ids),
        max_length,
        epochs,
        frozenset(special_ids),
        decode,
        method,
    )
    findings, not_run = run_checks(scan, checks)
    findings = _by_harm([*findings, *_unread_keys(loaded)])
    if loaded.proper_suffix:
        findings = _by_harm([*findings, _read_as_text(loaded)])
    findings = _by_harm([*findings, *_unused_columns(loaded), *_scores(loaded)])
    return Report(
        source=source,
        sha256=loaded.sha256,
        rows=len(loaded.rows),
        rejected=len(loaded.rejected),
        validation_rows=len(scan.validation),
        shape=loaded.reason + _learned_with(loaded.rows),
        findings=findings,
        not_run=not_run,
    )


def _learned_with(rows: Sequence[Row]) -> str:
    """Return the methods that learn from pairs or judged answers; "" for other rows, of which sft is the default."""
    kind = rows[0].kind if rows else ""
    return f"; to be learned with {', '.join(methods_for(kind))}" if kind in (PAIRS, JUDGED) else ""


def run_checks(
    scan: Scan, checks: Iterable[Check] = ALL
) -> tuple[tuple[Finding, ...], tuple[tuple[str, str], ...]]:
    """Return the findings of the checks that can run, most harmful first, and the other checks with reasons."""
    chosen = list(checks)
    not_run = [(check.slug, reason) for check in chosen if (reason := _cannot_run(check, scan))]
    ready = [check for check in chosen if not _cannot_run(check, scan)]
    counted = _count_by_row(scan, [check for check in ready if check.by_row])
    findings = [_rejected_rows(scan)] if scan.rejected else []
    for check in ready:
        count, examples = counted[check.slug] if check.by_row else _count_over_all(check, scan)
        if count:
            findings.append(_finding(check, count, examples, scan))
    return _by_harm(findings), tuple(not_run)


def _by_harm(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda each: (_ORDER[each.level], each.number)))


def _cannot_run(check: Check, scan: Scan) -> str:
    if not scan.rows:
        return "there is no row"
    if check.needs == "validation" and not scan.validation:
        return "no evaluation rows were given"
    if (check.needs == "encoder" and scan.encode is None) or (
        check.needs == "template" and scan.look is None
    ):
        return "no model was given"
    return ""


def _count_by_row(scan: Scan, checks: list[Check]) -> dict[str, tuple[int, tuple[Example, ...]]]:
    looks: list[tuple[str, Callable[..., str | None]]] = [
        (each.slug, each.by_row) for each in checks if each.by_row
    ]
    counts = dict.fromkeys((slug for slug, _ in looks), 0)
    examples: dict[str, list[Example]] = {slug: [] for slug in counts}
    for row in scan.rows:
        for slug, look in looks:
            if detail := look(row):
                counts[slug] += 1
                if len(examples[slug]) < EXAMPLES:
                    examples[slug].append(Example(row.place, detail))
    return {slug: (count, tuple(examples[slug])) for slug, count in counts.items()}


def _count_over_all(check: Check, scan: Scan) -> tuple[int, tuple[Example, ...]]:
    """Return how many rows are affected and the first examples; a count in a sample is scaled to all rows."""
    found: Iterator[Example] = iter(check.over_all(scan) if check.over_all else ())
    first = tuple(islice(found, EXAMPLES))
    count = len(first) + sum(1 for _ in found)
    return (round(count / _sampled(check, scan.rows)) if count else 0), first


def _sampled(check: Check, rows: Sequence[Row]) -> float:
    """Return the share of the rows that a check examines, 0 to 1."""
    return len(sampled_rows(rows)) / len(rows) if check.needs == "encoder" else 1.0


def _finding(check: Check, count: int, examples: tuple[Example, ...], scan: Scan) -> Finding:
    rows = scan.rows
    share = round(count / len(rows), 6) if check.of_rows else None
    level = check.level
    if check.escalate and share is not None and share > check.escalate[0]:
        level = check.escalate[1]
    return Finding(
        check.number,
        check.slug,
        check.title,
        level,
        count,
        share,
        f"{check.harm} {check.summary(scan)}" if check.summary else check.harm,
        examples,
        check.fix,
        is_estimate=_sampled(check, rows) < 1,
        fix_is_chosen=check.fix is not None and count <= check.chosen_up_to * len(rows),
    )


def _rejected_rows(scan: Scan) -> Finding:
    total = len(scan.rows) + len(scan.rejected)
    return Finding(
        number=0,
        check="rejected-rows",
        title="Rows cannot be read",
        level="block",
        count=len(scan.rejected),
        share=round(len(scan.rejected) / total, 6),
        harm="They are left out of training; a run stops unless a share of such rows is allowed.",
        examples=tuple(Example(item.place, _refused(item)) for item in scan.rejected[:EXAMPLES]),
        fix="drop-rejected",
        fix_is_chosen=True,
    )


def _unread_keys(loaded: Loaded) -> list[Finding]:
    """Return a finding for message flags that are not read, and one for other keys that are not read."""
    total = len(loaded.rows) + len(loaded.rejected)
    kinds: tuple[tuple[str, str, Level, str, bool], ...] = (
        ("unread-flags", "Messages have flags that are not read", "block", _FLAGS_HARM, True),
        ("unread-keys", "Messages have keys that are not read", "warn", _KEYS_HARM, False),
    )
    findings = []
    for slug, title, level, harm, flags in kinds:
        keys = [each for each in loaded.unread if not each.harmless and each.is_flag == flags]
        if keys:
            most = max(each.rows for each in keys)
            examples = tuple(Example(each.place, each.description) for each in keys[:EXAMPLES])
            share = round(most / max(1, total), 6)
            findings.append(Finding(0, slug, title, level, most, share, harm, examples, None))
    return findings


def _unused_columns(loaded: Loaded) -> list[Finding]:
    """Return a finding each for unused ratings, marks of rows, scores, and columns of text or labels."""
    total = len(loaded.rows) + len(loaded.rejected)
    kinds: tuple[tuple[str, str, Level, str, tuple[Holds, ...]], ...] = (
        ("unused-ratings", "Ratings of the answers are not used", "block", _RATINGS_HARM, ("rating",)),
        ("unused-marks", "Marks of rows are not used", "block", _MARKS_HARM, ("marks",)),
        ("unused-scores", "Scores are not used", "warn", _SCORES_HARM, ("scores",)),
        (
            "unused-columns",
            "Columns with words are not used",
            "warn",
            "They are left out of training.",
            ("text", "labels"),
        ),
    )
    findings = []
    for slug, title, level, harm, held in kinds:
        columns = [each for each in loaded.unused if each.holds in held]
        if columns:
            most = max(each.rows for each in columns)
            ways = " ".join(how_to_use(each, loaded.shape) for each in columns[:EXAMPLES])
            where = tuple(
                Example(each.place, f"{each.name}: {redact(each.sample)}") for each in columns[:EXAMPLES]
            )
            share = round(most / max(1, total), 6)
            findings.append(Finding(0, slug, title, level, most, share, f"{harm} {ways}", where, None))
    return findings


def _scores(loaded: Loaded) -> list[Finding]:
    """Return a finding for pairs of which the chosen answer has the lower score, and one for equal scores."""
    if (scores := loaded.scores) is None:
        return []
    chosen, rejected = (loaded.shape.columns[part] for part in ("chosen", "rejected"))
    swap = f"{marked('columns.chosen', rejected)} {marked('columns.rejected', chosen)}."
    said = f"{scores.columns[0]} is {{}} {scores.columns[1]} in {{:,}} of {scores.rows:,} pairs"
    kinds: tuple[tuple[str, str, Level, int, str, str], ...] = (
        (
            "lower-scored",
            "Chosen answers have the lower score",
            "block" if scores.swapped else "warn",
            scores.lower,
            f"{_LOWER_HARM} {swap}",
            "lower than",
        ),
        ("equal-scores", "Both answers have the same score", "info", scores.equal, _EQUAL_HARM, "equal to"),
    )
    return [
        Finding(
            number=0,
            check=slug,
            title=title,
            level=level,
            count=count,
            share=round(count / scores.rows, 6),
            harm=harm,
            examples=(Example(scores.place or loaded.rows[0].place, said.format(how, count)),),
            fix=None,
        )
        for slug, title, level, count, harm, how in kinds
        if count
    ]


def _read_as_text(loaded: Loaded) -> Finding:
    return Finding(
        number=0,
        check="read-as-text",
        title="Lines that look like rows are read as plain text",
        level="block",
        count=len(loaded.rows),
        share=1.0,
        harm=f"The model learns to write the file itself. Rename it so that it ends in {loaded.proper_suffix}.",
        examples=(Example(loaded.rows[0].place, shorten(redact(loaded.rows[0].text or ""), 80)),),
        fix=None,
    )


def _refused(item: Rejected) -> str:
    """Return the reason why a record is refused and the beginning of it, without secrets."""
    raw = shorten(redact(item.raw), 80)
    return shorten(item.reason, 200) + (f": {raw}" if raw else "")
