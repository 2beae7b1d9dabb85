#!/usr/bin/env python3
"""Reads a lake's tables as they are with deltalake, DuckDB and Polars, and prints what each sees as JSON.

usage: read_tables.py LAKE_FOLDER
needs: deltalake pyarrow duckdb polars numpy

Nothing of flywheel is used here: these are the tools of whoever comes to the tables later. DuckDB and Polars read
the Parquet files of the newest version, the list of which `deltalake` gives (their own Delta readers are optional
extensions, fetched over the network).
"""
import json
import struct
import sys
import zlib

import duckdb
import numpy as np
import polars as pl
import pyarrow.compute as pc
from deltalake import DeltaTable

root = sys.argv[1]


def event_sums(rows):
    """rows: (game_id, seq, offset, payload) in any order -> count, sum of seq, sum of offset, CRC of payloads."""
    rows = sorted(rows)
    crc = 0
    for _, _, _, payload in rows:
        crc = zlib.crc32(payload.encode(), crc)
    return [len(rows), sum(r[1] for r in rows), sum(r[2] for r in rows), crc]


def observations(rows):
    """rows: (tank_id, tick, s, s2, r, done) -> the float32 numbers, in order of tank and tick."""
    return [
        [tank, tick, np.frombuffer(s, "<f4").tolist(), np.frombuffer(s2, "<f4").tolist(), r, done]
        for tank, tick, s, s2, r, done in sorted(rows)
    ]


result = {}
events, transitions = DeltaTable(f"{root}/events"), DeltaTable(f"{root}/transitions")
assert events.metadata().partition_columns == ["system", "dt"]
event_columns, transition_columns = ["game_id", "seq", "offset", "payload"], ["tank_id", "tick", "s", "s2", "r", "done"]

table = events.to_pyarrow_table()
result["deltalake"] = {
    "version": events.version(),
    "events": event_sums(list(zip(*(table.column(c).to_pylist() for c in event_columns)))),
    "days": sorted(set(table.column("dt").to_pylist())),
    "systems": sorted(set(table.column("system").to_pylist())),
    "one_day": events.to_pyarrow_table(partitions=[("dt", "=", "2023-11-15")]).num_rows,
    "models": pc.sum(pc.is_valid(table.column("model"))).as_py(),
    "as_of_1": DeltaTable(f"{root}/events", version=1).to_pyarrow_table().num_rows,
    "positions": events.transaction_version("land/fw.tank.events/0"),
    "operations": [entry["operation"] for entry in events.history()],
}
rows = transitions.to_pyarrow_table()
result["deltalake"]["transitions"] = observations(list(zip(*(rows.column(c).to_pylist() for c in transition_columns))))
result["deltalake"]["types"] = {f.name: str(f.type) for f in rows.schema}

con = duckdb.connect()
con.execute("SET enable_progress_bar=false")  # it would stand in what is printed
files = {name: table.file_uris() for name, table in (("events", events), ("transitions", transitions))}
con.execute("CREATE VIEW e AS SELECT * FROM read_parquet(?, hive_partitioning = true)".replace("?", repr(files["events"])))
con.execute("CREATE VIEW t AS SELECT * FROM read_parquet(?, hive_partitioning = true)".replace("?", repr(files["transitions"])))
result["duckdb"] = {
    "events": event_sums(con.execute(f'SELECT {", ".join(chr(34) + c + chr(34) for c in event_columns)} FROM e').fetchall()),
    "one_day": con.execute("SELECT count(*) FROM e WHERE dt = '2023-11-15'").fetchone()[0],
    "json": con.execute("SELECT sum(CAST(json_extract(payload, '$.n') AS BIGINT)) FROM e").fetchone()[0],
    "transitions": observations(con.execute(f'SELECT {", ".join(transition_columns)} FROM t').fetchall()),
}

pe = pl.read_parquet(files["events"], hive_partitioning=True)
pt = pl.read_parquet(files["transitions"], hive_partitioning=True)
result["polars"] = {
    "events": event_sums(pe.select(event_columns).rows()),
    "one_day": pe.filter(pl.col("dt").cast(pl.String) == "2023-11-15").height,
    "json": pe.select(pl.col("payload").str.json_path_match("$.n").cast(pl.Int64).sum()).item(),
    "transitions": observations(pt.select(transition_columns).rows()),
}

# The same numbers by the standard library alone.
first = rows.column("s")[0].as_py()
assert list(struct.unpack(f"<{len(first) // 4}f", first)) == np.frombuffer(first, "<f4").tolist()
print(json.dumps(result))
