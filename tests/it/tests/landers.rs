//! `flywheel land` as processes of their own: started, killed, and what they and the tables say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use flywheel_it::{Scratch, command, flywheel, signal, wait_for};
use serde_json::{Value, json};

/// One `flywheel land`.
pub struct Lander {
    pub child: Child,
    pub log: PathBuf,
}

impl Lander {
    pub fn start(program: &Path, scratch: &Scratch, name: &str, arguments: &[&str]) -> Self {
        let log = scratch.path().join(format!("{name}.log"));
        let child = command(program, &scratch.data(), &[&["land"][..], arguments].concat())
            .env("FLYWHEEL_LOG", "info,sqlx=warn,buoyant_kernel=off")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .expect("the program starts");
        Self { child, log }
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The partitions that it holds, as `owners` has it.
    pub fn holds(&self, owners: &[Value]) -> BTreeSet<u32> {
        let pid = format!(":{}:", self.child.id());
        let owner = owners.iter().find(|owner| owner["member"].as_str().is_some_and(|member| member.contains(&pid)));
        let holds = owner.and_then(|owner| owner["holds"].as_object()).expect("it is one of them");
        holds.keys().map(|partition| partition.parse().expect("a partition")).collect()
    }

    /// SIGTERM, and its end in good order.
    pub fn terminate(mut self) {
        signal(self.child.id(), libc::SIGTERM);
        let status = wait_for("a lander's end", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}: {}", fs::read_to_string(&self.log).unwrap());
    }
}

impl Drop for Lander {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a lander's log says: the fields of its lines.
pub fn lines(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let parsed = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed.map(|line| line["fields"].clone()).collect()
}

pub fn says(line: &Value, what: &str) -> bool {
    line["message"].as_str().is_some_and(|message| message.contains(what))
}

/// Every `seq` of each game in the table.
pub fn rows(program: &Path, scratch: &Scratch) -> BTreeMap<String, Vec<u64>> {
    let scan = ["table", "scan", "events", "--columns", "game_id,seq", "-n", "1000000000"];
    let finished = flywheel(program, &scratch.data(), &scan);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let mut rows: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for line in finished.stdout.lines() {
        let row: Value = serde_json::from_str(line).expect("a row as JSON");
        rows.entry(row["game_id"].as_str().unwrap().to_owned()).or_default().push(row["seq"].as_u64().unwrap());
    }
    rows.values_mut().for_each(|seqs| seqs.sort_unstable());
    rows
}

pub fn owners(program: &Path, scratch: &Scratch) -> Vec<Value> {
    let said = flywheel(program, &scratch.data(), &["status", "--json"]);
    if said.code != Some(0) {
        return Vec::new();
    }
    said.json()["owners"].as_array().cloned().unwrap_or_default()
}

/// Partitions that living members of a group hold, in order; one that two say to hold is there twice.
pub fn held(owners: &[Value], group: &str) -> Vec<u32> {
    let living = owners.iter().filter(|owner| owner["group"] == group && owner["is_dead"] == json!(false));
    let mut held: Vec<u32> =
        living.flat_map(|owner| owner["holds"].as_object().unwrap().keys().map(|p| p.parse().unwrap())).collect();
    held.sort_unstable();
    held
}

/// Kills `dead` and waits until `heirs` have claimed all that it held in the tables; how long that took, and how long the
/// partitions were silent by the log's own clock.
pub fn kill_and_wait_for_heirs(
    dead: &mut Lander,
    heirs: &[&Lander],
    partitions: &BTreeSet<u32>,
) -> (Duration, Duration) {
    let taken = |heir: &Lander| -> Vec<Value> {
        lines(&heir.log).into_iter().filter(|line| says(line, "took partitions over")).collect()
    };
    let before: Vec<usize> = heirs.iter().map(|heir| taken(heir).len()).collect();
    dead.kill();
    let killed = Instant::now();
    wait_for("heirs to take over", || {
        let new: Vec<Value> =
            heirs.iter().zip(&before).flat_map(|(heir, before)| taken(heir).split_off(*before)).collect();
        let claimed: BTreeSet<u32> = new.iter().flat_map(|line| keys(line["fences"].as_str().unwrap())).collect();
        let silent = new.iter().filter_map(|line| line["silent_ms"].as_u64()).max().unwrap_or_default();
        partitions.is_subset(&claimed).then(|| (killed.elapsed(), Duration::from_millis(silent)))
    })
}

/// The keys of a map as it is logged: `{0: 3, 7: 12}`.
fn keys(map: &str) -> Vec<u32> {
    let pairs = map.trim_matches(['{', '}']).split(", ").filter_map(|pair| pair.split_once(':'));
    pairs.map(|(key, _)| key.parse().expect("a partition")).collect()
}
