//! Whom Prometheus asks: a service that runs beside it, by a name that the service takes.

use serde_json::Value;

use super::{COMPOSE, strings, yaml};
use crate::{
    report::{Finding, problem},
    sources::Sources,
};

/// The file of Prometheus for `compose/NAME.yaml` is `compose/prometheus/NAME.yaml`, and flywheel's `compose/NAME.toml`.
pub fn check(sources: &Sources) -> Vec<Finding> {
    let folder = format!("{COMPOSE}prometheus/");
    let files = sources
        .files
        .values()
        .filter_map(|source| Some((source, source.path.strip_prefix(&folder)?.strip_suffix(".yaml")?)));
    let mut findings = Vec::new();
    for (source, name) in files {
        let text = |path: String| sources.files.get(&path).map_or("", |source| source.text.as_str());
        let services = yaml(text(format!("{COMPOSE}{name}.yaml"))).unwrap_or_default()["services"].clone();
        let hosts: toml::Table = text(format!("{COMPOSE}{name}.toml")).parse().unwrap_or_default();
        let hosts = hosts.get("up").and_then(|up| up.get("hosts")).and_then(toml::Value::as_array);
        let takes = |host: &str| hosts.is_some_and(|hosts| hosts.iter().any(|name| name.as_str() == Some(host)));
        for target in targets(&yaml(&source.text).unwrap_or_default()) {
            let host = target.split(':').next().unwrap_or_default();
            if host.parse::<std::net::IpAddr>().is_ok() {
                continue;
            }
            if services[host].is_null() {
                findings.push(problem(format!("{}: `{host}` is no service of {COMPOSE}{name}.yaml", source.path)));
            } else if !services[host]["build"].is_null() && !takes(host) {
                findings.push(problem(format!("{}: `{host}` is not in up.hosts of {COMPOSE}{name}.toml", source.path)));
            }
        }
    }
    findings
}

fn targets(file: &Value) -> Vec<String> {
    let jobs = file["scrape_configs"].as_array().into_iter().flatten();
    let groups = jobs.flat_map(|job| job["static_configs"].as_array().into_iter().flatten());
    groups.flat_map(|group| strings(&group["targets"])).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_would_not_answer_is_found() {
        let scrape = "scrape_configs: [{ static_configs: [{ targets: [\"loop:1\", \"gone:2\", \"127.0.0.1:3\"] }] }]";
        let found = |hosts: &str| -> Vec<String> {
            let sources = Sources::made_up(&[
                ("compose/prometheus/a.yaml", scrape),
                ("compose/a.yaml", "services: { loop: { build: . } }"),
                ("compose/a.toml", hosts),
            ]);
            check(&sources).into_iter().map(|finding| finding.text).collect()
        };
        assert_eq!(found("[up]\nhosts = [\"loop\"]").len(), 1);
        assert!(found("")[0].contains("`loop` is not in up.hosts"), "{:?}", found(""));
        assert!(found("")[1].contains("`gone` is no service"), "{:?}", found(""));
    }
}
