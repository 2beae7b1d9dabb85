//! The workspace as `cargo metadata` and the manifests tell it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

/// How a crate depends on another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Normal,
    Build,
    Dev,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// The package's name, not what a manifest calls it.
    pub package: String,
    /// What sources call it: `-` replaced, renames applied.
    pub ident: String,
    pub kind: Kind,
}

/// One crate of ours.
#[derive(Debug, Clone)]
pub struct Member {
    pub name: String,
    /// Relative to the root, such as `storage/lake`.
    pub folder: String,
    pub dependencies: Vec<Dependency>,
}

/// One package of the build, ours or not.
#[derive(Debug, Clone)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub licence: Option<String>,
    /// It ships a licence file instead of an expression.
    pub has_licence_file: bool,
    pub ours: bool,
    /// Ids of the packages that its normal build links.
    pub links: Vec<String>,
}

#[derive(Debug, Default)]
pub struct Workspace {
    pub root: PathBuf,
    pub members: Vec<Member>,
    /// By cargo's package id.
    pub packages: BTreeMap<String, Package>,
    /// The keys of `[workspace.dependencies]`.
    pub declared: BTreeSet<String>,
}

impl Workspace {
    /// Asks cargo about the workspace that this program was built in, for the host alone.
    pub fn load() -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace's root")?;
        let host = host_triple()?;
        let output = cargo(root)
            .args(["metadata", "--format-version=1", "--locked", "--filter-platform", &host])
            .output()
            .context("running `cargo metadata`")?;
        ensure!(output.status.success(), "`cargo metadata` failed:\n{}", String::from_utf8_lossy(&output.stderr));
        let raw: Raw = serde_json::from_slice(&output.stdout).context("reading what `cargo metadata` said")?;
        let manifest = fs::read_to_string(root.join("Cargo.toml")).context("reading Cargo.toml")?;
        let manifest: toml::Table = manifest.parse().context("reading Cargo.toml")?;
        let declared =
            manifest["workspace"]["dependencies"].as_table().context("`workspace.dependencies` is a table")?;
        Ok(Self { root: root.to_owned(), declared: declared.keys().cloned().collect(), ..raw.digest(root)? })
    }

    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }
}

/// The cargo that runs us, in the workspace's root.
pub fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

fn host_triple() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("running `rustc -vV`")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match text.lines().find_map(|line| line.strip_prefix("host: ")) {
        Some(host) => Ok(host.to_owned()),
        None => bail!("`rustc -vV` names no host"),
    }
}

#[derive(Deserialize)]
struct Raw {
    packages: Vec<RawPackage>,
    workspace_members: BTreeSet<String>,
    resolve: RawResolve,
}

#[derive(Deserialize)]
struct RawPackage {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    license_file: Option<String>,
    manifest_path: PathBuf,
    dependencies: Vec<RawDependency>,
}

#[derive(Deserialize)]
struct RawDependency {
    name: String,
    rename: Option<String>,
    kind: Option<String>,
}

#[derive(Deserialize)]
struct RawResolve {
    nodes: Vec<RawNode>,
}

#[derive(Deserialize)]
struct RawNode {
    id: String,
    deps: Vec<RawLink>,
}

#[derive(Deserialize)]
struct RawLink {
    pkg: String,
    dep_kinds: Vec<RawLinkKind>,
}

#[derive(Deserialize)]
struct RawLinkKind {
    kind: Option<String>,
}

impl Raw {
    fn digest(self, root: &Path) -> anyhow::Result<Workspace> {
        let mut links: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for node in self.resolve.nodes {
            let normal = node.deps.into_iter().filter(|link| link.dep_kinds.iter().any(|kind| kind.kind.is_none()));
            links.insert(node.id, normal.map(|link| link.pkg).collect());
        }
        let mut workspace = Workspace::default();
        for package in self.packages {
            let ours = self.workspace_members.contains(&package.id);
            if ours {
                let folder = package.manifest_path.parent().context("a manifest lies in a folder")?;
                let folder = folder.strip_prefix(root).context("our crates lie under the root")?;
                workspace.members.push(Member {
                    name: package.name.clone(),
                    folder: folder.to_string_lossy().replace('\\', "/"),
                    dependencies: package.dependencies.iter().map(RawDependency::digest).collect(),
                });
            }
            let digest = Package {
                name: package.name,
                version: package.version,
                licence: package.license,
                has_licence_file: package.license_file.is_some(),
                ours,
                links: links.remove(&package.id).unwrap_or_default(),
            };
            workspace.packages.insert(package.id, digest);
        }
        workspace.members.sort_by(|a, b| a.folder.cmp(&b.folder));
        Ok(workspace)
    }
}

impl RawDependency {
    fn digest(&self) -> Dependency {
        Dependency {
            package: self.name.clone(),
            ident: self.rename.as_ref().unwrap_or(&self.name).replace('-', "_"),
            kind: match self.kind.as_deref() {
                Some("dev") => Kind::Dev,
                Some("build") => Kind::Build,
                _ => Kind::Normal,
            },
        }
    }
}

/// Made-up workspaces for the rules' own tests.
#[cfg(test)]
pub mod made_up {
    use super::*;

    pub fn member(name: &str, folder: &str, dependencies: &[&str]) -> Member {
        let dependencies = dependencies.iter().map(|dependency| {
            let (kind, package) = match dependency.split_once(':') {
                Some(("dev", package)) => (Kind::Dev, package),
                _ => (Kind::Normal, *dependency),
            };
            Dependency { package: package.to_owned(), ident: package.replace('-', "_"), kind }
        });
        Member { name: name.to_owned(), folder: folder.to_owned(), dependencies: dependencies.collect() }
    }

    /// Each member's normal dependencies become links of the build; packages that are no members link nothing.
    pub fn workspace(members: Vec<Member>) -> Workspace {
        let mut workspace = Workspace::default();
        let ours: BTreeSet<String> = members.iter().map(|member| member.name.clone()).collect();
        for member in &members {
            let links = member.dependencies.iter().filter(|dependency| dependency.kind == Kind::Normal);
            let links: Vec<String> = links.map(|dependency| dependency.package.clone()).collect();
            for link in &links {
                workspace.packages.entry(link.clone()).or_insert_with(|| package(link, ours.contains(link)));
            }
            workspace.packages.insert(member.name.clone(), Package { links, ..package(&member.name, true) });
        }
        workspace.members = members;
        workspace
    }

    pub fn package(name: &str, ours: bool) -> Package {
        Package {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            licence: Some("MIT".to_owned()),
            has_licence_file: false,
            ours,
            links: Vec::new(),
        }
    }
}
