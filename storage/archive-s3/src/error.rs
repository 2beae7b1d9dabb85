//! What a server answers, as one message that names the setting and the fix. Answers are not repeated: they may hold keys.

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use flywheel_archive::{ArchiveError, ArchiveErrorKind as Kind};

use crate::S3Settings;

/// The code of the answer, such as `NoSuchKey`, and its HTTP status.
pub(crate) fn answer<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> (&str, u16) {
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    (error.code().unwrap_or_default(), status)
}

impl S3Settings {
    pub(crate) fn failed<E: ProvideErrorMetadata>(
        &self,
        operation: &'static str,
        target: &str,
        error: &SdkError<E, HttpResponse>,
    ) -> ArchiveError {
        let (kind, why) = self.explain(error);
        ArchiveError::new(kind, operation, format!("{}/{target}", self.place().trim_end_matches('/')), why)
    }

    fn explain<E: ProvideErrorMetadata>(&self, error: &SdkError<E, HttpResponse>) -> (Kind, String) {
        let (server, keys) = (self.server(), &self.keys_from);
        match error {
            SdkError::ConstructionFailure(_) => (Kind::Internal, "the request could not be made".to_owned()),
            SdkError::TimeoutError(_) => (
                Kind::Unavailable,
                format!("`{server}` took too long to answer; is it well, and is `archive.endpoint` the right one?"),
            ),
            SdkError::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => (
                Kind::Unavailable,
                format!("nothing answers at `{server}`; start the store, or correct `archive.endpoint` (and its port)"),
            ),
            SdkError::DispatchFailure(_) => {
                (Kind::Refused, format!("there are no keys to be had from {keys}; see `archive.credentials.file`"))
            }
            _ => {
                let (code, status) = answer(error);
                self.of_answer(code, status, error.message().unwrap_or_default())
            }
        }
    }

    fn of_answer(&self, code: &str, status: u16, message: &str) -> (Kind, String) {
        let (server, bucket, keys) = (self.server(), &self.bucket, &self.keys_from);
        let says = if code.is_empty() { format!("the server answers {status}") } else { format!("it says {code}") };
        match (code, status) {
            ("NoSuchKey" | "NotFound", _) => (Kind::NotFound, "there is no such object".to_owned()),
            ("InvalidObjectState", _) => {
                (Kind::Frozen, "it is frozen; `flywheel restore` asks for it, and can read it hours later".to_owned())
            }
            ("NoSuchBucket", _) => (
                Kind::Refused,
                format!("there is no bucket `{bucket}` at `{server}`; create it, or correct `archive.url`"),
            ),
            (
                "InvalidAccessKeyId"
                | "SignatureDoesNotMatch"
                | "ExpiredToken"
                | "InvalidToken"
                | "TokenRefreshRequired",
                _,
            ) => (
                Kind::Refused,
                format!("{says}: the keys from {keys} are not those of `{server}`; correct `archive.credentials.file`"),
            ),
            ("AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException", _) => (
                Kind::Refused,
                format!("{says}: bucket `{bucket}` is not in region `{}`; correct `archive.region`", self.region),
            ),
            ("RequestTimeTooSkewed", _) => {
                (Kind::Refused, format!("{says}: the clocks of this machine and of `{server}` differ; set this one"))
            }
            ("InvalidStorageClass", _) => {
                (Kind::Refused, format!("{says}: `{server}` has no such class; correct `archive.storage_class`"))
            }
            ("NotImplemented" | "MethodNotAllowed", _) | (_, 405 | 501) => {
                (Kind::Refused, format!("{says}: `{server}` cannot do this"))
            }
            ("BadDigest" | "XAmzContentChecksumMismatch" | "InvalidDigest", _) => {
                (Kind::Unavailable, format!("{says}: the bytes were changed on their way"))
            }
            ("AccessDenied", _) | (_, 401 | 403) => (
                Kind::Refused,
                format!(
                    "{says}: the key from {keys} may not do this in bucket `{bucket}` at `{server}`; let it list, get and \
                     put there, or correct `archive.url` or `archive.credentials.file`"
                ),
            ),
            (_, 404) => (Kind::NotFound, format!("{says}: there is no such object")),
            (_, 400..=499) if !matches!(status, 408 | 409 | 429) => (Kind::Refused, format!("{says}: {message}")),
            _ => (Kind::Unavailable, format!("`{server}` does not serve at the moment: {says}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{KeySource, Keys};

    #[derive(Debug)]
    struct None;

    #[async_trait::async_trait]
    impl KeySource for None {
        async fn keys(&self) -> Result<Keys, Box<dyn std::error::Error + Send + Sync>> {
            Err("none".into())
        }
    }

    #[test]
    fn what_a_setting_can_mend_is_told_with_its_name_and_the_rest_is_tried_again() {
        let settings = S3Settings {
            bucket: "cold".into(),
            prefix: String::new(),
            endpoint: Option::None,
            region: "eu-1".into(),
            path_style: true,
            class: Option::None,
            transition: Option::None,
            tier: "Standard".into(),
            keys: Arc::new(None),
            keys_from: "the test".into(),
        };
        for (code, status, kind, telling) in [
            ("NoSuchBucket", 404, Kind::Refused, "`archive.url`"),
            ("SignatureDoesNotMatch", 403, Kind::Refused, "`archive.credentials.file`"),
            ("AccessDenied", 403, Kind::Refused, "let it list, get and put"),
            ("", 403, Kind::Refused, "let it list, get and put"),
            ("InvalidStorageClass", 400, Kind::Refused, "`archive.storage_class`"),
            ("AuthorizationHeaderMalformed", 400, Kind::Refused, "`archive.region`"),
            ("NotImplemented", 501, Kind::Refused, "cannot do this"),
            ("InvalidObjectState", 403, Kind::Frozen, "flywheel restore"),
            ("NoSuchKey", 404, Kind::NotFound, "no such object"),
            ("SlowDown", 503, Kind::Unavailable, "SlowDown"),
            ("", 500, Kind::Unavailable, "500"),
            ("ConditionalRequestConflict", 409, Kind::Unavailable, "409"),
        ] {
            let (found, text) = settings.of_answer(code, status, "");
            assert!(
                found == kind && (text.contains(telling) || text.contains(code) && !code.is_empty()),
                "{code}: {text}"
            );
        }
    }
}
