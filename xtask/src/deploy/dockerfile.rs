//! Dockerfiles: parsed instruction by instruction. The stages that run are distroless, without root and without a
//! shell, so what they execute stands in exec form.

use std::collections::BTreeSet;

use crate::{
    deploy::compose::pinned,
    report::{Finding, problem},
    sources::{Source, Sources},
};

/// What a Dockerfile may hold; `ADD`, `MAINTAINER` and `ONBUILD` are left out on purpose.
const KNOWN: &[&str] = &[
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

#[derive(Debug, PartialEq)]
pub struct Instruction {
    pub line: usize,
    pub name: String,
    pub rest: String,
}

/// The stages of `source` by name, in order.
pub fn stages(source: &Source) -> Vec<String> {
    let froms = instructions(&source.text).into_iter().filter(|instruction| instruction.name == "FROM");
    froms.map(|from| stage_name(&from.rest).unwrap_or_default()).collect()
}

pub fn check(source: &Source, sources: &Sources) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut at = |line: usize, what: String| findings.push(problem(format!("{}:{line}: {what}", source.path)));
    let all = instructions(&source.text);
    for instruction in all.iter().filter(|instruction| !KNOWN.contains(&instruction.name.as_str())) {
        at(instruction.line, format!("`{}` is no instruction that is used here", instruction.name));
    }
    let mut stages: Vec<(String, Vec<&Instruction>)> = Vec::new();
    for instruction in &all {
        if instruction.name == "FROM" {
            let image = image(&instruction.rest);
            let earlier = stages.iter().any(|(name, _)| name == image);
            if !earlier && !pinned(image) {
                at(instruction.line, format!("the image `{image}` names no version"));
            }
            match stage_name(&instruction.rest) {
                Some(name) => stages.push((name, Vec::new())),
                None => {
                    at(instruction.line, "the stage has no name".to_owned());
                    stages.push((String::new(), Vec::new()));
                }
            }
        } else if let Some((_, stage)) = stages.last_mut() {
            stage.push(instruction);
        } else if instruction.name != "ARG" {
            at(instruction.line, format!("`{}` stands before the first FROM", instruction.name));
        }
    }
    let mut known: BTreeSet<&str> = BTreeSet::new();
    for (name, stage) in &stages {
        for copy in stage.iter().filter(|instruction| instruction.name == "COPY") {
            for why in copied(&copy.rest, &known, sources) {
                at(copy.line, why);
            }
        }
        known.insert(name);
    }
    let froms: Vec<&Instruction> = all.iter().filter(|instruction| instruction.name == "FROM").collect();
    let used: BTreeSet<&str> = froms.iter().map(|from| image(&from.rest)).collect();
    let copied_from: BTreeSet<&str> = all.iter().filter_map(|copy| flag(&copy.rest, "from")).collect();
    let mut runs = 0;
    for ((name, _), from) in stages.iter().zip(&froms) {
        if used.contains(name.as_str()) || copied_from.contains(name.as_str()) {
            continue;
        }
        runs += 1;
        for why in unfit(&inherited(name, &stages, &froms)) {
            at(from.line, format!("the stage `{name}` {why}"));
        }
    }
    if runs == 0 {
        findings.push(problem(format!("{}: no stage is the last of its line, so nothing runs", source.path)));
    }
    findings
}

/// Base image and instructions of a stage, those of the stages that it is built on first.
fn inherited<'a>(
    name: &str,
    stages: &[(String, Vec<&'a Instruction>)],
    froms: &[&'a Instruction],
) -> (&'a str, Vec<&'a Instruction>) {
    let Some(index) = stages.iter().position(|(known, _)| known == name) else { return ("", Vec::new()) };
    let base = image(&froms[index].rest);
    let (root, mut all) = match stages[..index].iter().any(|(known, _)| known == base) {
        true => inherited(base, &stages[..index], froms),
        false => (base, Vec::new()),
    };
    all.extend(stages[index].1.iter().copied());
    (root, all)
}

/// Why a stage may not run.
fn unfit((base, stage): &(&str, Vec<&Instruction>)) -> Vec<String> {
    let last = |name: &str| stage.iter().rev().find(|instruction| instruction.name == name).map(|i| i.rest.as_str());
    let mut found = Vec::new();
    if !base.contains("distroless/") {
        found.push(format!("runs on `{base}`, which is not distroless"));
    }
    let user = last("USER").unwrap_or_default();
    if user.split(':').next().and_then(|id| id.parse::<u32>().ok()).is_none_or(|id| id == 0) {
        found.push(format!("runs as `{user}`; it takes a USER by number, and not root"));
    }
    match last("HEALTHCHECK") {
        None => found.push("has no HEALTHCHECK".to_owned()),
        Some(text) => match text.split_once("CMD") {
            Some((_, command)) if is_list(command) => {}
            _ => found.push("has a HEALTHCHECK that needs a shell, and there is none".to_owned()),
        },
    }
    match last("ENTRYPOINT") {
        Some(command) if is_list(command) => {}
        _ => found.push("has no ENTRYPOINT in exec form".to_owned()),
    }
    if last("CMD").is_some_and(|command| !is_list(command)) {
        found.push("has a CMD that needs a shell".to_owned());
    }
    if stage.iter().any(|instruction| instruction.name == "RUN") {
        found.push("has a RUN, and nothing there runs it".to_owned());
    }
    found
}

fn is_list(text: &str) -> bool {
    serde_json::from_str::<Vec<String>>(text.trim()).is_ok_and(|list| !list.is_empty())
}

/// What is wrong with the sources of a `COPY`.
fn copied(rest: &str, stages: &BTreeSet<&str>, sources: &Sources) -> Vec<String> {
    let words: Vec<&str> = rest.split_whitespace().filter(|word| !word.starts_with("--")).collect();
    let Some((_, from)) = words.split_last().filter(|(_, from)| !from.is_empty()) else {
        return vec!["a COPY needs a source and a target".to_owned()];
    };
    match flag(rest, "from") {
        Some(stage) if stages.contains(stage) => Vec::new(),
        Some(stage) => vec![format!("there is no stage `{stage}` above")],
        None => {
            let absent = from.iter().filter(|path| !exists(path, sources));
            absent.map(|path| format!("`{path}` is not in the repository")).collect()
        }
    }
}

/// A file of the repository, or a folder that holds one.
pub fn exists(path: &str, sources: &Sources) -> bool {
    let path = path.trim_start_matches("./").trim_end_matches('/');
    let folder = format!("{path}/");
    path.is_empty()
        || path == "."
        || sources.files.contains_key(path)
        || sources.files.keys().any(|file| file.starts_with(&folder))
}

fn flag<'a>(rest: &'a str, name: &str) -> Option<&'a str> {
    rest.split_whitespace().find_map(|word| word.strip_prefix("--")?.strip_prefix(name)?.strip_prefix('='))
}

