//! Compose files: what they name exists, what they publish stays on loopback, what they wait for can be waited for.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{COMPOSE, dockerfile, strings, yaml};
use crate::{
    report::{Finding, problem},
    sources::{Source, Sources},
};

/// Settings that a person gives, one `NAME=` a line.
const SETTINGS: &str = "compose/.env.example";

pub fn check(source: &Source, sources: &Sources) -> Vec<Finding> {
    let file = match yaml(&source.text) {
        Ok(file) => file,
        Err(why) => return vec![problem(format!("{}: {why}", source.path))],
    };
    let mut found = Vec::new();
    let services = services(&file, sources, &mut found);
    if services.is_empty() {
        found.push("it has no services".to_owned());
    }
    let mut used = Used::default();
    for (name, service) in &services {
        let mut about = |what: String| found.push(format!("service `{name}`: {what}"));
        image(service, sources, &mut about);
        safe(service, &mut about);
        ports(service, &mut about);
        mounts(service, sources, &mut used, &mut about);
        waits(service, &services, &mut about);
        if !has_health(service) {
            about("has no healthcheck, so nothing can wait for it".to_owned());
        }
        for network in names_of(&service["networks"]) {
            used.networks.insert(network);
        }
        for (kind, set) in [("configs", &mut used.configs), ("secrets", &mut used.secrets)] {
            for entry in service[kind].as_array().into_iter().flatten() {
                set.extend(entry.as_str().or_else(|| entry["source"].as_str()).map(str::to_owned));
            }
        }
    }
    for (section, used) in
        [("volumes", used.volumes), ("networks", used.networks), ("configs", used.configs), ("secrets", used.secrets)]
    {
        let declared: BTreeSet<String> =
            names_of(&file[section]).into_iter().filter(|name| name != "default").collect();
        found.extend(used.difference(&declared).map(|name| format!("`{name}` is not declared in {section}")));
        found.extend(declared.difference(&used).map(|name| format!("`{name}` of {section} is used by nobody")));
        for (name, entry) in file[section].as_object().into_iter().flatten() {
            if let Some(path) = entry["file"].as_str().filter(|path| !exists(path, sources)) {
                found.push(format!("`{path}` of {section} `{name}` is not in the repository"));
            }
        }
    }
    found.extend(settings(&source.text, sources));
    found.into_iter().map(|what| problem(format!("{}: {what}", source.path))).collect()
}

#[derive(Default)]
struct Used {
    volumes: BTreeSet<String>,
    networks: BTreeSet<String>,
    configs: BTreeSet<String>,
    secrets: BTreeSet<String>,
}

/// The services, each with what it takes over from another file.
fn services(file: &Value, sources: &Sources, found: &mut Vec<String>) -> BTreeMap<String, Value> {
    let mut services = BTreeMap::new();
    for (name, service) in file["services"].as_object().into_iter().flatten() {
        let mut whole = service.clone();
        if let Some(other) = service["extends"]["file"].as_str() {
            let base = service["extends"]["service"].as_str().unwrap_or(name);
            let text = sources.files.get(&format!("{COMPOSE}{other}")).map(|source| source.text.as_str());
            match text.and_then(|text| yaml(text).ok()).map(|file| file["services"][base].clone()) {
                Some(Value::Object(base)) => whole = merge(base, service),
                _ => found.push(format!("service `{name}` extends `{base}` of `{other}`, which is not there")),
            }
        }
        services.insert(name.clone(), whole);
    }
    services
}

/// Lists are joined, other values replaced, as compose does it.
fn merge(mut base: Map<String, Value>, over: &Value) -> Value {
    for (key, value) in over.as_object().into_iter().flatten() {
        match (base.get_mut(key), value) {
            (Some(Value::Array(list)), Value::Array(more)) => list.extend(more.iter().cloned()),
            (Some(Value::Object(map)), Value::Object(_)) => *value_of(&mut base, key) = merge(map.clone(), value),
            _ => *value_of(&mut base, key) = value.clone(),
        }
    }
    Value::Object(base)
}

fn value_of<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Value {
    map.entry(key.to_owned()).or_insert(Value::Null)
}

/// A tag that names a version: `latest` and none at all are somebody else's choice of a day.
pub fn pinned(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or_default();
    if image.contains("@sha256:") {
        return true;
    }
    // The images of distroless carry their version in the name.
    let versioned_name = image.contains("distroless/")
        && name.split(':').next().is_some_and(|n| n.ends_with(|c: char| c.is_ascii_digit()));
    let tag = name.split_once(':').map_or("", |(_, tag)| tag);
    versioned_name || tag.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit())
}

