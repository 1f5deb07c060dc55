"""Exports spoilt one setting at a time: the certificate names each change in red or amber; untouched, it is green.

    python benchmarks/certificate_fuzz.py [FAMILY …] [--readers] [--classic PYTHON]

Ten tiny families are exported in every form that they can leave in. Each value in config.json,
generation_config.json, adapter_config.json, tokenizer_config.json, tokenizer.json and each key of a GGUF file is
changed alone, and the certificate's look into the export is asked. A change may pass only where its key is listed as
one without meaning. ``--readers`` has the untouched export read as well; ``--classic`` by the transformers of another
interpreter, which also reads it with all changes without meaning at once. Prints a table, and
the short one of docs/export.md: the changes with a meaning in each file, all named unless it says of how many,
and the light of each reader. Exits 1 when a change is missed or a reader finds another model than was trained.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from backend.core.gguf.file import read_gguf
from backend.errors import ModelError
from backend.export.certificate import Light
from backend.export.check import check_contents
from backend.export.comparison import compare
from backend.export.forms import Target, write_form
from backend.export.readers import UnreadableError, read_back
from backend.export.settings import check_config, check_rules, has_meaning, unknown_rules, unknown_settings
from backend.export.trained import Trained
from backend.export.vocabulary import check_ends, check_tokenizer, unknown_tokenizer_settings
from backend.inference.logprobs import answer_logprobs
from tests.backend.export.conftest import Asked, ask, export_of
from tests.backend.export.families import FAMILIES, IN_GGUF, family_folder
from tests.backend.export.harm import rewrite
from tests.backend.export.results import finished_over
from tests.backend.export.spoil import others, spoilt

Change = tuple[str, Callable[[], object]]
"""What is changed, in words that begin with its key, and what changes it."""
FILES: dict[str, tuple[str, ...]] = {
    "merged": ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"),
    "adapter": ("adapter_config.json",),
}
"""What is changed in a folder; an adapter's other files are compared as those of a merged model are."""
READERS = ("transformers 5", "transformers 4", "llama.cpp")
GGUF_NAMES = ("general.name", "general.size_label")
EXPERTS_STORED_OTHERWISE = ("mixtral",)
"""Families whose experts transformers 4 stores otherwise: it cannot read their adapters, as their model card says."""
GGUF_DEFAULTS = ("attention.key_length", "attention.value_length", "rope.dimension_count", "vocab_size")
"""Left out, llama.cpp takes them from other keys, and finds what stood there."""


@dataclass
class Tally:
    """What became of the changes to one file of one export."""

    lights: Counter[str] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)

    def add(self, change: str, light: Light, *, meant: bool) -> None:
        """Count one change; one that passes although it means something was missed."""
        self.lights["without meaning" if light == Light.GREEN and not meant else light] += 1
        if light == Light.GREEN and meant:
            self.missed.append(change)


def json_changes(file: Path) -> Iterator[tuple[Change, bool]]:
    """Every change to a JSON file, and whether it means anything."""
    for said, key, document in spoilt(file.read_text("utf-8")):
        yield (said, partial(file.write_text, document, "utf-8")), is_meant(file.name, key)


def is_meant(name: str, key: str) -> bool:
    """Whether a change to ``key`` in the file ``name`` may change an answer. tokenizer.json has no keys of others."""
    return name.startswith("tokenizer") or has_meaning(key)


def gguf_changes(file: Path) -> Iterator[tuple[Change, bool]]:
    """Every change to a key of a GGUF file, its removal, and whether it means anything."""
    metadata = read_gguf(file).metadata
    for key, value in metadata.items():
        if key in {"general.architecture", "general.alignment"}:
            continue
        for other in (None, *others(value)):
            derived = other is None and key.endswith(GGUF_DEFAULTS)
            meant = key not in GGUF_NAMES and not derived
            yield (f"{key} = {str(other)[:60]}", partial(rewrite, file, settings={key: other})), meant


