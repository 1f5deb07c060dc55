"""``tunesmith export``: take a run away, with the proof that what leaves is what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from backend.commands import lazy
from backend.commands.options import AsJson, BaseModel, Checkpoint, RunsFolder, find_run
from backend.commands.output import print_json, say
from backend.commands.tables import table
from backend.errors import EXIT_FAILED, ConfigError, ExportError, Problem
from backend.run.folder import RunDir

if TYPE_CHECKING:
    from backend.export.job import ExportResult

Form = Literal["adapter", "merged", "gguf", "ollama", "lora-gguf", "onnx"]


def export(
    run: Annotated[str, Parameter(help="A run's folder, id or name, or latest.")],
    *,
    to: Annotated[
        Literal["adapter", "merged", "gguf", "ollama", "lora-gguf", "onnx", "hub"],
        Parameter(help="What to make of it; hub makes --form and uploads it."),
    ],
    checkpoint: Checkpoint = None,
    base_model: BaseModel = None,
    out: Annotated[
        Path | None, Parameter(help="The folder to write; it must not exist, except for --to hub.")
    ] = None,
    dtype: Annotated[str, Parameter(help="Precision of merged: float32, bfloat16 or float16.")] = "bfloat16",
    quantization: Annotated[
        str,
        Parameter(
            name=("--quantization", "--quantize"),
            help="Precision of gguf and ollama: F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q3_K_M, Q4_0 …",
        ),
    ] = "Q8_0",
    imatrix: Annotated[
        bool,
        Parameter(
            negative=(),
            help="Round gguf and ollama by an importance matrix, made of the run's training rows.",
        ),
    ] = False,
    shard_size: Annotated[str, Parameter(help="Largest file of merged, such as 5GB.")] = "5GB",
    rows: Annotated[int, Parameter(help="Held-out rows to compare on; 0 compares nothing.")] = 32,
    repo: Annotated[str | None, Parameter(help="For hub: the model repository, owner/name.")] = None,
    form: Annotated[Form, Parameter(help="For hub: what to upload.")] = "adapter",
    public: Annotated[bool, Parameter(negative=(), help="For hub: let everybody see it.")] = False,
    dry_run: Annotated[
        bool, Parameter(negative=(), help="For hub: say what would be uploaded, and upload nothing.")
    ] = False,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> int:
    """Write a run's result for other programs, into exports/, and check it: another library reads it back.

    What could not be checked, as with --rows 0 or without that library, is amber and says so.

    Examples
    --------
    tunesmith export RUN --to gguf --quantization Q8_0

    tunesmith export RUN --to hub --repo owner/name --dry-run
    """
    if (repo is None) == (to == "hub"):
        raise ConfigError(
            [Problem("--repo", "goes with --to hub, and only there.", "See `tunesmith export --help`.")],
            code="bad-flag",
        )
    found = find_run(runs, run)
    options: dict[str, Any] = {
        "checkpoint": checkpoint, "base_model": base_model, "out": out, "dtype": dtype, "quantization": quantization,
        "max_shard_size": shard_size, "imatrix": imatrix, "rows": rows,
    }  # fmt: skip
    if repo is None:
        done = _export(found, to, options, as_json=as_json)
        return _show(done, as_json=as_json)
    return _push(found, form, options, repo, public=public, dry_run=dry_run, as_json=as_json)


def _export(run: RunDir, target: str, options: dict[str, Any], *, as_json: bool) -> ExportResult:

    silent: dict[str, Any] = {} if as_json else {"say": say}
    return lazy.job.export(run, target, **options, **silent)  # type: ignore[arg-type]


def _record(done: ExportResult) -> dict[str, Any]:
    certificate = done.certificate
    return {
        "folder": done.folder,
        "target": done.target,
        "precision": done.precision,
        "files": done.files,
        "certificate": certificate.light,
        "reasons": certificate.reasons,
        "figures": certificate.figures,
    }


def _show(done: ExportResult, *, as_json: bool) -> int:
    """Say what was written and how it compares; a red certificate is a failure."""
    certificate = done.certificate
    if as_json:
        print_json(_record(done))
    else:
        say(f"{done.folder} ({sum(done.files.values()) / 1e6:.1f} MB)")
        rows = [(check.name, str(check.light), check.finding) for check in certificate.checks]
        table(["check", "light", "finding"], rows, title=f"Certificate: {certificate.light}")
    return EXIT_FAILED if certificate.light == "red" else 0


def _push(
    run: RunDir,
    form: str,
    options: dict[str, Any],
    repo: str,
    *,
    public: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Upload an export that is there already under --out, or make one first."""
    lazy.hub.check_push(repo, dry_run=dry_run)
    if options["checkpoint"] is None:
        lazy.hub.check_evaluation(run)
    folder = options["out"]
    if folder is None or not folder.exists():
        try:
            folder = _export(run, form, options, as_json=as_json).folder
        except ExportError as error:
            error.remedy = error.remedy.replace("`to=", "`form=")  # what is uploaded is chosen by --form
            raise
    pushed = lazy.hub.push(folder, repo, run.id, public=public, dry_run=dry_run)
    if as_json:
        print_json({"folder": folder, **vars(pushed)})
        return 0
    verb = "Would upload" if dry_run else "Uploaded"
    who = "private" if pushed.private else "public"
    say(f"{verb} {len(pushed.files)} files, {sum(pushed.files.values()) / 1e6:.1f} MB, to {repo} ({who}).")
    say(f"The certificate is {pushed.light}. {pushed.url}".rstrip())
    return 0
