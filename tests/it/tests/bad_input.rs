//! What a person can do wrong: one clear message, the documented exit code, nothing overwritten.

use std::{fs, net::TcpListener};

use flywheel_it::{Finished, Loop, Scratch, flywheel, program};

/// The message names what it must, and says what to do.
fn explains(finished: &Finished, code: i32, names: &[&str]) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    for name in names {
        assert!(finished.stderr.contains(name), "`{name}` is not named: {finished:?}");
    }
    assert!(!finished.stderr.contains("panicked"), "{finished:?}");
}

#[test]
fn a_wrong_flag_is_a_usage_error() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("flags");
    for arguments in [&["up", "--prot", "1"][..], &["up", "--device", "tpu"], &["up", "--for", "soon"], &["dance"]] {
        let finished = flywheel(&program, &scratch.data(), arguments);
        explains(&finished, 2, &[]);
        assert!(finished.stderr.contains("--help"), "{finished:?}");
    }
    assert!(!scratch.data().exists(), "a wrong flag writes nothing");
}

#[test]
fn a_wrong_setting_is_named_with_its_value() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("config");
    let file = scratch.path().join("flywheel.toml");
    let named = file.to_str().expect("a temporary path is UTF-8");

    let missing = flywheel(&program, &scratch.data(), &["config", "show", "--config", named]);
    explains(&missing, 3, &[named, "try:"]);
    fs::write(&file, "[stream]\npartitions = 0\n[agent]\nepsilon = 7.0\n").unwrap();
    let wrong = flywheel(&program, &scratch.data(), &["up", "--config", named]);
    explains(&wrong, 3, &["stream.partitions is 0", "agent.epsilon is 7", "try:"]);
    fs::write(&file, "[stream]\npartition = 2\n").unwrap();
    let unknown = flywheel(&program, &scratch.data(), &["config", "show", "--config", named]);
    explains(&unknown, 3, &["partition"]);
    assert!(!scratch.data().exists(), "a wrong setting writes nothing");
}

#[test]
fn a_data_folder_of_a_newer_program_is_refused_and_left_as_it_is() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("newer");
    fs::create_dir_all(scratch.data()).unwrap();
    fs::write(scratch.data().join("VERSION"), "99\n").unwrap();
    for arguments in [&["up", "--port", "0"][..], &["audit"], &["model", "ls"], &["table", "ls"]] {
        explains(&flywheel(&program, &scratch.data(), arguments), 6, &["version 99", "try:"]);
    }
    let left: Vec<_> = fs::read_dir(scratch.data()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["VERSION"]);
}

#[test]
fn a_folder_of_somebody_else_is_not_written_to() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("foreign");
    fs::create_dir_all(scratch.data()).unwrap();
    fs::write(scratch.data().join("thesis.tex"), "years of work").unwrap();
    explains(&flywheel(&program, &scratch.data(), &["up", "--port", "0"]), 6, &["not a data folder", "try:"]);
    assert_eq!(fs::read_dir(scratch.data()).unwrap().count(), 1);
}

#[test]
fn a_command_on_a_folder_without_data_says_how_to_start() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("nothing");
    for arguments in [&["status"][..], &["table", "ls"], &["run", "ls"]] {
        explains(&flywheel(&program, &scratch.data(), arguments), 5, &["not a data folder", "flywheel up"]);
    }
    let json = flywheel(&program, &scratch.data(), &["status", "--json"]);
    let error: serde_json::Value = serde_json::from_str(json.stderr.trim()).expect("an error as JSON");
    assert_eq!(error["code"], 5, "{json:?}");
}

#[test]
fn a_port_in_use_is_named() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("port");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let finished = flywheel(&program, &scratch.data(), &["up", "--port", &port, "--for", "60s", "--farm", "0"]);
    assert!(finished.code.is_some_and(|code| code != 0), "{finished:?}");
    explains(&finished, finished.code.expect("just seen"), &[&port, "try:"]);
}

#[test]
fn a_second_loop_on_the_same_folder_is_refused_and_the_first_goes_on() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("second");
    let mut first = Loop::start(&program, &scratch, "first", &["--sessions", "1", "--farm", "0"]);
    let url = first.ready();
    let second = flywheel(&program, &scratch.data(), &["up", "--port", "0"]);
    explains(&second, 6, &["already runs", "try:"]);
    assert_eq!(flywheel_it::get(&format!("{url}/healthz")).unwrap().0, 200);
    assert!(first.terminate().success());
}
