//! What must not stand in the sources: unfinished work, one machine's paths, I/O and clocks in pure crates, files
//! that hold two ideas.

use crate::{
    layers::fits,
    report::{Finding, problem, warning},
    sources::{Source, Sources},
    workspace::Workspace,
};

/// A file longer than this probably holds two ideas.
const LONG_FILE_LINES: usize = 600;

/// Pieces of code that are never finished work. Split, so that this file does not hold them itself.
const UNFINISHED: &[&str] = &[
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("db", "g!("),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
];
/// Beginnings of paths that exist on one machine only.
const MACHINE_PATHS: &[&str] =
    &[concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];

/// Folders of crates whose code asks for no file, socket, clock or outer randomness.
const PURE: &[&str] = &["schemas/events", "games/*", "learn/policy"];
const OUTSIDE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::process",
    "std::thread::sleep",
    "SystemTime::now",
    "Instant::now",
    "rand::rng()",
    "thread_rng",
];

pub fn check(workspace: &Workspace, sources: &Sources) -> Vec<Finding> {
    let mut findings: Vec<Finding> = sources.files.values().flat_map(everywhere).collect();
    for member in &workspace.members {
        let pure = PURE.iter().any(|pattern| fits(pattern, &member.folder));
        for source in sources.rust_of(&member.folder).filter(|source| !source.is_test()) {
            findings.extend(unwraps(source));
            if pure {
                findings.extend(outside(source));
            }
        }
    }
    findings
}

fn is_checked_text(path: &str) -> bool {
    let by_name = [".rs", ".toml", ".md", ".sh", ".ts", ".svelte", ".py", ".json", ".mjs", "Makefile", ".ci/run"];
    by_name.iter().any(|end| path.ends_with(end)) && !path.ends_with("package-lock.json")
}

fn everywhere(source: &Source) -> Vec<Finding> {
    if !is_checked_text(&source.path) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for word in UNFINISHED.iter().filter(|word| line.contains(*word)) {
            findings.push(problem(format!("{}:{}: `{word}` is unfinished work", source.path, index + 1)));
        }
        for path in MACHINE_PATHS.iter().filter(|path| names_path(line, path)) {
            findings.push(problem(format!("{}:{}: `{path}…` is a path of one machine", source.path, index + 1)));
        }
    }
    let lines = source.text.lines().count();
    if source.is_rust() && lines > LONG_FILE_LINES {
        findings.push(warning(format!(
            "{} has {lines} lines; past {LONG_FILE_LINES} it probably holds two ideas",
            source.path
        )));
    }
    findings
}

/// Whether a path begins there, and not in the middle of a longer one or of an address.
fn names_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}/".contains(c)))
}

fn unwraps(source: &Source) -> Vec<Finding> {
    // A conformance suite is test code that lives in a library.
    if source.path.contains("conformance") || source.path.starts_with("xtask/") || source.path.starts_with("benches/") {
        return Vec::new();
    }
    let needle = ".unwrap()";
    let lines = source.code(true).filter(|(_, line)| line.contains(needle));
    lines
        .map(|(number, _)| {
            problem(format!("{}:{number}: `unwrap` is for tests; `expect` says why it holds", source.path))
        })
        .collect()
}

fn outside(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in source.code(true) {
        for word in OUTSIDE.iter().filter(|word| line.contains(*word)) {
            findings.push(problem(format!("{}:{number}: `{word}` in a crate without I/O and clock", source.path)));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::made_up::{member, workspace};

    fn found(path: &str, text: &str) -> Vec<String> {
        let house = workspace(vec![member("flywheel-tank", "games/tank", &[]), member("flywheel-cli", "cli", &[])]);
        check(&house, &Sources::made_up(&[(path, text)])).into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn unfinished_work_is_found_even_in_a_comment() {
        let text = format!("// {} later\n", UNFINISHED[3]);
        assert_eq!(found("docs/a.md", &text).len(), 1);
    }

    #[test]
    fn one_machines_paths_are_found_and_addresses_are_not() {
        let path = format!("let p = \"{}me/x\";", MACHINE_PATHS[0]);
        assert_eq!(found("cli/src/a.rs", &path).len(), 1);
        let address =
            format!("see https://host{}x and $DIR{}x", MACHINE_PATHS[1], MACHINE_PATHS[2]).replace("$DIR", "${DIR}");
        assert_eq!(found("cli/src/a.rs", &address), Vec::<String>::new());
    }

    #[test]
    fn unwrap_is_found_outside_tests_alone() {
        let text = "fn a() { b().unwrap(); }\n#[cfg(test)]\nmod tests { fn c() { d().unwrap(); } }\n";
        assert_eq!(found("cli/src/a.rs", text).len(), 1);
        assert_eq!(found("cli/tests/a.rs", text), Vec::<String>::new());
    }

    #[test]
    fn rules_that_look_at_the_clock_are_found() {
        let text = "let now = std::time::Instant::now();";
        assert_eq!(found("games/tank/src/a.rs", text).len(), 1);
        assert_eq!(found("cli/src/a.rs", text), Vec::<String>::new());
    }
}
