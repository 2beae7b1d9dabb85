//! deltalake, DuckDB and Polars of Python read the tables as they are, and see the same.

mod common;

use std::{path::PathBuf, process::Command};

use common::*;
use flywheel_events::{GameId, System};
use flywheel_game_api::{Lane, TransitionRow};
use flywheel_lake::{CompactOptions, Lake, LakeConfig, TableName};
use flywheel_tables::{EventsBuilder, TransitionsBuilder};

/// The project's Python, or what `FLYWHEEL_PYTHON` names. Without its packages there is nothing to test.
fn python() -> Option<PathBuf> {
    let in_repo = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.venv/bin/python"));
    let python = std::env::var_os("FLYWHEEL_PYTHON").map_or(in_repo, PathBuf::from);
    let probe = Command::new(&python).args(["-c", "import deltalake, duckdb, polars, pyarrow, numpy"]).output();
    let why = match probe {
        Ok(probe) if probe.status.success() => return Some(python),
        Ok(probe) => String::from_utf8_lossy(&probe.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let required = std::env::var("FLYWHEEL_REQUIRE").is_ok_and(|list| list.split(',').any(|item| item == "python"));
    assert!(!required, "FLYWHEEL_REQUIRE names python, but {} cannot be used: {why}", python.display());
    eprintln!("SKIPPED: {} cannot be used ({why}); `make test` installs it", python.display());
    None
}

fn transition(n: u64) -> TransitionRow {
    let number = |i: usize| [n as f32 / 3.0, -0.0, f32::MIN_POSITIVE, f32::MAX, 1e-40, i as f32][i % 6];
    TransitionRow {
        lane: Lane { game_id: GameId::new("g").unwrap(), seat: format!("t{}", n % 3) },
        tick: n,
        label: "basic".into(),
        map_key: "stage01".into(),
        model: n.is_multiple_of(2).then(|| "tank-ai-dqn@3".parse().unwrap()),
        s: (0..108).map(number).collect(),
        a: (n % 10) as i16,
        r: n as f32 / 7.0,
        s2: (0..108).map(|i| -number(i)).collect(),
        done: n == 19,
        epsilon: 0.25,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn python_tools_read_the_tables_as_they_are() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let lake =
        Lake::local_with_config(dir.path(), LakeConfig { checkpoint_interval: 4, ..LakeConfig::default() }).unwrap();
    let events = lake.table(TableName::Events);
    let mut payloads = Vec::new();
    for commit in 0..9u64 {
        let mut rows = EventsBuilder::new();
        for n in commit * 20..commit * 20 + 20 {
            let event = event("g", n).payload(&serde_json::json!({"n": n, "text": "é\n\"x\" \u{1F600}"}));
            let event = event.model(n.is_multiple_of(2).then(|| "tank-ai-dqn@3".parse().unwrap()));
            payloads.push(event.payload.get().to_owned());
            rows.push(&event, 0, n as i64 * 2, NOON + (n as i64 % 2) * DAY);
        }
        let to = (commit * 20 + 19) as i64 * 2;
        events.append(vec![rows.finish()], &[("land/fw.tank.events/0".into(), to)]).await.unwrap();
        if commit == 6 {
            let options = CompactOptions { target_bytes: 1 << 20, min_files: 3 };
            assert!(events.compact_with(&options).await.unwrap().files_merged > 0);
        }
    }
    let mut rows = TransitionsBuilder::new();
    for n in 0..20 {
        rows.push(System::Tank, &transition(n), "2023-11-15", (n != 5).then_some(1.5), 1.0).unwrap();
    }
    lake.table(TableName::Transitions).append(vec![rows.finish()], &[]).await.unwrap();

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/read_tables.py");
    let output = Command::new(&python).arg(script).arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();

    let crc = crc32(payloads.concat().as_bytes());
    let sums = serde_json::json!([180, 179 * 90, 179 * 180, crc]);
    let mut transitions: Vec<_> = (0..20).map(transition).collect();
    transitions.sort_by_key(|row| (row.lane.seat.clone(), row.tick));
    for tool in ["deltalake", "duckdb", "polars"] {
        let seen = &seen[tool];
        assert_eq!(seen["events"], sums, "{tool}");
        assert_eq!(seen["one_day"], 90, "{tool}");
        let rows = seen["transitions"].as_array().unwrap();
        assert_eq!(rows.len(), 20, "{tool}");
        for (row, expected) in rows.iter().zip(&transitions) {
            assert_eq!((row[0].as_str().unwrap(), row[1].as_u64().unwrap()), (&*expected.lane.seat, expected.tick));
            for (column, values) in [(2, &expected.s), (3, &expected.s2)] {
                let read: Vec<u32> = row[column].as_array().unwrap().iter().map(bits).collect();
                assert_eq!(read, values.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), "{tool}, bit for bit");
            }
            assert_eq!(bits(&row[4]), expected.r.to_bits());
            assert_eq!(row[5], expected.done);
        }
    }
    let delta = &seen["deltalake"];
    assert_eq!(delta["days"], serde_json::json!(["2023-11-15", "2023-11-16"]));
    assert_eq!((delta["as_of_1"].as_u64(), delta["positions"].as_i64()), (Some(20), Some(358)));
    assert_eq!(delta["models"], 90);
    assert_eq!((&delta["types"]["s"], &delta["types"]["a"]), (&"binary".into(), &"int8".into()));
    assert!(delta["operations"].as_array().unwrap().contains(&"OPTIMIZE".into()));
    for tool in ["duckdb", "polars"] {
        assert_eq!(seen[tool]["json"], 179 * 90, "{tool}");
    }
}

/// Python gives a float32 as the double next to it.
fn bits(value: &serde_json::Value) -> u32 {
    (value.as_f64().unwrap() as f32).to_bits()
}

/// The polynomial of zlib, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}
