"""Install those of the compared servers that are missing, each with the command that its entry names.

A server that cannot be installed is no error: the comparison names it as skipped. It is for ``make bench``,
and changes nothing but what packages are there.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys

from peers import PEERS


def main() -> int:
    """Install what is missing, one after the other; return the exit code, which is always 0."""
    missing = dict.fromkeys(peer.install for peer in PEERS if peer.version() is None)
    for command in missing:
        words = _complete(shlex.split(command))
        print(shlex.join(words), file=sys.stderr)
        if shutil.which(words[0]) is None:
            print(f"there is no {words[0]} here", file=sys.stderr)
            continue
        code = subprocess.run(words, check=False).returncode
        if code:
            print(f"failed with exit code {code}", file=sys.stderr)
    return 0


def _complete(words: list[str]) -> list[str]:
    """Return a command for this environment and user: pip installs into ours, apt-get asks nothing."""
    if words[0] == "pip":
        return [sys.executable, "-m", *words]
    if words[0] == "apt-get":
        words = [*words[:2], "--yes", "--no-install-recommends", *words[2:]]
        return words if os.geteuid() == 0 else ["sudo", "--non-interactive", *words]
    return words


if __name__ == "__main__":
    sys.exit(main())
