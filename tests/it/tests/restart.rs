//! A loop that starts again on its data folder knows what came before.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use flywheel_it::{Loop, Scratch, flywheel, get, program, signal, wait_for};
use serde_json::Value;

fn status(url: &str) -> Option<Value> {
    serde_json::from_str(&get(&format!("{url}/v1/status")).ok()?.1).ok()
}

#[test]
fn a_restart_shows_the_scores_and_swaps_of_the_run_before_and_counts_its_own_anew() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("history");
    // Without a trainer there is one champion, and nothing is judged twice.
    fs::write(scratch.path().join("flywheel.toml"), "[train]\nenabled = false\n").unwrap();
    let arguments = ["--sessions", "1", "--farm", "0"];
    let mut first = Loop::start(&program, &scratch, "first", &arguments);
    let url = first.ready();
    let history = |url: &str| -> Value { serde_json::from_str(&get(&format!("{url}/v1/history")).unwrap().1).unwrap() };
    let before = wait_for("the first champion's score sheet", || {
        let history = history(&url);
        (history["scores"].as_array()?.len() == 3).then_some(history)
    });
    assert_eq!(before["swaps"].as_array().map(Vec::len), Some(1), "{before}");
    assert!(first.terminate().success());

    let report = ["--sessions", "1", "--farm", "0", "--report", "report.json"];
    let mut second = Loop::start(&program, &scratch, "second", &report);
    let url = second.ready();
    let after = wait_for("the chart", || {
        let history = history(&url);
        (history["scores"].as_array()?.len() == 3).then_some(history)
    });
    let sorted = |history: &Value| {
        let mut rows: Vec<_> = history["scores"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| (row["opponent"].to_string(), row["version"].to_string(), row["score"].as_f64().unwrap()))
            .collect();
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        rows
    };
    assert_eq!(sorted(&after), sorted(&before));
    assert_eq!(after["swaps"], before["swaps"], "the same move at the same time");
    let now = wait_for("the scores' sums", || status(&url).filter(|now| now["counters"]["score_first"].is_number()));
    assert_eq!(now["champion"]["scores"].as_array().map(Vec::len), Some(3), "{now}");
    let said = flywheel(&program, &scratch.data(), &["status"]);
    assert!(said.stdout.contains("champion 1 (") && said.stdout.contains("hunter"), "{said:?}");
    assert!(second.terminate().success());

    let report: Value = serde_json::from_slice(&fs::read(scratch.path().join("report.json")).unwrap()).unwrap();
    assert_eq!(report["score_by_version"].as_array().map(Vec::len), Some(3), "{report}");
    assert_eq!(report["score_first"], report["score_best"], "{report}");
    assert_eq!((report["versions_published"].as_u64(), report["versions_promoted"].as_u64()), (Some(0), Some(0)));
    let evaluations = flywheel(&program, &scratch.data(), &["table", "ls", "--json"]).json();
    let rows = evaluations.as_array().unwrap().iter().find(|table| table["table"] == "evaluations").unwrap();
    assert_eq!(rows["rows"], 45, "the sheet was played once");
}

#[test]
fn all_six_stages_speak_from_the_start_and_say_why_they_wait() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("stages");
    let mut running = Loop::start(&program, &scratch, "up", &["--sessions", "1"]);
    running.ready();
    let said = wait_for("a block of lines", || Some(running.said()).filter(|said| said.contains(" swap ")));
    for stage in ["play", "stream", "land", "learn", "judge", "swap"] {
        let line = said.lines().find(|line| line.split_whitespace().nth(1) == Some(stage));
        let line = line.unwrap_or_else(|| panic!("{stage} says nothing:\n{said}"));
        assert!(!line.contains('○') || line.contains("waits: "), "{line}");
    }
    assert!(!said.contains("waits: waiting"), "{said}");
    assert!(!said.contains("ERROR"), "a first start is no error:\n{said}");
    assert!(running.terminate().success());
}

#[test]
fn a_trainer_that_is_killed_is_started_again_and_the_loop_says_so() {
    let Some(program) = program() else { return };
    if !program.with_file_name("flywheel-trainer").is_file() {
        eprintln!("SKIPPED: flywheel-trainer is not built");
        return;
    }
    let scratch = Scratch::new("trainer");
    let mut running = Loop::start(&program, &scratch, "up", &["--sessions", "1"]);
    running.ready();
    let first = wait_for("the trainer", || running.children().first().copied());
    signal(first, libc::SIGKILL);
    // The stage says so until the next one is started, half a second later; the log goes on saying it.
    wait_for("the loop to tell of it", || {
        let said = running.said();
        (said.contains("the trainer ended") && said.contains("the trainer is down")).then_some(())
    });
    wait_for("another trainer", || running.children().into_iter().find(|pid| *pid != first));

    assert!(running.terminate().success(), "drained in order");
    let audit = flywheel(&program, &scratch.data(), &["audit"]);
    assert_eq!(audit.code, Some(0), "{audit:?}");
    let spilled = fs::read_dir(scratch.data().join("spill"))
        .map_or(0, |files| files.flatten().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum::<u64>());
    assert_eq!(spilled, 0, "everything went into the log");
}

/// Ends with the test, however that ends.
struct Own(Child);

impl Drop for Own {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _gone = self.0.wait();
    }
}

#[test]
fn a_trainer_that_is_a_service_of_its_own_is_known_by_its_lease() {
    let Some(program) = program() else { return };
    let trainer = program.with_file_name("flywheel-trainer");
    if !trainer.is_file() {
        eprintln!("SKIPPED: flywheel-trainer is not built");
        return;
    }
    let scratch = Scratch::new("own-trainer");
    fs::write(scratch.path().join("flywheel.toml"), "[train]\nenabled = false\n").unwrap();
    let mut running = Loop::start(&program, &scratch, "up", &["--sessions", "1"]);
    let url = running.ready();
    let learn = || {
        let status = wait_for("a status", || status(&url));
        status["stages"].as_array().unwrap().iter().find(|stage| stage["name"] == "learn").unwrap().to_string()
    };
    wait_for("learning to be switched off", || learn().contains("switched off here").then_some(()));
    assert!(running.children().is_empty(), "nothing is started that is switched off");
    let output = fs::File::create(scratch.path().join("trainer.log")).unwrap();
    let own = Command::new(&trainer)
        .arg("--data")
        .arg(scratch.data())
        .args(["--base-key=tank-ai-dqn", "--hidden=128", "--seed=7", "--device=cpu"])
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn();
    let mut own = Own(own.unwrap());
    wait_for("the trainer's lease to be seen", || {
        let ended = own.0.try_wait().unwrap();
        assert!(ended.is_none(), "{}", fs::read_to_string(scratch.path().join("trainer.log")).unwrap());
        (!learn().contains("switched off")).then_some(())
    });
    // Whoever dies without a word is known to be gone when its lease is over.
    drop(own);
    wait_for("its lease to end", || learn().contains("no other trainer has").then_some(()));
    assert!(running.terminate().success(), "drained in order");
}
