"""The models on this machine: those that come with Tunesmith, are in the Hub's cache, or were made here."""

from __future__ import annotations

from app.exports import find_exports
from app.studio import Studio
from app.views.text import title_of
from backend.run.model_names import MODEL_ALIASES, cached_models, local_folder


def local_models(studio: Studio) -> dict[str, str]:
    """Return name or folder → origin of each model on this machine, the bundled one first."""
    found = dict.fromkeys(MODEL_ALIASES, "comes with Tunesmith")
    found |= dict.fromkeys(cached_models(), "fetched from the Hugging Face Hub")
    for run in studio.runs.list(archived=True):
        title = title_of(run.id, run.labels.name)
        if local_folder(result := str(run.path / "model")):
            found.setdefault(result, f"trained whole by {title}")
        if run.model not in found and local_folder(run.model):
            found[run.model] = f"base of {title}"
    for export in find_exports(studio.root):
        if export.target == "merged" and local_folder(str(export.folder)):
            found.setdefault(str(export.folder), "exported, merged")
    return found
