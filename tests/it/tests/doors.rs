//! Games that are not ours: their events come through the doors of a running loop, and lie in the table once.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use flywheel_it::{
    Finished, Loop, Scratch, command, flywheel, flywheel_reads, get, post, program, python, requires, wait_for,
};
use serde_json::{Value, json};

/// A loop with a little play of its own and no trainer, and its address.
fn loop_with_doors(program: &Path, scratch: &Scratch) -> (Loop, String) {
    fs::write(scratch.path().join("flywheel.toml"), "[train]\nenabled = false\n").unwrap();
    let mut running = Loop::start(program, scratch, "up", &["--sessions", "1", "--farm", "0"]);
    let url = running.ready();
    (running, url)
}

/// The rows of one game in the table of events, by `seq`, once there are `n`.
fn rows(program: &Path, scratch: &Scratch, game: &str, n: usize) -> Vec<Value> {
    wait_for("the game's events in the table", || {
        let scan = ["table", "scan", "events", "--json", "-n", "10000000"];
        let scanned = flywheel(program, &scratch.data(), &scan);
        let mut rows: Vec<Value> = scanned
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).expect("rows are JSON lines"))
            .filter(|row: &Value| row["game_id"] == game)
            .collect();
        rows.sort_by_key(|row| row["seq"].as_u64());
        (rows.len() >= n).then_some(rows)
    })
}

fn seqs(rows: &[Value]) -> Vec<u64> {
    rows.iter().map(|row| row["seq"].as_u64().expect("a number")).collect()
}

/// Stops the loop in order; then log and tables must agree, game by game.
fn the_books_balance(running: Loop, program: &Path, scratch: &Scratch) {
    assert!(running.terminate().success());
    let audit = flywheel(program, &scratch.data(), &["audit", "--json"]);
    assert_eq!(audit.code, Some(0), "{audit:?}");
}

fn event(game: &str, seq: u64) -> Value {
    json!({"v": 1, "system": "tank", "kind": "tank.tick", "game_id": game, "seq": seq, "ts_ms": 1_700_000_000_000_u64,
           "actor": "server", "payload": {"tick": seq}})
}

fn lines(game: &str, seqs: impl IntoIterator<Item = u64>) -> String {
    seqs.into_iter().map(|seq| format!("{}\n", event(game, seq))).collect()
}

fn of_the_tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

#[test]
fn a_producer_in_plain_python_is_told_what_was_taken_and_its_events_lie_in_the_table_once() {
    let (Some(program), Some(python)) = (program(), python()) else { return };
    let scratch = Scratch::new("plain");
    let (running, url) = loop_with_doors(&program, &scratch);
    let script = of_the_tree("tests/it/tests/plain_producer.py");
    let said: Finished = Command::new(python).arg("-B").arg(script).args([&url, "py-game"]).output().unwrap().into();
    assert_eq!(said.code, Some(0), "{said:?}");
    let answers: Vec<Value> = said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [first, again, last, bad] = &answers[..] else { panic!("{said:?}") };

    let game = json!({"py-game": {"last_seq": 9}});
    assert_eq!(first["status"], 200, "{first}");
    // The embedded log syncs before it answers.
    assert_eq!(
        first["body"],
        json!({"accepted": 10, "repeated": 0, "durability": "fsynced", "games": game}),
        "what was taken, how durably, and how far the game is"
    );
    assert_eq!(
        again["body"],
        json!({"accepted": 0, "repeated": 10, "durability": "fsynced", "games": game}),
        "a repeat is told so"
    );
    assert_eq!((&last["body"]["accepted"], &last["body"]["games"]["py-game"]["last_seq"]), (&json!(1), &json!(10)));
    assert_eq!((&bad["status"], &bad["type"]), (&json!(400), &json!("application/problem+json")), "{bad}");
    assert_eq!((&bad["body"]["index"], &bad["body"]["field"]), (&json!(1), &json!("ts_ms")), "{bad}");
    assert_eq!((&bad["body"]["status"], &bad["body"]["type"]), (&json!(400), &json!("urn:flywheel:problem:bad-event")));

    let rows = rows(&program, &scratch, "py-game", 11);
    // Not the 11th either: its request held a bad one.
    assert_eq!(seqs(&rows), (0..=10).collect::<Vec<_>>(), "each once, and nothing of the refused request");
    for row in &rows[..10] {
        let payload: Value = serde_json::from_str(row["payload"].as_str().expect("text")).unwrap();
        assert_eq!(payload, json!({"tick": row["seq"], "note": "schön"}));
        assert_eq!((&row["kind"], &row["actor"]), (&json!("tank.tick"), &json!("ana")), "{row}");
    }
    assert_eq!(rows[10]["kind"], "tank.session.closed");

    let (status, metrics) = get(&format!("{url}/metrics")).unwrap();
    assert_eq!(status, 200);
    for line in [
        r#"flywheel_ingest_events_total{door="http",result="accepted"} 11"#,
        r#"flywheel_ingest_events_total{door="http",result="repeated"} 10"#,
        r#"flywheel_ingest_events_total{door="ws",result="accepted"} 0"#,
        r#"flywheel_ingest_refused_total{reason="malformed"} 1"#,
        "flywheel_ingest_in_flight_bytes 0",
        "flywheel_ingest_ack_seconds_count 3",
        "flywheel_ingest_gaps_total 0",
        "flywheel_ingest_sockets 0",
    ] {
        assert!(metrics.lines().any(|said| said == line), "`{line}` is not in:\n{metrics}");
    }
    let (status, schema) = get(&format!("{url}/v1/schemas/tank.tick")).unwrap();
    let golden = fs::read_to_string(of_the_tree("schemas/json/tank.tick.json")).unwrap();
    assert_eq!((status, schema), (200, golden));
    for (origin, answer) in [("", "101 Switching Protocols"), ("origin: http://evil.example\r\n", "403 Forbidden")] {
        assert_eq!(upgrade(&url, origin), format!("HTTP/1.1 {answer}"), "{origin}");
    }
    the_books_balance(running, &program, &scratch);
}

