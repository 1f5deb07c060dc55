"""Fetch data sets of the Hugging Face Hub into the Hub's own cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from backend.errors import DataError

TIMEOUT_SECONDS = 10.0
"""Time for the Hub's first answer about a data set."""


def fetch(repo: str, revision: str | None, choose: Callable[[Sequence[str]], Sequence[str]]) -> Path:
    """Return the local folder with the files of a hub data set that ``choose`` picks from all file names.

    Offline, the files of an earlier call are used. Raises ``DataError`` when the data set cannot be fetched.
    """
    from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415  # slow, and only for hub ids
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # The bases are the errors of whichever HTTP library the hub client uses; the others come from malformed answers.
    network_errors: tuple[Any, ...] = (*HfHubHTTPError.__bases__, OSError, ValueError, TypeError, LookupError)
    try:
        # A request of its own because it is tried once; list_repo_files retries six times when there is no network.
        HfApi().dataset_info(repo, revision=revision, timeout=TIMEOUT_SECONDS)
        names = HfApi().list_repo_files(repo, repo_type="dataset", revision=revision)
        patterns = list(choose(names))
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except GatedRepoError:
        raise _missing(
            repo, "asks for consent to its terms first", "Accept them on its page, then log in."
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
        remedy = "Check the spelling (owner/name or owner/name@revision); a local file needs its full path."
        raise _missing(repo, "does not exist there, or is private", remedy) from None
    except network_errors as error:
        return _cached(repo, revision, error)


def _cached(repo: str, revision: str | None, error: Exception) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    try:
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision, local_files_only=True))
    except OSError:
        remedy = "Check the network, or name a local file. If a local path was meant, it does not exist."
        raise _missing(repo, f"cannot be reached ({type(error).__name__})", remedy) from None


def _missing(repo: str, what: str, remedy: str) -> DataError:
    return DataError(
        f"The data set {repo} of the Hugging Face Hub {what}.", remedy=remedy, code="hub-dataset"
    )
