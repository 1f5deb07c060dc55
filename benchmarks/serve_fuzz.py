"""Requests made from the server's own OpenAPI document, by schemathesis, with all its checks.

    make api-fuzz
    python benchmarks/serve_fuzz.py -n 10 --run runs/RUN

The names of models are narrowed to those there are, so that requests reach the model. What the schema cannot say
(a regular expression that no automaton can follow, two fields that exclude each other) is refused with 400 too, so
that 400 is among the answers that valid data may get. Exits 1 on any failed check.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from serve_process import served

CONTEXT = 128
"""A short one, so that the many requests without a limit end soon."""
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 404]

[checks.negative_data_rejection]
expected-statuses = ["4xx"]

[checks.missing_required_header]
enabled = false
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=50, help="examples for each operation")
    parser.add_argument("--run", default="", help="a finished run; a tiny one is trained if left out")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with (
        served(options.run, context=CONTEXT) as server,
        tempfile.TemporaryDirectory(prefix="fuzz-") as folder,
    ):
        document = json.loads(server.ask("GET", "/openapi.json")[1])
        names = ["base", server.run, f"{server.run}@latest"]
        for schema in document["components"]["schemas"].values():
            fields = schema.get("properties", {})
            if "model" in fields and schema.get("title", "").endswith("Request"):
                fields["model"] = {"type": "string", "enum": names}
        path, config = Path(folder) / "openapi.json", Path(folder) / "schemathesis.toml"
        path.write_text(json.dumps(document))
        config.write_text(CONFIG)
        tool = str(Path(sys.executable).with_name("schemathesis"))
        command = [
            tool,
            "--config-file",
            str(config),
            "run",
            str(path),
            "--url",
            server.url,
            "--checks",
            "all",
        ]
        command += ["--max-examples", str(options.n), "--seed", str(options.seed), "--phases"]
        command += ["examples,coverage,fuzzing", "--continue-on-failure", "--request-timeout", "120"]
        result = subprocess.run([*command, "--suppress-health-check", "all"], check=False, cwd=folder)
        alive = server.ask("GET", "/health")[0] == 200
    print("the server lives" if alive else "the server died")
    return result.returncode or int(not alive)


if __name__ == "__main__":
    sys.exit(main())
