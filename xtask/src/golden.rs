//! Golden files: one example of every event kind ever written, and of every table's columns. That they still decode is
//! a test of `tests/it`; that none is missing is checked here.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use crate::{
    report::{Finding, problem},
    workspace::Workspace,
};

const KINDS: &str = "schemas/events/src/kinds.rs";
const EVENTS: &str = "schemas/golden/events";

pub fn check(workspace: &Workspace) -> Vec<Finding> {
    let text = match fs::read_to_string(workspace.root.join(KINDS)) {
        Ok(text) => text,
        Err(error) => return vec![problem(format!("{KINDS} cannot be read: {error}"))],
    };
    let mut findings = Vec::new();
    let present = examples(&workspace.root.join(EVENTS), &mut findings);
    for kind in kinds(&text) {
        if !present.contains(&kind) {
            findings.push(problem(format!("{EVENTS}/{kind}.v1.json is missing: every event kind has an example")));
        }
    }
    findings
}

/// The values of the constants.
fn kinds(text: &str) -> Vec<String> {
    let constants = text.lines().filter(|line| line.starts_with("pub const"));
    constants.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
}

/// The kinds that have an example; what is wrong with a file becomes a finding.
fn examples(folder: &Path, findings: &mut Vec<Finding>) -> BTreeSet<String> {
    let mut present = BTreeSet::new();
    let Ok(entries) = fs::read_dir(folder) else {
        findings.push(problem(format!("the folder {EVENTS} is missing")));
        return present;
    };
    for entry in entries.flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let Some(stem) = file.strip_suffix(".json") else { continue };
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        match matches_name(stem, &text) {
            Ok(kind) => {
                present.insert(kind);
            }
            Err(why) => findings.push(problem(format!("{EVENTS}/{file}: {why}"))),
        }
    }
    present
}

/// `tank.tick.v1` holds an event of kind `tank.tick` and envelope version 1.
fn matches_name(stem: &str, text: &str) -> Result<String, String> {
    let event: Value = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
    let (kind, version) = stem.rsplit_once(".v").ok_or("the name is not KIND.vVERSION.json")?;
    if event["kind"] != kind || event["v"].as_u64().map(|v| v.to_string()).as_deref() != Some(version) {
        return Err(format!("holds kind {} of version {}", event["kind"], event["v"]));
    }
    Ok(kind.to_owned())
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
    fn an_example_holds_what_its_name_says() {
        assert_eq!(matches_name("tank.tick.v1", r#"{"v":1,"kind":"tank.tick"}"#), Ok("tank.tick".to_owned()));
        assert!(matches_name("tank.tick.v1", r#"{"v":1,"kind":"tank.input"}"#).is_err());
        assert!(matches_name("tank.tick.v2", r#"{"v":1,"kind":"tank.tick"}"#).is_err());
        assert!(matches_name("tank.tick.v1", "{").is_err());
    }
}
