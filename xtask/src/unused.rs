//! Every declared dependency is used: by a manifest, and by the sources of the crate that names it.

use std::collections::BTreeSet;

use crate::{
    report::{Finding, problem},
    sources::{Sources, has_word},
    workspace::Workspace,
};

/// Dependencies that no source mentions, each with its reason.
const EXCEPTIONS: &[(&str, &str)] = &[
    // Direct, so that the build script learns from it where libtorch lies (`DEP_TCH_LIBTORCH_LIB`).
    ("flywheel-train", "torch-sys"),
    ("flywheel-torch", "torch-sys"),
    // `tests/s3` runs the cases of the lake and of the registry, which are written with them.
    ("flywheel-backends", "arrow"),
    ("flywheel-backends", "flywheel-policy"),
    ("flywheel-backends", "flywheel-tables"),
    // `tests/checkpoints` starts the servers of `storage/backends/tests/s3`, which name things by it.
    ("flywheel-train", "uuid"),
    // So does `tests/torture.rs`.
    ("flywheel-it", "flywheel-backends"),
    ("flywheel-it", "object_store"),
    ("flywheel-it", "uuid"),
];

pub fn check(workspace: &Workspace, sources: &Sources) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut named: BTreeSet<&str> = BTreeSet::new();
    for member in &workspace.members {
        for dependency in &member.dependencies {
            named.insert(&dependency.package);
            let excused = EXCEPTIONS.contains(&(member.name.as_str(), dependency.package.as_str()));
            if !excused && !is_mentioned(sources, &member.folder, &dependency.ident) {
                findings.push(problem(format!(
                    "{}/Cargo.toml names `{}`, and no source of the crate does; remove the line",
                    member.folder, dependency.package
                )));
            }
        }
    }
    for declared in &workspace.declared {
        // Ours are listed whether somebody depends on them or not.
        if !named.contains(declared.as_str()) && workspace.member(declared).is_none() {
            findings.push(problem(format!("Cargo.toml declares `{declared}`, and no crate names it; remove the line")));
        }
    }
    findings
}

fn is_mentioned(sources: &Sources, folder: &str, ident: &str) -> bool {
    sources.rust_of(folder).any(|source| source.code(false).any(|(_, line)| has_word(&line, ident)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::made_up::{member, workspace};

    #[test]
    fn a_dependency_that_only_a_comment_mentions_is_found() {
        let mut house = workspace(vec![member("flywheel-lake", "storage/lake", &["serde", "uuid"])]);
        house.declared = ["serde".to_owned(), "uuid".to_owned(), "toml".to_owned()].into();
        let sources = Sources::made_up(&[("storage/lake/src/lib.rs", "use serde::Serialize;\n// uuid is nice\n")]);
        assert_eq!(
            check(&house, &sources),
            [
                problem("storage/lake/Cargo.toml names `uuid`, and no source of the crate does; remove the line"),
                problem("Cargo.toml declares `toml`, and no crate names it; remove the line"),
            ]
        );
    }
}
