#!/usr/bin/env python3
"""Reads a table in a bucket with deltalake, Polars and DuckDB, and prints what each sees as JSON.

usage: read_tables.py s3://BUCKET/PATH APP_ID
needs: deltalake pyarrow duckdb polars; AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY
"""
import json
import os
import sys

import duckdb
import polars as pl
from deltalake import DeltaTable

url, app_id = sys.argv[1:]
options = {
    "AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"],
    "AWS_ALLOW_HTTP": "true",
    "AWS_REGION": "us-east-1",
}
table = DeltaTable(url, storage_options=options)
rows = table.to_pyarrow_table(columns=["seq", "dt"])


def sums(seq, days):
    """Count of rows, sum of their numbers, rows of the first day."""
    return [len(seq), sum(seq), days.count("2023-11-15")]


polars = pl.read_delta(url, storage_options=options, columns=["seq", "dt"])
# DuckDB takes the Arrow data set as a table: its own reader of S3 is an extension, fetched over the network.
events = table.to_pyarrow_dataset()
con = duckdb.connect()
con.execute("SET enable_progress_bar=false")  # it would stand in what is printed
con.register("events", events)
query = "SELECT count(*), sum(seq), count(*) FILTER (dt = '2023-11-15') FROM events"
print(
    json.dumps(
        {
            "deltalake": sums(rows["seq"].to_pylist(), rows["dt"].to_pylist()),
            "polars": sums(polars["seq"].to_list(), polars["dt"].to_list()),
            "duckdb": [int(n) for n in con.execute(query).fetchone()],
            "position": table.transaction_version(app_id),
            "rows_as_of_1": DeltaTable(url, version=1, storage_options=options).to_pyarrow_table().num_rows,
        }
    ),
    flush=True,
)
# Arrow's threads may still be closing files of the bucket; an interpreter that goes in order sometimes aborts then.
os._exit(0)
