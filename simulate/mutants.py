"""Servers that are broken on purpose: a simulation that does not catch them proves nothing.

Each mutant replaces a piece of the source text in a copy of the project, where seeds are run until one fails.
A mutant is stale if its text no longer occurs exactly once, and that is an error as well.
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

# Seeds within which a mutant must be caught.
SEEDS: Final = 1000
# Seconds of CPU time that these may take, because a mutant may hang. It is CPU time because the machine may be
# busy.
CPU_SECONDS: Final = 300
# Mutants that are tried at the same time.
WORKERS: Final = 2


class Mutant(NamedTuple):
    """One way to break the server: ``old`` is replaced by ``new`` in one of its files."""

    name: str
    file: str
    old: str
    new: str


MUTANTS: Final = (
    Mutant(
        "a LEFT is not logged",
        "state.py",
        'self.log.append(b"LEFT", ranks)',
        'self.log.count % 5 == 3 or self.log.append(b"LEFT", ranks)',
    ),
    Mutant(
        "a LEFT names the ranks after it",
        "state.py",
        "rank_lists(sorted(by_rank), ",
        "rank_lists([max(rank - (rank == max(by_rank)), 0) for rank in sorted(by_rank)], ",
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
        "membership.py",
        "clients, seq = log.count, log.seq",
        "clients, seq = log.count, log.seq - 1",
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
        "a stranger stays although memory is low",
        "reception.py",
        "        strangers = self.door.everybody()\n",
        "        strangers = self.door.everybody()[1:]\n",
    ),
    Mutant(
        "a refused stranger also counts as one that waits",
        "door.py",
        "        self.forget(channel)\n        self._refused[channel] = None\n",
        "        self.strangers -= 1\n        self._refused[channel] = None\n",
    ),
    Mutant(
        "an address stays as crowded as it was",
        "door.py",
        "        if after > self._most or self._most not in self._hosts:\n",
        "        if after > self._most:\n",
    ),
    Mutant(
        "the answer goes to the one who answers",
        "state.py",
        "self._observer.tell(self.roster.by_id[asker], frame)",
        "self._observer.tell(member, frame)",
    ),
    Mutant(
        "an answer is accepted twice",
        "asks.py",
        "            asker.waiting[seq] = waiting ^ bit\n",
        "            pass\n",
    ),
    Mutant(
        "a newcomer may answer for one that left",
        "asks.py",
        "if seq <= newest or seq not in",
        "if seq not in",
    ),
    Mutant(
        "asks that wait only for members that have left count",
        "asks.py",
        "if (rest := waiting & remaining)}",
        "if (rest := waiting)}",
    ),
    Mutant(
        "the oldest ask of anybody is forgotten",
        "asks.py",
        "            del asker.waiting[oldest], self._by_seq[oldest]\n",
        "            oldest, whose = next(each for each in self._by_seq.items() if each[1])\n            del whose.waiting[oldest], self._by_seq[oldest]\n",
    ),
    Mutant(
        "an asker is not told that its ask was forgotten",
        "state.py",
        "                self._observer.tell(self.roster.by_id[number], dropped)\n",
        "                pass\n",
    ),
    Mutant(
        "the asks of a client that leaves are forgotten",
        "asks.py",
        "while self._orphan_count > self.orphan_limit:",
        "while self._orphan_count > 0:",
    ),
    Mutant(
        "the heartbeat counts a member that has left",
        "server.py",
        "            self.heartbeat.stop()\n",
        "",
    ),
    Mutant(
        "what is heard does not count",
        "loop.py",
        "        channel.heard_at = self._now\n",
        "",
    ),
    Mutant(
        "a closed descriptor stays registered",
        "sender.py",
        "        if channel.interest:\n            self._selector.unregister(channel.sock)\n",
        "",
    ),
    Mutant(
        "a connection is closed at once",
        "farewell.py",
        "        self._whole.start(channel, self._loop.now)\n",
        "        self._loop.sender.finish(channel)\n",
    ),
    Mutant(
        "nobody waits for a client that reads slowly",
        "pace.py",
        "self.is_under_pressure = bool(self._behind(self.pressure_bytes))",
        "self.is_under_pressure = False",
    ),
    Mutant(
        "commands go on though a client is too far behind",
        "pace.py",
        "return 0 if self.is_holding else self._credits.left(channel)",
        "return self._credits.left(channel)",
    ),
    Mutant(
        "a client that is too slow may stay",
        "lateness.py",
        "        self._timeout = timeout\n",
        "        self._timeout = 1e6 * timeout\n",
    ),
    Mutant(
        "lateness is forgotten at each sample",
        "lateness.py",
        "        self.seconds = max(self.seconds - forgiven, 0.0) + late\n",
        "        self.seconds = late + 0.0 * forgiven\n",
    ),
    Mutant(
        "a client is late although it takes enough",
        "lateness.py",
        "if self.is_excused else 0.0\n        late",
        "if not self.is_excused else 0.0\n        late",
    ),
    Mutant(
        "a client is late although it takes more than it must",
        "lateness.py",
        "max(taken - self._taken, 0) / MIN_RATE",
        "max(taken - self._taken, 0) / (4 * MIN_RATE)",
    ),
    Mutant(
        "a credit is never used up",
        "credits.py",
        "        self._spent[self._account(channel)] += size\n",
        "        self._spent[self._account(channel)] += 0 * size\n",
    ),
    Mutant(
        "all members have the credit of newcomers",
        "credits.py",
        "        if channel not in self._newcomers:\n            return",
        "        if not self._newcomers:\n            return",
    ),
    Mutant(
        "an answer waits for its asker",
        "credits.py",
        "        if self._charged[answerer] + size > min(",
        "        if self._charged[answerer] + size > 0 * min(",
    ),
    Mutant(
        "what had to wait is forgotten",
        "loop.py",
        "        for channel in released:\n            self.reader.handle(channel)\n",
        "        for channel in released:\n",
    ),
    Mutant(
        "a channel that had its share of a turn does not go on",
        "loop.py",
        "            if channel.waits_for is Wait.TURN:  # it has not departed meanwhile",
        "            if channel.waits_for is Wait.TURN and self._log.seq % 7:",
    ),
    Mutant(
        "the bytes of a line cost nothing",
        "loop.py",
        "cost = 1 + len(line) // BYTES_PER_UNIT",
        "cost = 1",
    ),
    Mutant(
        "strangers never wait for their turn",
        "loop.py",
        "if left > 0 and lane.spent < MAX_COST:",
        "if (left > 0 and lane.spent < MAX_COST) or channel.state is not ChannelState.JOINED:",
    ),
    Mutant(
        "a turn continues all handshakes",
        "loop.py",
        "if is_over or (channel.tls and handshakes == MAX_HANDSHAKES):",
        "if is_over:",
    ),
    Mutant(
        "a channel is read though its input is not used up",
        "channel.py",
        "return self.waits_for is None and self.state is not ChannelState.JOINING",
        "return self.waits_for is None",
    ),
    Mutant(
        "a TLS connection is gone if the system lacks buffers",
        "tls.py",
        "self.is_blocked = error.errno in _WOULD_BLOCK",
        "self.is_blocked = isinstance(error, BlockingIOError)",
    ),
    Mutant(
        "a handshake goes on though all is said",
        "tls.py",
        'data = self._decrypt(received) if self._is_open or not self._is_shut else b""',
        "data = self._decrypt(received)",
    ),
    Mutant(
        "a TLS stream ends without close_notify",
        "tls.py",
        "                self._tls.unwrap()\n",
        "                pass\n",
    ),
    Mutant(
        "a JOIN waits for other frames for ever",
        "sender.py",
        "    def _on_flush_due(self, _: None) -> None:\n        self._deferred_frames = 0",
        "    def _on_flush_due(self, _: None) -> None:\n        pass",
    ),
    Mutant(
        "accepting does not go on after EMFILE",
        "loop.py",
        "lambda _: self.acceptor.resume()",
        "lambda _: None",
    ),
    Mutant(
        "lines that came before a connection broke are not read",
        "loop.py",
        "count = 0 if has_ended else self.read(channel, self.share)",
        "count = 0",
    ),
    Mutant(
        "one more than the capacity",
        "membership.py",
        "free = self._config.capacity - self._state.log.count",
        "free = 1 + self._config.capacity - self._state.log.count",
    ),
    Mutant(
        "commands are logged though others have to wait",
        "_input.c",
        "feed(log, logs ? cursor->member : NULL, size, line);",
        "feed(log, cursor->member, size, line);",
    ),
    Mutant(
        "a client that joins while it is blocked is not heard",
        "membership.py",
        "            self._loop.sender.watch(channel)  # it was not listened to while it was joining\n",
        "",
    ),
    Mutant(
        "the roster stays as it was",
        "membership.py",
        "if self._roster[0] != state.changes:",
        "if not self._roster[1]:",
    ),
    Mutant(
        "the log is sent behind a frame that was lost",
        "channel.py",
        'Departure("", "out of memory", is_cut=True)',
        'Departure("", "out of memory")',
    ),
    Mutant(
        "a block is rewound under who has left",
        "_output.c",
        "    if (refs != block->refs)\n        return;\n",
        "",
    ),
    Mutant(
        "a departure whose cut is ignored",
        "membership.py",
        "channel.departure is not None and channel.departure.is_cut:",
        "channel.departure is None:",
    ),
    Mutant(
        "a broken channel that is closed is drained",
        "sender.py",
        "        self.broken.pop(channel, None)\n",
        "",
    ),
    Mutant(
        "a turn follows at once for ever",
        "loop.py",
        "        self._released_some = False\n        if pace",
        "        if pace",
    ),
    Mutant(
        "a line that has to wait is lost",
        "loop.py",
        "        channel.cursor.unread()\n",
        "",
    ),
    Mutant(
        "an ASK is logged though commands have to wait",
        "server.py",
        "            if not pace.may_log(channel):\n                return Wait.BACKLOG\n",
        "",
    ),
    Mutant(
        "lines are handled though their sender reads no replies",
        "server.py",
        "        if channel in self.loop.pace.congested:\n            return channel\n",
        "",
    ),
    Mutant(
        "an entry of the heartbeat is lost",
        "heartbeat.py",
        "            if due > now:\n                self._push(channel, due)\n",
        "            if due > now:\n                pass\n",
    ),
    Mutant(
        "an answer to a PING does not count",
        "heartbeat.py",
        "                channel.pinged_at = 0\n            if due > now",
        "                pass\n            if due > now",
    ),
    Mutant(
        "a silent member is never let go",
        "heartbeat.py",
        "            self._depart(channel, Departure(codes.TIMEOUT, text))\n",
        "            del text\n",
    ),
    Mutant(
        "a transition that is not in the table",
        "server.py",
        "channel.move(ChannelState.LEAVING)",
        "channel.move(ChannelState.CLOSING)",
    ),
    Mutant(
        "a JOIN names ranks above its class",
        "members.py",
        "classes[-1][0] <= newcomer.rank_class",
        "classes[-1][0] < newcomer.rank_class",
    ),
    Mutant(
        "those who left are proposed to leave again",
        "membership.py",
        "leaving, self._leaving = self._leaving, []",
        "leaving = list(self._leaving)",
    ),
    Mutant(
        "a LEFT is logged twice",
        "state.py",
        'self.log.append(b"LEFT", ranks)',
        '[self.log.append(b"LEFT", ranks) for _ in range(2)]',
    ),
    Mutant(
        "the state looks at channels",
        "state.py",
        "        if asker is not None:\n",
        "        if asker is not None and self.roster.by_id[asker].channel is not None:\n",
    ),
    Mutant(
        "a text is cut when it is encoded",
        "inputs.py",
        "    _write_bytes(out, value.encode())",
        "    _write_bytes(out, value.encode()[:200])",
    ),
    Mutant(
        "a batch is proposed for another member",
        "server.py",
        "propose(Lines(channel.member.id, batch))",
        "propose(Lines(next(iter(self.state.roster.by_id)), batch))",
    ),
    Mutant(
        "a batch is applied twice",
        "state.py",
        "            self.log.apply(given.member, given.batch)\n",
        "            self.log.apply(given.member, given.batch)\n            self.log.apply(given.member, given.batch)\n",
    ),
    Mutant(
        "every input is applied twice",
        "server.py",
        "            self.state.apply(given)\n",
        "            self.state.apply(given)\n            self.state.apply(given)\n",
    ),
    Mutant(
        "a batch is collected though commands have to wait",
        "loop.py",
        "if in_batches and pace.may_log(channel) and (",
        "if in_batches and (",
    ),
    Mutant(
        "a line counts before the batch in front of it",
        "server.py",
        "        if self.collects:  # what it sent before counts first\n            self._apply_ready()\n",
        "",
    ),
    Mutant(
        "what came behind a HELLO counts a turn later",
        "server.py",
        "            self._apply_ready()  # what newcomers had sent behind their HELLO counts in this turn\n",
        "",
    ),
    Mutant(
        "a batch stays in the input after it was collected",
        "_input.c",
        "    log->at += batch->len;\n",
        "",
    ),
    Mutant(
        "a batch has one seq",
        "_input.c",
        "            put_command(log, &s, p + 4, n - 4);\n            stamp_next(&s, log->seq + 1, rank);\n        }\n        p = lf + 1;",
        "            put_command(log, &s, p + 4, n - 4);\n        }\n        p = lf + 1;",
    ),
    Mutant(
        "everybody waits for a cursor that belongs to nobody",
        "_output.c",
        "cursor->block && !cursor->retains &&",
        "cursor->block &&",
    ),
)


def caught(mutant: Mutant, seeds: int = SEEDS) -> str | None:
    """Return what catches a mutant, such as ``seed 3``; None if it survives all seeds.

    Raises:
        LookupError: the text that it replaces does not occur exactly once.
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
    """Try all mutants, or those named; return the exit code, 1 if any survived."""
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    survivors = 0
    with ThreadPoolExecutor(WORKERS) as pool:
        for mutant, by in zip(chosen, pool.map(caught, chosen), strict=True):
            print(f"{by or 'SURVIVES':>10}  {mutant.name}", flush=True)
            survivors += by is None
    print(f"{len(chosen)} mutants, {survivors} survive {SEEDS} seeds")
    return min(survivors, 1)
