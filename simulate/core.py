"""Builds the C core on the simulated kernel, once for each version of the sources."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

from cffi import FFI

from build_ext import declarations

ROOT: Final = Path(__file__).resolve().parent.parent
BUILD_VARIABLE: Final = "SIMULATE_BUILD"
BUILD: Final = Path(os.environ.get(BUILD_VARIABLE) or ROOT / "build" / "simulate")
MODULE: Final = "_clist_simulated"

# Constants of the core with small values, so that a few hundred steps reach the ends of blocks, pieces and
# lists of spans.
CONSTANTS: Final = {
    "CL_SEND_BYTES": "700",
    "CL_SEND_SPANS": "4",
    "CL_FRAME_ROOM": "128",
    "CL_SPARE_BLOCKS": "2",
    "CL_FRESH_BYTES": "600",
}

# The functions that free or overwrite parts of the log. The log is read before; see sim_read_log.
FREEING: Final = ("void cl_trim(cl_log *log) {\n", "static void rewind_last(cl_log *log) {\n")
READ_BEFORE: Final = "    sim_keep_log(log);\n"


def load() -> ModuleType:
    """Return the module with ``ffi`` and ``lib``; build it unless these sources were built before."""
    sources = {path.name: path.read_text() for path in sorted((ROOT / "rankserver").glob("_*.[ch]"))}
    sources = _adapted(sources)
    for name in ("kernel.c", "kernel.h"):
        sources[name] = (Path(__file__).parent / name).read_text()
    declared = declarations(sources["_clist.h"])
    declared += sources["kernel.h"].partition("/* --- cffi --- */")[2].partition("/* --- end --- */")[0]
    state = hashlib.sha256(repr((sources, declared, sys.version)).encode()).hexdigest()[:16]
    place = BUILD / state
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:  # other processes may be building the same
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = next(place.glob(f"{MODULE}*.so"), None)
        if built is None:
            for name, text in sources.items():
                (place / name).write_text(text)
            built = _build(place, declared)
    spec = importlib.util.spec_from_file_location(MODULE, built)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {built}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _build(place: Path, declared: str) -> Path:
    builder = FFI()
    builder.cdef(declared)
    builder.set_source(
        MODULE,
        '#include "kernel.h"',
        sources=[str(place / "kernel.c")],
        include_dirs=[str(place)],
        extra_compile_args=["-O2", "-g", "-Wno-unused-function"],
    )
    return Path(builder.compile(tmpdir=str(place)))


def _adapted(sources: dict[str, str]) -> dict[str, str]:
    """Return the core's sources with small constants, and with a log that is read before it is freed."""
    changes = [(rf"(?m)^#define {name} .*$", f"#define {name} {value}") for name, value in CONSTANTS.items()]
    changes += [(re.escape(function), function + READ_BEFORE) for function in FREEING]
    adapted = dict(sources)
    for old, new in changes:
        places = [name for name, text in sources.items() for _ in re.finditer(old, text)]
        if len(places) != 1:
            raise LookupError(f"{old!r} is {len(places)} times in the core: see simulate/core.py")
        adapted[places[0]] = re.sub(old, new, adapted[places[0]])
    return adapted
