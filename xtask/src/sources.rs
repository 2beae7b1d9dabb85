//! Texts of the repository as the rules read them.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::Context;

use crate::workspace::Workspace;

/// One text file.
#[derive(Debug, Clone)]
pub struct Source {
    /// Relative to the root, with `/`.
    pub path: String,
    pub text: String,
}

impl Source {
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Numbered lines of code without their comments; with `library_only`, without test modules at the file's end.
    pub fn code(&self, library_only: bool) -> impl Iterator<Item = (usize, String)> {
        let end = if library_only {
            self.text.find("#[cfg(test)]\nmod ").unwrap_or(self.text.len())
        } else {
            self.text.len()
        };
        self.text[..end].lines().enumerate().map(|(index, line)| (index + 1, without_comment(line).to_owned()))
    }

    /// Whether the whole file is test code.
    pub fn is_test(&self) -> bool {
        let parts: Vec<&str> = self.path.split('/').collect();
        parts.contains(&"tests")
            || parts.contains(&"benches")
            || parts.contains(&"examples")
            || parts.last().is_some_and(|file| *file == "tests.rs")
    }
}

/// Every text file that git tracks or would track, by path.
#[derive(Debug, Default)]
pub struct Sources {
    pub files: BTreeMap<String, Source>,
}

impl Sources {
    pub fn load(workspace: &Workspace) -> anyhow::Result<Self> {
        let mut files = BTreeMap::new();
        for path in listed(&workspace.root)? {
            // What is not UTF-8 (a picture) is no text; a file that git lists and nobody has any more is no finding.
            let Ok(text) = std::fs::read_to_string(workspace.root.join(&path)) else { continue };
            files.insert(path.clone(), Source { path, text });
        }
        Ok(Self { files })
    }

    /// The Rust files under a crate's folder.
    pub fn rust_of<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = &'a Source> {
        self.files.values().filter(move |source| {
            source.is_rust() && source.path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
        })
    }

    #[cfg(test)]
    pub fn made_up(files: &[(&str, &str)]) -> Self {
        let files = files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), Source { path: (*path).to_owned(), text: (*text).to_owned() }));
        Self { files: files.collect() }
    }
}

fn listed(root: &Path) -> anyhow::Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root)
        .output()
        .context("running `git ls-files`")?;
    anyhow::ensure!(output.status.success(), "`git ls-files` failed: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).context("paths are UTF-8")?;
    Ok(text.split_terminator('\0').map(str::to_owned).collect())
}

/// A line up to its `//`, unless that stands in a string.
fn without_comment(line: &str) -> &str {
    let (mut in_string, mut escaped) = (false, false);
    let bytes = line.as_bytes();
    for (index, byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            // A quote in a character literal opens no string.
            b'"' if index > 0 && bytes[index - 1] == b'\'' => {}
            b'"' => in_string = !in_string,
            b'/' if !in_string && bytes.get(index + 1) == Some(&b'/') => return &line[..index],
            _ => {}
        }
    }
    line
}

/// Whether `word` stands in `line` as a whole identifier.
pub fn has_word(line: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(part_of_word) && !line[at + word.len()..].starts_with(part_of_word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_go_and_strings_stay() {
        assert_eq!(without_comment("let a = 1; // why"), "let a = 1; ");
        assert_eq!(without_comment(r#"let url = "redis://host"; // why"#), r#"let url = "redis://host"; "#);
        assert_eq!(without_comment(r#"let q = '"'; // why"#), r#"let q = '"'; "#);
        assert_eq!(without_comment("//! all of it"), "");
    }

    #[test]
    fn library_code_ends_where_the_tests_begin() {
        let source = Source { path: "a/src/x.rs".into(), text: "fn a() {}\n#[cfg(test)]\nmod tests {\n}\n".into() };
        assert_eq!(source.code(true).count(), 1);
        assert_eq!(source.code(false).count(), 4);
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("use rand::Rng;", "rand"));
        assert!(!has_word("use rand_chacha::X;", "rand"));
        assert!(has_word(r#"#[serde(with = "humantime_serde")]"#, "humantime_serde"));
    }
}
