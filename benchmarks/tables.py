"""The tables of the results page: from a result to Markdown, a function for each table.

A cell shows the median and, small and below it, the lowest and the highest value of the rounds. Marks in a
cell refer to the notes under the table.
"""

from __future__ import annotations

from math import floor, log10
from typing import TYPE_CHECKING, Any, Final

import derive
import targets
from derive import CEILING, MILLION, OURS, Corner, Result, Source, Spread
from targets import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

NOTHING: Final = "-"  # in a cell: not measured
UNKNOWN: Final = "unknown"  # a fact that could not be found out
LOST: Final = "†"  # marks
FEWER: Final = "‡"
BELOW: Final = "§"
BUSY: Final = "¶"
SATURATED: Final = 0.95  # of the time busy: it is the generator that limits
SHORT: Final = 0.95  # of the commands/s that were asked for: with fewer it is not the load that is named
BUSY_NOTE: Final = (
    f"{BUSY} The generator was busy for at least {SATURATED:.0%} of the time, so it is what limits: the peer,"
    " and in a ratio perhaps rankserver, may be faster than shown. Where it limits both, the ratio is near 1,"
    " on either side."
)
BELOW_NOTE: Final = (
    f"{BELOW} There were less than {SHORT:.0%} of these commands per second: the peer or the generator did"
    " not keep up."
)
LOST_TITLE: Final = "Lost or failed"
LOST_ANCHOR: Final = "lost-or-failed"
RUNS: Final = {True: "interrupted and resumed", False: "not interrupted", None: "unknown whether interrupted"}
MIB: Final = 1024 * 1024
QUANTILES: Final = {"p50": "p50", "p99": "p99", "p999": "p99.9"}
LOAD_NAMES: Final = {"idle": "idle server", "half": "half load"}
CROWD: Final = 100  # connections from which on their joins are shown,
LARGE_CROWD: Final = 1_000  # and their memory, which with fewer is lost in the noise
UNCLEAR: Final = range(
    3, 7
)  # digits, until a number no longer looks as if it were on the other side of a limit

# --- Markdown ---------------------------------------------------------------------------------


