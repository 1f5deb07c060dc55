"""Every state in which a power cut can leave a disk while a protocol runs: record once, then enumerate.

``Recorder`` is a real disk that notes each durable operation, and before each one whatever appeared on the disk
without it. ``crash_states`` goes through every prefix of those operations. Within a prefix, an operation on names
(create, mkdir, rename, unlink) may or may not have reached the disk until its folder is fsynced, and a file that
is not fsynced may be full, empty, torn in the middle or full of zeros.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from backend.utils.file_utils import DiskFileSystem

MEMORY = next((place for place in ("/dev/shm",) if Path(place).is_dir()), None)  # noqa: S108
"""Where thousands of small files are quick to write, if there is such a place."""

Tree = dict[Path, bytes | None]
"""Paths relative to the root, with the content of files and None for folders."""


@dataclass(frozen=True)
class Step:
    """One operation; paths are relative to the root. ``create`` brings the content that was written."""

    name: str
    path: Path
    data: bytes = b""
    target: Path = Path()

    @property
    def folder(self) -> Path:
        """The folder whose fsync makes this operation last."""
        return (self.target if self.name == "rename" else self.path).parent


@dataclass
class Recorder:
    """A ``FileSystem`` over the real disk that notes what a protocol does under ``root``."""

    root: Path
    steps: list[Step] = field(default_factory=list)
    _disk: DiskFileSystem = field(default_factory=DiskFileSystem)
    _seen: Tree = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._seen = read_tree(self.root)

    def note(self) -> None:
        """Note what appeared or changed without us, folders before the files in them."""
        now = read_tree(self.root)
        for path, data in sorted(now.items()):
            if path not in self._seen:
                self.steps.append(Step("mkdir", path) if data is None else Step("create", path, data))
            elif data is not None and self._seen[path] != data:
                self.steps.append(Step("create", path, data))
        self._seen = now

    def _done(self, name: str, path: Path, target: Path | None = None) -> None:
        relative = path.relative_to(self.root)
        self.steps.append(Step(name, relative, target=target.relative_to(self.root) if target else Path()))
        self._seen = read_tree(self.root)

    def write(self, path: Path, data: bytes) -> None:
        self.note()
        self._disk.write(path, data)
        self.note()

    def fsync(self, path: Path) -> None:
        self.note()
        self._disk.fsync(path)
        self._done("fsync", path)

    def rename(self, source: Path, target: Path) -> None:
        self.note()
        self._disk.rename(source, target)
        self._done("rename", source, target)

    def unlink(self, path: Path) -> None:
        self.note()
        self._disk.unlink(path)
        self._done("unlink", path)

    def mkdir(self, path: Path) -> None:
        self.note()
        self._disk.mkdir(path)
        self.note()


def crash_states(before: Tree, steps: list[Step]) -> Iterator[tuple[Tree, bool]]:
    """Every distinct disk after a power cut, and whether the protocol had returned by then."""
    seen: set[tuple[frozenset[tuple[Path, bytes | None]], bool]] = set()
    for count in range(len(steps) + 1):
        for tree in _states_of(before, steps[:count]):
            key = (frozenset(tree.items()), count == len(steps))
            if key not in seen:
                seen.add(key)
                yield tree, key[1]


def _states_of(before: Tree, steps: list[Step]) -> Iterator[Tree]:
    """Every choice of pending name operations, and of contents for the files that are not synced."""
    pending = [index for index, step in enumerate(steps) if _is_pending(steps, index)]
    for choices in itertools.product([True, False], repeat=len(pending)):
        lost = {index for index, kept in zip(pending, choices, strict=True) if not kept}
        tree, loose = _replay(before, [step for index, step in enumerate(steps) if index not in lost])
        options = [_contents(tree[path] or b"") for path in loose]
        for contents in itertools.product(*options):
            yield {**tree, **dict(zip(loose, contents, strict=True))}


def _is_pending(steps: list[Step], index: int) -> bool:
    """Whether an operation on names has not been made to last by a later fsync of its folder."""
    step = steps[index]
    if step.name == "fsync":
        return False
    folder = step.folder
    for later in steps[index + 1 :]:
        if later.name == "fsync" and later.path == folder:
            return False
        if later.name == "rename":
            folder = _moved(folder, later)
    return True


def _replay(before: Tree, steps: list[Step]) -> tuple[Tree, list[Path]]:
    """The tree after these steps, and the files in it whose content was never synced."""
    tree, loose = dict(before), set[Path]()
    for step in steps:
        if step.name in {"create", "mkdir"} and _has_parent(tree, step.path):
            tree[step.path] = None if step.name == "mkdir" else step.data
            loose |= {step.path} if step.name == "create" else set()
        elif step.name == "fsync":
            loose.discard(step.path)
        elif step.name == "unlink":
            tree.pop(step.path, None)
            loose.discard(step.path)
        elif step.name == "rename" and step.path in tree:
            tree = {_moved(path, step): data for path, data in tree.items() if path != step.target}
            loose = {_moved(path, step) for path in loose if path != step.target}
    return tree, sorted(loose)


def _has_parent(tree: Tree, path: Path) -> bool:
    return path.parent == Path() or path.parent in tree


def _moved(path: Path, rename: Step) -> Path:
    """Where ``path`` is after a rename."""
    if path == rename.path or rename.path in path.parents:
        return rename.target / path.relative_to(rename.path)
    return path


def _contents(full: bytes) -> list[bytes]:
    return list(dict.fromkeys([full, b"", full[: len(full) // 2], b"\0" * len(full)]))


def read_tree(root: Path) -> Tree:
    """Everything under ``root``."""
    return {
        path.relative_to(root): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


def write_tree(root: Path, tree: Tree) -> None:
    """Put a tree on the disk, under an empty ``root``."""
    for path, data in sorted(tree.items()):
        if data is None:
            (root / path).mkdir(parents=True, exist_ok=True)
        else:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
