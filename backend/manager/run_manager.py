"""List, find, label, compare, import and delete the runs under a folder.

There is no registry: a listing scans the folder, and caches by the times of the runs' folders.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backend.errors import NextStep, RunError, TunesmithError
from backend.manager.listing_cache import Entries, load_listing, save_listing
from backend.manager.run_import import import_folder, without_name
from backend.manager.run_summary import Labels, RunSummary, read_labels, summarise
from backend.run.folder import RunDir
from backend.run.lifecycle import LIVE, Event
from backend.run.reports import RunStatus
from backend.run.root import require_name, stamps
from backend.utils.file_utils import (
    UnsafeNameError,
    remove_folder,
    safe_join,
    sweep_temporaries,
    write_json_durably,
)
from backend.utils.lock_utils import hold_lock
from backend.utils.record_utils import record_to_json

_EDIT_LOCK = ".labels.lock"
_PATIENCE_SECONDS = 30.0
_WORTH_SAVING = 100
_CLOCK_TICK_NS = 1_000_000_000
"""Coarser than the clock of any file system in use."""


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side. ``settings`` holds each dotted setting that differs, a value a run (None: unset)."""

    runs: tuple[RunSummary, ...]
    settings: dict[str, tuple[object, ...]]


class RunManager:
    """The runs directly under ``root``, which need not exist yet. Safe to use from several threads."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._remembered: Entries | None = None
        self._guard = threading.Lock()

    def list(
        self,
        *,
        status: RunStatus | None = None,
        text: str = "",
        tag: str = "",
        archived: bool = False,
    ) -> tuple[RunSummary, ...]:
        """The runs, newest first; ``text`` is looked for in id, name, model, method and note.

        Archived runs are left out unless ``archived``. Damaged runs are in the list and say so.
        """
        with self._guard:
            summaries = self._scan()
        newest_first = sorted(summaries, key=lambda item: (item.created, item.id), reverse=True)
        return tuple(item for item in newest_first if _matches(item, status, text.lower(), tag, archived))

    def _scan(self) -> tuple[RunSummary, ...]:
        """Every run, from memory when nothing in its folder has moved since it was last seen at rest."""
        before = load_listing(self.root) if self._remembered is None else self._remembered
        now: Entries = {}
        for name, stamp in reversed(stamps(self.root).items()):
            known = before.get(name)
            entry = known if known and known[0] == stamp else self._read(name, stamp)
            if entry is known or (self.root / name).exists():  # else it was deleted while it was read
                now[name] = entry
        self._remembered = now
        if sum(now[name] is not before.get(name) for name in now) >= _WORTH_SAVING:
            save_listing(self.root, now)
        return tuple(summary for _, summary in now.values())

    def _read(self, name: str, stamp: tuple[int, ...]) -> tuple[tuple[int, ...], RunSummary]:
        read_at = time.time_ns()
        summary = summarise(RunDir(self.root / name))
        # else the next change may bear the same time
        settled = abs(read_at - max(stamp[:2])) > _CLOCK_TICK_NS
        return (stamp if settled and summary.status not in LIVE else ()), summary

    def find(self, run: str) -> RunDir:
        """The run of this id, unique beginning of an id, given name, or folder. Raises RunError.

        A name that several runs have, as copies of one do, is ``ambiguous-run``.
        """
        try:
            return RunDir.find(self.root, run)
        except RunError:
            named = [item for item in self.list(archived=True) if run and item.labels.name == run]
            if not named:
                raise
        if len(named) > 1:
            raise RunError(
                f"{len(named)} runs are called {run!r}.",
                remedy=f"Give the id of one: {', '.join(item.id for item in named[:5])}",
                code="ambiguous-run",
            )
        return RunDir(named[0].path)

    def show(self, run: str) -> RunSummary:
        """The summary of one run, read anew. Raises RunError when there is none."""
        return summarise(self.find(run))

    def rename(self, run: str, name: str) -> Labels:
        """Give a run another name to show and to ask for it by; its id and folder stay, and "" takes the name away.

        Raises RunError for a name that is taken (``name-taken``) or means something else (``bad-name``).
        """
        found, name = self.find(run), name.strip()

        def change(labels: Labels) -> Labels:
            self._require_free(found, name)
            return replace(labels, name=name)

        return self._label(found, change)

    def _require_free(self, run: RunDir, name: str) -> None:
        """Pass a name that ``run`` may be given. Raises RunError ``name-taken`` or ``bad-name``."""
        require_name(name)
        others = [item for item in self.list(archived=True) if name and item.id != run.id]
        taken = next((one for one in others if one.labels.name == name or one.id.startswith(name)), None)
        if taken:
            how = "is called" if taken.labels.name == name else "can be asked for by"
            raise RunError(
                f"The run {taken.id} {how} {name!r} already.", remedy="Choose another.", code="name-taken"
            )

    def tag(self, run: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> Labels:
        """Add and remove tags; the new labels come back."""

        def change(labels: Labels) -> Labels:
            return replace(labels, tags=tuple(sorted({*labels.tags, *add} - set(remove))))

        return self._label(self.find(run), change)

    def note(self, run: str, text: str) -> Labels:
        """Replace the note of a run."""
        return self._label(self.find(run), lambda labels: replace(labels, note=text))

    def archive(self, run: str, *, archived: bool = True) -> Labels:
        """Leave a run out of listings, or bring it back; nothing is moved or deleted."""
        return self._label(self.find(run), lambda labels: replace(labels, archived=archived))

    def _label(self, run: RunDir, change: Callable[[Labels], Labels]) -> Labels:
        """Change the labels of a run. Both the look at them and the change are made under one lock."""
        with hold_lock(self.root / _EDIT_LOCK, wait_seconds=_PATIENCE_SECONDS):
            labels = change(read_labels(run))
            write_json_durably(run.labels_file, record_to_json(labels))
        return labels

    def compare(self, runs: Sequence[str]) -> Comparison:
        """The runs side by side, with the settings that differ. Raises RunError for a missing or damaged one."""
        found = [self.find(run) for run in runs]
        settings = [_settings(run) for run in found]
        names = sorted({name for one in settings for name in one})
        rows = {name: tuple(one.get(name) for one in settings) for name in names}
        differing = {
            name: values for name, values in rows.items() if any(value != values[0] for value in values)
        }
        return Comparison(tuple(summarise(run) for run in found), differing)

    def delete(self, run: str) -> None:
        """Delete a run for good; ``run`` must be its whole id.

        Raises RunError: it lives, somebody reads it or stands on its model (``in-use``), or it is not ours.
        """
        found = self._exactly(run)
        self.require_unneeded(found)
        with found.hold_for_deleting():
            remove_folder(found.path)
        sweep_temporaries(self.root)

    def require_unneeded(self, run: RunDir) -> None:
        """Pass a run that may be deleted now. Raises RunError ``illegal-transition`` or ``in-use``."""
        run.require(Event.DELETE)
        self.require_no_dependents(run.path)

    def require_no_dependents(self, folder: Path) -> None:
        """Pass a folder of models, of a run or an export, that no run here needs.

        Raises RunError ``in-use`` that names the runs which were begun from a model in it and cannot go on or answer
        without.
        """
        place = folder.resolve()
        needing = [item.id for item in self.list(archived=True) if _stands_on(item, place)]
        if needing:
            more = f" and {len(needing) - 5} more" if len(needing) > 5 else ""
            raise RunError(
                f"{folder.name} is in use: it holds the model that {', '.join(needing[:5])}{more} "
                f"{'was' if len(needing) == 1 else 'were'} begun from.",
                remedy="Without it they can neither go on nor answer. Delete them first, or keep it.",
                code="in-use",
            )

    def _exactly(self, run: str) -> RunDir:
        try:
            found = RunDir(safe_join(self.root, run))
        except UnsafeNameError as error:
            raise self._not_whole(run) from error
        if found.path.is_symlink() or not found.path.is_dir() or not found.exists():
            raise self._not_whole(run)
        return found

    def _not_whole(self, run: str) -> RunError:
        return RunError(
            f"{run!r} is not the whole id of a run in {self.root}; nothing was deleted.",
            remedy="Give its whole id.",
            code="no-such-run",
            next_step=NextStep.LIST_RUNS,
        )

    def import_folder(self, source: Path) -> RunDir:
        """A copy of a run folder from elsewhere; nothing is written there. Raises RunError as ``run_import`` says."""
        return import_folder(self.root, source, self._acceptable)

    def _acceptable(self, run: RunDir, labels: Labels) -> Labels:
        """The labels of a run from elsewhere; a name that cannot be kept here goes into the note."""
        try:
            self._require_free(run, labels.name)
        except RunError:
            return without_name(labels)
        return labels


def _stands_on(item: RunSummary, place: Path) -> bool:
    """Return whether a run needs a model below ``place``; not if it has its own whole model."""
    if not item.model.startswith("/") or item.path.resolve() == place or RunDir(item.path).model.is_dir():
        return False
    try:
        settings = _settings(RunDir(item.path))
    except TunesmithError:
        settings = {}
    # as the configuration has it: a listing only peeks at it
    base = Path(str(settings.get("model.model_name_or_path", item.model)))
    return base.resolve().is_relative_to(place)


def _matches(item: RunSummary, status: RunStatus | None, text: str, tag: str, archived: bool) -> bool:
    return (
        (status is None or item.status is status)
        and (not text or text in _words(item))
        and (not tag or tag in item.labels.tags)
        and (archived or not item.labels.archived)
    )


def _words(item: RunSummary) -> str:
    return f"{item.id} {item.labels.name} {item.model} {item.method} {item.labels.note}".lower()


def _settings(run: RunDir) -> dict[str, object]:
    from backend.utils.config_utils import parse_yaml  # noqa: PLC0415  YAML only where it is needed

    def flat(value: object, prefix: str) -> dict[str, object]:
        if not isinstance(value, dict):
            return {prefix: value}
        return {
            name: leaf for key, part in value.items() for name, leaf in flat(part, f"{prefix}.{key}").items()
        }

    return {
        name.lstrip("."): value
        for name, value in flat(parse_yaml(run.read_config_text(), where=run.id), "").items()
    }