fn image(service: &Value, sources: &Sources, about: &mut impl FnMut(String)) {
    let build = &service["build"];
    match service["image"].as_str() {
        Some(image) if build.is_null() && !pinned(image) => about(format!("the image `{image}` names no version")),
        None if build.is_null() => about("has neither image nor build".to_owned()),
        _ => {}
    }
    if build.is_null() {
        return;
    }
    let context = build["context"].as_str().unwrap_or(".");
    let file = build["dockerfile"].as_str().unwrap_or("Dockerfile");
    let Some(path) = resolve(&format!("{context}/{file}")) else {
        return about(format!("the Dockerfile `{context}/{file}` lies outside of the repository"));
    };
    let Some(source) = sources.files.get(&path) else { return about(format!("there is no `{path}`")) };
    if let Some(target) = build["target"].as_str()
        && !dockerfile::stages(source).iter().any(|stage| stage == target)
    {
        about(format!("`{path}` has no stage `{target}`"));
    }
}

fn safe(service: &Value, about: &mut impl FnMut(String)) {
    if service["privileged"] == true {
        about("is privileged".to_owned());
    }
    if !strings(&service["security_opt"]).contains(&"no-new-privileges:true") {
        about("lacks `security_opt: [no-new-privileges:true]`".to_owned());
    }
    if !service["build"].is_null() {
        if service["read_only"] != true {
            about("writes into its image; it takes `read_only: true`".to_owned());
        }
        if !strings(&service["cap_drop"]).contains(&"ALL") {
            about("keeps capabilities; it takes `cap_drop: [ALL]`".to_owned());
        }
    }
}

fn ports(service: &Value, about: &mut impl FnMut(String)) {
    for port in service["ports"].as_array().into_iter().flatten() {
        let loopback = match port {
            Value::String(text) => text.starts_with("127.0.0.1:") || text.starts_with("[::1]:"),
            other => other["host_ip"] == "127.0.0.1" || other["host_ip"] == "::1",
        };
        if !loopback {
            about(format!("the port {port} is open to other machines; begin it with 127.0.0.1:"));
        }
    }
}

fn mounts(service: &Value, sources: &Sources, used: &mut Used, about: &mut impl FnMut(String)) {
    for mount in strings(&service["volumes"]) {
        let mut parts = mount.split(':');
        let (from, to, mode) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        if to.is_none_or(|to| !to.starts_with('/')) {
            about(format!("the volume `{mount}` names no place in the container"));
        }
        if from.contains("docker.sock") {
            about("holds Docker's socket, that is, the machine".to_owned());
        } else if from.starts_with('.') {
            if !exists(from, sources) {
                about(format!("`{from}` is not in the repository"));
            }
            if mode != Some("ro") {
                about(format!("may write into `{from}`; end it with :ro"));
            }
        } else if from.starts_with('/') {
            about(format!("`{from}` is a path of one machine"));
        } else {
            used.volumes.insert(from.to_owned());
        }
    }
}

fn waits(service: &Value, services: &BTreeMap<String, Value>, about: &mut impl FnMut(String)) {
    for name in names_of(&service["depends_on"]) {
        match services.get(&name) {
            None => about(format!("depends on `{name}`, which is no service")),
            Some(other) => {
                let condition = &service["depends_on"][&name]["condition"];
                if condition == "service_healthy" && !has_health(other) {
                    about(format!("waits for the health of `{name}`, which has none"));
                }
                // A service behind a profile that is off would make the whole file invalid.
                if !other["profiles"].is_null() && service["depends_on"][&name]["required"] != false {
                    about(format!("needs `{name}`, which only runs with its profile; say `required: false`"));
                }
            }
        }
    }
}

/// Its own, or that of the image that is built here: `dockerfile` sees to that.
fn has_health(service: &Value) -> bool {
    !service["build"].is_null() || service["healthcheck"]["test"].as_array().is_some_and(|test| test.len() > 1)
}

fn names_of(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => map.keys().cloned().collect(),
        other => strings(other).into_iter().map(str::to_owned).collect(),
    }
}

fn exists(path: &str, sources: &Sources) -> bool {
    resolve(path).is_some_and(|path| dockerfile::exists(&path, sources))
}

