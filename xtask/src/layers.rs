//! The arrows between crates: who may depend on whom, who alone links a heavy library, who does no I/O.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    report::{Finding, problem},
    workspace::{Kind, Member, Workspace},
};

struct Layer {
    name: &'static str,
    /// Folders of its crates; `*` stands for one name. The first layer that fits a folder has it.
    folders: &'static [&'static str],
    may_use: &'static [&'static str],
}

/// The layer table of `docs/architecture.md`. Programs come first: they name single folders out of groups.
const LAYERS: &[Layer] = &[
    Layer {
        name: "programs",
        folders: &["cli", "jobs/train", "benches", "tests/*", "xtask"],
        may_use: &[
            "words", "seams", "games", "logs", "torch", "stores", "flows", "jobs", "wiring", "serving", "programs",
        ],
    },
    Layer { name: "words", folders: &["schemas/events"], may_use: &[] },
    Layer {
        name: "seams",
        folders: &["schemas/tables", "games/api", "storage/log", "storage/archive", "learn/policy"],
        may_use: &["words"],
    },
    Layer { name: "games", folders: &["games/*"], may_use: &["words", "seams"] },
    Layer { name: "torch", folders: &["learn/torch"], may_use: &["words", "seams"] },
    Layer {
        name: "stores",
        folders: &["storage/lake", "storage/registry", "storage/catalog"],
        may_use: &["words", "seams"],
    },
    Layer { name: "wiring", folders: &["storage/backends"], may_use: &["words", "seams", "stores", "logs"] },
    Layer { name: "logs", folders: &["storage/log-*", "storage/archive-*"], may_use: &["words", "seams"] },
    Layer { name: "flows", folders: &["pipelines/*", "learn/search"], may_use: &["words", "seams", "stores", "flows"] },
    Layer { name: "jobs", folders: &["jobs/*"], may_use: &["words", "seams", "stores", "flows", "jobs"] },
    // What users link into their own programs: nothing of the loop's own insides.
    Layer { name: "clients", folders: &["clients/*"], may_use: &["words", "seams"] },
    Layer {
        name: "serving",
        folders: &["servers/*"],
        may_use: &["words", "seams", "games", "stores", "flows", "jobs", "serving"],
    },
];

/// Arrows that the table does not show, each with its reason.
const EXCEPTIONS: &[(&str, &str)] = &[
    // A policy may be described in terms of a game's seats.
    ("flywheel-policy", "flywheel-game-api"),
    // A row of `transitions` is what an `Experience` gives; the two are declared once, there.
    ("flywheel-tables", "flywheel-game-api"),
];

/// Libraries that only the crates named here may depend on (tests aside).
const RESERVED: &[(&str, &[&str])] = &[
    ("tch", &["flywheel-torch", "flywheel-train"]),
    ("torch-sys", &["flywheel-torch", "flywheel-train"]),
    ("redb", &["flywheel-log-embedded"]),
    ("deltalake", &["flywheel-lake"]),
    ("parquet", &["flywheel-lake"]),
    ("zstd-sys", &["flywheel-lake"]),
    ("sqlx", &["flywheel-catalog"]),
    ("rdkafka", &["flywheel-log-kafka"]),
    ("redis", &["flywheel-log-redis"]),
    ("aws-sdk-s3", &["flywheel-archive-s3"]),
    ("aws-credential-types", &["flywheel-archive-s3"]),
    ("polars", &["flywheel-scout"]),
    ("object_store", &["flywheel-lake", "flywheel-registry", "flywheel-backends", "flywheel-benches"]),
    (
        "arrow",
        &[
            "flywheel-tables",
            "flywheel-lake",
            "flywheel-flows",
            "flywheel-maintain",
            "flywheel-judge",
            "flywheel-train",
            "flywheel-cli",
            "flywheel-benches",
            "flywheel-torture",
        ],
    ),
];

/// Crates that do no I/O, and what none of them may link, however far down.
const PURE: &[&str] =
    &["schemas/events", "schemas/tables", "games/*", "learn/policy", "learn/search", "pipelines/replay"];
const IO: &[&str] = &[
    "tokio",
    "async-std",
    "smol",
    "mio",
    "socket2",
    "hyper",
    "axum",
    "reqwest",
    "object_store",
    "deltalake",
    "redb",
    "sqlx-core",
    "libsqlite3-sys",
    "rdkafka",
    "redis",
    "tch",
];

pub fn check(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for member in &workspace.members {
        let Some(layer) = layer_of(&member.folder) else {
            findings.push(problem(format!(
                "`{}` ({}) belongs to no layer; give its folder a place in LAYERS of xtask/src/layers.rs",
                member.name, member.folder
            )));
            continue;
        };
        findings.extend(arrows(workspace, member, layer));
        findings.extend(reserved(member));
        if PURE.iter().any(|pattern| fits(pattern, &member.folder)) {
            findings.extend(does_io(workspace, member));
        }
    }
    findings
}

fn arrows(workspace: &Workspace, member: &Member, layer: &Layer) -> Vec<Finding> {
    let mut findings = Vec::new();
    for dependency in &member.dependencies {
        let Some(other) = workspace.member(&dependency.package) else { continue };
        let Some(target) = layer_of(&other.folder) else { continue };
        // Tests may look further down, but never at a program.
        let allowed = match dependency.kind {
            Kind::Dev => target.name != "programs" || layer.name == "programs",
            _ => layer.may_use.contains(&target.name),
        };
        if !allowed && !EXCEPTIONS.contains(&(member.name.as_str(), other.name.as_str())) {
            findings.push(problem(format!(
                "`{}` (layer {}) depends on `{}` (layer {}); {} may use: {}",
                member.name,
                layer.name,
                other.name,
                target.name,
                layer.name,
                if layer.may_use.is_empty() { "nothing of ours".to_owned() } else { layer.may_use.join(", ") },
            )));
        }
    }
    findings
}