def fuzz(asked: Asked, target: Target, precision: str, folder: Path) -> dict[str, Tally]:
    """Write one form into ``folder``, change everything in it alone, and count by file what the certificate says."""
    trained = asked.fresh()
    payload, _ = write_form(trained, target, precision, folder, max_shard_size="5GB")
    tallies: dict[str, Tally] = {}
    if (light := _light(trained, target, precision, payload)) != Light.GREEN:
        tallies["untouched"] = Tally(missed=[f"untouched is {light}"])
    files = [payload] if payload.is_file() else [payload / name for name in FILES[target]]
    for file in files:
        tally = tallies[file.suffix.removeprefix(".") if payload.is_file() else file.name] = Tally()
        whole = file.read_bytes()
        for (said, change), meant in gguf_changes(file) if payload.is_file() else json_changes(file):
            try:
                change()
                light = _named(trained, precision, file)
                if light == Light.GREEN and meant:
                    light = _light(trained, target, precision, payload)
                tally.add(said, light, meant=meant)
            finally:
                file.write_bytes(whole)
    return tallies


def _named(trained: Trained, precision: str, file: Path) -> Light:
    """What the certificate's look into this one file of a folder says, which is quicker than its look into all."""
    words, rules = trained.tokenizer, trained.generation_config()
    try:
        match file.name:
            case "config.json":
                wrong = any(check_config(file, trained.model.config, precision))
                unknown = [] if wrong else unknown_settings(file, trained.model.config)
            case "generation_config.json":
                wrong = any([*check_rules(file, rules), *check_ends(file.parent, rules, words)])
                unknown = unknown_rules(file, rules)
            case "tokenizer.json" | "tokenizer_config.json":
                wrong = any(check_tokenizer(file.parent, words))
                unknown = unknown_tokenizer_settings(file.parent, words)
            case _:
                return Light.GREEN
    except (ModelError, LookupError, ValueError, TypeError):
        return Light.RED
    return Light.RED if wrong else Light.AMBER if unknown else Light.GREEN


def _light(trained: Trained, target: Target, precision: str, payload: Path) -> Light:
    scratch = Path(tempfile.mkdtemp(dir=payload.parent.parent))
    try:
        return check_contents(trained, target, precision, payload, scratch).light
    finally:
        shutil.rmtree(scratch)


def forms(family: str) -> list[tuple[Target, str]]:
    """What a family can leave as, and in which precision it is tried."""
    folders: list[tuple[Target, str]] = [("merged", "bfloat16"), ("adapter", "float32")]
    return folders + ([("gguf", "F32"), ("lora-gguf", "F32")] if family in IN_GGUF else [])


def read(
    asked: Asked, target: Target, precision: str, folder: Path, classic: Path | None
) -> dict[str, Light]:
    """Have an untouched form read, and with all changes without meaning; by ``classic`` too, if there is one."""
    folder.mkdir()
    payload, certificate = export_of(asked, folder, target, precision)
    lights = {f"untouched, {certificate.reader}": certificate.light}
    if classic and payload.is_dir():
        lights["untouched, transformers 4"] = read_again(asked, target, precision, payload, str(classic))
    if target == "merged":
        change_without_meaning(payload / "config.json")
        change_without_meaning(payload / "generation_config.json")
        for who, python in {"5": sys.executable, **({"4": str(classic)} if classic else {})}.items():
            light = read_again(asked, target, precision, payload, python)
            lights[f"changed without meaning, transformers {who}"] = light
    return lights


