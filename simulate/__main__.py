"""Run seeds, replay one, or show that broken servers are caught: ``python -m simulate --help``."""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from simulate import mutants
from simulate.kernel import ffi, lib
from simulate.run import STEPS, simulate, trace

# Lines of the trace that are printed when a seed fails.
SHOWN_LINES = 60


def main() -> int:
    """Run what the command line says; return the exit code, 1 if a seed failed or a mutant survived."""
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="number of seeds to run (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (%(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of clients in each run (%(default)s)")
    parser.add_argument("--replay", type=int, metavar="SEED", help="run one seed and print what happens")
    parser.add_argument("--mutants", nargs="*", metavar="NAME", help="run all mutants, or those named")
    arguments = parser.parse_args()
    if arguments.replay is not None:
        sys.stdout.writelines(line + "\n" for line in trace(arguments.replay, arguments.steps))
        return 0
    if arguments.mutants is not None:
        return mutants.main(arguments.mutants)
    return _run(range(arguments.first, arguments.first + arguments.seeds), arguments.steps)


def _run(seeds: range, steps: int) -> int:
    begin = time.process_time()
    turns = done = commands = traces = 0
    for seed in seeds:
        try:
            result = simulate(seed, steps)
        except Exception:  # noqa: BLE001 - any exception is a finding
            _report(seed, steps)
            return 1
        turns += result.turns
        done += result.steps
        commands += result.commands
        traces = (traces * 31 + result.trace) & 0xFFFF_FFFF_FFFF_FFFF
    seconds = time.process_time() - begin
    print(
        f"{len(seeds)} seeds, {turns} turns, {done} steps, {commands} commands"
        f" in {seconds:.1f} seconds of CPU ({len(seeds) / seconds:.0f} seeds/s); trace {traces:016x}"
    )
    print(f"functions that got no memory: {', '.join(_sites())}")
    return 0


def _sites() -> list[str]:
    names: list[str] = []
    while site := lib.sim_site(len(names)):
        names.append(ffi.string(site).decode())
    return names or ["none"]


def _report(seed: int, steps: int) -> None:
    error = traceback.format_exc()
    lines = trace(seed, steps)
    print("\n".join(lines[-SHOWN_LINES:]))
    print(error)
    print(f"seed {seed} fails; all of it: python -m simulate --replay {seed} --steps {steps}")


if __name__ == "__main__":
    sys.exit(main())
