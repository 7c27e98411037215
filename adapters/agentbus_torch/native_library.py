"""The library of the kernels in `native/`, compiled for this machine when it is first needed."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blake3 import blake3

__all__ = ["built", "find_compiler"]

_SOURCES = Path(__file__).with_name("native")
_VECTORS = ("f", "bw", "vl", "dq", "bf16")
_FLAGS = ("-O3", "-std=gnu11", "-mfma", *(f"-mavx512{part}" for part in _VECTORS))
_COMPILE_TIMEOUT_S = 120.0


def find_compiler() -> tuple[str, ...] | None:
    """Return the command that compiles, as build tools read `CC`; None if there is no such program.

    Raises:
        ValueError: its quotes do not match.
    """
    name, *arguments = shlex.split(os.environ.get("CC", "")) or ("cc",)
    found = shutil.which(name)
    return None if found is None else (found, *arguments)


def built(compiler: Sequence[str]) -> Path:
    """Return the library, compiling it if it is not there yet, or not whole.

    A process that loads a part of one dies, so its name ends in a digest of its bytes.
    """
    sources = sorted(_SOURCES.glob("*.[ch]"))
    content = b"".join(source.read_bytes() for source in sources)
    made_of = _digest(content + repr((_FLAGS, compiler)).encode())
    folder = Path.home() / ".cache" / "agentbus" / "kernels"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_owner(folder)
    for library in folder.glob(f"{made_of}-*.so"):
        whole = library.is_file() and not library.is_symlink()  # a pipe would be waited for
        if whole and library.stem == f"{made_of}-{_digest(library.read_bytes())}":
            break
    else:
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
            made = _compile(compiler, Path(partial))
            library = folder / f"{made_of}-{_digest(made.read_bytes())}.so"
            os.replace(made, library)
    _check_owner(library)
    return library


def _digest(content: bytes) -> str:
    return blake3(content).hexdigest()[:16]


def _compile(compiler: Sequence[str], folder: Path) -> Path:
    """Compile in two steps, so that the library does not name an OpenMP of its own: a second one
    beside torch's would have its threads fight for the same cores."""

    def compiled(source: Path) -> str:
        made = str(folder / source.with_suffix(".o").name)
        _run(*compiler, *_FLAGS, "-fPIC", "-fopenmp", "-c", str(source), "-o", made)
        return made

    linked = folder / "kernels.so"
    with ThreadPoolExecutor() as pool:
        objects = list(pool.map(compiled, sorted(_SOURCES.glob("*.c"))))
    _run(*compiler, "-shared", *objects, "-o", str(linked), "-lm")
    linked.chmod(0o700)  # whatever the umask says: what a group may write is not loaded
    return linked


def _run(*command: str) -> None:
    subprocess.run(
        command,
        check=True,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=_COMPILE_TIMEOUT_S,
    )


def _check_owner(path: Path) -> None:
    """Refuse what others than this user may have written: it is going to be executed."""
    status = path.stat()
    if status.st_uid not in {os.geteuid(), 0} or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} can be written by others than its user")
