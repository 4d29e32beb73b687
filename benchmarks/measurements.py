"""The measurements of a comparison as tables, and what follows from them round by round.

``compare.json`` holds the tables with one row per line. Ratios are taken within a round, because all peers
take turns in each round.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS: Final = "rankserver"
CEILING: Final = "ceiling"

# The place of a measurement: the senders (``one`` or ``every``), the bytes of a command, the number of
# receivers, and the peer that was the server.
PLACE: Final = ["senders", "size", "receivers", "peer"]

# The loads of a paced phase: ``idle``, ``half`` of what the peer manages, and ``same``, which is this server
# at the rate of the peer's half load.
LOADS: Final = ("idle", "half", "same")

# The columns of the tables. Times are in seconds, latencies in microseconds, memory is in bytes.
COLUMNS: Final = {
    "starts": [*PLACE, "join_seconds", "idle_memory", "lost"],
    "bursts": [
        *(*PLACE, "round", "commands", "deliveries", "seconds", "generator_cpu", "sender_cpu"),
        *("peak_memory", "same_order"),
    ],
    "paces": [*PLACE, "load", "round", "rate", "commands", "seconds", "p50", "p99", "p999", "late"],
    "members": [
        *("clients", "round", "joins_per_second", "memory_per_client", "one_leaves", "hundred_leave"),
        *("half_leave", "ceiling_one", "idle_cpu_per_second"),
    ],
}


class Measurements:
    """All measurements of one comparison.

    Attributes:
        about: the date, the machine, the peers and other facts.
        starts, bursts, paces, members: the measurements, with the columns of ``COLUMNS``. Of the members,
            ``one_in_sends`` says how many of the ceiling's sends it takes until all know that one left.
        rounds: what follows from bursts and paced phases, by place and round; see ``_rounds``.
        multiples: the same of this server, as multiples of each peer's values in the same round.
        lost: the places at which the peer lost something or failed.
    """

    def __init__(self, about: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
        self.about = about
        self.starts, self.bursts, self.paces, members = (tables[name] for name in COLUMNS)
        self.members = members.assign(one_in_sends=members.one_leaves / members.ceiling_one)
        self.rounds = _rounds(self.bursts, self.paces)
        self.multiples = _multiples(self.rounds)
        self.lost = set(self.starts[self.starts.lost.notna()].set_index(PLACE).index)

    @classmethod
    def of_run(cls, result: dict[str, Any]) -> Measurements:
        """Return the measurements of a run, from the result that ``grid.py`` collected."""
        about = {key: value for key, value in result.items() if key not in {"points", "membership"}}
        rows: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        for name, row in _rows(result):
            rows[name].append(row)
        return cls(about, {name: pd.DataFrame(rows[name], columns=COLUMNS[name]) for name in COLUMNS})

    @classmethod
    def parse(cls, text: str) -> Measurements:
        """Parse what ``dump`` has written.

        Raises:
            ValueError, KeyError: if ``text`` is anything else.
        """
        about = json.loads(text)
        tables = {name: about.pop(name) for name in COLUMNS}
        return cls(about, {name: pd.DataFrame(it[1:], columns=it[0]) for name, it in tables.items()})

    def dump(self) -> str:
        """Return JSON with a line for each row; the first row of a table names its columns."""
        parts = [json.dumps(self.about, indent=1, ensure_ascii=False).removesuffix("\n}")]
        for name, columns in COLUMNS.items():
            table = getattr(self, name)[columns].astype(object)
            rows = [columns, *table.where(table.notna(), None).to_numpy().tolist()]
            parts.append(f' "{name}": [\n' + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n ]")
        return ",\n".join(parts) + "\n}\n"


def _rows(result: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return each row of the tables in a result, with the name of its table."""
    for point in result["points"]:
        for peer, source in point["sources"].items():
            place = {"senders": point["senders"], "size": point["size"], "receivers": point["receivers"]}
            yield "starts", source | place | {"peer": peer}
            for number, burst in enumerate(source["bursts"]):
                yield "bursts", burst | place | {"peer": peer, "round": number}
            paced = [(load, peer, source[load]) for load in ("idle", "half") if load in source]
            paced += [("same", other, phases) for other, phases in source.get("against", {}).items()]
            for load, who, phases in paced:
                for number, phase in enumerate(phases["rounds"]):
                    yield "paces", phase | place | {"load": load, "peer": who, "round": number}
    for entry in result["membership"]:
        for number, once in enumerate(entry["rounds"]):
            leave = once["leave"]
            left = {"one_leaves": leave["1"], "hundred_leave": leave.get("100"), "half_leave": leave["half"]}
            yield "members", once | left | {"clients": entry["clients"], "round": number}


def _rounds(bursts: pd.DataFrame, paces: pd.DataFrame) -> pd.DataFrame:
    """Return the figures of each round by place and round, in the units in which they are shown.

    Of the burst: ``throughput`` in million deliveries per second, ``milliseconds``, ``cpu`` seconds of the
    server per million deliveries, its peak ``memory`` in MiB, ``commands`` per receiver, and the share of
    the time for which the generator was ``busy``. Of the phase with each load, as in ``idle p99``: the
    ``rate`` in commands per second, the share of it that was ``achieved``, and the latencies in milliseconds.
    """
    index = [*PLACE, "round"]
    rounds = pd.DataFrame(
        {
            "throughput": bursts.deliveries / bursts.seconds / 1e6,
            "milliseconds": bursts.seconds * 1e3,
            # CPU time of 0 is less than a tick of the kernel's clock, and memory of 0 was not measured:
            # neither is a value.
            "cpu": (bursts.sender_cpu / bursts.deliveries * 1e6).where(bursts.sender_cpu > 0),
            "memory": (bursts.peak_memory / 2**20).where(bursts.peak_memory > 0),
            "commands": bursts.commands / bursts.receivers,
            "busy": bursts.generator_cpu / bursts.seconds,
        }
    ).set_axis(pd.MultiIndex.from_frame(bursts[index]))
    phases = paces[["p50", "p99", "p999"]] / 1e3
    phases = phases.assign(rate=paces.rate, achieved=paces.commands / paces.seconds / paces.rate)
    for load in LOADS:
        here = paces.load == load
        of_load = phases[here].set_axis(pd.MultiIndex.from_frame(paces.loc[here, index]))
        rounds = rounds.join(of_load.add_prefix(f"{load} "), how="outer")
    return rounds.astype(float)


def _multiples(rounds: pd.DataFrame) -> pd.DataFrame:
    ours = rounds[rounds.index.get_level_values("peer") == OURS].droplevel("peer")
    multiples = ours.reindex(rounds.index.droplevel("peer")).set_axis(rounds.index) / rounds
    # A phase with the load ``same`` is ours, stored beside the half load of the peer that sets its rate.
    for quantile in ("p50", "p99", "p999"):
        multiples[f"same {quantile}"] = rounds[f"same {quantile}"] / rounds[f"half {quantile}"]
    return multiples
