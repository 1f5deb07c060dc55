"""What managers of servers share: ask one on this machine who it is, end its process. Control wing: F0 only."""

from __future__ import annotations

import http.client
import json
import signal
import time

from backend.utils.process_utils import ProcessIdentity, is_alive, send_signal

HOST = "127.0.0.1"
POLL_SECONDS = 0.05
_LONGEST_ANSWER_BYTES = 65536


def ask_json(port: int, path: str, *, timeout_seconds: float) -> dict[str, object]:
    """The JSON object that a server on this machine answers to GET ``path``; empty where it gives none."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_seconds)
    try:
        connection.request("GET", path)
        answer = json.loads(connection.getresponse().read(_LONGEST_ANSWER_BYTES))
    except (OSError, http.client.HTTPException, ValueError):
        return {}
    finally:
        connection.close()
    return answer if isinstance(answer, dict) else {}


def end_process(process: ProcessIdentity, *, patience_seconds: float) -> bool:
    """SIGTERM, and SIGKILL after ``patience_seconds``; False when the process was gone already."""
    was_alive = send_signal(process, signal.SIGTERM)
    deadline = time.monotonic() + patience_seconds
    while is_alive(process) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if is_alive(process):
        send_signal(process, signal.SIGKILL)
    return was_alive
