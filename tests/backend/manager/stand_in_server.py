"""A server that says its name and nothing else: it keeps its folder as the real one does, without its start-up time.

``python -m tests.backend.manager.stand_in_server ROOT FOLDER INSTANCE``.
"""

from __future__ import annotations

import http.server
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from backend.utils.file_utils import write_json_durably
from backend.utils.lock_utils import hold_lock
from backend.utils.process_utils import identify


def main(folder: Path, instance: str) -> None:
    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"instance": instance}).encode())

    with (
        hold_lock(folder / "alive.lock"),
        http.server.HTTPServer(("127.0.0.1", 0), Health) as server,
    ):
        record = {
            "process": asdict(identify(os.getpid())),
            "port": server.server_port,
            "instance": instance,
        }
        write_json_durably(folder / "server.json", record)
        server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[2]), sys.argv[3])
