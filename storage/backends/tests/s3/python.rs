//! deltalake, Polars and DuckDB of Python read the tables where they are.

use std::{path::PathBuf, process::Command};

use flywheel_lake::{CompactOptions, TableName};

use crate::{
    lake_cases::{DAY, NOON, rows},
    server::{BUCKET, KEY, Kind, one},
};

/// The project's Python, or what `FLYWHEEL_PYTHON` names. Without its packages there is nothing to test.
fn python() -> Option<PathBuf> {
    let of_project = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.venv/bin/python"));
    let python = std::env::var_os("FLYWHEEL_PYTHON").map_or(of_project, PathBuf::from);
    let probe = Command::new(&python).args(["-c", "import deltalake, duckdb, polars, pyarrow"]).output();
    if probe.is_ok_and(|probe| probe.status.success()) {
        return Some(python);
    }
    let required = std::env::var("FLYWHEEL_REQUIRE").is_ok_and(|list| list.split(',').any(|item| item == "python"));
    assert!(!required, "FLYWHEEL_REQUIRE names python, but {} lacks its packages", python.display());
    eprintln!("SKIPPED: {} lacks its packages; `scripts/venv.sh test` gets them", python.display());
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn deltalake_polars_and_duckdb_read_the_tables_on_the_server_as_they_are() {
    let Some(server) = one(Kind::SeaweedFs) else { return };
    let Some(python) = python() else { return };
    let table = server.bucket("python").lake().table(TableName::Events);
    for n in 0..12u64 {
        let day = NOON + (n as i64 % 2) * DAY;
        let batch = rows("g", n * 10, n * 10 + 10, day);
        table.append(vec![batch], &[("land/t/0".into(), n as i64 * 10 + 9)]).await.unwrap();
        if n == 8 {
            let options = CompactOptions { target_bytes: 1 << 20, min_files: 3 };
            assert!(table.compact_with(&options).await.unwrap().files_merged > 0);
        }
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/s3/read_tables.py");
    let output = Command::new(&python)
        .args([script, &format!("s3://{BUCKET}/python/lake/events"), "land/t/0"])
        .env("AWS_ACCESS_KEY_ID", KEY.0)
        .env("AWS_SECRET_ACCESS_KEY", KEY.1)
        .env("AWS_ENDPOINT_URL", server.endpoint())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let sums = serde_json::json!([120, 119 * 60, 60]);
    for tool in ["deltalake", "polars", "duckdb"] {
        assert_eq!(seen[tool], sums, "{tool}");
    }
    assert_eq!((&seen["position"], &seen["rows_as_of_1"]), (&119.into(), &10.into()));
}
