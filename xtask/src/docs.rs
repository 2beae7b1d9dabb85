//! Docs are true to the tree: links lead to files, and every test that they call a proof exists.

use std::collections::BTreeSet;

use crate::{
    report::{Finding, problem, warning},
    sources::{Source, Sources},
    workspace::Workspace,
};

pub fn check(workspace: &Workspace, sources: &Sources) -> Vec<Finding> {
    let tests = functions(sources);
    let mut findings = Vec::new();
    for source in sources.files.values().filter(|source| source.path.ends_with(".md")) {
        for (line, target) in links(&source.text) {
            let path = workspace.root.join(&source.path).parent().map(|folder| folder.join(&target));
            if !path.is_some_and(|path| path.exists()) {
                findings.push(problem(format!("{}:{line}: the link `{target}` leads nowhere", source.path)));
            }
        }
        if source.path.starts_with("docs/") {
            findings.extend(proofs(source, &tests));
        }
    }
    if let Some(readme) = sources.files.get("README.md") {
        let pending = readme.text.lines().filter(|line| line.ends_with("| pending |")).count();
        if pending > 0 {
            findings.push(warning(format!("README.md: {pending} figures are pending; a release has them measured")));
        }
    }
    findings
}

/// Names of all functions of the Rust sources.
fn functions(sources: &Sources) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for source in sources.files.values().filter(|source| source.is_rust()) {
        for piece in source.text.split("fn ").skip(1) {
            names.insert(piece.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    names
}

/// Sentences in back ticks, such as `a_crash_loses_nothing`, must be tests.
fn proofs(source: &Source, tests: &BTreeSet<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for quoted in line.split('`').skip(1).step_by(2) {
            let is_sentence = quoted.matches('_').count() >= 4
                && quoted.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
                && !quoted.starts_with("flywheel_");
            if is_sentence && !tests.contains(quoted) {
                findings.push(problem(format!("{}:{}: there is no test `{quoted}`", source.path, index + 1)));
            }
        }
    }
    findings
}

/// Targets of links to files, without their anchors, by line.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for piece in line.split("](").skip(1) {
            let Some(target) = piece.split(')').next() else { continue };
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !file.starts_with("mailto:") {
                links.push((index + 1, file.to_owned()));
            }
        }
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::made_up::workspace;

    #[test]
    fn a_dead_link_and_an_invented_proof_are_found() {
        let sources = Sources::made_up(&[
            ("docs/a.md", "[x](nowhere.md) [y](https://host/x) [z](#here)\nproved by `a_crash_loses_no_event`\n"),
            ("docs/b.md", "proved by `a_stop_loses_no_event`, see `retry_max`\n"),
            ("a/src/lib.rs", "async fn a_stop_loses_no_event() {}\n"),
        ]);
        let found: Vec<String> = check(&workspace(vec![]), &sources).into_iter().map(|finding| finding.text).collect();
        assert_eq!(
            found,
            [
                "docs/a.md:1: the link `nowhere.md` leads nowhere",
                "docs/a.md:2: there is no test `a_crash_loses_no_event`"
            ]
        );
    }

    #[test]
    fn links_in_code_are_no_links() {
        assert_eq!(links("```\n[a](b)\n```\n[c](d#e)\n"), [(4, "d".to_owned())]);
    }
}
