//! The two programs that come with the toolchain: rustfmt and clippy.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    report::{Finding, problem, warning},
    workspace::{Workspace, cargo},
};

pub fn rustfmt(workspace: &Workspace) -> Vec<Finding> {
    let mut command = cargo(&workspace.root);
    command.args(["fmt", "--all", "--", "--check", "--files-with-diff"]);
    match command.output() {
        Ok(output) if output.status.success() => Vec::new(),
        Ok(output) => {
            let files = String::from_utf8_lossy(&output.stdout).into_owned();
            let mut findings: Vec<Finding> =
                files.lines().map(|file| problem(relative(&workspace.root, file))).collect();
            if findings.is_empty() {
                findings.push(problem(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
            }
            findings.push(warning("`cargo fmt --all` mends these"));
            findings
        }
        Err(error) => vec![problem(format!("`cargo fmt` does not run: {error}"))],
    }
}

/// Clippy over everything; the trainer's code is looked at where libtorch is there.
pub fn clippy(workspace: &Workspace) -> Vec<Finding> {
    let mut command = cargo(&workspace.root);
    command.args(["clippy", "--locked", "--quiet", "--workspace", "--all-targets"]);
    let mut findings = Vec::new();
    if !with_trainer(&mut command, workspace) {
        findings.push(warning("libtorch is not here (`make libtorch`), so the trainer's code was not looked at"));
    }
    command.args(["--", "-D", "warnings", "-D", "clippy::undocumented_unsafe_blocks"]);
    findings.extend(passes(command, "clippy"));
    findings
}

/// Whether everything compiles with the seeded faults of `make seeded-bugs` in it, which no other build has.
pub fn seeded(workspace: &Workspace) -> Vec<Finding> {
    let mut command = cargo(&workspace.root);
    command.args(["check", "--locked", "--quiet", "--workspace"]);
    with_trainer(&mut command, workspace);
    command.env("RUSTC_WORKSPACE_WRAPPER", workspace.root.join("scripts/rustc-with-faults.sh"));
    passes(command, "the build with seeded faults").into_iter().collect()
}

/// Adds the trainer's code where libtorch is there; whether it is.
fn with_trainer(command: &mut Command, workspace: &Workspace) -> bool {
    let folder = libtorch(&workspace.root);
    if let Some(folder) = &folder {
        command.args(["--features", "flywheel-train/torch"]).env("LIBTORCH", folder);
    }
    folder.is_some()
}

/// Its messages go to the terminal as they come.
fn passes(mut command: Command, name: &str) -> Option<Finding> {
    match command.status() {
        Ok(status) if status.success() => None,
        Ok(_) => Some(problem(format!("{name} has complaints; they stand above"))),
        Err(error) => Some(problem(format!("{name} does not run: {error}"))),
    }
}

/// Where `make libtorch` has put libtorch, if its install was finished.
fn libtorch(root: &Path) -> Option<PathBuf> {
    let folder = root.join(".libtorch");
    let names = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
    };
    let has_prefix =
        |path: &Path, prefix: &str| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    names(&folder).iter().find(|path| has_prefix(path, ".flywheel-libtorch-"))?;
    let python = names(&folder.join("lib")).into_iter().find(|path| has_prefix(path, "python3."))?;
    let torch = python.join("site-packages/torch");
    torch.is_dir().then_some(torch)
}

fn relative(root: &Path, file: &str) -> String {
    let shown = Path::new(file).strip_prefix(root).unwrap_or(Path::new(file));
    format!("{} is not formatted", shown.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_shown_relative_to_the_root() {
        assert_eq!(relative(Path::new("/a/b"), "/a/b/c/d.rs"), "c/d.rs is not formatted");
        assert_eq!(relative(Path::new("/a/b"), "/x/d.rs"), "/x/d.rs is not formatted");
    }
}
