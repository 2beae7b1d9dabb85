//! Golden files: an example of every event kind, by version, in `schemas/golden/SYSTEM-events-vN.jsonl`. That they
//! still decode is a test of `schemas/tables`; that none is missing is checked here.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use crate::{
    report::{Finding, problem},
    sources::Sources,
    workspace::Workspace,
};

const KINDS: &str = "schemas/events/src/kinds.rs";
const FOLDER: &str = "schemas/golden/";

pub fn check(workspace: &Workspace, sources: &Sources) -> Vec<Finding> {
    let text = match fs::read_to_string(workspace.root.join(KINDS)) {
        Ok(text) => text,
        Err(error) => return vec![problem(format!("{KINDS} cannot be read: {error}"))],
    };
    let mut findings = Vec::new();
    let mut present = BTreeSet::new();
    for source in sources.files.values() {
        let Some(version) = version_of(&source.path) else { continue };
        for (index, line) in source.text.lines().enumerate() {
            match kind_of(line, version) {
                Ok(kind) => drop(present.insert(kind)),
                Err(why) => findings.push(problem(format!("{}:{}: {why}", source.path, index + 1))),
            }
        }
    }
    for kind in kinds(&text).into_iter().filter(|kind| !present.contains(kind)) {
        findings.push(problem(format!("no file {FOLDER}*-events-v*.jsonl holds an example of `{kind}`")));
    }
    findings
}

/// The envelope version that a golden file of events is of; `None` for other files.
fn version_of(path: &str) -> Option<u64> {
    let stem = path.strip_prefix(FOLDER)?.strip_suffix(".jsonl")?;
    stem.rsplit_once("-events-v")?.1.parse().ok()
}

/// The values of the constants.
fn kinds(text: &str) -> Vec<String> {
    let constants = text.lines().filter(|line| line.starts_with("pub const"));
    constants.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
}

fn kind_of(line: &str, version: u64) -> Result<String, String> {
    let event: Value = serde_json::from_str(line).map_err(|error| format!("no JSON: {error}"))?;
    if event["v"] != version {
        return Err(format!("an event of version {}, in a file of version {version}", event["v"]));
    }
    event["kind"].as_str().map(str::to_owned).ok_or_else(|| "an event without a kind".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_from_their_constants() {
        let text =
            "//! Doc.\npub const A: &str = \"tank.tick\";\n/// More.\npub const B: &str = \"model.swap_refused\";\n";
        assert_eq!(kinds(text), ["tank.tick", "model.swap_refused"]);
    }

    #[test]
    fn an_example_is_of_the_version_of_its_file() {
        assert_eq!(version_of("schemas/golden/tank-events-v1.jsonl"), Some(1));
        assert_eq!(version_of("schemas/golden/tables-v1.json"), None);
        assert_eq!(kind_of(r#"{"v":1,"kind":"tank.tick"}"#, 1), Ok("tank.tick".to_owned()));
        assert!(kind_of(r#"{"v":1,"kind":"tank.tick"}"#, 2).is_err());
        assert!(kind_of(r#"{"v":1}"#, 1).is_err() && kind_of("{", 1).is_err());
    }
}
