//! Standard input as batches of lines, each with its number.

use std::{
    io::{self, Read},
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};

/// Longest line; the server refuses shorter ones by name.
const LINE_BYTES: usize = 2 << 20;
/// Lines are read in pieces of this many bytes, and so many pieces wait at most.
const PIECE_BYTES: usize = 64 << 10;
const PIECES: usize = 16;

const LINGER_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Lines that go in one request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The lines that are not empty, each with its end.
    pub body: Vec<u8>,
    /// For each of them its number in the input, from 1, and where it begins in `body`.
    pub lines: Vec<(u64, usize)>,
}

impl Batch {
    fn push(&mut self, number: u64, line: &[u8]) {
        let line = line.trim_ascii();
        if !line.is_empty() {
            self.lines.push((number, self.body.len()));
            self.body.extend_from_slice(line);
            self.body.push(b'\n');
        }
    }

    /// The first `n` lines.
    pub fn front(&self, n: usize) -> Self {
        let end = self.lines.get(n).map_or(self.body.len(), |(_, start)| *start);
        Self { body: self.body[..end].to_vec(), lines: self.lines[..n].to_vec() }
    }
}

/// Bounds of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub lines: usize,
    pub bytes: usize,
    /// A batch waits so long for more lines after its first.
    pub linger: Duration,
}

/// Cuts a stream of bytes into batches.
#[derive(Debug)]
pub struct Batches {
    pieces: mpsc::Receiver<io::Result<Vec<u8>>>,
    /// Bytes that came and are in no batch yet, from `begin` on.
    pending: Vec<u8>,
    begin: usize,
    /// Lines so far, the empty ones too.
    line: u64,
    ended: bool,
    /// Why the input ends here, once the lines before it were given out.
    failed: Option<io::Error>,
}

impl Batches {
    /// Reads `input` on a thread of its own, which ends with it: a blocked read must not hold up the program's end.
    pub fn of(mut input: impl Read + Send + 'static) -> Self {
        let (send, pieces) = mpsc::channel(PIECES);
        std::thread::spawn(move || {
            let mut piece = vec![0; PIECE_BYTES];
            loop {
                let read = match input.read(&mut piece) {
                    Ok(0) => return,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Ok(n) => Ok(piece[..n].to_vec()),
                    Err(error) => Err(error),
                };
                let failed = read.is_err();
                if send.blocking_send(read).is_err() || failed {
                    return;
                }
            }
        });
        Self { pieces, pending: Vec::new(), begin: 0, line: 0, ended: false, failed: None }
    }

    /// The next batch, with at least one line; `None` at the end of the input.
    ///
    /// # Errors
    /// If the input cannot be read, or a line is too long; its number is named. The lines before it were given out.
    pub async fn next(&mut self, limits: Limits) -> io::Result<Option<Batch>> {
        let mut batch = Batch::default();
        if self.failed.is_none()
            && let Err(error) = self.fill(&mut batch, limits).await
        {
            self.failed = Some(error);
        }
        if !batch.lines.is_empty() {
            return Ok(Some(batch));
        }
        self.failed.take().map_or(Ok(None), Err)
    }

    async fn fill(&mut self, batch: &mut Batch, limits: Limits) -> io::Result<()> {
        // "For ever", if the clock has no such moment.
        let linger = limits.linger.min(LINGER_MAX);
        let mut until = None;
        loop {
            while batch.lines.len() < limits.lines && batch.body.len() < limits.bytes {
                let Some(line) = self.line()? else { break };
                batch.push(self.line, &line);
            }
            if batch.lines.len() >= limits.lines || batch.body.len() >= limits.bytes || self.ended {
                return Ok(());
            }
            let more = if batch.lines.is_empty() {
                self.pieces.recv().await
            } else {
                let until = *until.get_or_insert_with(|| Instant::now() + linger);
                match tokio::time::timeout_at(until, self.pieces.recv()).await {
                    Ok(more) => more,
                    Err(_) => return Ok(()),
                }
            };
            match more {
                Some(piece) => {
                    self.pending.drain(..self.begin);
                    self.begin = 0;
                    self.pending.extend_from_slice(&piece?);
                }
                None => self.ended = true,
            }
        }
    }

    /// The next whole line, without its end; at the end of the input also the one that has no end.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let rest = &self.pending[self.begin..];
        let end = rest.iter().position(|byte| *byte == b'\n');
        if end.unwrap_or(rest.len()) > LINE_BYTES {
            let what = format!("line {} is longer than {LINE_BYTES} bytes", self.line + 1);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let line = match end {
            Some(end) => rest[..end].to_vec(),
            None if self.ended && !rest.is_empty() => rest.to_vec(),
            None => return Ok(None),
        };
        self.begin = (self.begin + line.len() + 1).min(self.pending.len());
        self.line += 1;
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENT: Limits = Limits { lines: 3, bytes: 1 << 20, linger: Duration::from_secs(3600) };

    /// Gives its bytes a few at a time.
    struct Slowly(Vec<u8>, usize);

    impl Read for Slowly {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(into.len());
            into[..n].copy_from_slice(&self.0[..n]);
            self.0.drain(..n);
            Ok(n)
        }
    }

