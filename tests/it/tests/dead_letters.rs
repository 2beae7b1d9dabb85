//! Dead letters of a running loop: listed, shown, and put back once they can be used.

use std::{collections::BTreeMap, fs, path::Path};

use flywheel_it::{Loop, Scratch, flywheel, flywheel_reads, program, wait_for};
use serde_json::{Value, json};

/// Separate stretches of one game that `land` keeps track of; an event that would begin another is a dead letter.
const STRETCHES: u64 = 4096;
const TOO_MANY: u64 = 10;

fn emit(program: &Path, scratch: &Scratch, name: &str, seqs: impl Iterator<Item = u64>) {
    let file = scratch.path().join(name);
    let line = |seq| json!({"v": 1, "system": "tank", "kind": "tank.tick", "game_id": "gaps", "seq": seq, "ts_ms": 1, "payload": {"tick": seq}});
    fs::write(&file, seqs.map(|seq| format!("{}\n", line(seq))).collect::<String>()).unwrap();
    let emitted = flywheel_reads(program, &scratch.data(), &["emit"], &file);
    assert_eq!(emitted.code, Some(0), "{emitted:?}");
}

fn dlq(program: &Path, scratch: &Scratch, arguments: &[&str]) -> Value {
    let said = flywheel(program, &scratch.data(), &[&["dlq", "--json"], arguments].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    said.json()
}

/// How often each `seq` of the game is in the table of events.
fn landed(program: &Path, scratch: &Scratch) -> BTreeMap<u64, usize> {
    let scan = ["table", "scan", "events", "--columns", "game_id,seq", "--json", "-n", "10000000"];
    let mut seqs = BTreeMap::new();
    for line in flywheel(program, &scratch.data(), &scan).stdout.lines() {
        let row: Value = serde_json::from_str(line).expect("rows are JSON lines");
        if row["game_id"] == "gaps" {
            *seqs.entry(row["seq"].as_u64().expect("a number")).or_default() += 1;
        }
    }
    seqs
}

#[test]
fn letters_that_can_be_used_by_now_are_put_back_once_and_the_books_balance() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("letters");
    fs::write(scratch.path().join("flywheel.toml"), "[train]\nenabled = false\n").unwrap();
    let mut running = Loop::start(&program, &scratch, "up", &["--sessions", "1", "--farm", "0"]);
    running.ready();

    // Every second event is on its way for long: more gaps than are kept track of.
    emit(&program, &scratch, "even", (0..STRETCHES + TOO_MANY).map(|n| n * 2));
    let list = wait_for("the letters", || {
        let list = dlq(&program, &scratch, &["ls", "--reason", "too_many_gaps", "-n", "3"]);
        (list["by_reason"]["too_many_gaps"]["waiting"] == TOO_MANY).then_some(list)
    });
    let newest = list["letters"].as_array().unwrap();
    assert_eq!((newest.len(), &newest[2]["flow"], &newest[2]["replayed"]), (3, &json!("land"), &Value::Null));
    let position = newest[2]["position"].as_str().unwrap();
    let shown = flywheel(&program, &scratch.data(), &["dlq", "show", position]);
    let last = 2 * (STRETCHES + TOO_MANY - 1);
    assert!(shown.stdout.contains("too_many_gaps") && shown.stdout.contains(&format!("\"seq\":{last}")), "{shown:?}");
    let raw = flywheel(&program, &scratch.data(), &["dlq", "show", "--raw", position]);
    assert_eq!(raw.json()["payload"]["tick"], last);
    let none = flywheel(&program, &scratch.data(), &["dlq", "show", "fw.tank.events/0@999999999"]);
    assert_eq!(none.code, Some(5), "{none:?}");
    let wrong = flywheel(&program, &scratch.data(), &["dlq", "show", "nowhere"]);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");

    // The rest arrives, and the letters fit in.
    emit(&program, &scratch, "odd", (0..STRETCHES).map(|n| n * 2 + 1));
    wait_for("the gaps to close", || (landed(&program, &scratch).len() as u64 == 2 * STRETCHES).then_some(()));
    assert_eq!(dlq(&program, &scratch, &["replay", "--all", "--dry-run"])["restored"], TOO_MANY);
    let one = dlq(&program, &scratch, &["replay", position]);
    assert_eq!((&one["restored"], &one["stay"]), (&json!(1), &json!([])));
    let all = dlq(&program, &scratch, &["replay", "--all"]);
    assert_eq!((&all["restored"], &all["replayed_before"]), (&json!(TOO_MANY - 1), &json!(1)));
    let again = dlq(&program, &scratch, &["replay", "--all"]);
    assert_eq!(
        (&again["restored"], &again["there"], &again["replayed_before"]),
        (&json!(0), &json!(0), &json!(TOO_MANY))
    );
    let seqs = wait_for("what was put back", || {
        let seqs = landed(&program, &scratch);
        (seqs.len() as u64 == 2 * STRETCHES + TOO_MANY).then_some(seqs)
    });
    assert!(seqs.values().all(|n| *n == 1), "each is there once");
    let counts = &dlq(&program, &scratch, &["ls", "--all"])["by_reason"]["too_many_gaps"];
    assert_eq!(counts, &json!({"waiting": 0, "replayed": TOO_MANY}));

    assert!(running.terminate().success());
    let audit = flywheel(&program, &scratch.data(), &["audit", "--json"]);
    assert_eq!(audit.code, Some(0), "{audit:?}");
    // Without a loop, too.
    assert_eq!(dlq(&program, &scratch, &["replay", "--all"])["replayed_before"], TOO_MANY);
}
