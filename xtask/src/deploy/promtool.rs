//! Prometheus' own judgement: rules and their unit tests, its configuration, and the PromQL of every panel.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;
use serde_json::Value;

use super::{
    ALERTS, COMPOSE, GRAFANA,
    dashboards::{panels, queries},
};
use crate::{
    report::{Finding, problem, warning},
    sources::Sources,
    workspace::Workspace,
};

pub fn check(workspace: &Workspace, sources: &Sources) -> Vec<Finding> {
    let Some(promtool) = program() else {
        let how = "Debian and Ubuntu have it in the package `prometheus`; or name it in FLYWHEEL_PROMTOOL";
        let required = env::var("FLYWHEEL_REQUIRE").is_ok_and(|list| list.split(',').any(|word| word == "promtool"));
        return match required {
            true => vec![problem(format!("promtool is not installed; {how}"))],
            false => vec![warning(format!("SKIPPED: promtool is not installed, so it did not judge the rules; {how}"))],
        };
    };
    let mut findings = Vec::new();
    for path in sources.files.keys() {
        let arguments: &[&str] = if path.starts_with(ALERTS) && path.ends_with(".test.yaml") {
            &["test", "rules"]
        } else if path.starts_with(ALERTS) && path.ends_with(".yaml") {
            &["check", "rules"]
        } else if path.starts_with(&format!("{COMPOSE}prometheus/")) {
            // The rules lie elsewhere in the container.
            &["check", "config", "--syntax-only"]
        } else {
            continue;
        };
        findings.extend(said(&promtool, arguments, &workspace.root.join(path), path));
    }
    findings.extend(match panels_as_rules(&promtool, sources) {
        Ok(findings) => findings,
        Err(error) => vec![problem(format!("the panels could not be shown to promtool: {error:#}"))],
    });
    findings
}

/// `FLYWHEEL_PROMTOOL`, or the one on the path.
fn program() -> Option<PathBuf> {
    let path = env::var_os("FLYWHEEL_PROMTOOL").map_or_else(|| PathBuf::from("promtool"), PathBuf::from);
    Command::new(&path).arg("--version").output().is_ok_and(|output| output.status.success()).then_some(path)
}

fn said(promtool: &Path, arguments: &[&str], file: &Path, name: &str) -> Option<Finding> {
    match Command::new(promtool).args(arguments).arg(file).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            Some(problem(format!("{name}: promtool says: {}", String::from_utf8_lossy(&text).trim())))
        }
        Err(error) => Some(problem(format!("{name}: promtool does not run: {error}"))),
    }
}

/// promtool reads no dashboards, but a rule takes any expression: each query becomes one.
fn panels_as_rules(promtool: &Path, sources: &Sources) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for source in sources.files.values().filter(|s| s.path.starts_with(GRAFANA) && s.path.ends_with(".json")) {
        let Ok(dashboard) = serde_json::from_str::<Value>(&source.text) else { continue };
        let all = panels(&dashboard);
        let rules: Vec<Value> = all
            .iter()
            .flat_map(|panel| queries(panel))
            .enumerate()
            .map(|(index, query)| {
                let query = query.replace("$__rate_interval", "5m").replace("$__range", "1h");
                serde_json::json!({"record": format!("panel:query_{index}"), "expr": query})
            })
            .collect();
        let file = env::temp_dir().join(format!("flywheel-panels-{}-{}", std::process::id(), rules.len()));
        let text = serde_json::json!({"groups": [{"name": source.path, "rules": rules}]}).to_string();
        fs::write(&file, text).with_context(|| format!("writing `{}`", file.display()))?;
        findings.extend(said(promtool, &["check", "rules"], &file, &source.path));
        fs::remove_file(&file).with_context(|| format!("removing `{}`", file.display()))?;
    }
    Ok(findings)
}