    async fn all(input: &[u8], step: usize, limits: Limits) -> io::Result<Vec<Batch>> {
        let mut batches = Batches::of(Slowly(input.to_vec(), step));
        let mut found = Vec::new();
        while let Some(batch) = batches.next(limits).await? {
            found.push(batch);
        }
        Ok(found)
    }

    #[tokio::test]
    async fn lines_keep_their_numbers_however_the_bytes_arrive() {
        let input = b"a\n\n  bb \r\nccc\n\n\nd\nlast";
        for step in 1..=input.len() {
            let batches = all(input, step, PATIENT).await.unwrap();
            let seen: Vec<_> = batches.iter().map(|batch| (&batch.body[..], &batch.lines[..])).collect();
            assert_eq!(
                seen,
                [(&b"a\nbb\nccc\n"[..], &[(1, 0), (3, 2), (4, 5)][..]), (&b"d\nlast\n"[..], &[(7, 0), (8, 2)][..])],
                "{step} bytes at a time"
            );
            assert_eq!(batches[0].front(2), Batch { body: b"a\nbb\n".to_vec(), lines: vec![(1, 0), (3, 2)] });
            assert_eq!(batches[0].front(3), batches[0]);
        }
        assert_eq!(all(b"", 1, PATIENT).await.unwrap(), []);
        assert_eq!(all(b"\n \n\r\n", 1, PATIENT).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_batch_ends_at_its_bytes_and_a_line_without_end_is_refused_by_number() {
        let short = Limits { bytes: 4, ..PATIENT };
        let batches = all(b"aa\nbb\ncc\n", 2, short).await.unwrap();
        assert_eq!(batches.iter().map(|batch| batch.lines.len()).collect::<Vec<_>>(), [2, 1]);
        let mut endless = b"a\nb\n".to_vec();
        endless.resize(LINE_BYTES + 5 + PIECE_BYTES, b'x');
        let mut batches = Batches::of(Slowly(endless, PIECE_BYTES));
        let error = loop {
            match batches.next(Limits { lines: 1, ..PATIENT }).await {
                Ok(batch) => assert!(batch.expect("the input does not end").lines[0].0 < 3),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.starts_with("line 3 is longer than"), "{error}");
    }

    #[tokio::test]
    async fn the_lines_before_one_that_cannot_be_read_are_given_out_first() {
        struct Broken(io::Cursor<Vec<u8>>);
        impl Read for Broken {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                match self.0.read(into)? {
                    0 => Err(io::Error::other("the disk is gone")),
                    n => Ok(n),
                }
            }
        }
        let good: Vec<u8> = (0..5000).flat_map(|n| format!("{{{n}}}\n").into_bytes()).collect();
        let long = [&good[..], &vec![b'x'; LINE_BYTES + 1], b"\n{never}\n"].concat();
        let torn = [&good[..], b"half a li"].concat();
        for (input, why) in [(long, "line 5001 is longer than"), (torn, "the disk is gone")] {
            for linger in [Duration::from_secs(3600), Duration::MAX] {
                let mut batches = Batches::of(Broken(io::Cursor::new(input.clone())));
                let (mut sent, limits) = (Vec::new(), Limits { lines: 3000, linger, ..PATIENT });
                let error = loop {
                    match batches.next(limits).await {
                        Ok(batch) => sent.extend(batch.expect("the input does not end well").body),
                        Err(error) => break error.to_string(),
                    }
                };
                assert!(error.starts_with(why), "{error}");
                assert_eq!(sent, good, "each line before it, and nothing behind it");
            }
        }
    }

    #[tokio::test]
    async fn what_is_there_goes_after_the_linger_though_the_input_stays_open() {
        let soon = Limits { linger: Duration::from_millis(1), ..PATIENT };
        let (reader, mut writer) = io::pipe().unwrap();
        let mut batches = Batches::of(reader);
        io::Write::write_all(&mut writer, b"a\nb").unwrap();
        let first = batches.next(soon).await.unwrap().expect("there is a line");
        assert_eq!(first, Batch { body: b"a\n".to_vec(), lines: vec![(1, 0)] });
        io::Write::write_all(&mut writer, b"b\n").unwrap();
        drop(writer);
        let rest = batches.next(soon).await.unwrap().expect("there is another");
        assert_eq!(rest, Batch { body: b"bb\n".to_vec(), lines: vec![(2, 0)] });
        assert_eq!(batches.next(soon).await.unwrap(), None);
    }
}
