"""Facts about the machine on which the figures depend, as far as the system reports them."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness import Places


def facts(places: Places) -> dict[str, Any]:
    """Return the machine's facts by name; a value is None if the system does not report it."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": _memory_gib(),
        "kernel": platform.release(),
        "congestion_control": _text("/proc/sys/net/ipv4/tcp_congestion_control"),
        "python": platform.python_version(),
        "compiler": _compiler(),
        "server_cpu": places.sender,
        "generator_cpu": places.generator,
    }


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _field(path: str, name: str) -> str | None:
    """Return the first value of this name in a file of ``name : value`` lines."""
    for line in (_text(path) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _memory_gib() -> float | None:
    total = _field("/proc/meminfo", "MemTotal")
    return round(int(total.split()[0]) / 2**20, 1) if total else None


def _compiler() -> str | None:
    """Return the compiler that builds the generator and the ceiling."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0].strip() or None


def commit(tree: Path = Path(__file__).parent) -> str | None:
    """Return the commit of a source tree, with ``-dirty`` appended if files differ from it."""
    git = shutil.which("git")
    if git is None:
        return None
    words = ["describe", "--always", "--exclude=*", "--abbrev=12", "--dirty"]
    command = [git, "-C", str(tree), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
