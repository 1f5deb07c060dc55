"""Export page: export a model with a certificate, view exports, publish and delete them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import streamlit as st

from app.actions import show_errors
from app.commands import ask, show_failure
from app.exports import Export, delete_export, exports_folder, find_exports, target_folder
from app.studio import studio
from app.views.cards import draw_nothing_yet
from app.views.certificate import draw_certificate, draw_checks
from app.views.text import plain, size, title_of
from backend.run.reports import RunStatus

_LARGEST_DOWNLOAD = 2 * 2**30


@dataclass(frozen=True)
class _Form:
    """A form of export: its purpose, its precisions (the first is the default), and the flag for them."""

    title: str
    purpose: str
    precisions: tuple[str, ...] = ()
    flag: str = ""


_FORMS = {
    "gguf": _Form(
        "GGUF",
        "One file for llama.cpp, LM Studio, Jan and the like.",
        ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "F16", "BF16", "F32", "Q5_1", "Q5_0", "Q4_1", "Q4_0"),
        "--quantization",
    ),
    "ollama": _Form(
        "Ollama",
        "A GGUF file and its Modelfile.",
        ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "F16", "Q5_0", "Q4_0"),
        "--quantization",
    ),
    "adapter": _Form("Adapter", "The small LoRA file, for transformers and peft; its base is needed too."),
    "merged": _Form(
        "Merged", "A whole model in Hugging Face layout.", ("bfloat16", "float16", "float32"), "--dtype"
    ),
    "lora-gguf": _Form("LoRA as GGUF", "The adapter for llama.cpp, beside a GGUF of its base."),
    "onnx": _Form("ONNX", "The whole model as a graph, for onnxruntime and programs built on it."),
}
_WEIGHED = frozenset({"Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q5_1", "Q5_0", "Q4_1", "Q4_0"})
"""Precisions that an importance matrix goes with."""


def _new() -> None:
    finished = {run.id: run for run in studio().runs.list(status=RunStatus.FINISHED)}
    if not finished:
        draw_nothing_yet("Nothing to export yet", "Finish a run first; then it can be exported here.")
        return
    with st.container(border=True):
        wanted, ids = st.query_params.get("run", ""), list(finished)
        run = st.selectbox(
            "Run",
            ids,
            ids.index(wanted) if wanted in finished else 0,
            format_func=lambda one: title_of(one, finished[one].labels.name),
            key="export run",
        )
        target = st.radio(
            "To",
            list(_FORMS),
            horizontal=True,
            format_func=lambda one: _FORMS[one].title,
            key="export target",
        )
        form = _FORMS[target]
        st.caption(form.purpose)
        left, right = st.columns(2)
        precision = (
            left.selectbox("Precision", form.precisions, key=f"precision {target}") if form.precisions else ""
        )
        rows = right.number_input("Rows to compare on", 0, 1000, 32, help="0 compares nothing: never green.")
        weighed = precision in _WEIGHED and st.toggle(
            "Round by an importance matrix",
            key=f"imatrix {target}",
            help="Measured over rows of the training: where inputs are large, less is lost. It takes a while.",
        )
        best = st.toggle(
            "The best checkpoint in place of the result",
            help="The one with the lowest held-out loss. If the last steps made the model worse, it answers better.",
        )
        if st.button("Export and check", type="primary", icon=":material/ios_share:"):
            out = target_folder(studio().root, f"{run}-best" if best else run, target, precision)
            words = ["export", str(finished[run].path), "--to", target, "--out", str(out), f"--rows={rows}"]
            words += [form.flag, precision] if precision else []
            words += ["--imatrix"] if weighed else []
            st.session_state["exporting"] = [*words, *(["--checkpoint", "best"] if best else [])]
    _at_work()


def _at_work() -> None:
    words: list[str] | None = st.session_state.get("exporting")
    if not words:
        return
    answer = ask("Writing the export and having another program read it back", words, timeout_seconds=7200)
    if answer is None:
        return
    if answer.ok:
        st.success(f"Written to {plain(str(answer.value['folder']), 200)}", icon=":material/check:")
    else:
        show_failure(answer, words=words)


def _one(export: Export) -> None:
    """Draw one export, with the view that the person has opened."""
    name = export.folder.name
    with st.container(border=True, gap="small"):
        draw_certificate(export)
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            known = {"Checks": export.checks, "Model card": export.card}
            views = [view for view in _VIEWS if known.get(view, True)]
            view = st.segmented_control("Show", views, key=f"show {name}", label_visibility="collapsed")
            if st.button("Delete", icon=":material/delete:", type="tertiary", key=f"delete {name}"):
                st.session_state["deleting"] = name
        if view:
            _VIEWS[view](export)
        if st.session_state.get("deleting") == name:
            _ask_to_delete(export)


def _files(export: Export) -> None:
    """Draw the folder and every file with a download button."""
    st.code(str(export.folder), language=None, wrap_lines=True)
    for number, (name, length) in enumerate(export.files.items()):
        with st.container(horizontal=True, vertical_alignment="center"):
            if length <= _LARGEST_DOWNLOAD:
                st.download_button(
                    "Save",
                    (export.folder / name).read_bytes,
                    Path(name).name,
                    key=f"save {export.folder.name} {number}",
                    icon=":material/download:",
                    on_click="ignore",
                    help=plain(f"Save {name}"),
                )
            st.markdown(f"{plain(name)} · {size(length)}", width="content")


def _card(export: Export) -> None:
    st.code(export.card, language=None, wrap_lines=True)


def _publish(export: Export) -> None:
    """Draw the form to upload to the Hugging Face Hub, with a dry run; a red export cannot be uploaded."""
    if export.light == "red":
        st.error("A red export is not published.", icon=":material/block:")
        return
    name = export.folder.name
    repo = st.text_input(
        "Repository on the Hugging Face Hub", placeholder="owner/name", key=f"repo {name}"
    ).strip()
    public = st.toggle("Make it public", key=f"public {name}")
    words = ["export", export.run, "--to", "hub", "--form", export.target, "--out", str(export.folder)]
    words += ["--repo", repo, "--runs", str(studio().runs.root), *["--public"] * public]
    there = bool(os.environ.get("HF_TOKEN"))
    with st.container(horizontal=True):
        look = st.button("See what would be uploaded", key=f"dry {name}")
        push = st.button("Upload", disabled=not there, key=f"push {name}", icon=":material/cloud_upload:")
    if (look or push) and not repo:
        st.warning("Name the repository first.", icon=":material/edit:")
    elif look or push:
        _, _, turn = st.session_state.get("publishing", ("", [], 0))
        st.session_state["publishing"] = (name, words if push else [*words, "--dry-run"], turn + 1)
    if not there:
        st.caption("To upload, set HF_TOKEN before you start the studio; it is never asked for here.")
    export_name, command, turn = st.session_state.get("publishing", ("", [], 0))
    if export_name == name and (answer := ask("Talking to the Hub", command, version=str(turn))) is not None:
        if not answer.ok:
            show_failure(answer)
            return
        verb = "Would upload" if "--dry-run" in command else "Uploaded"
        st.info(f"{verb} {len(answer.value.get('files', {})):,} files.", icon=":material/cloud:")


_VIEWS: Mapping[str, Callable[[Export], None]] = MappingProxyType(
    {"Checks": draw_checks, "Files": _files, "Model card": _card, "Publish": _publish}
)


def _forget_to_delete() -> None:
    st.session_state.pop("deleting", None)


@st.dialog("Delete this export?", on_dismiss=_forget_to_delete)
def _ask_to_delete(export: Export) -> None:
    st.markdown(
        f"**{plain(export.folder.name)}** is deleted for good, with {size(sum(export.files.values()))} of files."
    )
    st.caption("The run it came from stays.")
    with st.container(horizontal=True):
        if st.button("Delete it", type="primary", icon=":material/delete_forever:"):
            with show_errors():
                delete_export(studio().root, export.folder.name)
                _forget_to_delete()
                st.rerun()
        if st.button("Keep it"):
            _forget_to_delete()
            st.rerun()


def page() -> None:
    """Draw the page."""
    st.title("Export")
    _new()
    found = find_exports(studio().root)
    if found:
        st.header("Exports")
        st.caption(f"In {plain(str(exports_folder(studio().root)), 200)}")
    for export in found:
        _one(export)


page()
