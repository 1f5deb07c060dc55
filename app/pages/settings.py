"""Settings page: folders, tokens and the look of the studio."""

from __future__ import annotations

import os

import streamlit as st

from app.studio import ROOT_VARIABLE, studio
from app.views.text import plain, size
from backend.run.model_names import CACHE_VARIABLE, cache_folder
from backend.utils.file_utils import free_bytes

_TOKENS = {
    "HF_TOKEN": "Hugging Face: private models and data, and publishing",
    "TUNESMITH_SERVER_TOKEN": "The inference server: asked of its clients where it is set",
}
_OFFLINE = "HF_HUB_OFFLINE"


def _folders() -> None:
    st.header("Folders")
    st.caption("They are chosen when the studio is started, so that no click can point it elsewhere.")
    root, cache = studio().root, cache_folder()
    room = f"{size(free_bytes(root))} free there." if root.is_dir() else "It is made with the first run."
    for what, where, how in (
        ("Runs and data", root, f"{room} Set by tunesmith studio --root, or {ROOT_VARIABLE}."),
        ("Converted models", cache, f"Set by {CACHE_VARIABLE}."),
    ):
        with st.container(gap="xsmall"):
            st.markdown(f"**{what}**")
            st.code(str(where), language=None, wrap_lines=True)
            st.caption(plain(how))


def _tokens() -> None:
    st.header("Tokens")
    st.caption(
        "Tokens are read from the environment only. The studio never asks for them, shows them or writes them down; "
        "set them before you start it."
    )
    for name, purpose in _TOKENS.items():
        there = bool(os.environ.get(name))
        badge = ":green-badge[set]" if there else ":gray-badge[not set]"
        st.markdown(f"{badge} `{name}`  \n{purpose}")
    if os.environ.get(_OFFLINE) == "1":
        st.info(f"`{_OFFLINE}=1`: nothing is fetched from the Hugging Face Hub.", icon=":material/cloud_off:")


def _look() -> None:
    st.header("Look")
    kind = st.context.theme.type or "light"
    st.markdown(
        f"It is **{plain(kind)}** now and follows your system unless you choose: the menu **⋮** at the top right has "
        "*System*, *Light* and *Dark*."
    )
    st.caption("Fonts are those of your system. Nothing is fetched from the web, and no usage is reported.")


st.title("Settings")
_folders()
_tokens()
_look()
