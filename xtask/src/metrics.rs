//! Metrics: named `flywheel_…` with their unit last, counters `…_total`, and every one that is emitted is described.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    report::{Finding, problem},
    sources::{Source, Sources},
    workspace::Workspace,
};

const KINDS: &[&str] = &["counter", "gauge", "histogram"];
/// Last words of a histogram's name: what is measured is measured in something.
const UNITS: &[&str] =
    &["seconds", "bytes", "events", "rows", "records", "ticks", "ratio", "versions", "steps", "games"];

/// What a metric is to those who ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn of(name: &str) -> Self {
        match name {
            "counter" => Self::Counter,
            "gauge" => Self::Gauge,
            _ => Self::Histogram,
        }
    }
}

/// One call of a macro of the `metrics` facade.
#[derive(Debug)]
struct Call {
    path: String,
    line: usize,
    kind: &'static str,
    describes: bool,
    /// The first argument: a literal, or the last name of a path such as `metrics::ROWS`.
    argument: String,
}

pub fn check(workspace: &Workspace, sources: &Sources) -> Vec<Finding> {
    let mut findings = Vec::new();
    for member in workspace.members.iter().filter(|member| member.folder != "xtask") {
        let files: Vec<&Source> = sources.rust_of(&member.folder).filter(|source| !source.is_test()).collect();
        findings.extend(of_crate(&files));
    }
    findings
}

/// Every metric that a crate declares. Where only a loop over a list describes it, its ending tells the kind.
pub fn declared(workspace: &Workspace, sources: &Sources) -> BTreeMap<String, Kind> {
    let mut declared = BTreeMap::new();
    for member in workspace.members.iter().filter(|member| member.folder != "xtask") {
        let files: Vec<&Source> = sources.rust_of(&member.folder).filter(|source| !source.is_test()).collect();
        declared.extend(declared_of(&files));
    }
    declared
}

fn declared_of(files: &[&Source]) -> BTreeMap<String, Kind> {
    let constants = constants(files);
    let calls: Vec<Call> = files.iter().flat_map(|source| calls(source)).collect();
    let mut declared = BTreeMap::new();
    if calls.iter().any(|call| call.describes && resolve(call, &constants).is_none()) {
        for name in listed(files, &constants) {
            let kind = match name.rsplit('_').next() {
                Some("total") => Kind::Counter,
                Some("seconds") => Kind::Histogram,
                _ => Kind::Gauge,
            };
            declared.insert(name, kind);
        }
    }
    for call in &calls {
        if let Some(name) = resolve(call, &constants) {
            declared.insert(name, Kind::of(call.kind));
        }
    }
    declared
}

fn of_crate(files: &[&Source]) -> Vec<Finding> {
    let constants = constants(files);
    let calls: Vec<Call> = files.iter().flat_map(|source| calls(source)).collect();
    // A crate that describes its metrics in a loop over a list names each of them in that list.
    let in_a_loop = calls.iter().any(|call| call.describes && resolve(call, &constants).is_none());
    let mut described: BTreeSet<String> =
        calls.iter().filter(|call| call.describes).filter_map(|call| resolve(call, &constants)).collect();
    if in_a_loop {
        described.extend(listed(files, &constants));
    }
    let mut findings = Vec::new();
    for call in &calls {
        let place = format!("{}:{}", call.path, call.line);
        let Some(name) = resolve(call, &constants) else {
            // A variable is checked where its values are named.
            if !call.describes
                && call.argument.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
            {
                findings.push(problem(format!("{place}: the metric `{}` has no constant name", call.argument)));
            }
            continue;
        };
        let parts: Vec<&str> = name.split('_').collect();
        let lower = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if parts.first() != Some(&"flywheel") || parts.len() < 3 || !lower {
            findings.push(problem(format!("{place}: `{name}` is not `flywheel_<area>_<what>_<unit>`")));
        }
        match call.kind {
            "counter" if !name.ends_with("_total") => {
                findings.push(problem(format!("{place}: the counter `{name}` does not end in `_total`")));
            }
            "histogram" if !UNITS.iter().any(|unit| parts.last() == Some(unit)) => {
                findings
                    .push(problem(format!("{place}: the histogram `{name}` ends in no unit ({})", UNITS.join(", "))));
            }
            _ => {}
        }
        if !call.describes && !described.contains(&name) {
            findings.push(problem(format!("{place}: `{name}` is emitted and nowhere in its crate described")));
        }
    }
    findings
}

/// `const ROWS: &str = "flywheel_lake_rows_total";` by name.
fn constants(files: &[&Source]) -> BTreeMap<String, String> {
    let mut constants = BTreeMap::new();
    for source in files {
        // rustfmt breaks a long declaration after its `=`.
        let text: String = source.code(true).map(|(_, line)| line + " ").collect();
        for declaration in text.split("const ").skip(1) {
            let Some((head, rest)) = declaration.split_once('=') else { continue };
            let Some((name, kind)) = head.split_once(':') else { continue };
            let value = rest.trim_start();
            if let Some(value) = value.strip_prefix('"').and_then(|value| value.split('"').next())
                && kind.trim().ends_with("str")
            {
                constants.insert(name.trim().to_owned(), value.to_owned());
            }
        }
    }
    constants
}

