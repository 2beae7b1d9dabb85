#!/usr/bin/env python3
"""DuckDB doing the job of `flywheel bench ingest`: JSON events -> typed columns of table `events` -> Parquet.

usage: ingest_peers.py --file EVENTS.jsonl --out OUT.parquet [--reps 3] [--threads 1]
needs: duckdb

The same file; the same columns of the same types in the file (the payload stays JSON text; `partition`, `offset` and
`ingest_ms` are what the log gave each line); zstd level 1, row groups of 122,880, one thread, and the file is synced,
all of that in the time that counts. DuckDB parses every line whole, the payload too, so both sides refuse what is no
JSON. It neither checks ids, drops repeats nor commits a position: what flywheel does of that is in flywheel's figure.

Two settings of the writer are measured, DuckDB's defaults and what makes the smallest file, each after an untimed run
that leaves the input in the page cache. The faster one is the peer, and the smallest file the peer of the sizes. Prints
one JSON line: rows per CPU-second of each run, bytes a row.
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

COLUMNS = {
    "v": "INTEGER", "system": "VARCHAR", "kind": "VARCHAR", "game_id": "VARCHAR", "seq": "BIGINT", "ts_ms": "BIGINT",
    "actor": "VARCHAR", "model": "VARCHAR", "payload": "JSON",
}
WRITERS = {"defaults": "", "smallest": ", PARQUET_VERSION V2, DICTIONARY_SIZE_LIMIT 1000"}
con = duckdb.connect()
con.execute(f"SET threads={args.threads}")
con.execute("SET preserve_insertion_order=true")
columns = "{" + ",".join(f"{name}:'{kind}'" for name, kind in COLUMNS.items()) + "}"
rows_of = f"SELECT *, row_number() OVER () - 1 AS n FROM read_json('{args.file}', format='newline_delimited', columns={columns})"


def work(writer):
    con.execute(
        f"COPY (SELECT v, kind, game_id, seq, ts_ms, actor, model, payload, 0::INTEGER AS \"partition\", n AS \"offset\", "
        f"1730000000000 + n // 1000 AS ingest_ms FROM ({rows_of})) TO '{args.out}' "
        f"(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE 122880{WRITERS[writer]})"
    )
    with open(args.out, "rb") as file:
        os.fsync(file.fileno())


rates, sizes, checks = {}, {}, set()
for writer in WRITERS:
    work(writer)
    rows, seqs, chars = con.execute(
        f"SELECT count(*), sum(seq), sum(strlen(payload::VARCHAR)) FROM '{args.out}'"
    ).fetchone()
    checks.add((rows, int(seqs), int(chars)))
    sizes[writer] = os.path.getsize(args.out) / rows
    rates[writer] = []
    for _ in range(args.reps):
        start = time.process_time()
        work(writer)
        rates[writer].append(rows / (time.process_time() - start))
[(rows, seqs, chars)] = checks
print(json.dumps({
    "peer": f"duckdb {duckdb.__version__}", "rows": rows,
    "rows_per_cpu_s": max(rates.values(), key=statistics.median),
    "bytes_per_row": min(sizes.values()), "sum_seq": seqs, "payload_chars": chars,
}))
