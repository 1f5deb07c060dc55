"""Export a run: adapter, merged model, GGUF, Modelfile or ONNX, with a model card and a parity certificate.

An export is written to a temporary folder beside its place, read back there by another library, and renamed at the
end: it appears complete, with its certificate, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from backend.errors import ExportError, TunesmithError
from backend.export.certificate import Certificate, Check, Light
from backend.export.check import certify, unchecked
from backend.export.forms import (
    GGUF_TARGETS,
    Target,
    check_form,
    choose_precision,
    list_files,
    needs_converter,
    write_form,
)
from backend.export.model_card import write_card
from backend.export.panel import ROWS, Panel, answer, read_panel
from backend.export.trained import Trained, load_trained
from backend.inference.model_source import tuned_folder
from backend.run.folder import RunDir
from backend.run.root import EXPORTS
from backend.utils.file_utils import free_bytes, staged_folder, sweep_temporaries

MAX_SHARD_SIZE = "5GB"

Say = Callable[[str], None]
Write = Callable[[Trained, Target, str, Path], tuple[Path, list[str]]]
"""``write_form`` with its options."""


@dataclass(frozen=True)
class ExportResult:
    """A finished export in ``folder``: its files with their bytes, and its certificate."""

    folder: Path
    target: Target
    precision: str
    files: dict[str, int]
    certificate: Certificate


def export(
    run: RunDir,
    target: Target,
    *,
    checkpoint: int | str | None = None,
    base_model: str | Path | None = None,
    out: Path | None = None,
    dtype: str = "bfloat16",
    quantization: str = "Q8_0",
    max_shard_size: str = MAX_SHARD_SIZE,
    imatrix: bool = False,
    rows: int = ROWS,
    say: Say = lambda _: None,
) -> ExportResult:
    """Export the result of ``run`` as ``target`` into ``out`` (default: ``exports/<run>-<target>…``) and check it.

    ``checkpoint`` selects a step of the run ("latest", "best" or a number) instead of its result; ``base_model`` is
    the new place of the run's base, if it was moved. ``dtype`` is the precision of a merged model, ``quantization``
    that of a GGUF file; with ``imatrix`` it is rounded by an importance matrix. ``rows`` held-out rows are compared;
    0 checks nothing. A red export is written too, with its red certificate.

    Raises RunError as ``find_model``, ModelError and ExportError: ``bad-target``, ``bad-precision``, ``exists``,
    ``disk-full``, ``cannot-write``, ``no-adapter``, ``no-quantizer``, ``no-imatrix``, and those of the writers.
    """
    precision = choose_precision(target, dtype, quantization, imatrix=imatrix)
    folder = tuned_folder(run, checkpoint)
    part = "" if checkpoint is None else folder.name
    out = (out or default_folder(run, target, precision, part)).absolute()
    if out.exists():
        raise _exists(out)
    with run.hold_for_reading():
        say("Loading the trained model")
        trained = load_trained(run, part or None, base_model)
        check_form(trained, target)
        if imatrix:
            _check_imatrix(trained, precision)
        _check_room(out, trained, copies=3 if target in GGUF_TARGETS and needs_converter(trained) else 2)
        with _staged(out) as staging:
            write = partial(write_form, max_shard_size=max_shard_size, imatrix=imatrix)
            certificate = _fill(staging, trained, target, precision, write, rows, say)
            write_card(staging, trained, target, precision, certificate)
            certificate.write(staging)  # last: it names every other file with its hash
    return ExportResult(out, target, precision, list_files(out), certificate)


def _check_imatrix(trained: Trained, precision: str) -> None:
    """Raise ExportError ``no-imatrix`` where one would spoil the file, or has no rows to be measured on."""
    if precision == trained.config.tuning.qat_scheme:
        raise ExportError(
            f"The run was trained for {precision} as it is rounded without an importance matrix.",
            remedy="Export it without `imatrix`.",
            code="no-imatrix",
        )
    if trained.config.objective.facts.samples:
        raise ExportError(
            "The rows of this run need no answers, and an importance matrix is measured on answers.",
            remedy="Export it without `imatrix`.",
            code="no-imatrix",
        )


def default_folder(run: RunDir, target: str, precision: str, checkpoint: str = "") -> Path:
    """Return the default folder of an export."""
    parts = [run.id, checkpoint, target, precision if target != "adapter" else ""]
    return Path(EXPORTS) / "-".join(filter(None, parts))


def _fill(
    staging: Path, trained: Trained, target: Target, precision: str, write: Write, rows: int, say: Say
) -> Certificate:
    """Ask the trained model, write the form, have it read. In this order, since merging consumes the adapter."""
    panel, unasked = None, "no rows were requested, so nothing was compared."
    if rows > 0:
        try:
            panel = _panel(trained, rows)
        except TunesmithError as error:
            unasked = f"the run's rows cannot be used: {error}"
    answers = []
    if target in {"gguf", "ollama"}:
        trained.round_to(precision)
    if panel:
        say(f"Asking the trained model {len(panel.rows)} rows")
        answers = answer(trained.model, trained.tokenizer, panel, trained.end_ids)
    say(f"Writing {target} ({precision})")
    payload, notes = write(trained, target, precision, staging)
    if panel is None:
        certificate = unchecked(trained, target, precision, unasked)
    else:
        say("Having another library read it")
        certificate = certify(trained, target, precision, payload, panel, answers)
    if target == "ollama":
        finding = " ".join(["The Modelfile was not tested with Ollama itself.", *notes])
        checks = [*certificate.checks, Check("Modelfile", Light.AMBER, finding)]
        return replace(certificate, checks=checks)
    return certificate


def _panel(trained: Trained, rows: int) -> Panel:
    """Return the panel of the run, with a note if its data has changed since the training."""
    facts = trained.run.read_environment().facts
    known = facts.data if facts else {}
    return read_panel(trained.config, trained.tokenizer, trained.model, rows=rows, fingerprints=known)


def _check_room(out: Path, trained: Trained, *, copies: int) -> None:
    """Raise ExportError (``disk-full``) unless the export and the files of its check fit on the disk.

    ``copies`` is how often the weights lie there in float32 at one time.
    """
    needed = copies * 4 * sum(part.numel() for part in trained.model.parameters())
    place = next(folder for folder in (out, *out.parents) if folder.exists())
    free = free_bytes(place)
    if free < needed:
        raise ExportError(
            f"{place} has {free / 1e9:.1f} GB free, and this export may need {needed / 1e9:.1f} GB.",
            remedy="Make room there, or choose another disk as `out`.",
            code="disk-full",
        )


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``out`` at the end, or is removed when anything fails."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sweep_temporaries(out.parent)
        with staged_folder(out) as staging:
            yield staging
    except OSError as error:
        if out.exists():  # another export was faster
            raise _exists(out) from error
        raise ExportError(
            f"{out} cannot be written: {error.strerror or error}.",
            remedy="Make room there or mend its permissions, or choose another folder as `out`.",
            code="cannot-write",
        ) from error


def _exists(out: Path) -> ExportError:
    return ExportError(
        f"{out} exists already.",
        remedy="Choose another folder as `out`; nothing is overwritten.",
        code="exists",
    )
