"""How often each check of the doctor is right: faults planted into clean real rows, and the clean rows themselves.

    make bench-doctor

For each check 40 rows are spoiled in several ways, or one row for each entry of a public list (``doctor_public``), or
the set as a whole over 20 draws, in the clean set that suits it. Recall: the share of the spoiled rows that it names.
Precision: the share of the rows it names that were spoiled; rows that were read and found to be so from the start
(``READ``) do not count. ``clean`` is what it says about the three sets as they are: rows named of rows looked at. The
table is Markdown. Below it stand the clean shapes that people publish, with every finding above a note.

The exit code is 1 when a check above the level of a note has a recall under 90 % or a precision under 95 %, or when
one names anything in a clean shape.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import doctor_faults as faults
import doctor_public as public
from doctor_faults import PLANTED, SET, Planter, changing, said, whole, with_text
from doctor_preferences import published_preferences
from transformers import PreTrainedTokenizerBase

from backend.core.encoding.row import encode_row
from backend.core.encoding.template_faults import template_faults
from backend.core.model_resolver import resolve_model
from backend.core.tokenizer import Encoded, load_tokenizer, stop_token_ids
from backend.data.checks import ALL, Check, Example, Scan
from backend.data.doctor import run_checks
from backend.data.load import load_rows
from backend.data.records import Row
from backend.data.splits import split_rows

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
DRAWS = 20
RECALL, PRECISION = 0.9, 0.95
EXPECTED = ("too-few-rows",)
"""What is true of the clean shapes: they are small."""
MODULES = (  # noqa: SIM905 - easier to read
    "argparse asyncio base64 bisect calendar collections configparser contextlib copy csv datetime decimal difflib "
    "email.message email.utils fileinput fractions functools getpass glob gzip hashlib heapq http.client imaplib "
    "inspect io ipaddress itertools json logging lzma mailbox math mimetypes operator os os.path pathlib pickle "
    "platform poplib pprint queue random re sched secrets shelve shlex shutil smtplib socket sqlite3 ssl statistics "
    "string subprocess tarfile tempfile textwrap threading time timeit tokenize traceback types typing unittest.case "
    "unittest.mock urllib.parse urllib.request uuid wave weakref xml.etree.ElementTree zipfile"
).split()

_ALIKE = {  # two docstrings that differ in a few words
    *("docs:difflib.HtmlDiff.make_file", "docs:difflib.HtmlDiff.make_table"),
    *("docs:json.dump", "docs:json.dumps"),
    *("docs:mimetypes.MimeTypes.guess_extension", "docs:mimetypes.guess_extension"),
    *("docs:os.posix_spawn", "docs:os.posix_spawnp"),
    *("docs:pickle.Unpickler", "docs:pickle.load"),
    *("docs:socket.gethostbyaddr", "docs:socket.gethostbyname_ex"),
    *("docs:urllib.parse.parse_qs", "docs:urllib.parse.parse_qsl"),
}
_EQUAL = {  # two docstrings that are equal but for case and end marks
    *("docs:mimetypes.MimeTypes.guess_extension", "docs:mimetypes.guess_extension"),
    *("docs:os.posix_spawn", "docs:os.posix_spawnp"),
    *("docs:asyncio.Event.is_set", "docs:threading.Event.is_set"),
}

# Rows of the untouched sets that are what the check says they are, each read beside its twin or its own prompt.
READ = {
    "near-duplicates": _ALIKE,
    "near-contamination": _ALIKE,
    "shared-answers": _EQUAL,
    "paraphrases": _EQUAL,
    "answer-in-prompt": {  # "conda package", "kubectl config", "yarn bin", "gh extensions", "yarn global bin"
        *("train.jsonl:97", "train.jsonl:157", "train.jsonl:257", "train.jsonl:329", "train.jsonl:399"),
    },
}


def docstrings() -> Iterator[Row]:
    """What is documented in Python's standard library: real prose with code, lists and addresses in it."""
    seen: set[str] = set()
    for module in map(importlib.import_module, MODULES):
        for name, thing in sorted(vars(module).items()):
            inner = sorted(vars(thing).items()) if inspect.isclass(thing) else []
            for path, each in [(name, thing), *((f"{name}.{part}", value) for part, value in inner)]:
                text = getattr(each, "__doc__", None)
                hidden = any(part.startswith("_") for part in path.split("."))
                if hidden or not callable(each) or not isinstance(text, str) or len(text.split()) < 8:
                    continue
                text = inspect.cleandoc(text)
                if text not in seen:
                    seen.add(text)
                    asked = f"What does {module.__name__}.{path} do in Python?"
                    turns = ({"role": "user", "content": asked}, {"role": "assistant", "content": text})
                    yield Row(f"docs:{module.__name__}.{path}", turns)


@dataclass(frozen=True)
class Score:
    """What one check did: of rows ``planted`` it named ``hits``, ``named`` in all; ``clean`` of ``looked`` at."""

    check: Check
    planted: int
    hits: int
    named: int
    clean: int
    looked: int


