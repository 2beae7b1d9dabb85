//! `deny.toml`: is it well formed, and does every package of the build keep to it?

use std::collections::BTreeSet;

use crate::{
    report::{Finding, problem},
    workspace::Workspace,
};

const SECTIONS: &[&str] = &["graph", "advisories", "licenses", "bans", "sources", "output"];

pub fn check(workspace: &Workspace) -> Vec<Finding> {
    match std::fs::read_to_string(workspace.root.join("deny.toml")) {
        Ok(text) => hold(workspace, &text),
        Err(error) => vec![problem(format!("deny.toml cannot be read: {error}"))],
    }
}

fn hold(workspace: &Workspace, text: &str) -> Vec<Finding> {
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => return vec![problem(format!("deny.toml is no TOML: {error}"))],
    };
    let mut findings = Vec::new();
    for section in table.keys().filter(|section| !SECTIONS.contains(&section.as_str())) {
        findings.push(problem(format!("deny.toml has a section `{section}` that cargo-deny does not know")));
    }
    let Some(allowed) = strings(&table, "licenses", "allow", None) else {
        findings.push(problem("deny.toml lacks the list `licenses.allow`"));
        return findings;
    };
    let exceptions = exceptions(&table);
    let banned = strings(&table, "bans", "deny", Some("name")).unwrap_or_default();
    for package in workspace.packages.values().filter(|package| !package.ours) {
        let called = format!("`{}` {}", package.name, package.version);
        if banned.contains(&package.name) {
            findings.push(problem(format!("{called} is banned by deny.toml, and the build has it")));
        }
        match &package.licence {
            Some(expression)
                if !accepts(expression, &allowed)
                    && !exceptions.iter().any(|(name, more)| *name == package.name && accepts(expression, more)) =>
            {
                findings.push(problem(format!("{called} is under `{expression}`, which deny.toml does not allow")));
            }
            None if !package.has_licence_file => findings.push(problem(format!("{called} names no licence"))),
            _ => {}
        }
    }
    findings
}

fn strings(table: &toml::Table, section: &str, key: &str, field: Option<&str>) -> Option<BTreeSet<String>> {
    let list = table.get(section)?.get(key)?.as_array()?;
    let text = |value: &toml::Value| match field {
        Some(field) => value.get(field).and_then(toml::Value::as_str).map(str::to_owned),
        None => value.as_str().map(str::to_owned),
    };
    list.iter().map(text).collect()
}

/// `licenses.exceptions`: what single packages may be under besides.
fn exceptions(table: &toml::Table) -> Vec<(String, BTreeSet<String>)> {
    let list = table.get("licenses").and_then(|section| section.get("exceptions")).and_then(toml::Value::as_array);
    let one = |value: &toml::Value| {
        let allow = value.get("allow")?.as_array()?;
        let allow = allow.iter().filter_map(|licence| licence.as_str().map(str::to_owned)).collect();
        Some((value.get("name")?.as_str()?.to_owned(), allow))
    };
    list.map(|list| list.iter().filter_map(one).collect()).unwrap_or_default()
}

/// Whether an SPDX expression can be met by the allowed licences alone. `/` is the old way to write `OR`; `AND`
/// binds tighter than `OR`; `WITH` belongs to the name before it.
fn accepts(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any(&words, &mut at, allowed);
    met && at == words.len()
}

fn any(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = all(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        // No short circuit: the words must be read.
        met |= all(words, at, allowed);
    }
    met
}

fn all(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let Some(&word) = words.get(*at) else { return false };
    *at += 1;
    if word == "(" {
        let met = any(words, at, allowed);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return met && closed;
    }
    if words.get(*at) == Some(&"WITH") && *at + 1 < words.len() {
        let name = format!("{word} WITH {}", words[*at + 1]);
        *at += 2;
        // An exception only permits more, so the bare licence is enough.
        return allowed.contains(&name) || allowed.contains(word);
    }
    allowed.contains(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::made_up::{member, workspace};

    const RULES: &str = "[licenses]\nallow = [\"MIT\", \"Apache-2.0\"]\n[bans]\ndeny = [{ name = \"openssl\" }]\n";

    #[test]
    fn expressions_are_read_as_spdx_says() {
        let allowed: BTreeSet<String> = ["MIT".to_owned(), "Apache-2.0".to_owned()].into();
        for good in [
            "MIT",
            "MIT OR GPL-3.0",
            "GPL-3.0/MIT",
            "(MIT OR Apache-2.0) AND MIT",
            "Apache-2.0 WITH LLVM-exception",
            "GPL-3.0 AND ISC OR MIT",
        ] {
            assert!(accepts(good, &allowed), "{good}");
        }
        for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND GPL-3.0", "", "(MIT"] {
            assert!(!accepts(bad, &allowed), "{bad}");
        }
    }

    #[test]
    fn a_foreign_licence_and_a_banned_package_are_found() {
        let mut house = workspace(vec![member("flywheel-lake", "storage/lake", &["openssl", "copyleft"])]);
        house.packages.get_mut("copyleft").expect("just made").licence = Some("GPL-3.0".to_owned());
        let found = hold(&house, RULES);
        assert_eq!(
            found,
            [
                problem("`copyleft` 1.0.0 is under `GPL-3.0`, which deny.toml does not allow"),
                problem("`openssl` 1.0.0 is banned by deny.toml, and the build has it"),
            ]
        );
    }

    #[test]
    fn an_exception_holds_for_its_package_alone() {
        let mut house = workspace(vec![member("flywheel-lake", "storage/lake", &["weak", "other"])]);
        for name in ["weak", "other"] {
            house.packages.get_mut(name).expect("just made").licence = Some("MPL-2.0".to_owned());
        }
        let rules = "[licenses]\nallow = []\nexceptions = [{ name = \"weak\", allow = [\"MPL-2.0\"] }]\n";
        assert_eq!(hold(&house, rules), [problem("`other` 1.0.0 is under `MPL-2.0`, which deny.toml does not allow")]);
    }

    #[test]
    fn a_deny_file_that_cargo_deny_would_not_read_is_found() {
        let found = hold(&workspace(vec![]), "[licences]\nallow = []\n");
        assert!(found[0].text.contains("`licences`"), "{found:?}");
        assert!(hold(&workspace(vec![]), "[licenses").first().is_some_and(|finding| finding.text.contains("no TOML")));
    }
}
