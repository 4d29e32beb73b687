"""Run tests with servers under Valgrind's memcheck: ``make valgrind``.

Only the C core is checked: an error or a lost block counts if its stack has a line of the core's source.
Python's own allocator, which memcheck cannot follow, is switched off.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.support.paths import ROOT

LOGS: Final = ROOT / "build" / "valgrind"
OPTIONS: Final = (
    "--leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite --num-callers=30"
)
# The tests that run by default: all functional tests take half an hour.
TESTS: Final = ("tests/functional/test_asks.py", "-k", "not 65536")
# The factor by which tests wait longer than usual.
SLOWNESS: Final = 6
# The most seconds of one test.
TIMEOUT: Final = 600
# Matches a line of the core's source in a stack.
OF_THE_CORE: Final = re.compile(
    rf"\((?:{'|'.join(re.escape(path.name) for path in (ROOT / 'rankserver').glob('_*.[ch]'))}):\d+\)"
)
# Two faults that Valgrind must find: a read beyond the end of a block, and a log that is never freed.
BUG: Final = """
from rankserver._clist_cffi import ffi, lib
data = ffi.new("char[100]", b"a" * 100)
lib.cl_text_ok(data, 101)
log = lib.cl_new(1000, 1000, 1000)
log = None
"""


def main() -> int:
    """Run the tests that the command line names; return 1 if one fails or the core has an error."""
    if not shutil.which("valgrind"):
        print("valgrind: it is not installed", file=sys.stderr)
        return 1
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    under = f"valgrind -q {OPTIONS} --log-file={LOGS}"
    if not _finds_a_bug(under):
        print("valgrind: it does not find a bug that is there", file=sys.stderr)
        return 1
    tests = sys.argv[1:] or TESTS
    settings = {
        "TEST_SERVER_UNDER": f"{under}/%p.log",
        "TEST_SLOWNESS": str(SLOWNESS),
        "PYTHONMALLOC": "malloc",
    }
    command = [sys.executable, "-m", "pytest", "--timeout", str(TIMEOUT), *tests]
    failed = subprocess.run(command, cwd=ROOT, env=os.environ | settings, check=False).returncode
    logs = sorted(LOGS.glob("[0-9]*.log"))
    found = [record for log in logs for record in _records(log)]
    print("\n\n".join(found))
    print(f"{len(logs)} servers ran under Valgrind; the core has {len(found)} errors")
    return int(failed != 0 or bool(found) or not logs)


def _finds_a_bug(under: str) -> bool:
    """Return whether Valgrind finds the faults in ``BUG``."""
    command = [*f"{under}/bug.log".split(), sys.executable, "-c", BUG]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONMALLOC": "malloc"}, check=False)
    found = "\n".join(_records(LOGS / "bug.log"))
    return "Invalid read" in found and "definitely lost" in found


def _records(log: Path) -> Iterator[str]:
    """Yield what Valgrind reports about the core."""
    lines = [re.sub(r"^==\d+== ?", "", line) for line in log.read_text(errors="replace").splitlines()]
    for record in "\n".join(lines).split("\n\n"):
        if OF_THE_CORE.search(record):
            yield record


if __name__ == "__main__":
    sys.exit(main())
