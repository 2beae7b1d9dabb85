//! What a person can do wrong: one clear message, the documented exit code, nothing overwritten.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::{Command, Stdio},
};

use flywheel_it::{Finished, Loop, Redis, Scratch, command, flywheel, program};
use serde_json::Value;

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

/// What `flywheel doctor` says of the log.
fn log_check(program: &Path, scratch: &Scratch, url: &str) -> Value {
    fs::write(scratch.path().join("flywheel.toml"), format!("[stream]\nurl = \"{url}\"\n")).unwrap();
    let checks = flywheel(program, &scratch.data(), &["doctor", "--json"]).json();
    let log = checks.as_array().unwrap().iter().find(|check| check["check"] == "log").cloned();
    log.unwrap_or_else(|| panic!("nothing of the log: {checks}"))
}

#[test]
fn doctor_looks_at_a_shared_log_before_the_first_start_and_names_setting_and_fix() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("doctor");
    let says = |check: &Value, state: &str, words: &[&str]| {
        assert_eq!(check["state"], state, "{check}");
        let said = format!("{} {}", check["finding"].as_str().unwrap(), check["fix"].as_str().unwrap_or_default());
        for word in words {
            assert!(said.contains(word), "`{word}` is not named: {said}");
        }
    };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = log_check(&program, &scratch, &format!("redis://127.0.0.1:{port}/0"));
    says(&nobody, "failed", &[&format!("127.0.0.1:{port}"), "start the server", "`stream.url`"]);
    // With TLS built in nothing answers, without it the feature is named.
    let tls = log_check(&program, &scratch, &format!("rediss://127.0.0.1:{port}/0"));
    let without = tls["finding"].as_str().unwrap().contains("built without TLS");
    says(&tls, "failed", &["`stream.url`", if without { "redis-tls" } else { "start the server" }]);
    let wrong = log_check(&program, &scratch, "kafka://127.0.0.1:1?timeout=1s&colour=red");
    says(&wrong, "failed", &["`stream.url`", if wrong.to_string().contains("colour") { "colour" } else { "kafka" }]);

    let Some(redis) = Redis::start(scratch.path()) else { return };
    let found = log_check(&program, &scratch, &redis.url());
    says(&found, "warning", &[&redis.url(), "appendonly yes", "appendfsync everysec", "`appendfsync always`"]);
    redis.command("CONFIG SET appendfsync always");
    says(&log_check(&program, &scratch, &redis.url()), "ok", &["fsynced", "appendfsync always"]);
    redis.command("CONFIG SET requirepass opensesame");
    for url in [redis.url(), redis.url().replace("redis://", "redis://default:wrong@")] {
        let shut = log_check(&program, &scratch, &url);
        says(&shut, "failed", &["password", "`stream.url`", "password.env=NAME"]);
        assert!(!shut.to_string().contains("wrong@"), "{shut}");
    }
    assert!(!scratch.data().exists(), "a look makes nothing");
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

/// Runs `flywheel` behind another program that takes the right to write `shut` away from it; nothing where this machine
/// cannot do that.
fn deprived(before: &[&str], shut: &Path, data: &Path, arguments: &[&str]) -> Option<Finished> {
    let program = program()?;
    let probe = [before, &["sh", "-c", "! touch \"$0/probe\" 2>/dev/null", shut.to_str().expect("UTF-8")]].concat();
    let works = Command::new(probe[0]).args(&probe[1..]).stderr(Stdio::null()).status();
    if !works.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: `{}` takes no rights away here", before.join(" "));
        let _none_if_it_was_not_made = fs::remove_file(shut.join("probe"));
        return None;
    }
    let all = [&before[1..], &[program.to_str().expect("UTF-8")], arguments].concat();
    Some(command(Path::new(before[0]), data, &all).stdin(Stdio::null()).output().expect("it starts").into())
}

#[test]
fn a_folder_without_the_right_to_write_is_named_with_setting_and_fix_before_anything_starts() {
    let scratch = Scratch::new("forbidden");
    let data = scratch.data();
    let name = |folder: &Path| folder.to_str().expect("UTF-8").to_owned();
    let allow = |folder: &Path, mode| fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
    // The rights of files hold for root too then.
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let before: &[&str] = if is_root { &["setpriv", "--bounding-set=-dac_override", "env"] } else { &["env"] };
    let told = ["cannot be written", "Permission denied", "try:", "uid ", "--data DIR", "`data` in flywheel.toml"];
    fs::create_dir_all(&data).unwrap();
    allow(&data, 0o555);
    let fresh = deprived(before, &data, &data, &["up", "--port", "0"]);
    allow(&data, 0o755);
    let Some(fresh) = fresh else { return };
    explains(&fresh, 1, &[&told[..], &[&name(&data)]].concat());
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0, "nothing is left in it");
    fs::write(data.join("VERSION"), "1\n").unwrap();
    let up = &["up", "--port", "0"][..];
    let key = &["key", "create", "--source", "x-"][..];
    for (below, arguments) in [("spool", up), ("lake", up), ("log", up), ("", up), ("", key)] {
        let shut = if below.is_empty() { data.clone() } else { data.join(below) };
        fs::create_dir_all(&shut).unwrap();
        allow(&shut, 0o555);
        let finished = deprived(before, &shut, &data, arguments).expect("it could be done before");
        allow(&shut, 0o755);
        explains(&finished, 1, &[&told[..], &[&format!("`{}`", name(&shut))]].concat());
    }
}

#[test]
fn a_read_only_disk_is_named_with_setting_and_fix() {
    let scratch = Scratch::new("readonly");
    let data = scratch.data();
    fs::create_dir_all(&data).unwrap();
    let shut = "mount --bind \"$DATA\" \"$DATA\" && mount -o remount,bind,ro \"$DATA\" && exec \"$@\"";
    let set = format!("DATA={}", data.display());
    let before = ["unshare", "--user", "--map-root-user", "--mount", "env", &set, "sh", "-c", shut, "sh"];
    let told = ["cannot be written", "Read-only file system", "try:", "mount", "--data DIR", data.to_str().unwrap()];
    let Some(fresh) = deprived(&before, &data, &data, &["up", "--port", "0"]) else { return };
    explains(&fresh, 1, &told);
    fs::write(data.join("VERSION"), "1\n").unwrap();
    for arguments in [&["up", "--port", "0"][..], &["key", "create", "--source", "x-"]] {
        explains(&deprived(&before, &data, &data, arguments).expect("it could be done before"), 1, &told);
    }
}
