"""Builds the C core: compiles the sources ``rankserver/_*.c`` into the module ``rankserver._clist_cffi``.

The module's name differs from those of the sources on purpose: cffi writes its glue to ``<module path>.c``,
and would overwrite a hand-written file of the same name.
"""

import re
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).parent

MODULE = "rankserver._clist_cffi"

SOURCES = tuple(f"_{name}.c" for name in ("clist", "log", "input", "output", "text", "check"))
HEADERS = ("_clist.h", "_core.h", "_text.h")


def declarations(header: str) -> str:
    """Return a C header without its comments and preprocessor lines, which cffi cannot read."""
    without_comments = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    return re.sub(r"(?m)^\s*#.*$", "", without_comments)


ffibuilder = FFI()
ffibuilder.cdef(declarations((ROOT / "rankserver" / "_clist.h").read_text()))
ffibuilder.set_source(
    MODULE,
    '#include "_clist.h"',
    sources=[f"rankserver/{name}" for name in SOURCES],
    depends=[f"rankserver/{name}" for name in HEADERS],
    include_dirs=["rankserver"],
    # The generated glue has unused parameters.
    extra_compile_args=["-O3", "-Wall", "-Wextra", "-Wno-unused-parameter"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
