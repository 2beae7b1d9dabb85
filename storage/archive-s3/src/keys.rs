//! What requests are signed with, asked for whenever the client wants it.

use std::{error::Error, fmt, sync::Arc};

use async_trait::async_trait;
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, error::CredentialsError, future},
};

/// One set of keys; temporary ones have a token.
#[derive(Clone)]
pub struct Keys {
    pub id: String,
    pub secret: String,
    pub token: Option<String>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(…)")
    }
}

/// Gives the keys that are good now. It may keep them: it is asked every few minutes.
#[async_trait]
pub trait KeySource: fmt::Debug + Send + Sync + 'static {
    /// # Errors
    /// If there are none to be had; the message must hold no secret.
    async fn keys(&self) -> Result<Keys, Box<dyn Error + Send + Sync>>;
}

/// The source as the SDK asks it.
#[derive(Debug)]
pub(crate) struct Provider(pub Arc<dyn KeySource>);

impl ProvideCredentials for Provider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let Keys { id, secret, token } = self.0.keys().await.map_err(CredentialsError::provider_error)?;
            Ok(Credentials::new(id, secret, token, None, "flywheel"))
        })
    }
}
