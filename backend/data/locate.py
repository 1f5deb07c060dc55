"""Find the data files for what a person typed: a file, folder, pattern, saved data set or hub id.

``train.jsonl`` · ``data/`` · ``data/*.csv`` · ``owner/name`` · ``hf://owner/name@revision`` · ``tfds://name`` –
each may end in ``:split`` and in a slice such as ``[:80%]`` or ``[100:200]``.
"""

from __future__ import annotations

import glob
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from backend.data import hub, tfds
from backend.data.files import regular_file
from backend.data.records import Skipped
from backend.errors import DataError
from backend.utils.path_utils import user_path
from backend.utils.text_utils import writable

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "table",
    ".tsv": "table",
    ".tab": "table",
    ".psv": "table",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".markdown": "text",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".xlsx": "workbook",
    ".xlsm": "workbook",
}
PACKED = (".zip", ".tar", ".gz", ".bz2", ".xz", ".zst", ".tgz", ".tbz2", ".txz", ".tzst")

_TYPED = re.compile(r"(?P<base>.+?)(?::(?P<split>[\w.-]+))?(?P<part>\[[-\d%]*:[-\d%]*\])?", re.DOTALL)
_HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
_SPLITS = {
    "train": ("train", "training", "trainset"),
    "validation": (
        *("validation", "valid", "val", "valset", "dev", "devset", "development"),
        *("eval", "evals", "evaluation", "evalset", "heldout", "holdout", "held-out", "held_out", "hold-out"),
    ),
    "test": ("test", "tests", "testing", "testset"),
}
HELD_OUT = ("validation", "test")
"""Splits whose rows are never trained on."""
_SPLIT_NAMES = {spelling: name for name, spellings in _SPLITS.items() for spelling in spellings}
_SPLIT = re.compile(rf"(?:^|[^a-z])({'|'.join(sorted(_SPLIT_NAMES, key=len, reverse=True))})(?=[^a-z]|$)")
_CAPITAL_WITHIN = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WILD = re.compile(r"[*?\[]")
NOT_DATA = {"readme", "license", "licence", "notice", "changelog", "dataset_info", "dataset_infos", "state"}


@dataclass(frozen=True)
class DataFile:
    """A file to read, the name by which places call it, and the split to read of it, if one was named."""

    path: Path
    name: str
    split: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", writable(self.name))  # a file name may hold bytes that UTF-8 cannot


@dataclass(frozen=True)
class Located:
    """The files to read in order, the files skipped, and the slice of rows to take, as typed."""

    files: tuple[DataFile, ...]
    skipped: tuple[Skipped, ...] = ()
    part: str | None = None


def locate(typed: str | Path) -> Located:
    """Return the files for a path, pattern or hub id; raises ``DataError`` when there are none."""
    text = str(typed)
    if text.startswith("~") and not _exists(Path(text)):
        text = str(user_path(text))
    if _exists(Path(text)):
        return _local(Path(text), None)
    found = _TYPED.fullmatch(text)
    base, split, part = found.group("base", "split", "part") if found else (text, None, None)
    located = _by_base(base, split) if not (split and _exists(Path(f"{base}:{split}"))) else None
    located = located or _local(Path(f"{base}:{split}"), None)
    return Located(located.files, located.skipped, part)


def take_part(count: int, part: str | None) -> slice:
    """Return the slice of ``count`` rows that ``[10:20]`` or ``[:80%]`` means; percentages are rounded."""
    if part is None:
        return slice(0, count)
    ends = part[1:-1].split(":")
    try:
        first, last = (_position(end, count) for end in ends)
    except ValueError:
        raise DataError(
            f"The slice {part} is not understood.",
            remedy="Write [:80%], [80%:] or [100:200].",
            code="bad-slice",
        ) from None
    return slice(*slice(first, last).indices(count))


def choose(names: Sequence[str], split: str | None) -> tuple[list[str], list[Skipped]]:
    """Return the names to read for a split, and the others with the reason each is skipped.

    Without a split: the ``train`` files if names say so, else all files that are not held out. Among text files names
    say so only if none of them leaves it open.
    """
    skipped = [Skipped(name, reason) for name in names if (reason := _skip_reason(name))]
    fit = [name for name in names if not _skip_reason(name)]
    if any(_kind(name) != "text" for name in fit):
        skipped += [Skipped(name, "a text beside data files") for name in fit if _kind(name) == "text"]
        fit = [name for name in fit if _kind(name) != "text"]
    splits = {name: split_of(name) for name in fit}
    found = {of for of in splits.values() if of not in HELD_OUT}
    # beside documents whose names say nothing, one called training is a chapter like them
    chapters = None in found and all(_kind(name) == "text" for name in fit)
    usual = found if chapters else found & {"train"} or found
    wanted = {split_name(split)} if split is not None else usual
    skipped += [
        Skipped(name, f"it belongs to {f'the split {of!r}' if of else 'no split'}")
        for name, of in splits.items()
        if of not in wanted
    ]
    return [name for name in fit if splits[name] in wanted], skipped


def split_of(name: str, *, whole: bool = False) -> str | None:
    """Return train, validation or test if a file's name or folder says so, else None.

    ``whole``: only if the name is nothing but the name of a split.
    """
    found = _SPLIT.findall(_CAPITAL_WITHIN.sub("-", name).lower())
    if whole and name.lower() not in _SPLIT_NAMES:
        return None
    return split_name(found[-1]) if found else None


def split_name(spelling: str) -> str:
    """Return the usual name of a split: ``val`` and ``dev`` are validation."""
    return _SPLIT_NAMES.get(spelling.lower(), spelling)


