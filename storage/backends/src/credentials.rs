//! The keys of a store: from the environment or a file, and never shown.

use std::{fmt, path::Path};

use anyhow::{Context, bail};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};

/// Variables that together or alone are credentials, and what the client calls them.
const VARIABLES: [(&str, AmazonS3ConfigKey); 9] = [
    ("AWS_ACCESS_KEY_ID", AmazonS3ConfigKey::AccessKeyId),
    ("AWS_SECRET_ACCESS_KEY", AmazonS3ConfigKey::SecretAccessKey),
    ("AWS_SESSION_TOKEN", AmazonS3ConfigKey::Token),
    ("AWS_WEB_IDENTITY_TOKEN_FILE", AmazonS3ConfigKey::WebIdentityTokenFile),
    ("AWS_ROLE_ARN", AmazonS3ConfigKey::RoleArn),
    ("AWS_ROLE_SESSION_NAME", AmazonS3ConfigKey::RoleSessionName),
    ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", AmazonS3ConfigKey::ContainerCredentialsRelativeUri),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", AmazonS3ConfigKey::ContainerCredentialsFullUri),
    ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", AmazonS3ConfigKey::ContainerAuthorizationTokenFile),
];

/// Each of these is enough to ask with; without one the client would look for a cloud's own service and wait.
const ENOUGH: [&str; 4] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
];

/// What to sign requests with.
#[derive(Clone)]
pub(crate) struct Credentials {
    values: Vec<(AmazonS3ConfigKey, String)>,
    source: String,
}

impl Credentials {
    /// Where they came from, in words for people.
    pub fn source(&self) -> &str {
        &self.source
    }

    pub fn apply(&self, builder: AmazonS3Builder) -> AmazonS3Builder {
        self.values.iter().fold(builder, |builder, (key, value)| builder.with_config(*key, value))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("source", &self.source).finish_non_exhaustive()
    }
}

/// Those of `file`, or of the environment where it is empty.
///
/// # Errors
/// If there are none, or the file cannot be read; the message names the setting.
pub(crate) fn find(file: &Path) -> anyhow::Result<Credentials> {
    if file.as_os_str().is_empty() {
        return of_environment(|name| std::env::var(name).ok());
    }
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("reading the keys from `{}` (`store.credentials.file`)", file.display()))?;
    let source = format!("`{}` (`store.credentials.file`)", file.display());
    let values = parse(&text).with_context(|| format!("reading the keys from {source}"))?;
    Ok(Credentials { values, source })
}

fn of_environment(get: impl Fn(&str) -> Option<String>) -> anyhow::Result<Credentials> {
    let get = |name: &str| get(name).filter(|value| !value.is_empty());
    let Some(by) = ENOUGH.into_iter().find(|name| get(name).is_some()) else {
        bail!(
            "there are no credentials for the store; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a file \
             with `store.credentials.file`"
        );
    };
    if by == ENOUGH[0] && get("AWS_SECRET_ACCESS_KEY").is_none() {
        bail!("AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not; set both");
    }
    let values = VARIABLES.iter().filter_map(|(name, key)| Some((*key, get(name)?))).collect();
    Ok(Credentials { values, source: format!("{by} of the environment") })
}

/// The section `[default]`, or the first one: `aws_access_key_id = …` and its like, in any case.
fn parse(text: &str) -> anyhow::Result<Vec<(AmazonS3ConfigKey, String)>> {
    let mut sections: Vec<(String, Vec<(AmazonS3ConfigKey, String)>)> = vec![(String::new(), Vec::new())];
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            sections.push((name.trim().to_owned(), Vec::new()));
            continue;
        }
        // The line itself may be a key, so it is not shown.
        let Some((name, value)) = line.split_once('=') else {
            bail!("line {} is no `name = value`", n + 1);
        };
        let name = name.trim().to_ascii_uppercase();
        if let Some((_, key)) = VARIABLES.iter().take(3).find(|(known, _)| *known == name) {
            let section = sections.last_mut().expect("it begins with one");
            section.1.push((*key, value.trim().trim_matches('"').to_owned()));
        }
    }
    sections.retain(|(_, values)| !values.is_empty());
    let chosen = sections.iter().position(|(name, _)| name == "default").unwrap_or(0);
    let values = sections.into_iter().nth(chosen).map(|(_, values)| values).unwrap_or_default();
    for (name, wanted) in &VARIABLES[..2] {
        if !values.iter().any(|(key, value)| key == wanted && !value.is_empty()) {
            bail!("it has no `{}`", name.to_ascii_lowercase());
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_as_other_tools_write_it_gives_the_keys_of_its_default_section() {
        let text = "# mine\n[old]\naws_access_key_id = a\naws_secret_access_key=b\n\n[default]\n\
                    AWS_ACCESS_KEY_ID = id\naws_secret_access_key = se=cret\nregion = x\n";
        let values: Vec<_> = parse(text).unwrap().into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, ["id", "se=cret"]);
        assert_eq!(parse("aws_access_key_id=a\naws_secret_access_key=b\naws_session_token=c").unwrap().len(), 3);
    }

    #[test]
    fn a_file_without_keys_is_told_by_what_is_missing_and_shows_nothing() {
        for (text, telling) in [
            ("", "aws_access_key_id"),
            ("aws_access_key_id = a", "aws_secret_access_key"),
            ("[default]\ntopsecret\n", "line 2"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(telling) && !error.contains("topsecret"), "{error}");
        }
        let error = format!("{:#}", find(Path::new("/nowhere/keys")).unwrap_err());
        assert!(error.contains("store.credentials.file") && error.contains("/nowhere/keys"), "{error}");
    }

    #[test]
    fn without_any_keys_the_two_ways_to_give_them_are_named_and_none_is_ever_shown() {
        let error = of_environment(|_| None).unwrap_err().to_string();
        assert!(error.contains("AWS_SECRET_ACCESS_KEY") && error.contains("store.credentials.file"), "{error}");
        let half = of_environment(|name| (name == "AWS_ACCESS_KEY_ID").then(|| "topsecret".to_owned())).unwrap_err();
        assert!(half.to_string().contains("set both") && !half.to_string().contains("topsecret"));
        let found = of_environment(|_| Some("topsecret".to_owned())).unwrap();
        assert!(!format!("{found:?}").contains("topsecret"));
        assert_eq!(found.source(), "AWS_ACCESS_KEY_ID of the environment");
    }
}
