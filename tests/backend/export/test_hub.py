"""Publishing: backend/export/hub.py, over an autospecced HfApi."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
from huggingface_hub import HfApi, errors
from huggingface_hub.errors import HfHubHTTPError

from backend.errors import ExportError
from backend.export.certificate import Certificate, Check, Light
from backend.export.hub import check_evaluation, push
from backend.run.folder import RunDir
from backend.run.reports import Evaluation, Evaluations, MetricVerdict, Outcome, RunStatus
from backend.utils.file_utils import write_json_durably
from backend.utils.record_utils import record_to_json

SECRET = "hf_secret_of_the_test"


def forbidden() -> Any:
    """An answer of the library that the Hub's client itself stands on."""
    client = importlib.import_module(errors.Response.__module__.split(".")[0])
    return client.Response(403, request=client.Request("PUT", "http://127.0.0.1"))


@pytest.fixture
def export(tmp_path: Path) -> Path:
    (tmp_path / "model.bin").write_text("weights")
    (tmp_path / "README.md").write_text("card")
    Certificate("run", "gguf", "F32", "x", 1, [Check("a", Light.GREEN, "Fine.")], {}, []).write(tmp_path)
    return tmp_path


def recertify(export: Path, **changes: Any) -> None:
    file = export / "certificate.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    made = create_autospec(HfApi, instance=True)
    made.repo_info.return_value.private = True
    return made


def evaluated(place: Path, verdict: str, step: int) -> RunDir:
    """A run whose result is of step 5, with an evaluation."""
    run = RunDir.create(place, "a", "seed: 1")
    run.write_outcome(Outcome(RunStatus.FINISHED, "completed", "Done.", step=5))
    found = MetricVerdict("label", "base", 40, -0.25, -0.4, -0.1, 0.01, verdict, 2, 12)
    kept = Evaluations((Evaluation(step, "spec.yaml", 40, ("base", "tuned"), (), (found,)),))
    write_json_durably(run.evaluation_file, record_to_json(kept))
    return run


def test_a_result_that_is_worse_than_its_base_stays_here(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"in label of spec.yaml it is worse than its base, by 0\.250"
    ) as refused:
        check_evaluation(evaluated(tmp_path, "worse", 5))
    assert refused.value.code == "worse-than-base"


@pytest.mark.parametrize(("verdict", "step"), [("better", 5), ("no difference seen", 5), ("worse", 4)])
def test_one_that_is_not_goes_up(tmp_path: Path, verdict: str, step: int) -> None:
    run = evaluated(tmp_path, verdict, step)
    check_evaluation(run)
    run.evaluation_file.unlink()
    check_evaluation(run)
    assert not run.evaluation_file.exists()


def test_an_export_goes_up_privately(export: Path, api: Any) -> None:
    pushed = push(export, "me/food", "run", api=api)
    assert (pushed.repo, pushed.private, pushed.light) == ("me/food", True, "green")
    assert set(pushed.files) == {"README.md", "certificate.json", "certificate.md", "model.bin"}
    assert pushed.files["model.bin"] == 7
    assert api.create_repo.call_args.kwargs["private"] is True
    assert api.upload_folder.call_args.kwargs["folder_path"] == export
    assert set(api.upload_folder.call_args.kwargs["allow_patterns"]) == set(pushed.files)


def test_public_has_to_be_said(export: Path, api: Any) -> None:
    assert not push(export, "me/food", "run", public=True, api=api).private
    assert api.create_repo.call_args.kwargs["private"] is False


