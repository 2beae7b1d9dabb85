//! `group/name` is the crate `flywheel-name`; where two groups have the same name, the exceptions say which is which.

use std::collections::BTreeMap;

use crate::{
    report::{Finding, problem},
    workspace::Workspace,
};

/// Folders whose crate has another name than the rule gives, each with its reason.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("games/api", "flywheel-game-api"),       // `flywheel-api` would say nothing
    ("servers/tank", "flywheel-tank-server"), // `flywheel-tank` is the game
    ("jobs/runtime", "flywheel-jobs"),        // `flywheel-runtime` would say nothing
    ("clients/rust", "flywheel-client"),      // a user's `Cargo.toml` names it; `flywheel-rust` would say nothing
    ("xtask", "xtask"),                       // `cargo xtask`
];

pub fn check(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut by_name: BTreeMap<&str, &str> = BTreeMap::new();
    for member in &workspace.members {
        let wanted = expected(&member.folder);
        if member.name != wanted {
            findings
                .push(problem(format!("the crate in {} is named `{}`, not `{wanted}`", member.folder, member.name)));
        }
        if let Some(other) = by_name.insert(&member.name, &member.folder) {
            findings.push(problem(format!("{other} and {} are both named `{}`", member.folder, member.name)));
        }
    }
    findings
}

fn expected(folder: &str) -> String {
    match EXCEPTIONS.iter().find(|(exception, _)| *exception == folder) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("flywheel-{}", folder.rsplit('/').next().unwrap_or(folder)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::made_up::{member, workspace};

    #[test]
    fn a_crate_is_named_after_its_folder_or_listed() {
        let good =
            [("flywheel-lake", "storage/lake"), ("flywheel-tank-server", "servers/tank"), ("flywheel-cli", "cli")];
        assert!(check(&workspace(good.map(|(name, folder)| member(name, folder, &[])).to_vec())).is_empty());
        let found = check(&workspace(vec![member("tables", "schemas/tables", &[])]));
        assert_eq!(found, [problem("the crate in schemas/tables is named `tables`, not `flywheel-tables`")]);
    }
}
