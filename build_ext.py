"""Builds the C core: ``rankserver/_clist.c`` behind the module ``rankserver._clist_cffi``.

The module's name differs from the source's on purpose: cffi writes its glue to ``<module path>.c``,
and would overwrite a hand-written file of the same name.
"""

from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).parent

ffibuilder = FFI()
ffibuilder.cdef((ROOT / "rankserver" / "_clist.cdef.txt").read_text())
ffibuilder.set_source(
    "rankserver._clist_cffi",
    '#include "_clist.h"',
    sources=["rankserver/_clist.c"],
    depends=[
        f"rankserver/{name}" for name in ("_check.h", "_input.h", "_text.h", "_clist.h", "_clist.cdef.txt")
    ],
    include_dirs=["rankserver"],
    extra_compile_args=["-O3", "-Wall", "-Wextra", "-Wno-unused-parameter"],  # the glue has unused ones
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
