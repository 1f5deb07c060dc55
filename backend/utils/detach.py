"""Start a process that outlives its starter and is reaped by init, so that it never stays as a zombie.

``spawn_detached`` runs this file in a bare interpreter, which forks, prints the child's pid and exits. The child runs
on in a session of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def spawn_detached(
    command: Sequence[str], *, log: Path, environ: Mapping[str, str], pass_fds: Sequence[int] = ()
) -> int:
    """Start ``command`` and return its pid; its output is appended to ``log``, its input is empty.

    ``command[0]`` is the full path of a program; ``pass_fds`` are file descriptors that it inherits.
    Raises OSError when nothing can be started.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        launcher = subprocess.run(
            [sys.executable, "-I", "-S", str(Path(__file__).resolve()), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=descriptor,
            env=dict(environ),
            pass_fds=tuple(pass_fds),
            start_new_session=True,
            check=False,
        )
    finally:
        os.close(descriptor)
    if launcher.returncode or not launcher.stdout.strip().isdigit():
        raise OSError(f"{command[0]} could not be started; see {log}")
    return int(launcher.stdout)


def main(command: Sequence[str]) -> None:
    """Fork; the parent prints the child's pid and returns, the child becomes ``command``."""
    pid = os.fork()
    if pid:
        os.write(1, str(pid).encode())
        return
    os.dup2(2, 1)
    os.execve(command[0], list(command), os.environ)  # noqa: S606  no shell is meant


if __name__ == "__main__":
    main(sys.argv[1:])
