//! A reader that is not ours sees the same rows before and after.

use std::{path::PathBuf, process::Command, sync::Arc};

use flywheel_archive::{ColdStore, Folder};
use flywheel_lake::{Lake, TableName};
use flywheel_maintain::Restored;

use super::world::{DAYS, NOON, archive_on, before_of, consumers, day, event};

const SCRIPT: &str = r#"
import sys, json, hashlib, duckdb
from deltalake import DeltaTable
table = DeltaTable(sys.argv[1])
# DuckDB reads the Parquet files that the newest version names.
files = table.file_uris()
if not files:
    print(json.dumps([0, None])); sys.exit()
con = duckdb.connect()
rows = con.execute(
    'select game_id, seq, kind, payload, "partition", "offset", ingest_ms, ts_ms, dt, system from read_parquet(?, hive_partitioning=true) '
    "order by game_id, seq", [files]).fetchall()
print(json.dumps([len(rows), hashlib.sha256(repr(rows).encode()).hexdigest()]))
"#;

fn python() -> Option<PathBuf> {
    let of_project = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.venv/bin/python"));
    let python = std::env::var_os("FLYWHEEL_PYTHON").map_or(of_project, PathBuf::from);
    let probe = Command::new(&python).args(["-c", "import deltalake, duckdb"]).output();
    if probe.is_ok_and(|probe| probe.status.success()) {
        return Some(python);
    }
    let required = std::env::var("FLYWHEEL_REQUIRE").is_ok_and(|list| list.split(',').any(|item| item == "python"));
    assert!(!required, "FLYWHEEL_REQUIRE names python, but {} lacks its packages", python.display());
    eprintln!("SKIPPED: {} lacks its packages; `scripts/venv.sh test` gets them", python.display());
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn duckdb_and_deltalake_read_the_same_rows_before_and_after() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let lake = Lake::local(dir.path().join("lake")).unwrap();
    let table = lake.table(TableName::Events);
    for n in 0..8u64 {
        let mut rows = flywheel_tables::EventsBuilder::new();
        for seq in n * 50..n * 50 + 50 {
            rows.push(&event("g", seq), 0, seq as i64, NOON + (n as i64 % 2) * super::world::DAY_MS);
        }
        table.append(vec![rows.finish()], &[]).await.unwrap();
    }
    for (table, app_id) in consumers(&flywheel_log::Topic::new("fw.tank.events"), 0) {
        lake.table(table).append(vec![], &[(app_id, 1000)]).await.unwrap();
    }
    let seen = || {
        let at = dir.path().join("lake/events");
        let output = Command::new(&python).args(["-c", SCRIPT]).arg(at).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<(u64, Option<String>)>(&output.stdout).unwrap()
    };
    let before = seen();
    assert_eq!(before.0, 400);
    let cold: Arc<dyn ColdStore> = Arc::new(Folder::new(dir.path().join("cold")));
    let archive = archive_on(&lake, &cold);
    archive.archive(&before_of(DAYS[1])).await.unwrap();
    assert_eq!(seen().0, 200);
    archive.archive(&before_of(DAYS[2])).await.unwrap();
    assert_eq!(seen().0, 0);
    for dt in &DAYS[..2] {
        assert!(matches!(archive.restore(&day(dt)).await.unwrap(), Restored::Done { rows: 200, .. }));
    }
    assert_eq!(seen(), before);
}