fn image(from: &str) -> &str {
    from.split_whitespace().find(|word| !word.starts_with("--")).unwrap_or_default()
}

fn stage_name(from: &str) -> Option<String> {
    let words: Vec<&str> = from.split_whitespace().collect();
    let at = words.iter().position(|word| word.eq_ignore_ascii_case("as"))?;
    words.get(at + 1).map(|name| (*name).to_owned())
}

/// Instructions with continued lines joined; comments and directives left out. A here-document belongs to its `RUN`.
pub fn instructions(text: &str) -> Vec<Instruction> {
    let mut found: Vec<Instruction> = Vec::new();
    let mut open = false;
    let mut here: Option<String> = None;
    for (index, line) in text.lines().enumerate() {
        if let Some(end) = &here {
            if line.trim() == end {
                here = None;
            }
            continue;
        }
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let (piece, continued) = match trimmed.strip_suffix('\\') {
            Some(piece) => (piece.trim_end(), true),
            None => (trimmed, false),
        };
        match found.last_mut().filter(|_| open) {
            Some(instruction) => {
                instruction.rest.push(' ');
                instruction.rest.push_str(piece);
            }
            None => {
                let (name, rest) = piece.split_once(char::is_whitespace).unwrap_or((piece, ""));
                found.push(Instruction {
                    line: index + 1,
                    name: name.to_ascii_uppercase(),
                    rest: rest.trim().to_owned(),
                });
            }
        }
        open = continued;
        if !continued && let Some((_, rest)) = piece.split_once("<<") {
            let word: String =
                rest.trim_start_matches(['-', '"', '\'']).chars().take_while(char::is_ascii_alphanumeric).collect();
            here = (!word.is_empty()).then_some(word);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let path = "compose/Dockerfile";
        let sources = Sources::made_up(&[(path, text), ("cli/src/main.rs", "fn main() {}")]);
        check(&sources.files[path], &sources).into_iter().map(|finding| finding.text).collect()
    }

    const GOOD: &str = "# syntax=docker/dockerfile:1\nFROM rust:1.95-bookworm AS build\nCOPY cli ./cli\nRUN cargo build \\\n  # why\n  && true\n\
        FROM gcr.io/distroless/cc-debian12:nonroot AS run\nCOPY --from=build /a /b\nUSER 10001:10001\n\
        HEALTHCHECK --interval=5s CMD [\"/b\", \"status\"]\nENTRYPOINT [\"/b\"]\n";

    #[test]
    fn a_good_file_has_no_problem() {
        assert_eq!(found(GOOD), Vec::<String>::new());
        let built_on = format!("{GOOD}FROM run AS more\nCOPY --from=build /c /d\n");
        assert_eq!(found(&built_on), Vec::<String>::new(), "user, entry point and health come from the stage below");
    }

    #[test]
    fn each_way_to_run_unsafely_is_found() {
        for (from, to, what) in [
            ("gcr.io/distroless/cc-debian12:nonroot", "debian:12", "not distroless"),
            ("USER 10001:10001", "USER 0", "not root"),
            ("USER 10001:10001", "USER nonroot", "by number"),
            ("USER 10001:10001\n", "", "by number"),
            ("CMD [\"/b\", \"status\"]", "CMD /b status", "needs a shell"),
            ("HEALTHCHECK --interval=5s CMD [\"/b\", \"status\"]\n", "", "no HEALTHCHECK"),
            ("ENTRYPOINT [\"/b\"]", "ENTRYPOINT /b", "exec form"),
            ("USER 10001", "RUN true\nUSER 10001", "nothing there runs it"),
            ("rust:1.95-bookworm", "rust", "names no version"),
            ("rust:1.95-bookworm", "rust:latest", "names no version"),
            ("--from=build", "--from=bild", "no stage `bild`"),
            ("COPY cli", "COPY cly", "`cly` is not in the repository"),
            ("COPY cli", "ADD cli", "`ADD` is no instruction"),
            ("COPY cli", "COPPY cli", "`COPPY` is no instruction"),
            (" AS build", "", "the stage has no name"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD, "{from}");
            assert!(found(&text).iter().any(|said| said.contains(what)), "{what}: {:?}", found(&text));
        }
    }
}
