"""Pack a run into one file to send: all of its records, with checkpoints only on request."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from backend.errors import NextStep, RunError
from backend.run.folder import RunDir
from backend.utils.file_utils import free_bytes, scratch_folder, temporary_name
from backend.utils.lock_utils import hold_folder

BUNDLE_SUFFIX = ".tar.gz"
MAX_MEMBERS = 100_000


def bundle_parts(run: RunDir, *, checkpoints: bool = False) -> list[Path]:
    """The files and folders of a run that go into its bundle, as far as they are there."""
    parts = [
        run.config,
        run.environment,
        run.attempts,
        run.metrics_file,
        run.samples_file,
        run.data_check_file,
        run.scores_file,
        run.evaluation_file,
        run.outcome_file,
        run.labels_file,
        run.adapter,
        run.model,
        *([run.checkpoints] if checkpoints else []),
    ]
    return [part for part in parts if part.exists()]


def write_bundle(run: RunDir, out: Path, *, checkpoints: bool = False) -> Path:
    """Write the bundle of a run to ``out``, whole or not at all, and return it.

    Raises RunError: ``bundle-exists``, ``cannot-write``, and ``already-running`` when checkpoints are asked for
    while a trainer may drop them.
    """
    if out.exists():
        raise RunError(f"{out} exists already.", remedy="Choose another name as `out`.", code="bundle-exists")
    staged = temporary_name(out)
    try:
        with run.hold_still() if checkpoints else run.hold_for_reading():
            _write(run, staged, bundle_parts(run, checkpoints=checkpoints))
        staged.replace(out)
    except OSError as error:
        raise RunError(
            f"{out} could not be written ({error.strerror or error}).",
            remedy="Choose another place as `out`, or make room there.",
            code="cannot-write",
        ) from error
    finally:
        staged.unlink(missing_ok=True)
    return out


def _write(run: RunDir, staged: Path, parts: list[Path]) -> None:
    with staged.open("xb") as stream:
        with (
            gzip.GzipFile(filename="", fileobj=stream, mode="wb", compresslevel=6) as packed,
            tarfile.open(fileobj=_writable(packed), mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for part in parts:
                archive.add(part, arcname=f"{run.id}/{part.name}", filter=_anonymous)
        stream.flush()
        os.fsync(stream.fileno())


def _writable(packed: gzip.GzipFile) -> IO[bytes]:
    return packed  # type: ignore[return-value]  # typeshed knows it as a reader only


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Without the owner's name; links and half-written files stay behind."""
    if not (member.isfile() or member.isdir()) or Path(member.name).name.startswith("."):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


@contextmanager
def opened_bundle(bundle: Path, workplace: Path) -> Iterator[Path]:
    """The run folder in a bundle, unpacked under ``workplace`` for as long as the block lasts.

    Raises RunError ``bad-bundle`` for anything but one run folder of plain files, ``disk-low`` when it does not fit.
    """
    workplace.mkdir(mode=0o700, parents=True, exist_ok=True)
    # held, so that nobody sweeps it up meanwhile
    with scratch_folder(workplace / "bundle") as folder, hold_folder(folder):
        try:
            _unpack(bundle, folder)
        except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError) as error:
            raise _bad_bundle(bundle, str(error)) from error
        found = list(folder.iterdir())
        if len(found) != 1 or not RunDir(found[0]).exists():
            raise _bad_bundle(bundle, "it holds no run folder")
        yield found[0]


def _unpack(bundle: Path, folder: Path) -> None:
    """Unpack plain files and folders, each inside ``folder`` and for its owner only, without modes and times.

    By hand, since ``extractall(filter=…)`` came to Python 3.11 with 3.11.4. Raises ValueError for any other member.
    """
    with tarfile.open(bundle, "r:gz") as archive:
        room, size = free_bytes(folder.parent), 0
        for count, member in enumerate(archive, start=1):
            size += member.size
            if size > room:
                raise RunError(
                    f"{bundle} unpacks to more than the {room:,} bytes that are free in {folder.parent}.",
                    remedy="Make room there.",
                    code="disk-low",
                )
            if count > MAX_MEMBERS:
                raise ValueError(f"it has more than {MAX_MEMBERS:,} files")
            _extract(archive, member, _inside(folder, member.name))


def _inside(folder: Path, name: str) -> Path:
    """Return the target path of a member. Raises ValueError for a name that is no plain path below ``folder``."""
    path = PurePosixPath(name)
    # the name of the run folder itself does not matter: it may get a new id
    inner = "".join(path.parts[1:])
    if path.is_absolute() or not path.parts or ".." in path.parts or not inner.isprintable():
        raise ValueError(f"{name!r} is no path inside a run folder")
    return folder.joinpath(*path.parts)


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
    if member.isdir():
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        return
    content = archive.extractfile(member) if member.isreg() else None
    if content is None:
        raise ValueError(f"{member.name!r} is a link or no plain file")
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with content, os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        shutil.copyfileobj(content, file)


def _bad_bundle(bundle: Path, why: str) -> RunError:
    return RunError(
        f"{bundle} is no bundle of a run: {why}.",
        remedy="Give a run folder, or the bundle of a run.",
        code="bad-bundle",
        next_step=NextStep.EXPORT_BUNDLE,
    )
