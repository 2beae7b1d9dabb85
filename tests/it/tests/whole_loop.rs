//! The loop from the outside: it starts, answers, reports, and stops in order.

use std::process::Command;

use flywheel_it::{Loop, Scratch, flywheel, get, program, python, wait_for};
use serde_json::Value;

/// What `--report` promises.
const REPORT: &[&str] = &[
    "seconds",
    "events_acknowledged",
    "events_in_table",
    "events_duplicate_rows",
    "events_dead",
    "transitions",
    "train_steps",
    "versions_published",
    "versions_promoted",
    "versions_refused",
    "first_promotion_seconds",
    "swaps",
    "decisions_requested",
    "decisions_answered",
    "decisions_mixed",
    "decision_p50_us",
    "decision_p99_us",
    "swap_p50_ms",
    "swap_p99_ms",
    "table_freshness_p99_ms",
    "sample_freshness_p99_ms",
    "score_first",
    "score_best",
    "score_by_version",
    "rss_peak_bytes",
];

#[test]
fn a_run_of_some_seconds_closes_its_books_writes_its_report_and_others_read_its_tables() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("report");
    let arguments = ["--for", "12s", "--report", "report.json", "--sessions", "2", "--seed", "3"];
    let mut running = Loop::start(&program, &scratch, "up", &arguments);
    let status = running.wait();
    assert!(status.success(), "{status}:\n{}", running.said());

    let text = std::fs::read_to_string(scratch.path().join("report.json")).expect("a report");
    let report: Value = serde_json::from_str(&text).expect("a report in JSON");
    let lacks: Vec<&str> = REPORT.iter().copied().filter(|field| report.get(field).is_none()).collect();
    assert!(lacks.is_empty(), "the report lacks {lacks:?}:\n{text}");
    assert!(report["events_acknowledged"].as_u64() > Some(0), "{text}");
    assert_eq!(report["events_acknowledged"], report["events_in_table"], "{text}");
    assert_eq!(report["events_duplicate_rows"], 0, "{text}");
    assert_eq!(report["decisions_mixed"], 0, "{text}");
    assert_eq!(report["decisions_requested"], report["decisions_answered"], "{text}");

    let audit = flywheel(&program, &scratch.data(), &["audit", "--json"]);
    assert_eq!(audit.code, Some(0), "{audit:?}");
    the_readers_of_the_readme_read_it(&scratch);
}

/// Runs the README's Python as it stands, on the data that the loop has left.
fn the_readers_of_the_readme_read_it(scratch: &Scratch) {
    let Some(python) = python() else { return };
    let readme = include_str!("../../../README.md");
    let data = readme.split("\n## Your data\n").nth(1).expect("the section `Your data` in the README");
    let code = data.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).expect("Python in it");
    let output = Command::new(python).args(["-c", code]).current_dir(scratch.path()).output().expect("Python starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for part in ["opponent", "108)", "tank.tick"] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
}

#[test]
fn a_running_loop_answers_and_stops_in_order_on_a_signal() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("answers");
    let mut running = Loop::start(&program, &scratch, "up", &["--sessions", "2"]);
    let url = running.ready();

    let stages = wait_for("landed events", || {
        let status: Value = serde_json::from_str(&get(&format!("{url}/v1/status")).ok()?.1).ok()?;
        let stages: Vec<String> =
            status["stages"].as_array()?.iter().filter_map(|stage| stage["name"].as_str().map(str::to_owned)).collect();
        let list = flywheel(&program, &scratch.data(), &["table", "ls", "--json"]);
        let tables: Value = serde_json::from_str(&list.stdout).ok()?;
        let events = tables.as_array()?.iter().find(|table| table["table"] == "events")?["rows"].as_u64()?;
        (events > 0).then_some(stages)
    });
    assert_eq!(stages, ["play", "stream", "land", "learn", "judge", "swap"]);
    let (status, page) = get(&format!("{url}/")).unwrap();
    assert!(status == 200 && page.contains("<html"), "{page}");
    let (status, metrics) = get(&format!("{url}/metrics")).unwrap();
    assert!(status == 200 && metrics.contains("flywheel_"), "{metrics}");

    // Other processes read the log through its socket while the loop holds it.
    let tail = flywheel(&program, &scratch.data(), &["log", "tail", "--from-start", "--no-follow", "-n", "5"]);
    assert_eq!((tail.code, tail.stdout.lines().count()), (Some(0), 5), "{tail:?}");

    let output = running.pid();
    let status = running.terminate();
    assert!(status.success(), "process {output} ended with {status}");
    let audit = flywheel(&program, &scratch.data(), &["audit", "--json"]);
    assert_eq!(audit.code, Some(0), "{audit:?}");
}
