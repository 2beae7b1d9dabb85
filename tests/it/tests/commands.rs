//! Every command beside a running loop: results on standard output, JSON where asked, books that can be closed any time.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use flywheel_it::{Finished, Loop, Scratch, command, flywheel, program, wait_for};
use serde_json::Value;

/// A loop without a trainer that has landed and judged something.
fn busy_loop(program: &Path, scratch: &Scratch) -> Loop {
    std::fs::write(scratch.path().join("flywheel.toml"), "[train]\nenabled = false\n").unwrap();
    let mut running = Loop::start(program, scratch, "up", &["--sessions", "1"]);
    running.ready();
    wait_for("a judged champion and landed transitions", || {
        let tables = flywheel(program, &scratch.data(), &["table", "ls", "--json"]);
        let tables: Value = serde_json::from_str(&tables.stdout).ok()?;
        let rows = |name: &str| tables.as_array()?.iter().find(|table| table["table"] == name)?["rows"].as_u64();
        (rows("evaluations")? > 0 && rows("transitions")? > 0).then_some(())
    });
    running
}

/// One JSON value on standard output and nothing but an exit code besides.
fn one_json(finished: &Finished) -> Value {
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stderr.is_empty(), "{finished:?}");
    finished.json()
}

/// An error as one line of JSON that says what to do.
fn json_error(finished: &Finished, code: i32, names: &str) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    assert_eq!(finished.stderr.lines().count(), 1, "{finished:?}");
    let error: Value = serde_json::from_str(&finished.stderr).unwrap_or_else(|e| panic!("no JSON ({e}): {finished:?}"));
    assert_eq!(error["code"], code, "{finished:?}");
    assert!(error["error"].as_str().is_some_and(|error| error.contains(names)), "{finished:?}");
    assert!(error["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{finished:?}");
}

#[test]
fn beside_a_running_loop_every_command_answers_in_json_and_names_what_is_not_there() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("commands");
    let running = busy_loop(&program, &scratch);
    let run = |arguments: &[&str]| flywheel(&program, &scratch.data(), arguments);

    for arguments in [
        &["status", "--json"][..],
        &["log", "ls", "--json"],
        &["table", "ls", "--json"],
        &["table", "history", "events", "--json"],
        &["table", "compact", "evaluations", "--json"],
        &["table", "compact", "evaluations", "--dry-run", "--json"],
        &["model", "ls", "--json"],
        &["model", "show", "champion", "--json"],
        &["run", "ls", "--json"],
        &["config", "show", "--json"],
        &["config", "show", "--origin", "--json"],
    ] {
        one_json(&run(arguments));
    }
    let runs = one_json(&run(&["run", "ls", "--json"]));
    let id = runs[0]["id"].as_str().expect("the trainer's run").to_owned();
    assert_eq!(one_json(&run(&["run", "stop", &id, "--json"]))["id"], id.as_str());
    assert_eq!(one_json(&run(&["run", "resume", &id, "--json"]))["id"], id.as_str());
    let scanned = run(&["table", "scan", "evaluations", "-n", "3", "--columns", "candidate,opponent"]);
    let rows: Vec<Value> = scanned.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((rows.len(), rows[0]["candidate"].as_u64()), (3, Some(1)), "{scanned:?}");
    assert_eq!(run(&["log", "tail", "-n", "0"]).stdout, "");

    json_error(&run(&["log", "tail", "nosuch", "--json"]), 5, "nosuch");
    json_error(&run(&["log", "tail", "--partition", "99", "--json"]), 5, "partition 99");
    json_error(&run(&["table", "scan", "nosuch", "--json"]), 5, "nosuch");
    json_error(&run(&["table", "scan", "events", "--columns", "nosuch", "--json"]), 5, "nosuch");
    json_error(&run(&["table", "scan", "events", "--as-of", "99999", "--json"]), 5, "99999");
    json_error(&run(&["model", "ls", "nosuch", "--json"]), 5, "nosuch");
    json_error(&run(&["model", "show", "tank-ai-dqn@99", "--json"]), 5, "tank-ai-dqn@99");
    json_error(&run(&["model", "promote", "champion", "--expected", "77", "--json"]), 6, "77");
    json_error(&run(&["model", "show", "no such@1", "--json"]), 2, "no such");
    json_error(&run(&["run", "show", "nosuch", "--json"]), 5, "nosuch");
    json_error(&run(&["dance", "--json"]), 2, "dance");
    json_error(&run(&["up", "--sessions", "many", "--json"]), 2, "many");

    // The loop appends and lands on while the audit reads; what it compares must still be one moment.
    let audit = run(&["audit", "--json"]);
    assert_eq!(audit.code, Some(0), "{audit:?}");
    assert!(running.terminate().success());
}

#[test]
fn a_reader_that_goes_away_ends_a_command_without_a_panic() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("pipes");
    let running = busy_loop(&program, &scratch);
    for arguments in [&["log", "tail", "--from-start", "--no-follow"][..], &["completions", "bash"], &["--help"]] {
        let mut child = command(&program, &scratch.data(), arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
    assert!(running.terminate().success());
}

#[test]
fn the_program_has_one_arena_for_its_memory() {
    let Some(program) = program() else { return };
    // What jemalloc says of itself at the end; a list of sections that it may leave out.
    let settings = "stats_print:true,stats_print_opts:mdablxe";
    let finished = Command::new(program).arg("--version").env("_RJEM_MALLOC_CONF", settings).output().unwrap();
    let said = Finished::from(finished).stderr;
    assert!(said.lines().any(|line| line.trim() == "opt.narenas: 1"), "{said}");
}