def number(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits, and thousands set apart."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.{max(0, digits - 1 - floor(log10(abs(rounded))))}f}"


def cell(spread: Spread | None, factor: float = 1.0) -> str:
    """Return what a cell shows, in a unit that is ``factor`` times as large a number."""
    if spread is None:
        return NOTHING
    middle, low, high = (number(value) for value in spread.scaled(factor))
    return middle if low == high else f"{middle}<br><sub>{low} to {high}</sub>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """Return a table, whose first ``words`` columns hold words and the others numbers."""
    line = [":---"] * words + ["---:"] * (len(header) - words)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, line, *rows))


def counted(count: int, what: str) -> str:
    """Return how many there are of something."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def span(values: Sequence[int]) -> str:
    """Return from where to where values go."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _code(text: str) -> str:
    return f"`{text}`"


def plain(text: str | None) -> str:
    """Return text from a program so that it stays within its cell or line, and is no Markdown."""
    return " ".join((text or UNKNOWN).split()).replace("|", "\\|").replace("<", "&lt;")


def _peer(key: str, called: str) -> str:
    return {OURS: f"**{called}**", CEILING: f"*{called}*"}.get(key, called)


# --- what it must show ------------------------------------------------------------------------


def target_tables(found: Sequence[Target]) -> str:
    """Return a table for each group: a row for each demand, a column for each number of receivers."""
    groups = dict.fromkeys(target.group for target in found)
    return "\n\n".join(_group([target for target in found if target.group == group]) for group in groups)


def _group(found: Sequence[Target]) -> str:
    columns = sorted({target.receivers for target in found})
    what = "client" if found[0].group == targets.MEMBERSHIP else "receiver"
    rows = dict.fromkeys((target.what, required(target)) for target in found)
    cells = {(target.what, required(target), target.receivers): verdict(target) for target in found}
    header = [found[0].group, "required", *(counted(count, what) for count in columns)]
    return table(header, [[*row, *(cells.get((*row, count), "") for count in columns)] for row in rows], 2)


def required(target: Target) -> str:
    """Return what is required, in words."""
    if target.required is None:
        return f"{target.limit} the ceiling's"
    return f"{target.limit} {_exact(target.required)} {target.unit}".rstrip()


def _exact(value: float) -> str:
    return f"{value:,g}" if value == float(f"{value:.6g}") and value < MILLION else number(value)


def measured(target: Target) -> str:
    """Return what was measured, with so many digits that rounding does not hide on which side it is."""
    if target.value is None:
        return "not measured"
    holds = target.required is None or targets.HOLDS[target.limit](target.value, target.required)
    for digits in UNCLEAR:
        text = number(target.value, digits)
        shown = float(text.replace(",", ""))
        if target.required is None or targets.HOLDS[target.limit](shown, target.required) == holds:
            break
    of = f" of {target.peer}" if target.peer else ""
    return f"{text} {target.unit}".rstrip() + of


def verdict(target: Target) -> str:
    """Return what was measured and whether that is enough."""
    if target.lost:
        return f"{measured(target)}, commands lost: **NOT MET**"
    if target.met is None:
        return "not measured"
    return f"{measured(target)}: {'met' if target.met else '**NOT MET**'}"


# --- a row for each peer, a column for each number of receivers ---------------------------------


def throughput(result: Result, size: int) -> str:
    """Return the deliveries per second, in millions."""

    def show(_: Corner, __: str, found: Source) -> str:
        return _marked(cell(Spread.of(derive.throughput(found)), 1 / MILLION), _limited(found))

    return _by_receivers(result, size, show)


def faster(result: Result, size: int) -> str:
    """Return the throughput of ours as a multiple of that of each peer."""

    def show(corner: Corner, key: str, found: Source) -> str:
        limited = _limited(found) or _limited(derive.source(result, corner, OURS))
        return _marked(cell(derive.faster(result, corner, key)), limited)

    return _by_receivers(result, size, show, without=OURS)


def generator(result: Result, size: int) -> str:
    """Return which part of the time the generator was busy."""

    def show(_: Corner, __: str, found: Source) -> str:
        share = Spread.of(derive.generator(found))
        return f"{share.median:.0%}" if share else NOTHING

    return _by_receivers(result, size, show)


def cpu(result: Result, size: int) -> str:
    """Return the server's CPU seconds per million deliveries."""
    return _by_receivers(result, size, lambda _, __, found: cell(Spread.of(derive.cpu(found)), MILLION))


def memory(result: Result, size: int) -> str:
    """Return the server's peak memory in MiB, and per million deliveries."""

    def show(_: Corner, __: str, found: Source) -> str:
        peak, each = Spread.of(derive.memory(found)), Spread.of(derive.memory_per_delivery(found))
        if peak is None or each is None:
            return NOTHING
        return f"{number(peak.median / MIB)}<br><sub>{number(each.median * MILLION / MIB)} per million</sub>"

    return _by_receivers(result, size, show)


def commands(result: Result, size: int) -> str:
    """Return how many commands a burst held."""

    def show(corner: Corner, _: str, found: Source) -> str:
        return f"{found['commands']:,}{_mark_fewer(result, corner, found)}" if found["commands"] else NOTHING

    return _by_receivers(result, size, show)


def framing(result: Result) -> str:
    """Return how many bytes a receiver gets for a command, by the size of its text."""
    sizes, rows = derive.sizes(result), []
    corners = [Corner("one", max(derive.receivers(result, size)), size) for size in sizes]
    for key, called in derive.names(result).items():
        found = [Spread.of(derive.stream_bytes(derive.source(result, corner, key))) for corner in corners]
        if any(found):
            rows.append([_peer(key, called), *(f"{it.median:,.1f}" if it else NOTHING for it in found)])
    return table(["bytes of the text", *(f"{size:,}" for size in sizes)], rows)


def _by_receivers(
    result: Result, size: int, show: Callable[[Corner, str, Source], str], without: str = ""
) -> str:
    corners = [Corner("one", count, size) for count in derive.receivers(result, size)]
    rows = []
    for key, called in derive.names(result).items():
        found = [(corner, derive.source(result, corner, key)) for corner in corners]
        if key == without or not any(it for _, it in found):
            continue
        cells = [_marked(show(corner, key, it), _lost(it)) if it else NOTHING for corner, it in found]
        rows.append([_peer(key, called), *cells])
    text = table(["receivers", *(f"{corner.receivers:,}" for corner in corners)], rows)
    return text + _notes(result, corners, without, [BUSY_NOTE] if BUSY in text else [])


# --- marks and notes --------------------------------------------------------------------------


def _marked(text: str, mark: str) -> str:
    """Return a name or a cell, with a mark behind its first line, if there is one."""
    first, end, rest = text.partition("<br>")
    return f"{first} {mark}{end}{rest}" if mark else text


def _lost(found: Source) -> str:
    """Return the mark of a peer that lost something."""
    return LOST if found["lost"] else ""


def _limited(found: Source | None) -> str:
    """Return the mark of a peer that may be faster than the generator can be."""
    share = Spread.of(derive.generator(found))
    return BUSY if share and share.median >= SATURATED else ""


def lost(result: Result) -> str:
    """Return where peers lost something or failed, and what the generator said; nothing if none did."""
    names, rows = derive.names(result), []
    for senders, who in (("one", "one sends"), ("every", "all send")):
        for corner in derive.corners(result, senders):
            where = [f"{corner.receivers:,}, {who}", f"{corner.size:,}"]
            found = derive.sources(result, corner).items()
            rows += [
                [names[key], *where, plain(it["lost"]), str(len(it["bursts"]))]
                for key, it in found
                if it["lost"]
            ]
    return table(["peer", "receivers", "bytes", "what happened", "rounds before"], rows, 4) if rows else ""


def _notes(result: Result, corners: Sequence[Corner], without: str = "", also: Sequence[str] = ()) -> str:
    """Return what the marks in a table mean, as paragraphs under it."""
    found = (derive.sources(result, corner).items() for corner in corners)
    marked = any(it["lost"] and key != without for there in found for key, it in there)
    notes = [*([f"{LOST} Lost commands, or failed: see [below](#{LOST_ANCHOR})."] if marked else []), *also]
    return "".join(f"\n\n{note}" for note in notes)


# --- one corner -------------------------------------------------------------------------------


def latency(result: Result, corner: Corner) -> str:
    """Return the latencies of all peers at a corner in milliseconds: when idle, and at half load.

    One more table compares this server with each peer at the same rate, where that was measured.
    """
    found = [*(_paced(result, corner, load) for load in derive.LOADS), _same_rate(result, corner)]
    text = "\n\n".join(part for part in found if part)
    late = number(1e3 * derive.late(result, corner))
    notes = [f"The generator sent no command more than {late} ms late, which is part of the latency."]
    if BELOW in text:
        notes.insert(0, BELOW_NOTE)
    return text + _notes(result, [corner], also=notes)


def _paced(result: Result, corner: Corner, load: str) -> str:
    names, rows = derive.names(result), []
    for key, it in derive.sources(result, corner).items():
        if it.get(load):
            values = [cell(Spread.of(derive.latency(it, load, quantile)), 1e3) for quantile in QUANTILES]
            rows.append([_marked(_peer(key, names[key]), _lost(it)), _rate(it[load]), *values])
    return table([LOAD_NAMES[load], "commands/s", *QUANTILES.values()], rows) if rows else ""


def _same_rate(result: Result, corner: Corner) -> str:
    """Return the p99 of each peer at its half load, and ours at the same rate."""
    names, rows = derive.names(result), []
    for key, ratio in derive.same_rate(result, corner, "p99").items():
        it = derive.source(result, corner, key)
        if it and ratio:
            theirs, ours = (
                derive.latency(it, "half", "p99"),
                derive.latency_beside(result, corner, key, "p99"),
            )
            values = [cell(Spread.of(theirs), 1e3), cell(Spread.of(ours), 1e3), cell(ratio)]
            rows.append([_marked(_peer(key, names[key]), _lost(it)), _rate(it["half"]), *values])
    header = ["p99 at each peer's half load", "commands/s", "its p99", "rankserver's p99", "ratio"]
    return table(header, rows) if rows else ""


def _rate(paced: dict[str, Any]) -> str:
    short = paced["rounds"] and derive.achieved(paced) < SHORT
    return _marked(number(paced["rate"]), BELOW if short else "")


def every(result: Result, corner: Corner) -> str:
    """Return all about a corner where every client sends."""
    rows = [_crowd(result, corner, key, it) for key, it in derive.sources(result, corner).items()]
    fewer = f"{FEWER} It is slow, so its clients sent fewer commands each."
    header = ["", "order", "commands each", "million deliveries/s", "rankserver's, as a multiple"]
    text = table([*header, "ms to the last", "CPU s per million", "peak MiB"], rows, 2)
    notes = [note for mark, note in ((FEWER, fewer), (BUSY, BUSY_NOTE)) if mark in text]
    return text + _notes(result, [corner], also=notes)


def _crowd(result: Result, corner: Corner, key: str, it: Source) -> list[str]:
    rate, took = Spread.of(derive.throughput(it)), Spread.of(derive.seconds(it))
    used, peak = Spread.of(derive.cpu(it)), Spread.of(derive.memory(it))
    each = f"{it['commands'] / corner.receivers:,.3g}{_mark_fewer(result, corner, it)}"
    limited = _limited(it) or _limited(derive.source(result, corner, OURS))
    ratio = _marked(cell(derive.faster(result, corner, key)), limited) if key != OURS else ""
    return [
        _marked(_peer(key, derive.names(result)[key]), _lost(it)),
        _order(it),
        each if it["commands"] else NOTHING,
        _marked(cell(rate, 1 / MILLION), _limited(it)),
        ratio,
        *(cell(took, 1e3), cell(used, MILLION), cell(peak, 1 / MIB)),
    ]


def _order(found: Source) -> str:
    if not found["bursts"]:
        return NOTHING
    return "same for all" if all(burst["same_order"] for burst in found["bursts"]) else "differs"


def _mark_fewer(result: Result, corner: Corner, found: Source) -> str:
    ours = derive.source(result, corner, OURS)
    return f" {FEWER}" if ours and 0 < found["commands"] < ours["commands"] else ""


# --- clients ----------------------------------------------------------------------------------


def membership(result: Result) -> str:
    """Return joining, memory and leaving by the number of clients."""
    header = ["clients", "joins/s", "bytes each", "1 left: ms", "100 left: ms", "half left: ms"]
    header += ["ceiling, one send to each: ms", "1 left, as a multiple of that", "idle: CPU ms per s"]
    counts = sorted({point["clients"] for point in result["membership"]})
    return table(header, [_members(derive.membership(result, count), count) for count in counts])


def _members(rounds: Sequence[dict[str, Any]], count: int) -> list[str]:
    def each(key: str) -> Spread | None:
        return Spread.of(derive.each(rounds, key))

    left = [cell(Spread.of(derive.leaves(rounds, which)), 1e3) for which in ("1", "100", "half")]
    ratio = cell(Spread.of(derive.leave_ratios(rounds)))
    joined = [cell(each("joins_per_second")), cell(each("memory_per_client"))]
    return [
        f"{count:,}",
        *joined,
        *left,
        cell(each("ceiling_one"), 1e3),
        ratio,
        cell(each("idle_cpu_per_second"), 1e3),
    ]


def connections(result: Result, size: int) -> str:
    """Return what a connection costs each peer: KiB of memory while idle, and joins per second."""
    counts = [count for count in derive.receivers(result, size) if count >= CROWD]
    corners = [Corner("one", count, size) for count in counts]
    large = [corner for corner in corners if corner.receivers >= LARGE_CROWD]
    rows = []
    for key, called in derive.names(result).items():
        found = {corner: derive.source(result, corner, key) for corner in corners}
        if any(found.values()):
            memory = [_connection_memory(corner, found[corner]) for corner in large]
            rows.append([_peer(key, called), *memory, *(_joins(*pair) for pair in found.items())])
    header = [f"{corner.receivers:,}: KiB each" for corner in large]
    return table(["", *header, *(f"{count:,}: joins/s" for count in counts)], rows)


def _connection_memory(corner: Corner, found: Source | None) -> str:
    if found is None or "idle_memory" not in found:  # it is not there when a peer failed while they joined
        return NOTHING
    return number(found["idle_memory"] / derive.connections(corner) / 1024)


def _joins(corner: Corner, found: Source | None) -> str:
    if found is None or "join_seconds" not in found:
        return NOTHING
    return number(derive.connections(corner) / found["join_seconds"])


# --- the machine and the programs -------------------------------------------------------------


def machine(result: Result) -> str:
    """Return what the measurements ran on."""
    about = result["machine"]
    memory = about["memory_gib"]
    control = plain(about["congestion_control"])
    rows = [
        ["CPU", processor(result)],
        ["memory", f"{number(memory)} GiB" if memory else UNKNOWN],
        ["Linux", f"{plain(about['kernel'])}, congestion control {control}, loopback"],
        ["Python", plain(about["python"])],
        ["C compiler", plain(about["compiler"])],
        ["CPU of the server", _cpu(about["server_cpu"])],
        ["CPU of the generator", _cpu(about["generator_cpu"])],
        ["code", _commits(result)],
        ["run", RUNS[result.get("resumed")]],
    ]
    return table(["machine", ""], rows, 2)


def _commits(result: Result) -> str:
    """Return of which commit the code was, and of which others before a run was resumed."""
    now, *before = (
        f"commit {_code(commit)}" if commit else "an unknown commit"
        for commit in (result.get("commit"), *result.get("earlier_commits", ()))
    )
    return f"{now}; before it was resumed, {', '.join(before)}" if before else now


def processor(result: Result) -> str:
    """Return what is known of the CPUs."""
    model, count = plain(result["machine"]["cpu"] or "CPU of an unknown model"), result["machine"]["cpus"]
    return f"{model}, {counted(count, 'CPU') if count else 'an unknown number of CPUs'}"


def _cpu(which: int | None) -> str:
    return "any: there are no two to choose from" if which is None else f"number {which} alone"


def programs(result: Result) -> str:
    """Return the version and the settings of each peer, or how to install it."""
    rows = [
        [_peer(peer["key"], peer["name"]), _version(peer), plain(peer["settings"])]
        for peer in result["peers"]
    ]
    return table(["peer", "version", "settings that differ from the default, and why"], rows, 3)


def _version(peer: dict[str, Any]) -> str:
    if peer["skipped"]:
        return f"skipped, {plain(peer['skipped'])}: {_code(peer['install'])}"
    return plain(peer["version"])
