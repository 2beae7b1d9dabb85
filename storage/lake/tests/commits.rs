//! The cases of [`common::commits`] on a store in memory; `storage/backends/tests/s3` runs them on real servers.

mod common;

macro_rules! on_memory {
    ($($name:ident),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            common::commits::$name(&common::memory).await;
        }
    )*};
}

common::commits::commit_cases!(on_memory);
