//! What runs flywheel elsewhere: compose files, Dockerfiles, dashboards and alert rules.
//!
//! No machine of ours runs containers, so these files are read as strictly as can be without them: each is parsed, what
//! it names must exist, and what a panel or an alert asks for must be a metric that a crate declares. `promtool` has the
//! last word on rules where it is installed.

mod compose;
mod dashboards;
mod dockerfile;
mod promql;
mod promtool;
mod rules;
mod scrape;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    metrics,
    report::{Finding, problem},
    sources::Sources,
    workspace::Workspace,
};

/// Folder of everything that containers need.
const COMPOSE: &str = "compose/";
const GRAFANA: &str = "dashboards/grafana/";
const ALERTS: &str = "dashboards/alerts/";

pub fn check(workspace: &Workspace, sources: &Sources) -> Vec<Finding> {
    let declared = metrics::declared(workspace, sources);
    let mut findings = files(sources, &declared);
    findings.extend(promtool::check(workspace, sources));
    findings
}

/// All but what asks other programs.
fn files(sources: &Sources, declared: &BTreeMap<String, metrics::Kind>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.files.values() {
        let path = source.path.as_str();
        let name = path.rsplit('/').next().unwrap_or_default();
        if path.starts_with(COMPOSE) && name.starts_with("Dockerfile") && !name.ends_with(".dockerignore") {
            findings.extend(dockerfile::check(source, sources));
        } else if path.starts_with(COMPOSE) && path.matches('/').count() == 1 && name.ends_with(".yaml") {
            findings.extend(compose::check(source, sources));
        } else if path.starts_with(GRAFANA) && name.ends_with(".json") {
            findings.extend(dashboards::check(source, declared));
        } else if path.starts_with(ALERTS) && name.ends_with(".yaml") && !name.ends_with(".test.yaml") {
            findings.extend(rules::check(source, sources, declared));
        } else if is_ours(path) && (name.ends_with(".yaml") || name.ends_with(".json")) {
            // Settings of the servers beside ours: well formed, at least.
            findings.extend(yaml(&source.text).err().map(|why| problem(format!("{path}: {why}"))));
        }
    }
    findings.extend(dashboards::same_uid(sources));
    findings.extend(scrape::check(sources));
    findings
}

fn is_ours(path: &str) -> bool {
    [COMPOSE, GRAFANA, ALERTS].iter().any(|folder| path.starts_with(folder))
}

/// One YAML document (JSON is YAML too). A key that stands twice is an error.
fn yaml(text: &str) -> Result<Value, String> {
    // Its own type first: another one would let the second of two equal keys win.
    let value: yaml_serde::Value = yaml_serde::from_str(text).map_err(|error| format!("no YAML: {error}"))?;
    serde_json::to_value(value).map_err(|error| format!("no YAML that JSON could hold: {error}"))
}

/// The strings of a list; a string alone is a list of one.
fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_this_repository_have_no_problem() {
        let workspace = Workspace::load().unwrap();
        let sources = Sources::load(&workspace).unwrap();
        let found: Vec<String> = check(&workspace, &sources).into_iter().map(|finding| finding.text).collect();
        let problems: Vec<&String> = found.iter().filter(|text| !text.starts_with("SKIPPED")).collect();
        assert!(problems.is_empty(), "{problems:#?}");
        found.iter().for_each(|text| eprintln!("{text}"));
        for path in
            ["compose/dev.yaml", "compose/flywheel.yaml", "compose/Dockerfile", "dashboards/alerts/flywheel.yaml"]
        {
            assert!(sources.files.contains_key(path), "{path} is gone");
        }
    }

    #[test]
    fn the_compose_files_fit_the_schema_of_the_compose_specification() {
        let workspace = Workspace::load().unwrap();
        let schema: Value = serde_json::from_str(include_str!("deploy/compose-spec.json")).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let problems = |text: &str| -> Vec<String> {
            let value = yaml(text).unwrap();
            validator.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect()
        };
        for file in ["dev.yaml", "flywheel.yaml"] {
            let text = std::fs::read_to_string(workspace.root.join(COMPOSE).join(file)).unwrap();
            assert_eq!(problems(&text), Vec::<String>::new(), "{file}");
        }
        assert_ne!(problems("services:\n  a:\n    image: x\n    port: 1\n"), Vec::<String>::new());
    }

    #[test]
    fn a_key_that_stands_twice_is_no_yaml() {
        assert!(yaml("a: 1\na: 2\n").unwrap_err().contains("duplicate"));
        assert!(yaml("a: [1\n").is_err());
    }
}
