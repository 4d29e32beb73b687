"""The measurements of a comparison as tables: a row for each start, burst, paced phase and membership round.

``compare.json`` holds these rows, one per line, below the names of the columns. Ratios are taken within a
round, because the sources take turns in each round.
"""

from __future__ import annotations

import json
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS: Final = "rankserver"
CEILING: Final = "ceiling"

# The version of the format that ``dump`` writes and ``parse`` reads.
FORMAT: Final = 2

# The place of a measurement: the senders (``one`` or ``every``), the bytes of a command, the number of
# receivers, and the peer that was the server.
PLACE: Final = ["senders", "size", "receivers", "peer"]

# Times are in seconds, latencies in microseconds, memory is in bytes. The load of a paced phase is ``idle``,
# ``half`` of what the peer manages, or ``same``: this server at the same rate as the peer at its half load.
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
        starts, bursts, paces, members: one table each, with the columns of ``COLUMNS`` and columns derived
            from them.
    """

    def __init__(self, about: dict[str, Any], rows: dict[str, list[Any]]) -> None:
        self.about = about
        self._raw = {name: pd.DataFrame(rows[name], columns=columns) for name, columns in COLUMNS.items()}
        self.starts, self.bursts, self.paces, self.members = (table.copy() for table in self._raw.values())
        bursts, paces, members = self.bursts, self.paces, self.members
        bursts["throughput"] = bursts.deliveries / bursts.seconds
        bursts["busy"] = bursts.generator_cpu / bursts.seconds
        # The clock of CPU time is coarse, so a value may be missing.
        bursts["cpu"] = (bursts.sender_cpu / bursts.deliveries).where(bursts.sender_cpu > 0)
        bursts["memory"] = bursts.peak_memory.where(bursts.peak_memory > 0)
        paces["achieved"] = paces.commands / paces.seconds / paces.rate
        members["one_leaves_in_sends"] = members.one_leaves / members.ceiling_one

    # --- in and out ---------------------------------------------------------------------------

    @classmethod
    def of_run(cls, result: dict[str, Any]) -> Measurements:
        """Return the rows of a run, from the result that ``grid.py`` collected point by point."""
        about = {key: value for key, value in result.items() if key not in {"points", "membership"}}
        rows: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        points, members = map(_rows_of_point, result["points"]), map(_rows_of_members, result["membership"])
        for name, row in chain.from_iterable(chain(points, members)):
            rows[name].append(row)
        return cls(about, rows)

    @classmethod
    def parse(cls, text: str) -> Measurements:
        """Parse what ``dump`` has written.

        Raises:
            ValueError: if ``text`` is anything else.
        """
        about = json.loads(text)
        if about.pop("format", None) != FORMAT:
            raise ValueError(f"not of format {FORMAT}")
        tables = {name: about.pop(name) for name in COLUMNS}
        return cls(
            about,
            {
                name: [dict(zip(table[0], row, strict=True)) for row in table[1:]]
                for name, table in tables.items()
            },
        )

    def dump(self) -> str:
        """Return JSON with a line for each row; the first row of a table names its columns."""
        parts = [
            json.dumps({"format": FORMAT} | self.about, indent=1, ensure_ascii=False).removesuffix("\n}")
        ]
        for name, table in self._raw.items():
            known = table.astype(object).where(table.notna(), None)
            rows = [COLUMNS[name], *known.to_numpy().tolist()]
            parts.append(f' "{name}": [\n' + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n ]")
        return ",\n".join(parts) + "\n}\n"

    # --- by place and round -------------------------------------------------------------------

    def burst(self, value: str) -> pd.Series[Any]:
        """Return a value of each burst by place and round."""
        return self.bursts.set_index([*PLACE, "round"])[value].sort_index()

    def pace(self, load: str, value: str) -> pd.Series[Any]:
        """Return a value of each phase with this load by place and round."""
        return self.paces[self.paces.load == load].set_index([*PLACE, "round"])[value].sort_index()

    def faster(self) -> pd.Series[Any]:
        """Return our deliveries per second as multiples of each peer's, by place and round."""
        return _ours(self.burst("throughput")) / self.burst("throughput")

    def slower(self, load: str, quantile: str) -> pd.Series[Any]:
        """Return our latency as multiples of each peer's, by place and round."""
        if load == "same":
            return (self.pace("same", quantile) / self.pace("half", quantile)).dropna()
        return _ours(self.pace(load, quantile)) / self.pace(load, quantile)


def _ours(values: pd.Series[Any]) -> pd.Series[Any]:
    """Return, for each peer's value, this server's value of the same round."""
    ours = values[values.index.get_level_values("peer") == OURS].droplevel("peer")
    here = values.index.droplevel("peer")
    return pd.Series(ours.reindex(here).to_numpy(), values.index)


def _rows_of_point(point: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for peer, it in point["sources"].items():
        place = {
            "senders": point["senders"],
            "size": point["size"],
            "receivers": point["receivers"],
            "peer": peer,
        }
        yield "starts", it | place
        for number, burst in enumerate(it["bursts"]):
            yield "bursts", burst | place | {"round": number}
        paced = [(load, peer, it[load]) for load in ("idle", "half") if load in it]
        paced += [("same", other, phases) for other, phases in it.get("against", {}).items()]
        for load, who, phases in paced:
            for number, phase in enumerate(phases["rounds"]):
                yield "paces", phase | place | {"load": load, "peer": who, "round": number}


def _rows_of_members(entry: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, it in enumerate(entry["rounds"]):
        leave = it["leave"]
        left = {"one_leaves": leave["1"], "hundred_leave": leave.get("100"), "half_leave": leave["half"]}
        yield "members", it | left | {"clients": entry["clients"], "round": number}
