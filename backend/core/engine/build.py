"""Compile the native kernels: ``python -m backend.core.engine.build``, or by itself when they are first used.

All C files in ``native`` become one shared library for each set of instructions that processors of this kind may
have. Nothing is probed while compiling: any machine can compile for any other, and the one that runs chooses.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from backend.errors import ModelError

SOURCES = Path(__file__).parent / "native"
COMPILERS = ("cc", "gcc", "clang")
FLAGS = (
    *("-std=gnu11", "-O3", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra"),
    *("-ffp-contract=fast", "-Wno-psabi"),
)
_AVX2 = ("-mavx2", "-mfma")
VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "baseline": (),
        "avx2": _AVX2,
        "avx512": (
            *_AVX2,
            "-mavx512f",
            "-mavx512bw",
            "-mavx512dq",
            "-mavx512vl",
            "-mprefer-vector-width=512",
        ),
    },
    "arm64": {"baseline": ()},
}
"""Flags of each variant by kind of processor; on ARM, 64 bits always have NEON."""
_MACHINES = {"amd64": "x86_64", "aarch64": "arm64"}


def variants() -> dict[str, tuple[str, ...]]:
    """Return the variants for this kind of processor and the flags of each; none if there are no kernels for it."""
    machine = platform.machine().lower()
    return VARIANTS.get(_MACHINES.get(machine, machine), {})


def find_compiler() -> list[str] | None:
    """Return the command of the C compiler, that of the variable CC first; None if there is none."""
    named = shlex.split(os.environ.get("CC", ""))
    found = [named] if named else [[name] for name in COMPILERS]
    return next((command for command in found if shutil.which(command[0])), None)


@cache
def source_hash() -> str:
    """Return a hash of all C files and flags: another source is another library."""
    digest = hashlib.sha256(repr((FLAGS, VARIANTS)).encode())
    for file in sorted(SOURCES.glob("*.[ch]")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def folders() -> list[Path]:
    """Return where compiled kernels may lie: beside their source, else in the cache of this user."""
    cached = Path(os.environ.get("TUNESMITH_CACHE") or Path.home() / ".cache/tunesmith")
    return [folder / source_hash() for folder in (SOURCES.parent / "built", cached / "engine")]


def compiled(variant: str) -> Path | None:
    """Return the compiled library of ``variant``; None if it has not been compiled."""
    return next((file for folder in folders() if (file := folder / f"{variant}.so").is_file()), None)


def compile_variant(variant: str) -> Path:
    """Compile ``variant`` and return its library. Raises ModelError ``cannot-compile`` with the compiler's words."""
    compiler = find_compiler()
    if compiler is None:
        raise _cannot("there is no C compiler")
    for folder in folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as aside:
                made = _compile([*compiler, *FLAGS, *variants()[variant]], Path(aside) / "kernels.so")
                # renamed whole: another process may compile the same, or load it at this moment
                return made.replace(folder / f"{variant}.so")
        except OSError as error:
            refused = error
    raise _cannot(f"{refused.strerror or refused}: {refused.filename}")


def _compile(command: list[str], target: Path) -> Path:
    sources = map(str, sorted(SOURCES.glob("*.c")))
    done = subprocess.run(
        [*command, *sources, "-o", str(target), "-lm", "-pthread"],
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode:
        raise _cannot(done.stderr.strip().splitlines()[0] if done.stderr.strip() else "the compiler failed")
    return target


def _cannot(why: str) -> ModelError:
    return ModelError(
        f"The native kernels cannot be compiled: {why}.",
        remedy="Install a C compiler (gcc or clang); without one everything works, more slowly.",
        code="cannot-compile",
    )


def main() -> int:
    """Compile all variants for this kind of processor, as far as they are missing; a failure is said and forgiven."""
    for variant in variants():
        if compiled(variant) is None:
            try:
                compile_variant(variant)
            except ModelError as error:
                sys.stderr.write(f"{error}\n")
                return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