/// A path beside the compose files, from the repository's root; `None` if it leaves that.
fn resolve(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = vec![COMPOSE.trim_end_matches('/')];
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// `${NAME}` and `${NAME:?why}` must be explained; `${NAME:-default}` may be.
fn settings(text: &str, sources: &Sources) -> Vec<String> {
    let known: BTreeSet<&str> = sources.files.get(SETTINGS).map_or_else(BTreeSet::new, |source| {
        let lines = source.text.lines().map(|line| line.trim_start_matches("# ").trim_start_matches('#'));
        lines.filter_map(|line| line.split_once('=').map(|(name, _)| name)).collect()
    });
    variables(text)
        .into_iter()
        .filter(|name| !known.contains(name.as_str()))
        .map(|name| format!("`${{{name}}}` is not in {SETTINGS}"))
        .collect()
}

/// Names of variables that compose puts in; `$$` is a dollar of the container's.
pub fn variables(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n");
    let plain = code.replace("$$", "");
    let name = |piece: &str| piece.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    plain.split("${").skip(1).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "services:
  store:
    image: redis:7.2-bookworm
    security_opt: [\"no-new-privileges:true\"]
    ports: [\"127.0.0.1:6379:6379\"]
    volumes: [\"store:/data\", \"./redis.conf:/etc/redis.conf:ro\"]
    healthcheck: { test: [CMD, redis-cli, ping] }
    profiles: [store]
  loop:
    build: { context: .., dockerfile: compose/Dockerfile, target: run }
    read_only: true
    cap_drop: [ALL]
    security_opt: [\"no-new-privileges:true\"]
    environment: { PASSWORD: \"${PASSWORD:?}\", HOME: $$HOME }
    depends_on: { store: { condition: service_healthy, required: false } }
volumes:
  store:
";

    fn found(text: &str) -> Vec<String> {
        let path = "compose/a.yaml";
        let more = "services:\n  loop:\n    extends: { file: a.yaml, service: loop }\n    ports: [\"80:80\"]\n";
        let sources = Sources::made_up(&[
            (path, text),
            ("compose/redis.conf", ""),
            ("compose/b.yaml", more),
            ("compose/.env.example", "PASSWORD=\n"),
            ("compose/Dockerfile", "FROM x:1 AS run\n"),
        ]);
        check(&sources.files[path], &sources).into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn a_good_file_has_no_problem() {
        assert_eq!(found(GOOD), Vec::<String>::new());
    }

    #[test]
    fn each_mistake_is_found() {
        for (from, to, what) in [
            ("redis:7.2-bookworm", "redis:latest", "names no version"),
            ("redis:7.2-bookworm", "redis", "names no version"),
            ("\"127.0.0.1:6379:6379\"", "\"6379:6379\"", "open to other machines"),
            ("\"127.0.0.1:6379:6379\"", "{ target: 6379 }", "open to other machines"),
            ("redis.conf:/etc/redis.conf:ro", "redis.conf:/etc/redis.conf", "end it with :ro"),
            ("./redis.conf", "./radis.conf", "is not in the repository"),
            ("./redis.conf", "../../redis.conf", "is not in the repository"),
            ("./redis.conf", "/var/run/docker.sock", "Docker's socket"),
            ("    healthcheck: { test: [CMD, redis-cli, ping] }\n", "", "waits for the health of `store`"),
            ("store:/data", "stores:/data", "`stores` is not declared in volumes"),
            ("store:/data", "stores:/data", "`store` of volumes is used by nobody"),
            ("target: run", "target: walk", "no stage `walk`"),
            ("compose/Dockerfile", "Dockerfile", "there is no `Dockerfile`"),
            ("read_only: true", "read_only: false", "writes into its image"),
            ("cap_drop: [ALL]", "cap_drop: []", "keeps capabilities"),
            (", required: false", "", "needs `store`"),
            ("{ store: {", "{ stare: {", "depends on `stare`"),
            ("${PASSWORD:?}", "${PASSWORT:?}", "`${PASSWORT}` is not in"),
            ("read_only", "privileged: true\n    read_only", "is privileged"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD, "{from}");
            assert!(found(&text).iter().any(|said| said.contains(what)), "{what}: {:?}", found(&text));
        }
    }

    #[test]
    fn a_service_of_another_file_is_looked_at_as_a_whole() {
        let base = "services:\n  loop:\n    image: x:1\n    security_opt: [\"no-new-privileges:true\"]\n    healthcheck: { test: [CMD, a] }\n";
        let more = "services:\n  loop:\n    extends: { file: a.yaml, service: loop }\n    ports: [\"80:80\"]\n  gone:\n    extends: { file: a.yaml, service: nobody }\n";
        let sources = Sources::made_up(&[("compose/a.yaml", base), ("compose/b.yaml", more)]);
        let found: Vec<String> =
            check(&sources.files["compose/b.yaml"], &sources).into_iter().map(|finding| finding.text).collect();
        assert!(found.iter().any(|said| said.contains("`loop`: the port")), "{found:?}");
        assert!(found.iter().any(|said| said.contains("extends `nobody`")), "{found:?}");
        assert!(!found.iter().any(|said| said.contains("`loop`: has no")), "{found:?}");
    }
}
