"""Tests that ``sanitize.sh`` runs first, to prove that the sanitizers are active in the core under test.

They fail with the ordinary build, so the file does not have the name of a test module.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rankserver import _clist_cffi
from tests.support.paths import ROOT
from tests.support.waiting import BOUND

READ_BEHIND_THE_END = """
data = ffi.new("char[100]", b"a" * 100)
lib.cl_text_ok(data, 101)
"""
LOOK_INTO_NULL = """
lib.cl_seq(ffi.NULL)
"""


def test_the_core_is_the_one_that_was_built_for_this() -> None:
    assert Path(_clist_cffi.__file__).is_relative_to(ROOT / "rankserver")
    assert "libasan" in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize(
    ("bug", "report"),
    [
        (READ_BEHIND_THE_END, "AddressSanitizer: heap-buffer-overflow"),
        (LOOK_INTO_NULL, "runtime error: member access within null pointer"),
    ],
)
def test_a_bug_ends_the_process_and_the_report_names_the_source(bug: str, report: str) -> None:
    code = "from rankserver._clist_cffi import ffi, lib\n" + bug
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=BOUND, check=False
    )
    assert done.returncode != 0
    assert report in done.stderr
    assert "rankserver/_" in done.stderr
