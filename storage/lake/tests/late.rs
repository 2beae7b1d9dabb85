//! A put without an answer that arrives only after somebody has looked for it.

mod common;

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use common::{NOON, contents, events, expected, lake_on, memory, rows, sorted};
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};

/// The first put of `late` fails; it arrives once a read has not found it.
#[derive(Debug)]
struct Late {
    inner: Arc<dyn ObjectStore>,
    late: &'static str,
    under_way: Mutex<Option<(Path, PutPayload, PutOptions)>>,
    puts: Mutex<u32>,
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Late")
    }
}

#[async_trait]
impl ObjectStore for Late {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if at.as_ref().ends_with(self.late) {
            let nth = {
                let mut puts = self.puts.lock().unwrap();
                *puts += 1;
                *puts
            };
            if nth == 1 {
                *self.under_way.lock().unwrap() = Some((at.clone(), payload, options));
                return Err(Error::Generic { store: "late", source: "no answer".into() });
            }
        }
        self.inner.put_opts(at, payload, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let found = self.inner.get_opts(at, options).await;
        if found.is_err() && at.as_ref().ends_with(self.late) {
            let arrives = self.under_way.lock().unwrap().take();
            if let Some((at, payload, options)) = arrives {
                self.inner.put_opts(&at, payload, options).await?;
            }
        }
        found
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    fn delete_stream(&self, at: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(at)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_commit_that_arrives_late_is_found_at_its_own_number_and_not_written_again() {
    let store = memory();
    events(&lake_on(&store)).append(vec![rows("g", 0, 1, NOON)], &[]).await.unwrap();
    let late: Arc<dyn ObjectStore> = Arc::new(Late {
        inner: Arc::clone(&store),
        late: "_delta_log/00000000000000000002.json",
        under_way: Mutex::default(),
        puts: Mutex::default(),
    });
    // Rows without a position: nothing else would see that they are there.
    let commit = events(&lake_on(&late)).append(vec![rows("g", 1, 2, NOON)], &[]).await.unwrap();
    assert_eq!(commit.version, 2);
    assert_eq!(sorted(contents(&events(&lake_on(&store))).await), sorted(expected("g", 0, 2)));
}