fn calls(source: &Source) -> Vec<Call> {
    let lines: Vec<String> = source.code(true).map(|(_, line)| line).collect();
    let mut calls = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        for &kind in KINDS {
            let needle = format!("{kind}!(");
            for (at, _) in line.match_indices(&needle) {
                let before = &line[..at];
                let describes = before.ends_with("describe_");
                let boundary = before.strip_suffix("describe_").unwrap_or(before);
                if boundary.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                    continue;
                }
                // The first argument may stand on the next line.
                let mut rest = line[at + needle.len()..].trim().to_owned();
                if rest.is_empty() {
                    rest = lines.get(index + 1).map(|next| next.trim().to_owned()).unwrap_or_default();
                }
                calls.push(Call {
                    path: source.path.clone(),
                    line: index + 1,
                    kind,
                    describes,
                    argument: first_argument(&rest),
                });
            }
        }
    }
    calls
}

fn first_argument(text: &str) -> String {
    if let Some(literal) = text.strip_prefix('"') {
        return format!("\"{}", literal.split('"').next().unwrap_or_default());
    }
    let path = text.split([',', ')', ' ']).next().unwrap_or_default();
    path.rsplit("::").next().unwrap_or_default().to_owned()
}

fn resolve(call: &Call, constants: &BTreeMap<String, String>) -> Option<String> {
    match call.argument.strip_prefix('"') {
        Some(literal) => Some(literal.to_owned()),
        None => constants.get(&call.argument).cloned(),
    }
}

/// Names that stand in a `metrics.rs` more often than their declaration alone, or as a literal of a list.
fn listed(files: &[&Source], constants: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut listed = BTreeSet::new();
    for source in files.iter().filter(|source| source.path.ends_with("metrics.rs")) {
        let text: String = source.code(true).map(|(_, line)| line + "\n").collect();
        for (name, value) in constants {
            let uses = text.lines().filter(|line| crate::sources::has_word(line, name)).count();
            if uses >= 2 {
                listed.insert(value.clone());
            }
        }
        for literal in text.split('"').skip(1).step_by(2).filter(|literal| literal.starts_with("flywheel_")) {
            if !constants.values().any(|value| value == literal) {
                listed.insert(literal.to_owned());
            }
        }
    }
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let source = Source { path: "a/src/metrics.rs".into(), text: text.into() };
        of_crate(&[&source]).into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn described_metrics_with_good_names_pass() {
        let text = "const ROWS: &str = \"flywheel_lake_rows_total\";\nconst SECONDS: &str =\n    \"flywheel_lake_commit_seconds\";\n\
                    fn d() { describe_counter!(ROWS, \"rows\"); metrics::describe_histogram!(SECONDS, \"time\"); }\n\
                    fn e() { counter!(crate::metrics::ROWS, \"table\" => t).increment(1); metrics::histogram!(\nSECONDS).record(1.0); }\n";
        assert_eq!(found(text), Vec::<String>::new());
    }

    #[test]
    fn a_metric_that_nobody_describes_is_found() {
        assert_eq!(
            found("fn e() { metrics::gauge!(\"flywheel_lake_lag_rows\").set(1.0); }"),
            ["a/src/metrics.rs:1: `flywheel_lake_lag_rows` is emitted and nowhere in its crate described"]
        );
    }

    #[test]
    fn names_outside_the_convention_are_found() {
        let text = found(
            "fn d() { describe_counter!(\"lake_rows\", \"x\"); describe_histogram!(\"flywheel_lake_wait\", \"x\"); }",
        );
        assert_eq!(text.len(), 3, "{text:?}");
        assert!(
            text[0].contains("is not `flywheel_") && text[1].contains("_total") && text[2].contains("ends in no unit")
        );
    }

    #[test]
    fn kinds_come_from_the_macro_or_from_the_name() {
        let text = "pub const ROWS: &str = \"flywheel_lake_rows_total\";\npub const WAIT: &str = \"flywheel_lake_wait_seconds\";\n\
                    pub const OPEN: &str = \"flywheel_lake_open\";\nconst ALL: &[&str] = &[ROWS, WAIT, OPEN];\n\
                    fn d() { for name in ALL { describe_gauge!(*name, \"x\"); } }\nfn e() { gauge!(\"flywheel_lake_now_seconds\").set(1.0); }\n";
        let source = Source { path: "a/src/metrics.rs".into(), text: text.into() };
        let declared: Vec<(String, Kind)> = declared_of(&[&source]).into_iter().collect();
        let expected = [
            ("flywheel_lake_now_seconds", Kind::Gauge),
            ("flywheel_lake_open", Kind::Gauge),
            ("flywheel_lake_rows_total", Kind::Counter),
            ("flywheel_lake_wait_seconds", Kind::Histogram),
        ];
        assert_eq!(declared, expected.map(|(name, kind)| (name.to_owned(), kind)));
    }

    #[test]
    fn a_list_that_a_loop_describes_counts() {
        let text = "pub const ROWS: &str = \"flywheel_lake_rows_total\";\nconst ALL: &[(&str, &str)] = &[(ROWS, \"rows\")];\n\
                    fn d() { for (name, text) in ALL { describe_counter!(*name, *text); } }\nfn e() { counter!(ROWS).increment(1); }\n";
        assert_eq!(found(text), Vec::<String>::new());
    }
}
