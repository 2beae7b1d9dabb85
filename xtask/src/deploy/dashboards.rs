//! Grafana's dashboards: every panel asks for metrics that a crate declares, in the way that their kind allows.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{GRAFANA, promql::asked};
use crate::{
    metrics::Kind,
    report::{Finding, problem},
    sources::{Source, Sources},
};

/// Series that Prometheus makes itself.
const OF_PROMETHEUS: &[&str] = &["up", "scrape_duration_seconds"];
/// What turns a counter into something to look at.
const OF_COUNTERS: &[&str] = &["rate", "irate", "increase"];

pub fn check(source: &Source, declared: &BTreeMap<String, Kind>) -> Vec<Finding> {
    let dashboard: Value = match serde_json::from_str(&source.text) {
        Ok(dashboard) => dashboard,
        Err(error) => return vec![problem(format!("{}: no JSON: {error}", source.path))],
    };
    let mut found = Vec::new();
    if uid(&dashboard).is_none() {
        found.push("it has no `uid`, so its address changes with each import".to_owned());
    }
    if dashboard["id"].is_number() {
        found.push("it has an `id`, which belongs to one Grafana".to_owned());
    }
    if dashboard["title"].as_str().is_none_or(str::is_empty) {
        found.push("it has no title".to_owned());
    }
    let panels = panels(&dashboard);
    if panels.is_empty() {
        found.push("it has no panels".to_owned());
    }
    let mut ids = Vec::new();
    for panel in &panels {
        let title = panel["title"].as_str().unwrap_or_default();
        if ids.contains(&&panel["id"]) {
            found.push(format!("two panels have the id {}", panel["id"]));
        }
        ids.push(&panel["id"]);
        if panel["type"] == "row" {
            continue;
        }
        if title.is_empty() || panel["description"].as_str().is_none_or(str::is_empty) {
            found.push(format!("panel {} `{title}` lacks title or description", panel["id"]));
        }
        let queries = queries(panel);
        if queries.is_empty() && panel["type"] != "text" {
            found.push(format!("panel `{title}` asks for nothing"));
        }
        for query in queries {
            found.extend(wrong(query, declared).into_iter().map(|why| format!("panel `{title}`: {why}")));
        }
    }
    for query in
        dashboard["annotations"]["list"].as_array().into_iter().flatten().filter_map(|mark| mark["expr"].as_str())
    {
        found.extend(wrong(query, declared).into_iter().map(|why| format!("annotation: {why}")));
    }
    for variable in dashboard["templating"]["list"].as_array().into_iter().flatten() {
        // `label_values(metric, label)` is Grafana's own, not PromQL.
        let definition = variable["definition"].as_str().unwrap_or_default();
        if let Some((metric, _)) = definition.strip_prefix("label_values(").and_then(|rest| rest.split_once(','))
            && !declared.contains_key(metric.trim())
        {
            found.push(format!("variable {}: no crate has a metric `{metric}`", variable["name"]));
        }
    }
    found.into_iter().map(|what| problem(format!("{}: {what}", source.path))).collect()
}

/// Two dashboards with one `uid` replace each other.
pub fn same_uid(sources: &Sources) -> Vec<Finding> {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    let mut findings = Vec::new();
    let files =
        sources.files.values().filter(|source| source.path.starts_with(GRAFANA) && source.path.ends_with(".json"));
    for source in files {
        let Some(uid) = serde_json::from_str(&source.text).ok().as_ref().and_then(uid).map(str::to_owned) else {
            continue;
        };
        if let Some(other) = seen.insert(uid.clone(), &source.path) {
            findings.push(problem(format!("{} and {other} have the same uid `{uid}`", source.path)));
        }
    }
    findings
}

fn uid(dashboard: &Value) -> Option<&str> {
    dashboard["uid"].as_str().filter(|uid| !uid.is_empty() && uid.len() <= 40)
}

/// Panels, those of folded rows included.
pub fn panels(dashboard: &Value) -> Vec<&Value> {
    let outer = dashboard["panels"].as_array().into_iter().flatten();
    outer.flat_map(|panel| std::iter::once(panel).chain(panel["panels"].as_array().into_iter().flatten())).collect()
}

pub fn queries(panel: &Value) -> Vec<&str> {
    panel["targets"].as_array().into_iter().flatten().filter_map(|target| target["expr"].as_str()).collect()
}