/// The first line of what the WebSocket door answers.
fn upgrade(url: &str, more: &str) -> String {
    let host = url.strip_prefix("http://").expect("the loop speaks HTTP");
    let mut stream = TcpStream::connect(host).unwrap();
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    write!(
        stream,
        "GET /v1/events/ws HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n{more}\r\n"
    )
    .unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

#[test]
fn emit_sends_standard_input_names_the_line_that_is_bad_and_knows_what_is_there_already() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("emit");
    let (running, _) = loop_with_doors(&program, &scratch);
    let input = scratch.path().join("events.ndjson");
    let emit = |text: &str, arguments: &[&str]| {
        fs::write(&input, text).unwrap();
        flywheel_reads(&program, &scratch.data(), &[&["emit"], arguments].concat(), &input)
    };

    // An empty line, and a last line without an end.
    let all = format!("{}\n{}", lines("emitted", 0..25), event("emitted", 25));
    let sent = emit(&all, &["--batch", "10", "--json"]);
    assert_eq!((sent.code, sent.stderr.as_str()), (Some(0), ""), "{sent:?}");
    let acks: Vec<Value> = sent.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(acks.iter().map(|ack| ack["accepted"].as_u64().unwrap()).sum::<u64>(), 26, "{sent:?}");
    let last = acks.last().expect("there were events");
    assert_eq!((&last["durability"], &last["games"]["emitted"]["last_seq"]), (&json!("fsynced"), &json!(25)));

    let again = emit(&all, &[]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(again.stdout, "0 events accepted (fsynced), 26 were there already\n");
    let nothing = emit("\n\n", &[]);
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(0), "nothing was sent\n"));

    // Line 4 of the input, though it is the third event; what lies before it is sent.
    let bad = format!("\n{}{}\n{}", lines("emitted", 26..28), r#"{"v":1,"seq":"x"}"#, lines("emitted", 28..30));
    let refused = emit(&bad, &["--json"]);
    assert_eq!(refused.code, Some(7), "{refused:?}");
    let error: Value = serde_json::from_str(refused.stderr.trim()).expect("one line of JSON");
    assert!(error["error"].as_str().unwrap().starts_with("line 4: `system` is missing"), "{error}");
    assert_eq!(serde_json::from_str::<Value>(refused.stdout.trim()).unwrap()["accepted"], 2, "{refused:?}");
    let mended = emit(&bad.replace(r#"{"v":1,"seq":"x"}"#, ""), &[]);
    assert_eq!(mended.stdout, "2 events accepted (fsynced), 2 were there already\n", "{mended:?}");

    assert_eq!(seqs(&rows(&program, &scratch, "emitted", 30)), (0..30).collect::<Vec<_>>());
    the_books_balance(running, &program, &scratch);

    let nobody = emit(&all, &["--patience", "0"]);
    assert_eq!(nobody.code, Some(4), "{nobody:?}");
    assert!(nobody.stderr.contains("sending to http://127.0.0.1") && nobody.stderr.contains("try:"), "{nobody:?}");
    let wrong = emit(&all, &["--url", "ftp://127.0.0.1"]);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
}

#[test]
fn emit_waits_for_a_loop_that_is_away_and_goes_on_where_it_is_back() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("away");
    let (running, _) = loop_with_doors(&program, &scratch);
    let mut emit = command(&program, &scratch.data(), &["emit", "--json", "--patience", "600"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut input = emit.stdin.take().expect("it is piped");
    let mut answers = BufReader::new(emit.stdout.take().expect("it is piped"));
    let mut ack = || {
        let mut line = String::new();
        answers.read_line(&mut line).expect("an answer");
        serde_json::from_str::<Value>(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    };
    input.write_all(lines("long", 0..5).as_bytes()).unwrap();
    assert_eq!(ack()["games"]["long"]["last_seq"], 4, "the input is still open");
    running.kill();
    input.write_all(lines("long", 5..9).as_bytes()).unwrap();
    // On whatever port it is this time: the address is looked up in the data folder.
    let mut second = Loop::start(&program, &scratch, "second", &["--sessions", "0", "--farm", "0"]);
    second.ready();
    assert_eq!(ack()["games"]["long"]["last_seq"], 8);
    drop(input);
    assert!(emit.wait().unwrap().success());
    assert_eq!(seqs(&rows(&program, &scratch, "long", 9)), (0..9).collect::<Vec<_>>());
    the_books_balance(second, &program, &scratch);
}

/// A program of `clients/python`.
fn example(python: &Path, name: &str, arguments: &[&str]) -> Command {
    let folder = of_the_tree("clients/python");
    let mut command = Command::new(python);
    command.arg("-B").arg(folder.join("examples").join(name)).args(arguments).env("PYTHONPATH", folder.join("src"));
    command
}

/// Ends a program when the scenario ends early.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

fn line(of: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    of.read_line(&mut line).expect("the program speaks");
    line
}

#[test]
fn the_python_client_sends_to_a_running_loop_and_follows_its_champion() {
    let (Some(program), Some(python)) = (program(), python()) else { return };
    let scratch = Scratch::new("client");
    let (running, url) = loop_with_doors(&program, &scratch);
    let sent: Finished = example(&python, "emit.py", &[&url, "py-client"]).output().unwrap().into();
    assert_eq!((sent.code, sent.stderr.as_str()), (Some(0), ""), "{sent:?}");
    assert!(sent.stdout.contains("101 events of py-client acknowledged, last seq 100"), "{sent:?}");

    let mut follower = Ended(example(&python, "follow.py", &[&url, "3"]).stdout(Stdio::piped()).spawn().unwrap());
    let mut names = BufReader::new(follower.0.stdout.take().expect("it is piped"));
    let card = flywheel(&program, &scratch.data(), &["model", "show", "champion", "--json"]).json();
    let sha256 = card["sha256"].as_str().expect("a hash").to_owned();
    let said = line(&mut names);
    assert!(said.starts_with("tank-ai-dqn@1: ") && said.contains(&sha256), "{said}");

    second_version(&scratch);
    let promoted = flywheel(&program, &scratch.data(), &["model", "promote", "tank-ai-dqn@2"]);
    assert_eq!(promoted.code, Some(0), "{promoted:?}");
    assert!(line(&mut names).starts_with("tank-ai-dqn@2: "));
    let back = flywheel(&program, &scratch.data(), &["model", "rollback"]);
    assert_eq!(back.code, Some(0), "{back:?}");
    assert!(line(&mut names).starts_with("tank-ai-dqn@1: "), "a move back is a move");
    assert!(follower.0.wait().unwrap().success());

    assert_eq!(seqs(&rows(&program, &scratch, "py-client", 101)), (0..=100).collect::<Vec<_>>());
    the_books_balance(running, &program, &scratch);
}

/// A version 2 with the same weights as the first; cards are files of JSON.
fn second_version(scratch: &Scratch) {
    let card = fs::read_dir(scratch.data().join("registry/models/tank-ai-dqn/versions"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "json"))
        .expect("the first card");
    let mut second: Value = serde_json::from_slice(&fs::read(&card).unwrap()).unwrap();
    second["version"] = json!(2);
    let name = card.file_name().unwrap().to_str().unwrap().replacen('1', "2", 1);
    fs::write(card.with_file_name(name), second.to_string()).unwrap();
}

/// The example of `clients/rust`, which cargo puts beside the tests.
fn game_server() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?.parent()?.parent()?.join("examples/game_server");
    if program.is_file() {
        return Some(program);
    }
    let how = "build it with `cargo build -p flywheel-client --examples`";
    assert!(!requires("programs"), "{} is not there; {how}", program.display());
    eprintln!("SKIPPED: {} is not there; {how}", program.display());
    None
}

#[test]
fn a_game_server_in_rust_decides_with_the_champion_and_its_games_become_transitions_once() {
    let (Some(program), Some(server)) = (program(), game_server()) else { return };
    let scratch = Scratch::new("server");
    let (running, url) = loop_with_doors(&program, &scratch);
    let play = |name: &str| -> (u64, String) {
        let mut command = Command::new(&server);
        let played: Finished = command.args([&url, "1", name]).env("TMPDIR", scratch.path()).output().unwrap().into();
        assert_eq!((played.code, played.stderr.as_str()), (Some(0), ""), "{played:?}");
        let word = |before: &str| {
            let (_, rest) = played.stdout.split_once(before).unwrap_or_else(|| panic!("{played:?}"));
            rest.split([' ', ';']).next().expect("there is a first word").to_owned()
        };
        // The embedded log syncs before it answers.
        assert!(played.stdout.contains("(Fsynced)"), "{played:?}");
        (word("last seq ").parse().unwrap(), word("played by "))
    };
    let (last, by) = play("rs-a");
    assert_eq!(by, "tank-ai-dqn@1");
    second_version(&scratch);
    let promoted = flywheel(&program, &scratch.data(), &["model", "promote", "tank-ai-dqn@2"]);
    assert_eq!(promoted.code, Some(0), "{promoted:?}");
    let (_, by) = play("rs-b");
    assert_eq!(by, "tank-ai-dqn@2");

    let rows = rows(&program, &scratch, "rs-a-0", last as usize + 1);
    assert_eq!(seqs(&rows), (0..=last).collect::<Vec<_>>());
    let decided = rows.iter().filter(|row| row["kind"] == "tank.transition" && row["model"] == "tank-ai-dqn@1");
    assert!(decided.count() > 0);
    let mut later = 0;
    wait_for("episodes of both games", || {
        // A game closes at a later record of its partition, and the loop's one game may lie in the other partition.
        later += 1;
        let sent = post(&format!("{url}/v1/events"), "application/x-ndjson", &lines(&format!("later-{later}"), [0]));
        assert_eq!(sent.expect("the door answers").0, 200);
        let scan = ["table", "scan", "episodes", "--json", "-n", "1000000"];
        let scanned = flywheel(&program, &scratch.data(), &scan).stdout;
        let whole = |game: &str| {
            scanned
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).expect("rows are JSON lines"))
                .any(|row| row["game_id"] == game && row["incomplete"] != json!(true))
        };
        (whole("rs-a-0") && whole("rs-b-0")).then_some(())
    });
    the_books_balance(running, &program, &scratch);
}

#[test]
fn schema_check_passes_what_is_released_and_names_each_breaking_change() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("schemas");
    let (golden, now) = (of_the_tree("schemas/golden/json-v1"), of_the_tree("schemas/json"));
    let check = |old: &Path, new: &Path, more: &[&str]| {
        let (old, new) = (old.to_str().expect("UTF-8"), new.to_str().expect("UTF-8"));
        flywheel(&program, &scratch.data(), &[&["schema", "check", old, new], more].concat())
    };
    let kept = check(&golden, &now, &["--json"]);
    assert_eq!((kept.code, &kept.json()["compatible"]), (Some(0), &json!(true)), "{kept:?}");

    let next = scratch.path().join("next");
    fs::create_dir(&next).unwrap();
    for entry in fs::read_dir(&golden).unwrap() {
        let path = entry.unwrap().path();
        let mut schema: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let name = path.file_name().unwrap().to_owned();
        match name.to_str() {
            Some("tank.episode.ended.json") => continue,
            Some("tank.tick.json") => {
                let payload = &mut schema["properties"]["payload"];
                payload["properties"]["tick"]["type"] = json!("string");
                payload["required"] = json!(["tick", "weather"]);
                payload["properties"]["weather"] = json!({"type": "string"});
            }
            // Optional and new: nobody minds.
            Some("tank.input.json") => schema["properties"]["payload"]["properties"]["mood"] = json!({}),
            _ => {}
        }
        fs::write(next.join(name), schema.to_string()).unwrap();
    }
    let broken = check(&golden, &next, &[]);
    assert_eq!(broken.code, Some(7), "{broken:?}");
    let said: Vec<&str> = broken.stdout.lines().collect();
    assert_eq!(
        said,
        [
            "tank.episode.ended.json: the schema was removed",
            "tank.tick.json: `/payload/weather`: it is required and was not",
            r#"tank.tick.json: `/payload/tick`: its type was "integer" and is "string""#,
        ]
    );
    assert!(broken.stderr.contains("3 changes are not compatible") && broken.stderr.contains("try:"), "{broken:?}");

    assert_eq!(check(&golden, &scratch.path().join("nowhere"), &[]).code, Some(5));
    assert_eq!(check(&golden, &now.join("tank.tick.json"), &[]).code, Some(2));
    fs::write(scratch.path().join("torn.json"), "{").unwrap();
    assert_eq!(check(&now.join("tank.tick.json"), &scratch.path().join("torn.json"), &[]).code, Some(3));
}
