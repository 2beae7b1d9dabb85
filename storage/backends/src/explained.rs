//! A store whose failures say which setting to look at, and repeat nothing of what a server answers but its code.

use std::{error::Error as _, fmt, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
    client::{HttpError, HttpErrorKind},
    path::Path,
};

/// What the messages name.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub bucket: String,
    pub endpoint: String,
    pub region: String,
    /// Where the keys came from.
    pub credentials: String,
}

/// What is wrong and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Told(String);

impl Setting {
    /// Turns what means "a setting is wrong" into words about that setting; all else keeps its kind.
    fn explain(&self, error: Error) -> Error {
        let text = chain(&error);
        let code = between(&text, "<Code>", "</Code>").unwrap_or_default().to_owned();
        let Setting { bucket, endpoint, region, credentials } = self;
        // A refusal without a body says no more than that.
        let says =
            if code.is_empty() { "the server refuses this".to_owned() } else { format!("the server says {code}") };
        let wrong = || {
            format!(
                "{says}: the keys from {credentials} are not those of `{endpoint}`; correct AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY, or `store.credentials.file`"
            )
        };
        let forbidden = || {
            format!(
                "{says}: the key from {credentials} may not do this in bucket `{bucket}` at `{endpoint}`, or there is \
                 no such bucket; let the key list, get, put and delete there, or correct `store.url` or \
                 `store.credentials.file`"
            )
        };
        let told = match code.as_str() {
            "NoSuchBucket" => {
                format!("there is no bucket `{bucket}` at `{endpoint}`; create it, or correct `store.url`")
            }
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "TokenRefreshRequired" => wrong(),
            "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException" => {
                format!("the server says {code}: bucket `{bucket}` is not in region `{region}`; correct `store.region`")
            }
            "AccessDenied" => forbidden(),
            "RequestTimeTooSkewed" => {
                format!("the server says {code}: the clocks of this machine and of `{endpoint}` differ; set this one")
            }
            _ if matches!(error, Error::PermissionDenied { .. } | Error::Unauthenticated { .. }) => forbidden(),
            _ if text.contains("redirect without LOCATION") => {
                format!("bucket `{bucket}` is not in region `{region}`; correct `store.region`")
            }
            _ => match http(&error) {
                Some(HttpErrorKind::Connect) => format!(
                    "nothing answers at `{endpoint}`; start the store, or correct `store.endpoint` (and its port)"
                ),
                Some(HttpErrorKind::Timeout) => {
                    format!("`{endpoint}` took too long to answer; is it well, and is `store.endpoint` the right one?")
                }
                _ if code.is_empty() => return error,
                // A body may repeat the request, keys included.
                _ => match between(&text, "<Message>", "</Message>") {
                    Some(message) => format!("`{endpoint}` says {code}: {message}"),
                    None => format!("`{endpoint}` says {code}"),
                },
            },
        };
        let source = Box::new(Told(told));
        match error {
            Error::NotFound { path, .. } if code != "NoSuchBucket" => Error::NotFound { path, source },
            Error::AlreadyExists { path, .. } => Error::AlreadyExists { path, source },
            Error::Precondition { path, .. } => Error::Precondition { path, source },
            Error::NotModified { path, .. } => Error::NotModified { path, source },
            Error::PermissionDenied { path, .. } => Error::PermissionDenied { path, source },
            Error::Unauthenticated { path, .. } => Error::Unauthenticated { path, source },
            _ => Error::Generic { store: "S3", source },
        }
    }
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push('\n');
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

fn http(error: &Error) -> Option<HttpErrorKind> {
    let mut next = error.source();
    while let Some(source) = next {
        if let Some(http) = source.downcast_ref::<HttpError>() {
            return Some(http.kind());
        }
        next = source.source();
    }
    None
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(from)?;
    rest.split_once(to).map(|(found, _)| found)
}

/// One line without its causes, which the line repeats already.
pub(crate) fn said(error: &Error) -> anyhow::Error {
    match error.source().and_then(|source| source.downcast_ref::<Told>()) {
        Some(told) => anyhow::Error::msg(told.0.clone()),
        None => anyhow::Error::msg(error.to_string()),
    }
}

/// The store around which words are put.
#[derive(Debug)]
pub(crate) struct Explained {
    inner: Arc<dyn ObjectStore>,
    setting: Arc<Setting>,
}

impl Explained {
    pub fn new(inner: Arc<dyn ObjectStore>, setting: Setting) -> Self {
        Self { inner, setting: Arc::new(setting) }
    }

    fn stream<T: Send + 'static>(&self, stream: BoxStream<'static, Result<T>>) -> BoxStream<'static, Result<T>> {
        let setting = Arc::clone(&self.setting);
        stream.map(move |item| item.map_err(|error| setting.explain(error))).boxed()
    }
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Explained {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await.map_err(|error| self.setting.explain(error))
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await.map_err(|error| self.setting.explain(error))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await.map_err(|error| self.setting.explain(error))
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.stream(self.inner.delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.stream(self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.stream(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await.map_err(|error| self.setting.explain(error))
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await.map_err(|error| self.setting.explain(error))
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await.map_err(|error| self.setting.explain(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting() -> Setting {
        Setting {
            bucket: "lake".into(),
            endpoint: "http://127.0.0.1:8333".into(),
            region: "us-east-1".into(),
            credentials: "AWS_ACCESS_KEY_ID of the environment".into(),
        }
    }

    fn answer(code: &str) -> Box<dyn std::error::Error + Send + Sync> {
        format!("<Error><Code>{code}</Code><Message>no</Message><AWSAccessKeyId>AKIATOPSECRET</AWSAccessKeyId></Error>")
            .into()
    }

    #[test]
    fn each_wrong_setting_is_named_and_an_answer_is_never_repeated_whole() {
        for (code, telling) in [
            ("SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
            ("AccessDenied", "store.credentials.file"),
            ("NoSuchBucket", "there is no bucket `lake`"),
            ("AuthorizationHeaderMalformed", "store.region"),
            ("RequestTimeTooSkewed", "clocks"),
            ("SlowDown", "says SlowDown: no"),
        ] {
            let path = "a/b".to_owned();
            let errors = [
                Error::Generic { store: "S3", source: answer(code) },
                Error::PermissionDenied { path, source: answer(code) },
            ];
            for error in errors {
                if code == "SlowDown" && matches!(error, Error::PermissionDenied { .. }) {
                    continue;
                }
                let said = setting().explain(error).to_string();
                assert!(said.contains(telling) && !said.contains("TOPSECRET"), "{code}: {said}");
            }
        }
    }

    #[test]
    fn an_object_that_is_not_there_stays_just_that_and_a_missing_bucket_never_looks_like_it() {
        let missing = |code| Error::NotFound { path: "a/b".into(), source: answer(code) };
        assert!(matches!(setting().explain(missing("NoSuchKey")), Error::NotFound { .. }));
        assert!(matches!(setting().explain(missing("NoSuchBucket")), Error::Generic { .. }));
        let lost = Error::AlreadyExists { path: "a/b".into(), source: answer("ConditionalRequestConflict") };
        assert!(matches!(setting().explain(lost), Error::AlreadyExists { .. }));
        let plain = Error::NotFound { path: "a/b".into(), source: "nothing".into() };
        assert_eq!(setting().explain(plain).to_string(), "Object at location a/b not found: nothing");
    }
}