/// What an expression asks for in vain.
pub fn wrong(expression: &str, declared: &BTreeMap<String, Kind>) -> Vec<String> {
    let all = match asked(expression) {
        Ok(all) if all.is_empty() => return vec![format!("`{expression}` asks for no metric")],
        Ok(all) => all,
        Err(why) => return vec![format!("`{expression}`: {why}")],
    };
    let mut found = Vec::new();
    for one in all.into_iter().filter(|one| !OF_PROMETHEUS.contains(&one.metric.as_str())) {
        let (metric, inside) = (one.metric.as_str(), one.inside.as_deref().unwrap_or_default());
        let of_histogram = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|end| metric.strip_suffix(end))
            .any(|base| declared.get(base) == Some(&Kind::Histogram));
        let kind = if of_histogram { Some(&Kind::Counter) } else { declared.get(metric) };
        match kind {
            None => found.push(format!("no crate has a metric `{metric}`")),
            Some(Kind::Histogram) => {
                found.push(format!("`{metric}` is a histogram: ask for its `_bucket`, `_sum` or `_count`"));
            }
            Some(Kind::Counter) if !(OF_COUNTERS.contains(&inside) && one.ranged) => {
                found.push(format!("`{metric}` only grows: take its `rate` or `increase` over a range"));
            }
            Some(Kind::Gauge) if OF_COUNTERS.contains(&inside) => {
                found.push(format!("`{metric}` is a gauge and has no `{inside}`"));
            }
            Some(_) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared() -> BTreeMap<String, Kind> {
        let kinds = [
            ("flywheel_a_total", Kind::Counter),
            ("flywheel_a_depth", Kind::Gauge),
            ("flywheel_a_seconds", Kind::Histogram),
        ];
        kinds.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect()
    }

    #[test]
    fn a_metric_is_asked_for_as_its_kind_allows() {
        for right in [
            "rate(flywheel_a_total[5m])",
            "flywheel_a_depth > 3",
            "max_over_time(flywheel_a_depth[1h])",
            "histogram_quantile(0.5, sum by (le) (rate(flywheel_a_seconds_bucket[5m])))",
            "up{job=\"flywheel\"} == 0",
        ] {
            assert_eq!(wrong(right, &declared()), Vec::<String>::new(), "{right}");
        }
        for (query, what) in [
            ("rate(flywheel_b_total[5m])", "no crate has a metric `flywheel_b_total`"),
            ("go_goroutines", "no crate has"),
            ("flywheel_a_depth_count", "no crate has"),
            ("flywheel_a_total", "only grows"),
            ("flywheel_a_seconds", "is a histogram"),
            ("sum(flywheel_a_seconds_count)", "only grows"),
            ("rate(flywheel_a_depth[5m])", "is a gauge"),
            ("1 + 1", "asks for no metric"),
            ("rate(flywheel_a_total[5m]", "open at its end"),
        ] {
            assert!(wrong(query, &declared()).iter().any(|said| said.contains(what)), "{query}");
        }
    }

    #[test]
    fn a_dashboard_that_nobody_can_rely_on_is_found() {
        let text = r#"{"id": 3, "title": "x", "panels": [
            {"id": 1, "type": "stat", "title": "A", "description": "a", "targets": [{"expr": "flywheel_gone"}]},
            {"id": 1, "type": "row", "title": "R", "panels": [{"id": 2, "type": "stat", "title": "B", "targets": []}]}],
            "annotations": {"list": [{"expr": "changes(flywheel_lost[1m]) > 0"}]},
            "templating": {"list": [{"name": "v", "definition": "label_values(flywheel_mislaid, instance)"}]}}"#;
        let sources = Sources::made_up(&[
            ("dashboards/grafana/a.json", text),
            ("dashboards/grafana/b.json", "{\"uid\": \"u\"}"),
            ("dashboards/grafana/c.json", "{\"uid\": \"u\"}"),
        ]);
        let found: Vec<String> =
            check(&sources.files["dashboards/grafana/a.json"], &declared()).into_iter().map(|f| f.text).collect();
        for what in [
            "no `uid`",
            "an `id`",
            "`flywheel_gone`",
            "two panels",
            "`B` lacks",
            "`B` asks for nothing",
            "`flywheel_lost`",
            "`flywheel_mislaid`",
        ] {
            assert!(found.iter().any(|said| said.contains(what)), "{what}: {found:?}");
        }
        assert_eq!(same_uid(&sources).len(), 1);
    }
}