def read_again(asked: Asked, target: Target, precision: str, payload: Path, python: str) -> Light:
    """The light of what the transformers of ``python`` reads in ``payload``."""
    base = asked.trained.base if target == "adapter" else None
    try:
        reading = read_back("transformers", payload, asked.panel, asked.answers, base=base, python=python)
    except UnreadableError as error:
        print(f"  {error}", file=sys.stderr, flush=True)
        return Light.RED
    weigh = partial(answer_logprobs, asked.trained.model)
    checks, _, _ = compare(asked.panel, asked.answers, reading, asked.trained.tokenizer, precision, weigh)
    for check in checks:
        if check.light != Light.GREEN:
            print(f"  {check.finding}", file=sys.stderr, flush=True)
    return max((check.light for check in checks), key=list(Light).index)


def change_without_meaning(file: Path) -> None:
    """Change every value of a JSON file that is listed as one without meaning, all at once."""
    settings = json.loads(file.read_text("utf-8"))
    idle = {key: next(others(value)) for key, value in settings.items() if not has_meaning(key)}
    file.write_text(json.dumps(settings | idle), "utf-8")


def main() -> int:
    """Fuzz the families that are asked for and print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("families", nargs="*", default=list(FAMILIES), metavar="FAMILY")
    parser.add_argument("--readers", action="store_true", help="have the untouched exports read as well")
    parser.add_argument("--classic", type=Path, help="the python of an environment with transformers 4")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    bad = 0
    short: dict[str, dict[str, list[Tally | str]]] = {}
    print("| family | form | file or reader | changes | red | amber | without meaning | missed |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as root:
        for name in options.families:
            place = Path(root, name)
            place.mkdir()
            asked = ask(finished_over(family_folder(place / "model", name), place), rows=2)
            cells = short[name] = defaultdict(list)
            for target, precision in forms(name):
                (place / target).mkdir()
                for file, tally in fuzz(asked, target, precision, place / target).items():
                    bad += _show(name, target, file, tally)
                    cells[file].append(tally)
                if options.readers:
                    again = place / f"{target}-read"
                    for who, light in read(asked, target, precision, again, options.classic).items():
                        print(f"| {name} | {target} | {who} | {light} | | | | |", flush=True)
                        unread = (
                            target == "adapter"
                            and "transformers 4" in who
                            and name in EXPERTS_STORED_OTHERWISE
                        )
                        bad += light != (Light.RED if unread else Light.GREEN)
                        (reader,) = (each for each in READERS if each in who)
                        cells[reader].append(light if light == Light.GREEN else f"{target} {light}")
    print(*_short_table(short), sep="\n")
    return 1 if bad else 0


def _short_table(families: Mapping[str, Mapping[str, Sequence[Tally | str]]]) -> Iterator[str]:
    """The table of docs/export.md: a line for each family, a column for each file and reader."""
    columns = [*(name for names in FILES.values() for name in names), "gguf", *READERS]
    yield f"\n| family | {' | '.join(columns)} |"
    yield "|---" * (1 + len(columns)) + "|"
    for name, cells in families.items():
        yield f"| {name} | {' | '.join(_cell(cells.get(column, ())) for column in columns)} |"


def _cell(found: Sequence[Tally | str]) -> str:
    tallies = [each for each in found if isinstance(each, Tally)]
    named = sum(tally.lights["red"] + tally.lights["amber"] for tally in tallies)
    missed = sum(len(tally.missed) for tally in tallies)
    counts = [f"{named} of {named + missed}" if missed else str(named)] if tallies else []
    lights = dict.fromkeys(each for each in found if isinstance(each, str))
    return ", ".join([*counts, *lights]) or "–"


def _show(name: str, target: str, file: str, tally: Tally) -> int:
    counts = (tally.lights["red"], tally.lights["amber"], tally.lights["without meaning"], len(tally.missed))
    cells = " | ".join(map(str, (sum(counts), *counts)))
    print(f"| {name} | {target} | {file} | {cells} |", flush=True)
    for change in tally.missed:
        print(f"  missed: {name} {target} {file}: {change}", file=sys.stderr, flush=True)
    return len(tally.missed)


if __name__ == "__main__":
    sys.exit(main())
