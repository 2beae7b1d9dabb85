//! Whom Prometheus asks: a service that runs beside it, by a name that the service takes, or by its address.

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
        for host in looked_up(&yaml(&source.text).unwrap_or_default()) {
            // It is asked by address then, which every service takes.
            if services[&host].is_null() {
                findings.push(problem(format!("{}: `{host}` is no service of {COMPOSE}{name}.yaml", source.path)));
            }
        }
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
    listed(file, "static_configs", "targets")
}

/// Names that are looked up, each for all containers of a service.
fn looked_up(file: &Value) -> Vec<String> {
    listed(file, "dns_sd_configs", "names")
}

fn listed(file: &Value, kind: &str, field: &str) -> Vec<String> {
    let jobs = file["scrape_configs"].as_array().into_iter().flatten();
    let groups = jobs.flat_map(|job| job[kind].as_array().into_iter().flatten());
    groups.flat_map(|group| strings(&group[field])).map(str::to_owned).collect()
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

    #[test]
    fn a_name_that_no_service_has_is_looked_up_in_vain() {
        let scrape = "scrape_configs: [{ dns_sd_configs: [{ names: [loop, gone], type: A, port: 1 }] }]";
        let sources = Sources::made_up(&[
            ("compose/prometheus/a.yaml", scrape),
            ("compose/a.yaml", "services: { loop: { build: . } }"),
        ]);
        let found: Vec<String> = check(&sources).into_iter().map(|finding| finding.text).collect();
        assert!(found.len() == 1 && found[0].contains("`gone` is no service"), "{found:?}");
    }
}
