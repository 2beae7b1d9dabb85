#!/usr/bin/env python3
"""DuckDB doing the job of `flywheel bench ingest`: JSON events -> typed columns of table `events` -> Parquet.

usage: ingest_peers.py --file EVENTS.jsonl --out OUT.parquet [--reps 3] [--threads 1]
needs: duckdb

The same file, the same columns (the payload stays JSON text), zstd level 1, row groups of 122,880, one thread. One
untimed run first, so the input lies in the page cache. DuckDB neither drops repeats nor commits a position; what
flywheel does of that is in flywheel's figure. Prints one JSON line: rows per CPU-second of each run, bytes a row.
"""
import argparse
import json
import os
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
con = duckdb.connect()
con.execute(f"SET threads={args.threads}")
con.execute("SET preserve_insertion_order=true")
columns = "{" + ",".join(f"{name}:'{kind}'" for name, kind in COLUMNS.items()) + "}"
work = (
    f"COPY (SELECT * FROM read_json('{args.file}', format='newline_delimited', columns={columns})) "
    f"TO '{args.out}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE 122880)"
)
con.execute(work)
rows = con.execute(f"SELECT count(*) FROM '{args.out}'").fetchone()[0]
windows = []
for _ in range(args.reps):
    start = time.process_time()
    con.execute(work)
    windows.append(rows / (time.process_time() - start))
check = con.execute(f"SELECT sum(seq), sum(length(payload::VARCHAR)) FROM '{args.out}'").fetchone()
print(json.dumps({
    "peer": f"duckdb {duckdb.__version__}", "rows": rows, "rows_per_cpu_s": windows,
    "bytes_per_row": os.path.getsize(args.out) / rows, "sum_seq": int(check[0]), "payload_chars": int(check[1]),
}))