def planters(
    encode: Callable[[Row], Encoded],
    plain: PreTrainedTokenizerBase,
    thinks: PreTrainedTokenizerBase,
    opens: PreTrainedTokenizerBase,
) -> dict[str, tuple[str, Planter]]:
    """For each check the clean set that suits it and what spoils it."""
    return {
        "asked-otherwise": ("docs", faults.looked_at(faults.thoughtless, opens)),
        "added-words": ("docs", faults.looked_at(faults.thoughtless, thinks)),
        "lost-parts": ("terminal", faults.looked_at(changing(faults.with_more), plain)),
        "contamination": ("docs", faults.leaking(faults.another_case)),
        "near-contamination": ("docs", faults.leaking(faults.nearly_the_same, faults.very_long_row)),
        "shared-answers": ("docs", faults.leaking(faults.asked_otherwise, faults.prose)),
        "paraphrases": ("docs", faults.added(faults.asked_otherwise, faults.prose)),
        "duplicates": ("docs", faults.added(lambda row, _, __: row)),
        "near-duplicates": ("docs", faults.added(faults.said_alike, faults.long_row)),
        "conflicting-answers": (
            "terminal",
            faults.added(lambda row, _, __: with_text(row, "assistant", lambda text: f"sudo {text}")),
        ),
        "one-answer": ("terminal", whole(faults.same_answers)),
        "swapped-sides": ("docs", whole(faults.swapped)),
        "empty-answers": ("terminal", faults.answering(public.BLANK)),
        "empty-prompts": ("terminal", faults.asking(public.BLANK)),
        "missing-answers": ("food", faults.answering(public.NOTHING)),
        "end-not-trained": ("terminal", faults.encoded(faults.spoil_end, encode)),
        "mask-wrong": ("terminal", faults.encoded(faults.spoil_mask, encode)),
        "template-markup": (
            "docs",
            faults.inserting(public.MARKUP),
        ),
        "template-refused": ("terminal", faults.refusing(faults.guarded(encode))),
        "role-order": ("terminal", changing(faults.out_of_turn)),
        "answer-in-prompt": (
            "terminal",
            changing(faults.answer_told, lambda row: len(said(row, "assistant")) >= 8),
        ),
        "too-long": ("terminal", faults.too_long(encode)),
        "unfinished-answers": ("docs", changing(faults.cut_off, faults.prose)),
        "broken-answers": (
            "terminal",
            faults.answering(faults.BROKEN),
        ),
        "damaged-text": ("docs", changing(faults.mojibake)),
        "label-variants": ("food", changing(faults.misspelt_label)),
        "small-classes": (
            "food",
            whole(faults.rare_labels),
        ),
        "label-imbalance": (
            "food",
            whole(faults.one_label_everywhere),
        ),
        "secrets": (
            "terminal",
            faults.inserting(public.secrets()),
        ),
        "personal-data": (
            "terminal",
            faults.inserting(public.PERSONAL),
        ),
        "refusals": (
            "terminal",
            faults.answering(public.REFUSALS),
        ),
        "same-opening": ("terminal", changing(faults.opened)),
        "placeholders": (
            "docs",
            faults.inserting(public.PLACEHOLDERS, into_words=True),
        ),
        "web-junk": (
            "docs",
            faults.inserting(public.JUNK, into_words=True),
        ),
        "extreme-lengths": (
            "terminal",
            changing(lambda row, _, __: with_text(row, "user", lambda text: f"{text} " * 60), count=5),
        ),
        "mixed-scripts": (
            "terminal",
            faults.answering(faults.SCRIPTS),
        ),
        "too-few-rows": ("terminal", whole(lambda rows, dice: dice.sample(rows, 30))),
        "sorted-labels": (
            "food",
            whole(lambda rows, _: sorted(rows, key=lambda row: said(row, "assistant"))),
        ),
        "no-room-for-answers": ("terminal", faults.no_room(encode)),
        "untrainable-rows": ("docs", faults.of_a_run(changing(faults.untrainable), "sft")),
        "equal-pairs": ("docs", faults.pairs_changed(faults.equal)),
        "no-shared-prompt": ("docs", faults.pairs_changed(faults.promptless)),
        "repeated-prompts": ("docs", faults.pairs_changed(faults.prompted_again)),
        "conflicting-pairs": ("docs", faults.contradicted),
        "length-bias": ("docs", whole(faults.always_longer)),
        "one-class-ratings": ("terminal", whole(lambda rows, dice: faults.rated(rows, 1.0, dice))),
        "one-sided-ratings": ("terminal", whole(lambda rows, dice: faults.rated(rows, 0.9, dice))),
        "cut-off-replies": ("docs", faults.pairs_changed(faults.cut_reply, faults.prose, 300)),
        "tool-calls": ("terminal", faults.tool_rows),
    }


def named(check: Check, scan: Scan) -> list[str]:
    """The places that a check names; ``SET`` once for a finding about the set."""
    if check.by_row:
        return [row.place for row in scan.rows if check.by_row(row)]
    found = [each.place for each in check.over_all(scan)] if check.over_all else []
    return found if check.of_rows else [SET] * bool(found)


