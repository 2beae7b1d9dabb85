"""The second opinion on a run: deltalake and DuckDB read the table, this file judges, and nothing of flywheel is used.

usage: oracle.py TABLE_FOLDER PREFIX PROMISES
PROMISES has a line for each game: its id, then the numbers that were acknowledged, in the order in which they were sent.
Prints counts as JSON.
"""
import json
import sys

import deltalake
import duckdb

folder, prefix, promises = sys.argv[1:]
con = duckdb.connect()
con.execute("SET enable_progress_bar=false")  # it would stand in what is printed
files = deltalake.DeltaTable(folder).file_uris()
con.execute(
    f"CREATE VIEW e AS SELECT game_id, seq, \"partition\" AS p, \"offset\" AS o FROM read_parquet({files!r}) "
    f"WHERE starts_with(game_id, {prefix!r})"
)
rows, distinct, games = con.execute("SELECT count(*), count(DISTINCT (game_id, seq)), count(DISTINCT game_id) FROM e").fetchone()
stored = dict(con.execute("SELECT game_id, list(struct_pack(p := p, s := seq) ORDER BY p, o) FROM e GROUP BY game_id").fetchall())
acknowledged = lost = out_of_order = 0
with open(promises) as lines:
    for line in lines:
        game, *sent = line.split()
        place = {int(seq): n for n, seq in enumerate(sent)}
        acknowledged += len(place)
        there = stored.get(game, [])
        # Offsets of two partitions say nothing about each other.
        out_of_order += len({row["p"] for row in there}) > 1
        seen, furthest = set(), -1
        for row in there:
            seq = row["s"]
            if seq in seen:
                continue
            seen.add(seq)
            if seq in place:
                out_of_order += place[seq] < furthest
                furthest = max(furthest, place[seq])
        lost += len(place.keys() - seen)
print(json.dumps({
    "reader": f"deltalake {deltalake.__version__}, DuckDB {duckdb.__version__}", "rows": rows, "distinct": distinct,
    "games": games, "acknowledged": acknowledged, "lost": lost, "doubled": rows - distinct, "out_of_order": out_of_order,
}))
