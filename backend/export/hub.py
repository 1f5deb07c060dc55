"""Upload an export to the Hugging Face Hub: private by default, and only the files that were certified.

The token comes from the environment and is never shown.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from backend.errors import ExportError
from backend.export.certificate import Light
from backend.export.forms import list_files
from backend.run.folder import RunDir
from backend.run.records import read_evaluations
from backend.run.reports import BASE
from backend.run.root import CERTIFICATE
from backend.utils.file_utils import DamagedFileError, read_json_object, sha256_file

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


@dataclass(frozen=True)
class Pushed:
    """An upload: the repository, its files with their bytes, and the certificate's light. No ``url``: a dry run."""

    repo: str
    private: bool
    files: dict[str, int]
    light: str
    url: str = ""


def push(
    folder: Path,
    repo: str,
    run: str,
    *,
    public: bool = False,
    dry_run: bool = False,
    api: HfApi | None = None,
) -> Pushed:
    """Upload the export of ``run`` in ``folder`` as the model repository ``repo``.

    Raises ExportError: ``not-an-export``, ``another-run``, ``red-certificate``, ``changed-export``,
    ``already-public``, ``hub-refused``, and those of ``check_push``.
    """
    token = check_push(repo, dry_run=dry_run)
    light = _certified(folder, run)
    files = list_files(folder)
    if dry_run:
        return Pushed(repo, not public, files, light)
    url = _upload(api or HfApi(token=token), folder, files, repo, token, public=public)
    return Pushed(repo, not public, files, light, url)


def check_push(repo: str, *, dry_run: bool) -> str:
    """Return the token, "" in a dry run without one. Raises ExportError (``bad-repo``, ``no-token``)."""
    if not _REPO.fullmatch(repo):
        raise ExportError(
            f"{repo!r} is not a repository name.", remedy="Give `repo=owner/name`.", code="bad-repo"
        )
    token = next((os.environ[name] for name in TOKEN_VARIABLES if os.environ.get(name)), "")
    if not token and not dry_run:
        raise ExportError(
            "There is no Hugging Face token.",
            remedy=f"Put one with write access into the environment as {TOKEN_VARIABLES[0]}.",
            code="no-token",
        )
    return token


def check_evaluation(run: RunDir) -> None:
    """Raise ExportError ``worse-than-base`` where an evaluation found the result worse than its base."""
    outcome = run.read_outcome()
    for found in read_evaluations(run.evaluation_file).of_step(outcome.step if outcome else 0):
        for worse in found.worse_than(BASE):
            raise ExportError(
                f"{run.id} must not be published: in {worse.metric} of {found.source} it is worse than its base, by "
                f"{-worse.difference:.3f} ({-worse.high:.3f} to {-worse.low:.3f}) on {worse.rows:,} rows.",
                remedy="Look at the answers that turned, train again on other rows, and evaluate that run.",
                code="worse-than-base",
            )


def _upload(api: HfApi, folder: Path, files: Iterable[str], repo: str, token: str, *, public: bool) -> str:
    try:
        api.create_repo(repo, private=not public, exist_ok=True, repo_type="model", token=token)
        if not public and not _is_private(api, repo, token):
            raise ExportError(
                f"{repo} exists already and is public.",
                remedy="Choose another name, or say `public`.",
                code="already-public",
            )
        done: Any = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=[glob.escape(name) for name in files],
            repo_type="model",
            commit_message="Export a fine-tuned model with its certificate",
            token=token,
        )
    except (HfHubHTTPError, OSError) as error:
        reason = " ".join(str(error).replace(token, "***").split())[:300]
        raise ExportError(
            f"The Hub refused the upload: {reason}.",
            remedy="Check the name, the token's rights and the network, and try again.",
            code="hub-refused",
        ) from None
    return str(getattr(done, "repo_url", "") or f"https://huggingface.co/{repo}")


def _is_private(api: HfApi, repo: str, token: str) -> bool:
    return bool(api.repo_info(repo, repo_type="model", token=token).private)


def _certified(folder: Path, run: str) -> str:
    """Return the certificate's light; raise ExportError if it is red, of another run, or of other files."""
    try:
        certificate = read_json_object(folder / CERTIFICATE)
        odd = _uncertified(folder, certificate.get("files"))
    except (OSError, DamagedFileError) as error:
        raise ExportError(
            f"{folder} is not a complete export: {error}.",
            remedy="Export the run first.",
            code="not-an-export",
        ) from error
    if certificate.get("run") != run:
        raise ExportError(
            f"{folder} is an export of {certificate.get('run')}, not of {run}.",
            remedy="Choose another folder as `out`.",
            code="another-run",
        )
    light = str(certificate.get("light"))
    if light not in {Light.GREEN, Light.AMBER}:
        reasons = certificate.get("reasons")
        why = str(reasons[0]) if isinstance(reasons, list) and reasons else "it gives no reason."
        raise ExportError(
            f"{folder} must not be published, its certificate is {light}: {why}",
            remedy="Export it again in another form or precision, and look at its certificate.",
            code="red-certificate",
        )
    if odd:
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        raise ExportError(
            f"{folder} is not what was certified: {', '.join(odd[:3])}{more}.",
            remedy="Remove what does not belong there, or export the run again into another folder.",
            code="changed-export",
        )
    return light


def _uncertified(folder: Path, hashes: object) -> list[str]:
    """Return a sentence part for each file that differs from the certificate: added, missing, changed or a link."""
    known = hashes if isinstance(hashes, dict) and hashes else None
    if known is None:
        return ["its certificate names no files"]
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    there.pop(CERTIFICATE, None)
    links = [
        f"{path.relative_to(folder)} is a link" for path in sorted(folder.rglob("*")) if path.is_symlink()
    ]
    added = [f"{name} was added" for name in sorted(there.keys() - known.keys())]
    lost = [f"{name} is missing" for name in sorted(known.keys() - there.keys())]
    both = sorted(there.keys() & known.keys())
    changed = [f"{name} has changed" for name in both if sha256_file(there[name]) != known[name]]
    return links + added + changed + lost
