#!/usr/bin/env python3
"""DuckDB doing the job of `flywheel bench ingest`: JSON events -> typed columns of table `events` -> Parquet.

usage: ingest_peers.py --file EVENTS.jsonl --out OUT.parquet [--reps 3] [--threads 1]
needs: duckdb

The same file; row groups of 122,880, one thread, and the file is synced, all of that in the time that counts. Two levels
of zstd: 1, as flywheel says of its files, and 3, DuckDB's own default. Two layouts: `text` has the columns of table
`events`, where the payload stays JSON text (`partition`, `offset` and `ingest_ms` are what the log gave each line);
`typed` has a column for each member of the payload, numbers as float32.
DuckDB parses every line whole, the payload too, so both sides refuse what is no JSON. It neither checks ids, drops repeats
nor commits a position: what flywheel does of that is in flywheel's figure.

Two settings of the writer are measured for each layout and level, DuckDB's defaults and what makes the smallest file, each
after an untimed run that leaves the input in the page cache; the faster one and the smaller file count. Prints one JSON
line: rows per CPU-second of each run and bytes a row, by level and layout.
"""
import argparse
import json
import os
import statistics
import time

import duckdb

parser = argparse.ArgumentParser()
parser.add_argument("--file", required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--reps", type=int, default=3)
parser.add_argument("--threads", type=int, default=1)
args = parser.parse_args()

ENVELOPE = {
    "v": "INTEGER", "system": "VARCHAR", "kind": "VARCHAR", "game_id": "VARCHAR", "seq": "BIGINT", "ts_ms": "BIGINT",
    "actor": "VARCHAR", "model": "VARCHAR",
}
MEMBERS = {
    "bot": "INTEGER", "x": "FLOAT", "y": "FLOAT", "energy": "FLOAT", "heading": "FLOAT", "gun": "FLOAT", "speed": "FLOAT",
    "action": "INTEGER", "reward": "FLOAT", "done": "BOOLEAN",
}
LISTS = {"obs": "FLOAT[]", "q": "FLOAT[]"}
WRITERS = {"defaults": "", "smallest": ", PARQUET_VERSION V2, DICTIONARY_SIZE_LIMIT 1000"}
con = duckdb.connect()
con.execute("SET enable_progress_bar=false")  # it would stand in what is printed
con.execute(f"SET threads={args.threads}")
con.execute("SET preserve_insertion_order=true")


def struct(members):
    return "STRUCT(" + ", ".join(f'"{name}" {kind}' for name, kind in members.items()) + ")"


def work(payload, writer, level):
    columns = ", ".join(f"{name}: '{kind}'" for name, kind in {**ENVELOPE, "payload": payload}.items())
    kept = "payload" if payload == "JSON" else "payload.*"
    con.execute(
        f"COPY (SELECT v, kind, game_id, seq, ts_ms, actor, model, {kept}, 0::INTEGER AS \"partition\", n AS \"offset\", "
        f"1730000000000 + n // 1000 AS ingest_ms FROM (SELECT *, row_number() OVER () - 1 AS n FROM read_json('{args.file}', "
        f"format='newline_delimited', columns={{{columns}}}))) TO '{args.out}' "
        f"(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL {level}, ROW_GROUP_SIZE 122880{WRITERS[writer]})"
    )
    with open(args.out, "rb") as file:
        os.fsync(file.fileno())


def measure(payload, level):
    rates, sizes = [], []
    for writer in WRITERS:
        work(payload, writer, level)
        chars = "sum(strlen(payload::VARCHAR))" if payload == "JSON" else "NULL"
        found = con.execute(f"SELECT count(*), sum(seq), {chars} FROM '{args.out}'").fetchone()
        sizes.append(os.path.getsize(args.out) / found[0])
        times = []
        for _ in range(args.reps):
            start = time.process_time()
            work(payload, writer, level)
            times.append(found[0] / (time.process_time() - start))
        rates.append(times)
    return found, {"rows_per_cpu_s": max(rates, key=statistics.median), "bytes_per_row": min(sizes)}


with open(args.file) as file:
    has_lists = '"obs":[' in file.readline()
levels = {}
for level in (1, 3):
    (rows, seqs, chars), text = measure("JSON", level)
    (typed_rows, typed_seqs, _), typed = measure(struct({**MEMBERS, **(LISTS if has_lists else {})}), level)
    assert (typed_rows, typed_seqs) == (rows, seqs)
    levels[f"zstd{level}"] = {"text": text, "typed": typed}
print(json.dumps({
    "peer": f"duckdb {duckdb.__version__}", "rows": rows, "sum_seq": int(seqs), "payload_chars": int(chars), **levels,
}))
