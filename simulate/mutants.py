"""Servers that are broken on purpose: the simulation must catch each, or it shows nothing.

Each mutant is one text of a source put in place of another, in a copy of the project, where the seeds are
run until one fails. A mutant whose text is not there any more is stale, and that is an error as well.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from simulate.core import BUILD, BUILD_VARIABLE, ROOT

SEEDS: Final = 1000  # in which a mutant must be caught
CPU_SECONDS: Final = 90  # for these: a mutant may hang, and a machine be busy
AT_A_TIME: Final = 2


class Mutant(NamedTuple):
    """One way to break the server: in this file of it, ``new`` for ``old``."""

    name: str
    file: str
    old: str
    new: str


MUTANTS: Final = (
    Mutant(
        "a LEFT is not logged",
        "server.py",
        'self._log.append(b"LEFT", ',
        'self._log.clients % 5 == 3 or self._log.append(b"LEFT", ',
    ),
    Mutant(
        "a LEFT names the ranks after it",
        "server.py",
        "for channel in reversed(channels)]\n        for",
        "for channel in reversed(channels)]\n        ranks[-1] = max(ranks[-1] - 1, 0)\n        for",
    ),
    Mutant(
        "ranks are not numbered anew after a leave",
        "_clist.c",
        "    if (member != log->members.tail)\n        log->numbered = 0;\n    remove_member(&log->members, member);",
        "    remove_member(&log->members, member);",
    ),
    Mutant("classes are ignored", "_clist.c", "while (prev && prev->rank_class > rank_class)", "while (0)"),
    Mutant(
        "a JOIN is sent to the newcomer",
        "_clist.c",
        "cursor->pos = cursor->limit = pos;",
        "cursor->pos = cursor->limit = log->last->used ? log->last->start : pos;",
    ),
    Mutant(
        "WELCOME says the seq before the JOIN",
        "server.py",
        "rank, clients, self._log.seq, channel.name",
        "rank, clients, self._log.seq - 1, channel.name",
    ),
    Mutant(
        "a private frame that was sent in part is forgotten",
        "_output.c",
        "    frame->sent += n;\n    cursor->private_bytes -= n;\n",
        "    cursor->private_bytes -= n + (n < 9) * (frame->len - frame->sent - n);\n    frame->sent = n < 9 ? frame->len : frame->sent + n;\n",
    ),
    Mutant(
        "a client that leaves is owed nothing",
        "_clist.c",
        "    detach_at(log, cursor, log_end(log));",
        "    detach_at(log, cursor, cursor->pos);",
    ),
    Mutant(
        "EAGAIN means that the connection is gone",
        "_output.c",
        "if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS ||",
        "if (errno == ENOBUFS ||",
    ),
    Mutant(
        "a partial send counts as a whole one",
        "_output.c",
        "    cl_advance(log, cursor, (size_t)sent);\n",
        "    cl_advance(log, cursor, total);\n",
    ),
    Mutant(
        "the rest of a line is lost between two reads",
        "_input.c",
        "        kept->len = need;\n",
        "        kept->len = need > 200 ? 200 : need;\n",
    ),
    Mutant(
        "a spare block too many is lost",
        "_log.c",
        "            free(block);\n        }\n    }\n}",
        "        }\n    }\n}",
    ),
    Mutant(
        "a frame is logged over two blocks' border",
        "_core.h",
        "    if (log->block_size - block->used < n)\n",
        "    if (log->block_size - block->used + 20 < n)\n",
    ),
    Mutant(
        "the answer goes to the one who answers",
        "server.py",
        "self._send(asker, protocol.answer(",
        "self._send(channel, protocol.answer(",
    ),
    Mutant("an answer is accepted twice", "asks.py", "        ask.waiting ^= bit\n", ""),
    Mutant("who left may still answer", "asks.py", "            ask.waiting &= ~bits\n", ""),
    Mutant(
        "the silence timer goes on after a leave",
        "server.py",
        "(self._handshake, self._penalty, self._silence, self._pinged)",
        "(self._handshake, self._penalty)",
    ),
    Mutant(
        "what is heard does not count",
        "server.py",
        "        if channel.state is State.JOINED:\n            self._silence.start(channel, self._now)",
        "        if False:\n            self._silence.start(channel, self._now)",
    ),
    Mutant(
        "a closed descriptor stays registered",
        "loop.py",
        "            if channel.interest:\n                self._selector.unregister(channel.sock)\n            del",
        "            del",
    ),
    Mutant(
        "a connection is closed at once",
        "loop.py",
        "        self._linger_most.start(channel, self._now)\n",
        "        self._finish(channel)\n",
    ),
    Mutant(
        "nobody waits for who reads slowly",
        "pace.py",
        "self._log.hold(on_hold=self.is_holding)",
        "self.is_holding = False",
    ),
    Mutant(
        "who is too slow may stay",
        "pace.py",
        "            self._slow.start_once(channel, now)\n",
        "            pass\n",
    ),
    Mutant(
        "what had to wait is forgotten",
        "loop.py",
        "        for channel in released:\n            self._resume(channel)",
        "        for channel in released:\n            channel.resume()",
    ),
    Mutant(
        "a paused client is not gone on with",
        "loop.py",
        "            if channel.paused:  # it has not left meanwhile",
        "            if channel.paused and self._log.seq % 7:",
    ),
    Mutant(
        "a join waits for ever for company",
        "loop.py",
        "    def _on_join_wait(self, _: str) -> None:\n        self._lazy_joins = 0",
        "    def _on_join_wait(self, _: str) -> None:\n        pass",
    ),
    Mutant(
        "accepting does not go on after EMFILE", "loop.py", "        self._acceptor.resume()", "        pass"
    ),
    Mutant(
        "lines that came with the end are not read",
        "loop.py",
        "and not channel.is_going:\n            self._broken.setdefault(channel, BROKEN_BYTES)",
        "and not channel.is_going:\n            self._dismiss(channel, reason='connection lost')",
    ),
    Mutant(
        "one more than the capacity",
        "server.py",
        "free = self.config.capacity - self._log.clients",
        "free = self.config.capacity - self._log.clients + 1",
    ),
    Mutant(
        "commands are logged though others have to wait",
        "_input.c",
        "feed(log, logs ? cursor->member : NULL, size, line);",
        "feed(log, cursor->member, size, line);",
    ),
    Mutant(
        "who joins while it is blocked is not listened to",
        "server.py",
        "            self._resume(channel)\n            self._watch(channel)",
        "            self._resume(channel)",
    ),
    Mutant(
        "the roster stays as it was",
        "server.py",
        "if self._roster_of != self._changes:",
        "if not self._roster_parts:",
    ),
    Mutant(
        "the log is sent behind a frame that there was no memory for",
        "server.py",
        "channel.cut = code == protocol.SLOW or reason == NO_MEMORY",
        "channel.cut = code == protocol.SLOW",
    ),
    Mutant(
        "a block is rewound under who has left",
        "_output.c",
        "    if (refs != block->refs)\n        return;\n",
        "",
    ),
)


def caught(mutant: Mutant, seeds: int = SEEDS) -> str | None:
    """Return what catches a mutant, such as ``seed 3``; None if it survives all seeds.

    Raises:
        LookupError: the text that it changes is not there once.
    """
    with tempfile.TemporaryDirectory(prefix="mutant-") as place:
        root = Path(place)
        for package in ("rankserver", "simulate"):
            shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "build_ext.py", root)
        changed = root / "rankserver" / mutant.file
        source = changed.read_text()
        if source.count(mutant.old) != 1:
            raise LookupError(
                f"mutant {mutant.name!r}: {mutant.file} has its text {source.count(mutant.old)} times"
            )
        changed.write_text(source.replace(mutant.old, mutant.new))
        limited = ["sh", "-c", f'ulimit -t {CPU_SECONDS}; exec "$0" "$@"']
        command = [*limited, sys.executable, "-m", "simulate", "--seeds", str(seeds)]
        environment = os.environ | {BUILD_VARIABLE: str(BUILD)}
        done = subprocess.run(  # noqa: S603 - our own program
            command, cwd=root, env=environment, capture_output=True, text=True, check=False
        )
    found = re.search(r"(?m)^seed (\d+) fails", done.stdout)
    if found:
        return f"seed {found[1]}"
    if done.returncode < 0:
        return "a hang" if -done.returncode in (signal.SIGXCPU, signal.SIGKILL) else "a crash"
    if done.returncode:
        raise RuntimeError(f"mutant {mutant.name!r} does not run:\n{done.stderr}")
    return None


def main(names: Sequence[str]) -> int:
    """Try all mutants or those named; return how many survived, at most 1."""
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    survivors = 0
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for mutant, by in zip(chosen, pool.map(caught, chosen), strict=True):
            print(f"{by or 'SURVIVES':>10}  {mutant.name}", flush=True)
            survivors += by is None
    print(f"{len(chosen)} mutants, {survivors} survive {SEEDS} seeds")
    return min(survivors, 1)
