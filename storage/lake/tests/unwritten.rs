//! Tables that nothing was ever written to. A program of its own, because it hears everything that is logged.

use std::{
    io,
    sync::{Arc, Mutex},
};

use flywheel_lake::{Lake, TableName};
use tracing_subscriber::fmt::MakeWriter;

#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<u8>>>);

impl io::Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Heard {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_for_a_table_that_was_never_written_says_there_is_none_and_logs_no_error() {
    let heard = Heard::default();
    // For all threads: the library works on its own, too.
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(heard.clone()).init();
    tracing::warn!("this is heard");

    let dir = tempfile::tempdir().unwrap();
    let lake = Lake::local(dir.path()).unwrap();
    let table = lake.table(TableName::DeadLetters);
    assert_eq!(table.version().await.unwrap(), None);
    assert_eq!(table.rows().await.unwrap(), 0);
    assert_eq!(table.files().await.unwrap(), []);
    assert_eq!(table.position("land/x/0").await.unwrap(), None);
    // A folder that was made for it changes nothing, nor does a put that never got its name.
    std::fs::create_dir_all(dir.path().join("dead_letters/_delta_log")).unwrap();
    std::fs::write(dir.path().join("dead_letters/_delta_log/00000000000000000000.json#1"), "{").unwrap();
    assert_eq!(table.version().await.unwrap(), None);

    // The first append makes it, and the handle that said there was none sees it.
    table.append(Vec::new(), &[("land/x/0".to_owned(), 7)]).await.unwrap();
    assert_eq!(lake.table(TableName::DeadLetters).position("land/x/0").await.unwrap(), Some(7));
    assert_eq!(Lake::local(dir.path()).unwrap().table(TableName::DeadLetters).rows().await.unwrap(), 0);

    let text = String::from_utf8(heard.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("this is heard"), "{text}");
}
