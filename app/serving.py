"""The inference server for the pages: its manager and a client."""

from __future__ import annotations

import os
from pathlib import Path

import streamlit as st

from app.chat_client import ChatClient
from app.studio import studio
from backend.manager.server_manager import ServerManager

TOKEN_VARIABLE = "TUNESMITH_SERVER_TOKEN"  # noqa: S105 - the name of a variable


@st.cache_resource(show_spinner=False)
def _manager(root: str) -> ServerManager:
    return ServerManager(Path(root))


def manager() -> ServerManager:
    """Return the manager of the server for this studio's runs."""
    return _manager(str(studio().runs.root))


def client(url: str) -> ChatClient:
    """Return a client of the server at ``url``, with the token from the environment if it is set."""
    return ChatClient(url, os.environ.get(TOKEN_VARIABLE, ""))
