//! Alert rules: what they watch is declared, and who is woken is told what happened and what to do.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{dashboards::wrong, yaml};
use crate::{
    metrics::Kind,
    report::{Finding, problem},
    sources::{Source, Sources},
};

const SEVERITIES: &[&str] = &["critical", "warning"];
/// What to do stands there, under a heading with the alert's name.
const RUNBOOK: &str = "docs/operating.md";

pub fn check(source: &Source, sources: &Sources, declared: &BTreeMap<String, Kind>) -> Vec<Finding> {
    let file = match yaml(&source.text) {
        Ok(file) => file,
        Err(why) => return vec![problem(format!("{}: {why}", source.path))],
    };
    let runbook = sources.files.get(RUNBOOK).map_or("", |source| source.text.as_str());
    let (mut found, mut names) = (Vec::new(), BTreeSet::new());
    for rule in alerts(&file) {
        let name = rule["alert"].as_str().unwrap_or_default();
        let mut about = |what: String| found.push(format!("alert `{name}`: {what}"));
        if name.is_empty() || !names.insert(name) {
            about("has no name, or one that another has".to_owned());
        }
        match rule["expr"].as_str() {
            Some(expression) => wrong(expression, declared).into_iter().for_each(&mut about),
            None => about("has no expr".to_owned()),
        }
        if !SEVERITIES.iter().any(|severity| rule["labels"]["severity"] == *severity) {
            about(format!("its severity is none of {}", SEVERITIES.join(", ")));
        }
        if rule["for"].as_str().is_none() {
            about("has no `for`, so one scrape that goes wrong wakes somebody".to_owned());
        }
        for key in ["summary", "description"] {
            if rule["annotations"][key].as_str().is_none_or(str::is_empty) {
                about(format!("has no {key}"));
            }
        }
        if !runbook.contains(&format!("`{name}`")) {
            about(format!("{RUNBOOK} does not say what to do"));
        }
    }
    if names.is_empty() {
        found.push("it has no alerts".to_owned());
    }
    found.into_iter().map(|what| problem(format!("{}: {what}", source.path))).collect()
}

fn alerts(file: &Value) -> impl Iterator<Item = &Value> {
    let groups = file["groups"].as_array().into_iter().flatten();
    groups.flat_map(|group| group["rules"].as_array().into_iter().flatten()).filter(|rule| rule["record"].is_null())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "groups:
  - name: a
    rules:
      - alert: Deep
        expr: flywheel_a_depth > 3
        for: 5m
        labels: { severity: warning }
        annotations: { summary: It is deep, description: Look. }
";

    fn found(text: &str) -> Vec<String> {
        let path = "dashboards/alerts/a.yaml";
        let sources = Sources::made_up(&[(path, text), (RUNBOOK, "| `Deep` | dig |\n")]);
        let declared = [("flywheel_a_depth".to_owned(), Kind::Gauge)].into();
        check(&sources.files[path], &sources, &declared).into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn an_alert_without_metric_severity_patience_words_or_runbook_is_found() {
        assert_eq!(found(GOOD), Vec::<String>::new());
        for (from, to, what) in [
            ("flywheel_a_depth", "flywheel_a_length", "no crate has a metric `flywheel_a_length`"),
            ("severity: warning", "severity: bad", "its severity is none of"),
            ("        for: 5m\n", "", "has no `for`"),
            ("summary: It is deep, ", "", "has no summary"),
            ("alert: Deep", "alert: Shallow", "does not say what to do"),
            ("    rules:", "    rolls:", "has no alerts"),
            ("groups:", "groups: [", "no YAML"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert!(found(&text).iter().any(|said| said.contains(what)), "{what}: {:?}", found(&text));
        }
    }
}
