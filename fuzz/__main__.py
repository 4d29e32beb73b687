"""Run all fuzzers: ``python -m fuzz --help``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from fuzz import cost, python
from fuzz.session import session

ROOT: Final = Path(__file__).resolve().parent.parent
BUILD: Final = ROOT / "build" / "fuzz"
FLAGS: Final = (
    *("-O1", "-g", "-Wall", "-Wextra", "-Wno-unused-parameter"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
)
# One of this many inputs is for the client's session, which takes the longest.
SESSION_SHARE: Final = 20
# One of this many inputs is for the parser. The others are for the core.
PARSE_SHARE: Final = 5
# One of this many inputs is a long line for the parser, whose time is measured.
COST_SHARE: Final = 200


def main() -> int:
    """Run the fuzzers as the command line says; return the exit code, 1 if an input failed."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="number of inputs in all (%(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed gives the same inputs (%(default)s)"
    )
    parser.add_argument(
        "--core", type=int, metavar="NUMBER", help="feed only this input to the core, and show it"
    )
    arguments = parser.parse_args()
    core = _built()
    if arguments.core is not None:
        return _call([core, "1", str(arguments.seed), str(arguments.core)])
    sessions, parses = arguments.inputs // SESSION_SHARE, arguments.inputs // PARSE_SHARE
    costs = arguments.inputs // COST_SHARE
    inputs = arguments.inputs - sessions - parses - costs
    went_well = _call([core, str(inputs), str(arguments.seed)]) == 0
    went_well = python.run("parser", python.parse, parses, arguments.seed) and went_well
    went_well = python.run("parser's cost", cost.parse, costs, arguments.seed) and went_well
    went_well = python.run("client's session", session, sessions, arguments.seed) and went_well
    print(f"{arguments.inputs} inputs in all" if went_well else "an input failed")
    return not went_well


def _built() -> str:
    BUILD.mkdir(parents=True, exist_ok=True)
    program = str(BUILD / "core")
    sources = map(str, sorted(Path(__file__).parent.glob("*.c")))
    command = [os.environ.get("CC", "cc"), *FLAGS, f"-I{ROOT / 'rankserver'}", "-o", program, *sources]
    subprocess.run(command, check=True)
    return program


def _call(command: list[str]) -> int:
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