fn reserved(member: &Member) -> Vec<Finding> {
    let mut findings = Vec::new();
    for dependency in member.dependencies.iter().filter(|dependency| dependency.kind != Kind::Dev) {
        let Some((library, owners)) = RESERVED.iter().find(|(library, _)| *library == dependency.package) else {
            continue;
        };
        if !owners.contains(&member.name.as_str()) {
            findings.push(problem(format!(
                "`{}` depends on `{library}`, which only {} may",
                member.name,
                owners.join(", ")
            )));
        }
    }
    findings
}

/// The first way by which a pure crate links something that does I/O.
fn does_io(workspace: &Workspace, member: &Member) -> Option<Finding> {
    let start = workspace.packages.iter().find(|(_, package)| package.ours && package.name == member.name)?.0;
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut seen: BTreeSet<&str> = BTreeSet::from([start.as_str()]);
    let mut queue = std::collections::VecDeque::from([start.as_str()]);
    while let Some(id) = queue.pop_front() {
        let Some(package) = workspace.packages.get(id) else { continue };
        if IO.contains(&package.name.as_str()) {
            let mut way = vec![package.name.as_str()];
            let mut at = id;
            while let Some(&before) = came_from.get(at) {
                way.push(workspace.packages.get(before).map_or(before, |package| package.name.as_str()));
                at = before;
            }
            way.reverse();
            return Some(problem(format!("`{}` does no I/O, yet links: {}", member.name, way.join(" → "))));
        }
        for link in &package.links {
            if seen.insert(link) {
                came_from.insert(link, id);
                queue.push_back(link);
            }
        }
    }
    None
}

fn layer_of(folder: &str) -> Option<&'static Layer> {
    LAYERS.iter().find(|layer| layer.folders.iter().any(|pattern| fits(pattern, folder)))
}

/// Whether a folder fits a pattern; `*` stands for the rest of one name.
pub fn fits(pattern: &str, folder: &str) -> bool {
    match pattern.split_once('*') {
        Some((head, _)) => folder.strip_prefix(head).is_some_and(|rest| !rest.is_empty() && !rest.contains('/')),
        None => pattern == folder,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::made_up::{member, workspace};

    fn texts(findings: Vec<Finding>) -> Vec<String> {
        findings.into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn a_house_in_order_has_no_findings() {
        let found = check(&workspace(vec![
            member("flywheel-events", "schemas/events", &["serde"]),
            member("flywheel-log", "storage/log", &["flywheel-events"]),
            member("flywheel-log-embedded", "storage/log-embedded", &["flywheel-log", "redb", "tokio"]),
            member("flywheel-tank", "games/tank", &["flywheel-events"]),
            member("flywheel-flows", "pipelines/flows", &["flywheel-log", "arrow", "dev:flywheel-tank"]),
            member("flywheel-cli", "cli", &["flywheel-flows", "flywheel-log-embedded", "flywheel-tank"]),
        ]));
        assert_eq!(texts(found), Vec::<String>::new());
    }

    #[test]
    fn an_arrow_that_points_down_is_found() {
        let found = texts(check(&workspace(vec![
            member("flywheel-log", "storage/log", &[]),
            member("flywheel-log-embedded", "storage/log-embedded", &["flywheel-log"]),
            member("flywheel-flows", "pipelines/flows", &["flywheel-log-embedded"]),
        ])));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("`flywheel-flows` (layer flows) depends on `flywheel-log-embedded` (layer logs)"));
    }

    #[test]
    fn a_library_that_names_a_program_is_found_even_in_its_tests() {
        let found = texts(check(&workspace(vec![
            member("flywheel-cli", "cli", &[]),
            member("flywheel-lake", "storage/lake", &["dev:flywheel-cli"]),
        ])));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("`flywheel-lake`") && found[0].contains("layer programs"));
    }

    #[test]
    fn a_heavy_library_outside_its_leaf_is_found() {
        let found = texts(check(&workspace(vec![member("flywheel-judge", "jobs/judge", &["tch"])])));
        assert_eq!(found, ["`flywheel-judge` depends on `tch`, which only flywheel-torch, flywheel-train may"]);
    }

    #[test]
    fn rules_that_link_a_socket_through_somebody_else_are_found_with_the_way() {
        let mut house = workspace(vec![member("flywheel-tank", "games/tank", &["innocent"])]);
        house.packages.get_mut("innocent").expect("just made").links.push("tokio".to_owned());
        house.packages.insert("tokio".to_owned(), crate::workspace::made_up::package("tokio", false));
        assert_eq!(texts(check(&house)), ["`flywheel-tank` does no I/O, yet links: flywheel-tank → innocent → tokio"]);
    }

    #[test]
    fn a_crate_without_a_layer_is_found() {
        let found = texts(check(&workspace(vec![member("flywheel-attic", "attic/attic", &[])])));
        assert!(found[0].contains("belongs to no layer"), "{found:?}");
    }

    #[test]
    fn a_star_stands_for_one_name() {
        assert!(fits("storage/log-*", "storage/log-redis") && !fits("storage/log-*", "storage/log"));
        assert!(fits("servers/*", "servers/kit") && !fits("servers/*", "servers/kit/deep"));
    }
}