def test_a_dry_run_asks_the_hub_nothing_and_needs_no_token(
    export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    api = create_autospec(HfApi, instance=True)
    pushed = push(export, "me/food", "run", dry_run=True, api=api)
    assert (pushed.url, pushed.files["README.md"]) == ("", 4)
    assert api.mock_calls == []


def test_a_private_export_never_goes_into_a_public_repository(export: Path, api: Any) -> None:
    api.repo_info.return_value.private = False
    with pytest.raises(ExportError) as caught:
        push(export, "me/food", "run", api=api)
    assert caught.value.code == "already-public"
    api.upload_folder.assert_not_called()


@pytest.mark.parametrize(
    "record", [{"light": "red", "reasons": ["It is odd."]}, {"light": "x", "reasons": []}]
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_red_is_not_published(record: dict[str, Any], dry_run: bool, export: Path, api: Any) -> None:
    recertify(export, **record)
    with pytest.raises(ExportError, match="must not be published") as caught:
        push(export, "me/food", "run", dry_run=dry_run, api=api)
    assert caught.value.code == "red-certificate"
    assert " ".join(record["reasons"]) in str(caught.value)
    assert api.mock_calls == []


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_without_a_certificate_it_is_no_export(content: str | None, tmp_path: Path, api: Any) -> None:
    files = {} if content is None else {"certificate.json": content}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ExportError) as caught:
        push(tmp_path, "me/food", "run", api=api)
    assert caught.value.code == "not-an-export"


@pytest.mark.parametrize("repo", ["food", "me/", "/food", "me/food/x", "../food", "me/fo od", ""])
def test_a_repository_is_owner_and_name(repo: str, export: Path, api: Any) -> None:
    with pytest.raises(ExportError) as caught:
        push(export, repo, "run", api=api)
    assert caught.value.code == "bad-repo"


def test_without_a_token_nothing_is_tried(export: Path, monkeypatch: pytest.MonkeyPatch, api: Any) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    with pytest.raises(ExportError) as caught:
        push(export, "me/food", "run", api=api)
    assert caught.value.code == "no-token"
    assert api.mock_calls == []


@pytest.mark.parametrize(
    "error",
    [
        HfHubHTTPError(f"403, {SECRET}", response=forbidden()),
        OSError(f"no network for {SECRET}"),
    ],
)
def test_a_refusal_is_a_sentence_without_the_token(error: Exception, export: Path, api: Any) -> None:
    api.upload_folder.side_effect = error
    with pytest.raises(ExportError) as caught:
        push(export, "me/food", "run", api=api)
    assert caught.value.code == "hub-refused"
    assert SECRET not in f"{caught.value}{caught.value.__cause__}"


def add_below(export: Path) -> None:
    (export / "more").mkdir()
    (export / "more" / "notes.txt").write_text("secret")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: (e / "model.bin").write_text("other weights"), "model.bin has changed"),
        (lambda e: (e / "README.md").write_text("a better card"), "README.md has changed"),
        (lambda e: (e / "certificate.md").write_text("green"), "certificate.md has changed"),
        (lambda e: (e / "modeling_extra.py").write_text("print()"), "modeling_extra.py was added"),
        (add_below, "more/notes.txt was added"),
        (lambda e: (e / "model.bin").unlink(), "model.bin is missing"),
        (lambda e: (e / "more").symlink_to("/etc"), "more is a link"),
        (lambda e: (e / "x").symlink_to(e / "model.bin"), "x is a link"),
    ],
)
def test_nothing_that_was_not_certified_is_published(
    change: Callable[[Path], object], said: str, export: Path, api: Any
) -> None:
    change(export)
    with pytest.raises(ExportError, match=re.escape(said)) as caught:
        push(export, "me/food", "run", api=api)
    assert caught.value.code == "changed-export"
    assert api.mock_calls == []


def test_a_certificate_that_names_no_file_certifies_none(export: Path, api: Any) -> None:
    recertify(export, files={})
    with pytest.raises(ExportError) as caught:
        push(export, "me/food", "run", api=api)
    assert caught.value.code == "changed-export"


def test_the_export_of_another_run_is_not_published(export: Path, api: Any) -> None:
    with pytest.raises(ExportError, match="an export of run, not of other") as caught:
        push(export, "me/food", "other", api=api)
    assert caught.value.code == "another-run"
