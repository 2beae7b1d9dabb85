//! `flywheel archive` and `flywheel restore` by their words and exit codes, on a data folder with old days.

use std::{fs, path::Path};

use flywheel_events::{Event, GameId, System};
use flywheel_it::{Loop, Scratch, flywheel, get, program, wait_for};
use flywheel_lake::{Lake, TableName};
use flywheel_tables::EventsBuilder;
use serde_json::{Value, json};

const DAY_MS: i64 = 86_400_000;
/// Noon of 2026-02-01.
const NOON: i64 = 1_769_947_200_000;

/// Three days of February with 30 events each, taken by every consumer but for the last day.
fn old_days(data: &Path) {
    fs::create_dir_all(data.join("log")).unwrap();
    fs::write(data.join("VERSION"), "1\n").unwrap();
    // As `flywheel up` says at its first start of which log the tables are.
    let claim = json!({ "format": 1, "log": format!("log of {}", data.display()), "place": "embedded:" });
    fs::write(data.join("flywheel.json"), claim.to_string()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let lake = Lake::local(data.join("lake")).unwrap();
        for day in 0..3i64 {
            let mut rows = EventsBuilder::new();
            for seq in 0..30u64 {
                let game = GameId::new(format!("g-{day}")).unwrap();
                let event = Event::new(System::Tank, "tank.tick", game, seq, NOON).payload(&json!({ "tick": seq }));
                rows.push(&event, 0, day * 100 + seq as i64, NOON + day * DAY_MS);
            }
            lake.table(TableName::Events).append(vec![rows.finish()], &[]).await.unwrap();
        }
        let land = [("land/fw.tank.events/0".to_owned(), 250)];
        lake.table(TableName::Events).append(vec![], &land).await.unwrap();
        let low = [("assemble/fw.tank.events/0/low".to_owned(), 210)];
        lake.table(TableName::Episodes).append(vec![], &low).await.unwrap();
    });
}

#[test]
fn old_days_are_archived_listed_and_brought_back_by_command() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("archive");
    let (data, cold) = (scratch.data(), scratch.path().join("cold"));
    old_days(&data);
    let run = |arguments: &[&str]| flywheel(&program, &data, arguments);
    let scanned = || {
        let mut lines: Vec<_> =
            run(&["table", "scan", "events", "-n", "1000"]).stdout.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let before = scanned();
    assert_eq!(before.len(), 90);

    let nowhere = run(&["archive"]);
    assert!(nowhere.code == Some(3) && nowhere.stderr.contains("archive.url"), "{nowhere:?}");
    fs::write(scratch.path().join("flywheel.toml"), format!("[archive]\nurl = \"file://{}\"\n", cold.display()))
        .unwrap();

    let ahead = run(&["archive", "--before", "2999-01-01"]);
    assert!(ahead.code == Some(2) && ahead.stderr.contains("lies ahead"), "{ahead:?}");
    let would = run(&["archive", "--dry-run", "--json"]).json();
    assert_eq!((would["archived"].as_array().unwrap().len(), &would["dry_run"]), (2, &json!(true)));
    assert_eq!(scanned(), before);

    // The third day has an open game; `archive.after_days` is long over for all of them.
    let done = run(&["archive"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("tank 2026-02-01: 30 rows") && done.stdout.contains("2026-02-03 waits"), "{done:?}");
    assert_eq!(scanned().len(), 30);
    let listed = run(&["archive", "ls", "--json"]).json();
    let days = listed["days"].as_array().unwrap();
    assert_eq!(days.iter().map(|day| &day["state"]).collect::<Vec<_>>(), ["archived", "archived"]);
    assert_eq!((&days[0]["rows"], &days[0]["games"], &days[0]["readiness"]), (&json!(30), &json!(1), &json!("ready")));
    assert!(run(&["doctor"]).stdout.contains("file:"), "it says where the archive is");

    let unknown = run(&["restore", "2025-01-01"]);
    assert!(unknown.code == Some(5) && unknown.stderr.contains("archive ls"), "{unknown:?}");
    assert_eq!(run(&["restore", "yesterday"]).code, Some(2));
    let restored = run(&["restore", "2026-02-01", "2026-02-02", "--json"]);
    assert_eq!(restored.code, Some(0), "{restored:?}");
    assert_eq!(restored.json()[1]["state"], "done");
    assert_eq!(run(&["restore", "2026-02-01", "--json"]).json()[0]["state"], "there");
    assert_eq!(scanned(), before);

    // Another data folder may not use the same archive.
    let other = scratch.path().join("other");
    old_days(&other);
    let refused = flywheel(&program, &other, &["archive"]);
    assert!(refused.code == Some(4) && refused.stderr.contains("archive of other tables"), "{refused:?}");
}

fn status(url: &str) -> Value {
    serde_json::from_str(&get(&format!("{url}/v1/status")).unwrap().1).unwrap()
}

fn degraded(url: &str) -> Value {
    status(url)["degraded"].clone()
}

#[test]
fn a_loop_starts_without_its_archive_says_so_and_reports_though_it_is_away_at_the_end() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("cold");
    // Where the disk of the archive will be mounted lies something else.
    let (mount, gone) = (scratch.path().join("mount"), scratch.path().join("gone"));
    fs::write(&mount, "").unwrap();
    let settings = format!("[train]\nenabled = false\n[archive]\nurl = \"file://{}/cold\"\n", mount.display());
    fs::write(scratch.path().join("flywheel.toml"), settings).unwrap();
    let report = scratch.path().join("report.json");
    let arguments = ["--sessions", "2", "--farm", "0", "--report", report.to_str().unwrap()];
    let mut running = Loop::start(&program, &scratch, "up", &arguments);
    let url = running.ready();

    let lacks = wait_for("the loop to say that the archive is away", || {
        Some(degraded(&url)).filter(|lacks| lacks != &json!([]))
    });
    assert_eq!((&lacks[0]["what"], lacks.as_array().unwrap().len()), (&json!("archive"), 1), "{lacks}");
    assert!(lacks[0]["why"].as_str().unwrap().contains("mount/cold"), "{lacks}");
    wait_for("the status line to say it too", || running.said().contains("! archive").then_some(()));

    fs::remove_file(&mount).unwrap();
    wait_for("the archive to be claimed", || mount.join("cold/index/claim.json").is_file().then_some(()));
    wait_for("the loop to be whole", || (degraded(&url) == json!([])).then_some(()));

    wait_for("a decision", || (status(&url)["decisions"]["answered"].as_u64() > Some(0)).then_some(()));

    // Gone again, as a disk that is not mounted any more: the folder is there, and empty.
    fs::rename(&mount, &gone).unwrap();
    fs::create_dir(&mount).unwrap();
    let ended = running.terminate();
    assert_eq!(ended.code(), Some(4), "what could not be compared is no success");
    let written: Value = serde_json::from_str(&fs::read_to_string(&report).expect("a report")).unwrap();
    assert_eq!((&written["audit_ok"], &written["events_in_table"]), (&json!(false), &Value::Null), "{written}");
    assert!(written["audit_error"].as_str().unwrap().contains("index/claim.json"), "{written}");
    assert!(written["decisions_answered"].as_u64() > Some(0), "all the rest is there: {written}");

    fs::remove_dir(&mount).unwrap();
    fs::rename(&gone, &mount).unwrap();
    let audit = flywheel(&program, &scratch.data(), &["audit"]);
    assert_eq!(audit.code, Some(0), "{audit:?}");
}
