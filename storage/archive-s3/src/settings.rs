use std::{str::FromStr, sync::Arc};

use aws_sdk_s3::types::{StorageClass, TransitionStorageClass};

use crate::KeySource;

/// Where the archive is and how what it holds is kept.
#[derive(Debug, Clone)]
pub struct S3Settings {
    pub bucket: String,
    /// Without slashes at its ends; may be empty.
    pub prefix: String,
    /// AWS's own if absent.
    pub endpoint: Option<String>,
    pub region: String,
    pub path_style: bool,
    /// The class that cold objects are put into; the bucket's default if absent.
    pub class: Option<String>,
    /// A lifecycle rule moves them on, after so many days, into this class.
    pub transition: Option<(u32, String)>,
    /// `Standard`, `Bulk` or `Expedited`: how soon, and for how much, what is frozen is thawed.
    pub tier: String,
    pub keys: Arc<dyn KeySource>,
    /// Where the keys come from, for people.
    pub keys_from: String,
}

/// A storage class that there is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageClassError {
    pub name: String,
    pub known: Vec<&'static str>,
}

/// Holds a name against the classes that there are, as one to put into or one to move to.
///
/// # Errors
/// If there is none of this name; the error lists those that there are.
pub fn class(name: &str, of_transition: bool) -> Result<(), StorageClassError> {
    let known = if of_transition { TransitionStorageClass::values() } else { StorageClass::values() };
    // What lives in one outpost, on one appliance or in another service's file system is no archive.
    let elsewhere = ["OUTPOSTS", "SNOW", "EXPRESS_ONEZONE", "REDUCED_REDUNDANCY", "FSX_OPENZFS", "FSX_ONTAP"];
    let known: Vec<_> = known.iter().copied().filter(|class| !elsewhere.contains(class)).collect();
    if known.contains(&name) { Ok(()) } else { Err(StorageClassError { name: name.to_owned(), known }) }
}

impl S3Settings {
    pub(crate) fn storage_class(&self) -> Option<StorageClass> {
        self.class.as_deref().map(|class| StorageClass::from_str(class).expect("any text is a class to the SDK"))
    }

    /// The whole key of an object, or the prefix of several.
    pub(crate) fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }

    /// The inverse of [`S3Settings::key`].
    pub(crate) fn name(&self, key: &str) -> Option<String> {
        if self.prefix.is_empty() {
            return Some(key.to_owned());
        }
        Some(key.strip_prefix(&self.prefix)?.strip_prefix('/')?.to_owned())
    }

    pub(crate) fn place(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix)
    }

    pub(crate) fn server(&self) -> String {
        self.endpoint.clone().unwrap_or_else(|| format!("AWS, {}", self.region))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_that_there_are_are_taken_and_others_are_answered_with_a_list() {
        for name in ["STANDARD", "STANDARD_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE", "INTELLIGENT_TIERING"] {
            assert_eq!(class(name, false), Ok(()), "{name}");
        }
        assert_eq!(class("DEEP_ARCHIVE", true), Ok(()));
        let error = class("COLD", false).unwrap_err();
        assert!(error.known.contains(&"GLACIER_IR") && !error.known.contains(&"SNOW"), "{error:?}");
        // One does not move back to where one comes from.
        assert!(class("STANDARD", true).is_err());
    }
}