def score(check: Check, clean: dict[str, Scan], base: list[Row], plant: Planter) -> Score:
    """The figures of one check; a finding about the set is drawn ``DRAWS`` times."""
    planted = hits = total = 0
    for draw in range(1 if check.of_rows else DRAWS):
        dice = random.Random(draw)  # noqa: S311 - dice, no secret
        scan, places = plant(dice.sample(base, len(base)), dice)
        known = READ.get(check.slug, set()) - places
        found = [place for place in named(check, scan) if place not in known]
        planted, hits, total = planted + len(places), hits + len(places & set(found)), total + len(found)
    untouched = [named(check, scan) for scan in clean.values()]
    looked = sum(len(scan.rows) for scan in clean.values()) if check.of_rows else len(clean)
    return Score(check, planted, hits, total, sum(map(len, untouched)), looked)


def sets(
    encode: Callable[[Row], Encoded], ends: frozenset[int], tokenizer: PreTrainedTokenizerBase
) -> dict[str, Scan]:
    """The clean sets with their held-out rows."""
    food, terminal = EXAMPLES / "food-category", EXAMPLES / "terminal-helper"
    held = {"food": load_rows(food / "eval.jsonl").rows, "terminal": load_rows(terminal / "eval.jsonl").rows}
    rows = {
        "food": load_rows(food / "train.jsonl").rows,
        "terminal": load_rows(terminal / "train.jsonl").rows,
    }
    docs = list(docstrings())
    rows["docs"], held["docs"] = docs[len(docs) // 10 :], docs[: len(docs) // 10]
    return {
        name: Scan(
            list(rows[name]),
            held[name],
            encode=encode,
            look=template_faults(tokenizer),
            end_ids=ends,
            max_length=4096,
        )
        for name in rows
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--show", metavar="CHECK", help="print what this check names in the clean sets")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = resolve_model("smollm2-135m")
    templates = (None, faults.THINKS, faults.OPENS)
    tokenizer, thinks, opens = (load_tokenizer(model, chat_template=each) for each in templates)

    def encode(row: Row) -> Encoded:
        return encode_row(row, tokenizer)

    clean = sets(encode, frozenset(stop_token_ids(tokenizer)), tokenizer)
    if options.show:
        (check,) = (each for each in ALL if each.slug == options.show)
        for scan in clean.values():
            print(*(f"{each.place}  {each.detail}" for each in examples(check, scan)), sep="\n")
        return 0
    plants = planters(encode, tokenizer, thinks, opens)
    if missing := {check.slug for check in ALL} - plants.keys():
        raise SystemExit(f"no fault is planted for {missing}")
    sizes = ", ".join(f"{name} {len(scan.rows):,}" for name, scan in clean.items())
    print(
        f"{PLANTED} spoiled rows a check, one an entry of a list, or {DRAWS} spoiled sets; clean rows: {sizes}\n"
    )
    print("| # | check | planted | recall | precision | named in clean sets |\n|---|---|---|---|---|---|")
    weak: list[Check] = []
    for check in ALL:
        base, plant = plants[check.slug]
        found = score(check, clean, list(clean[base].rows), plant)
        recall, precision = found.hits / found.planted, found.hits / max(1, found.named)
        if recall < RECALL or precision < PRECISION:
            weak.append(check)
        print(
            f"| {check.number} | `{check.slug}` | {found.planted} | {recall:.0%} | {precision:.0%} | "
            f"{found.clean} of {found.looked:,} |",
            flush=True,
        )
    wrong = in_clean_shapes(encode, frozenset(stop_token_ids(tokenizer)))
    notes = [check.slug for check in weak if check.level == "info"]
    failed = [check.slug for check in weak if check.level != "info"]
    print(f"\nUnder {RECALL:.0%} recall or {PRECISION:.0%} precision: {', '.join(failed) or 'none'}")
    print(f"Notes under that, which do not fail: {', '.join(notes) or 'none'}")
    return int(bool(failed or wrong))


def in_clean_shapes(encode: Callable[[Row], Encoded], ends: frozenset[int]) -> int:
    """The number of clean shapes in which a check above a note names something; prints one line a shape.

    Preference rows are looked at with their tokens too.
    """
    print("\n| clean shape | rows | findings above a note |\n|---|---|---|")
    wrong = 0
    with_tokens = {"encode": encode, "end_ids": ends, "max_length": 4096}
    scans = {
        name: Scan(*split_rows(rows, 0.2, seed=1), **more)
        for shapes, more in ((public.clean_shapes(), {}), (published_preferences(), with_tokens))
        for name, rows in shapes.items()
    }
    for name, scan in scans.items():
        findings, _ = run_checks(scan)
        above = [f"{each.check} {each.count}" for each in findings if each.level != "info"]
        above = [each for each in above if not each.startswith(EXPECTED)]
        wrong += bool(above)
        print(f"| {name} | {len(scan.rows) + len(scan.validation)} | {', '.join(above) or 'none'} |")
    return wrong


def examples(check: Check, scan: Scan) -> list[Example]:
    if check.by_row:
        return [Example(row.place, detail) for row in scan.rows if (detail := check.by_row(row))]
    return list(check.over_all(scan)) if check.over_all else []


if __name__ == "__main__":
    sys.exit(main())