def _by_base(base: str, split: str | None) -> Located:
    path = Path(base)
    if _exists(path):
        return _local(path, split)
    if any(character in base for character in "*?["):
        return _pattern(base, split)
    if base.startswith(tfds.PREFIX):
        return _local(tfds.fetch(base.removeprefix(tfds.PREFIX), split), None)
    found = _HUB_ID.fullmatch(base.removeprefix("hf://").removeprefix("datasets/"))
    forced = base.startswith("hf://")
    if found and (forced or (_kind(base) is None and not _exists(path.parent))):
        folder = hub.fetch(found["repo"], found["revision"], lambda names: choose(names, split)[0])
        return _folder(folder, split, links=True)
    return _local(path, split)


def _local(path: Path, split: str | None) -> Located:
    if _exists(path) and path.is_dir():
        return _folder(path, split)
    return Located((DataFile(regular_file(path), path.name, split),))


def _pattern(pattern: str, split: str | None) -> Located:
    """Return the files that match. A hidden folder or a split that the pattern itself names is not skipped."""
    paths = [Path(each) for each in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207  # may be absolute
    files = [path for path in paths if path.is_file()]
    if not files:
        raise DataError(
            f"No file matches {pattern}.",
            remedy="Check the pattern; ** crosses folders.",
            code="file-not-found",
        )
    fixed = itertools.takewhile(lambda part: not _WILD.search(part), Path(pattern).parts)
    base = Path(*fixed)
    found = {_shown(path.relative_to(base)): path for path in files}
    chosen, skipped = choose(list(found), split or split_of(Path(pattern).name))
    located = Located(tuple(DataFile(found[name], found[name].name) for name in chosen), tuple(skipped))
    return _require_files(located, pattern)


def _shown(path: Path) -> str:
    """Return a path below a pattern's fixed part; hidden folders lose their dots, since the pattern named them."""
    return "/".join(part.lstrip(".") or part for part in path.parts)


def _folder(folder: Path, split: str | None, *, links: bool = False) -> Located:
    splits = _read_json(folder / "dataset_dict.json").get("splits")
    if isinstance(splits, list):
        return _saved_splits(folder, [str(each) for each in splits], split)
    saved = _read_json(folder / "state.json").get("_data_files")
    if isinstance(saved, list):
        names = [Path(str(each.get("filename"))).name for each in saved if isinstance(each, dict)]
        return Located(tuple(DataFile(regular_file(_inside(folder, name)), name) for name in names))
    inside: list[str] = []
    skipped: list[Skipped] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        if not links and not _leads_inside(path, folder):
            skipped.append(Skipped(name, "a link that leads out of the folder"))
        elif not path.is_file():
            skipped.append(Skipped(name, "no regular file"))
        else:
            inside.append(name)
    chosen, others = choose(inside, split)
    files = tuple(DataFile(folder / name, name) for name in chosen)
    return _require_files(Located(files, (*skipped, *others)), str(folder))


def _saved_splits(folder: Path, splits: list[str], wanted: str | None) -> Located:
    alone = splits[0] if len(splits) == 1 and split_of(splits[0], whole=True) not in HELD_OUT else ""
    name = wanted or ("train" if "train" in splits else alone)
    if name not in splits:
        raise DataError(
            f"{folder} holds the splits {', '.join(splits)}" + (f", but not {wanted!r}." if wanted else "."),
            remedy=f"Say which one, for example {folder}:{splits[0] if splits else 'train'}",
            code="unknown-split",
        )
    located = _folder(_inside(folder, name), None)
    files = tuple(DataFile(file.path, f"{name}/{file.name}") for file in located.files)
    others = tuple(Skipped(each, f"it is the split {each!r}") for each in splits if each != name)
    return Located(files, (*located.skipped, *others))


def _inside(folder: Path, name: str) -> Path:
    """Return the path of a file that a saved data set names; raises ``DataError`` if it leads out of the folder."""
    path = folder / name
    if Path(name).name != name or not _leads_inside(path, folder):
        raise DataError(
            f"{folder} describes itself as holding {name!r}, which leads out of it.",
            remedy="Save or download the data set again; its description was changed.",
            code="unsafe-dataset",
        )
    return path


def _leads_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _require_files(located: Located, what: str) -> Located:
    if located.files:
        return located
    reasons = "; ".join(f"{item.place}: {item.reason}" for item in located.skipped[:3])
    held_out = next((of for item in located.skipped if (of := split_of(item.place)) in HELD_OUT), None)
    ending = f"Files must end in one of {', '.join(SUFFIXES)}."
    raise DataError(
        f"{what} holds no file that can be read" + (f" ({reasons})." if reasons else "."),
        remedy=f"To read held-out rows, name their split: {what}:{held_out}" if held_out else ending,
        code="no-files",
    )


def _skip_reason(name: str) -> str:
    path = PurePosixPath(name)
    if any(part.startswith((".", "__MACOSX")) and part not in (".", "..") for part in path.parts):
        return "a hidden or system file"
    if path.stem.lower() in NOT_DATA:
        return "it describes the data and holds no rows"
    return "" if _kind(name) else "its ending is of no known kind"


def _kind(name: str) -> str | None:
    suffix = PurePosixPath(name).suffix.lower()
    return SUFFIXES.get(suffix) or ("packed" if suffix in PACKED else None)


def _position(end: str, count: int) -> int | None:
    if not end:
        return None
    return round(count * int(end[:-1]) / 100) if end.endswith("%") else int(end)


def _exists(path: Path) -> bool:
    try:
        return path.exists() or path.is_symlink()
    except (OSError, ValueError):
        return False


def _read_json(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_bytes()[:10_000_000]) if path.is_file() else {}
    except (ValueError, OSError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
