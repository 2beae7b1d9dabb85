//! Pieces of streams, read on connections of their own straight into records.

use std::time::Duration;

use flywheel_log::StoredRecord;
use parking_lot::Mutex;
use redis::{Client, ConnectionAddr, ErrorKind, Pipeline, RedisError, RedisResult, Value};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
};

use crate::{
    entry, ids,
    resp::{Odd, Part, Parts, Progress},
};

/// So many connections, however many read.
const CONNECTIONS: usize = 4;
/// What a connection keeps of its buffer between two pieces.
const KEPT_BYTES: usize = 4 << 20;
/// An answer is received in steps of this size.
const STEP_BYTES: usize = 256 << 10;

/// Entries of a stream, and the watermark of its trims, at one moment.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    pub trimmed: Option<String>,
    /// The first entry's id, also if it fits no offset; the records end before one that does not.
    pub first: Option<String>,
    pub records: Vec<StoredRecord>,
}

/// The question of a piece: its answer is what [`Piece`] is made of.
pub(crate) fn question(stream: &str, meta: &str, start: &str, count: usize) -> Pipeline {
    let mut pipe = redis::pipe();
    pipe.atomic().cmd("HGET").arg(meta).arg("trimmed");
    pipe.cmd("XRANGE").arg(stream).arg(start).arg("+").arg("COUNT").arg(count);
    pipe
}

/// What the question is answered with by way of `redis`: `HGET`'s answer and `XRANGE`'s.
pub(crate) type Answer = (Option<String>, Vec<(String, Vec<Value>)>);

impl From<Answer> for Piece {
    fn from((trimmed, entries): Answer) -> Self {
        let first = entries.first().map(|(id, _)| id.clone());
        let text = |value: &'_ Value| match value {
            Value::BulkString(bytes) => bytes.clone(),
            Value::SimpleString(text) => text.clone().into_bytes(),
            _ => Vec::new(),
        };
        let record = |(id, fields): (String, Vec<Value>)| {
            let fields: Vec<_> = fields.iter().map(text).collect();
            let pairs = fields.as_chunks::<2>().0.iter().map(|[name, content]| (&name[..], &content[..]));
            Some(entry::record(ids::offset_of(&id)?, pairs))
        };
        Self { trimmed, first, records: entries.into_iter().map_while(record).collect() }
    }
}

/// Connections that only pieces are read on. One that failed, or whose caller went away, is gone.
#[derive(Debug)]
pub(crate) struct Pieces {
    turns: Semaphore,
    /// With the number of the shared connection that they were made beside: when that one is made again, after a
    /// failover, these are too.
    idle: Mutex<Vec<(u64, Wire)>>,
}

impl Default for Pieces {
    fn default() -> Self {
        Self { turns: Semaphore::new(CONNECTIONS), idle: Mutex::default() }
    }
}

impl Pieces {
    /// Whether `client`'s server is spoken to without TLS, which is left to `redis`.
    pub fn can_read(client: &Client) -> bool {
        matches!(client.get_connection_info().addr(), ConnectionAddr::Tcp(..))
    }

    /// `None` if the answer is longer than `most_bytes`.
    pub async fn read(
        &self,
        client: &Client,
        number: u64,
        question: &Pipeline,
        most_bytes: usize,
        patience: Duration,
    ) -> RedisResult<Option<Piece>> {
        let asked = async {
            let turn = self.turns.acquire().await.expect("it is never closed");
            let idle = {
                let mut idle = self.idle.lock();
                idle.retain(|(of, _)| *of == number);
                idle.pop()
            };
            let question = question.get_packed_pipeline();
            // `MULTI`, the two commands and `EXEC`.
            const ANSWERS: usize = 4;
            let (mut wire, asked) = match idle {
                Some((_, mut wire)) => match wire.ask(&question, ANSWERS, most_bytes).await {
                    // Servers close what was idle for long, which is seen only now.
                    Err(error) if error.is_io_error() => (Wire::connect(client).await?, None),
                    asked => (wire, Some(asked?)),
                },
                None => (Wire::connect(client).await?, None),
            };
            let whole = match asked {
                Some(whole) => whole,
                None => wire.ask(&question, ANSWERS, most_bytes).await?,
            };
            if !whole {
                return Ok(None);
            }
            let piece = piece(&wire.answer)?;
            Ok(Some((piece, wire, turn)))
        };
        let late = || RedisError::from(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time"));
        let Some((piece, mut wire, _turn)) =
            tokio::time::timeout(patience, asked).await.unwrap_or_else(|_| Err(late()))?
        else {
            return Ok(None);
        };
        wire.answer.clear();
        wire.answer.shrink_to(KEPT_BYTES);
        self.idle.lock().push((number, wire));
        Ok(Some(piece))
    }
}

/// One connection, and the answer that it gave last.
#[derive(Debug)]
struct Wire {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Wire {
    async fn connect(client: &Client) -> RedisResult<Self> {
        let info = client.get_connection_info();
        let ConnectionAddr::Tcp(host, port) = info.addr() else {
            return Err((ErrorKind::InvalidClientConfig, "only plain TCP is read like this").into());
        };
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.set_nodelay(true)?;
        let mut wire = Self { stream, answer: Vec::new() };
        let settings = info.redis_settings();
        let (mut commands, mut answers) = (Vec::new(), 0);
        if let Some(password) = settings.password() {
            let mut auth = redis::cmd("AUTH");
            auth.arg(settings.username()).arg(password);
            auth.write_packed_command(&mut commands);
            answers += 1;
        }
        if settings.db() != 0 {
            redis::cmd("SELECT").arg(settings.db()).write_packed_command(&mut commands);
            answers += 1;
        }
        if answers > 0 {
            wire.ask(&commands, answers, KEPT_BYTES).await?;
            let mut parts = Parts::new(&wire.answer);
            for _ in 0..answers {
                next(&mut parts)?;
            }
        }
        Ok(wire)
    }

    /// Sends `commands` and receives all their answers, or `false` as soon as these are longer than `most_bytes`: the
    /// connection is of no use then.
    async fn ask(&mut self, commands: &[u8], answers: usize, most_bytes: usize) -> RedisResult<bool> {
        self.stream.write_all(commands).await?;
        self.answer.clear();
        let mut progress = Progress::of(answers);
        loop {
            self.answer.reserve(STEP_BYTES);
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                // A server that has too many clients says so, whatever it is asked, and closes.
                next(&mut Parts::new(&self.answer))?;
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
            if progress.is_complete(&self.answer).map_err(odd)? {
                return Ok(true);
            }
            if self.answer.len() > most_bytes {
                return Ok(false);
            }
        }
    }
}

fn odd(odd: Odd) -> RedisError {
    (ErrorKind::Parse, "an answer that is none", odd.to_string()).into()
}

/// The next part of an answer that is all there; an error that the server gave as one.
fn next<'a>(parts: &mut Parts<'a>) -> RedisResult<Part<'a>> {
    match parts.next().map_err(odd)? {
        Some(Part::Error(line)) => {
            let line = [line, b"\r\n"].concat();
            Err(redis::parse_redis_value(&line).and_then(Value::extract_error).err().unwrap_or_else(|| odd(Odd)))
        }
        part => part.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
    }
}

fn text<'a>(parts: &mut Parts<'a>) -> RedisResult<&'a [u8]> {
    match next(parts)? {
        Part::Text(text) | Part::Line(text) => Ok(text),
        _ => Err(odd(Odd)),
    }
}

fn list(parts: &mut Parts<'_>) -> RedisResult<usize> {
    match next(parts)? {
        Part::List(n) => Ok(n),
        Part::Nil => Ok(0),
        _ => Err(odd(Odd)),
    }
}

/// What the answers to [`question`] say.
fn piece(answer: &[u8]) -> RedisResult<Piece> {
    let mut parts = Parts::new(answer);
    // Refused commands say so one by one, before `EXEC` says it once more.
    for _ in 0..3 {
        text(&mut parts)?;
    }
    if list(&mut parts)? != 2 {
        return Err(odd(Odd));
    }
    let string = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    let trimmed = match next(&mut parts)? {
        Part::Nil => None,
        Part::Text(id) => Some(string(id)),
        _ => return Err(odd(Odd)),
    };
    let entries = list(&mut parts)?;
    let mut piece = Piece { trimmed, first: None, records: Vec::with_capacity(entries.min(answer.len() / 16)) };
    for nth in 0..entries {
        if list(&mut parts)? != 2 {
            return Err(odd(Odd));
        }
        let id = text(&mut parts)?;
        if nth == 0 {
            piece.first = Some(string(id));
        }
        let Some(offset) = std::str::from_utf8(id).ok().and_then(ids::offset_of) else { return Ok(piece) };
        let fields = list(&mut parts)? / 2;
        let mut failed = None;
        let pairs = (0..fields).map_while(|_| match text(&mut parts).and_then(|name| Ok((name, text(&mut parts)?))) {
            Ok(pair) => Some(pair),
            Err(error) => {
                failed = Some(error);
                None
            }
        });
        let record = entry::record(offset, pairs);
        if let Some(error) = failed {
            return Err(error);
        }
        piece.records.push(record);
    }
    Ok(piece)
}

#[cfg(test)]
mod tests {
    use redis::FromRedisValue as _;

    use super::*;

    const START: &str = "+OK\r\n+QUEUED\r\n+QUEUED\r\n";

    /// By both ways: of the answer as it comes, and of what `redis` makes of it.
    fn both(exec: &str) -> Piece {
        let ours = piece(format!("{START}{exec}").as_bytes()).unwrap();
        let value = redis::parse_redis_value(exec.as_bytes()).unwrap();
        let theirs = Piece::from(Answer::from_redis_value(value).unwrap());
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
        ours
    }

    #[test]
    fn a_piece_is_read_as_by_the_redis_crate() {
        let none = both("*2\r\n$-1\r\n*0\r\n");
        assert!(none.trimmed.is_none() && none.first.is_none() && none.records.is_empty());
        let two = both(
            "*2\r\n$3\r\n7-1\r\n*2\r\n*2\r\n$3\r\n9-0\r\n*2\r\n$5\r\nevent\r\n$2\r\n{}\r\n\
             *2\r\n$3\r\n9-1\r\n*4\r\n$3\r\nkey\r\n$1\r\nk\r\n$5\r\nevent\r\n$4\r\na\r\nb\r\n",
        );
        assert_eq!((two.trimmed.as_deref(), two.first.as_deref()), (Some("7-1"), Some("9-0")));
        assert_eq!(two.records.len(), 2);
        assert_eq!((&two.records[1].key[..], &two.records[1].value[..]), (&b"k"[..], &b"a\r\nb"[..]));
        assert_eq!(two.records[1].ingest_ms, 9);
        // An id beyond all offsets ends the records.
        let entry = |id: &str| format!("*2\r\n${}\r\n{id}\r\n*2\r\n$5\r\nevent\r\n$2\r\n{{}}\r\n", id.len());
        let far = both(&format!("*2\r\n$-1\r\n*2\r\n{}{}", entry("9-0"), entry("4102444800000-0")));
        assert_eq!((far.records.len(), far.first.as_deref()), (1, Some("9-0")));
        let far = both(&format!("*2\r\n$-1\r\n*1\r\n{}", entry("4102444800000-0")));
        assert_eq!((far.records.len(), far.first.as_deref()), (0, Some("4102444800000-0")));
    }

    #[tokio::test]
    async fn a_server_that_turns_us_away_is_heard() {
        for (said, told) in [("-ERR max number of clients reached\r\n", "max number of clients"), ("", "end of file")] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let client = Client::open(format!("redis://{}/0", listener.local_addr().unwrap())).unwrap();
            let server = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
                stream.write_all(said.as_bytes()).await.unwrap();
            });
            let pieces = Pieces::default();
            let question = question("s", "m", "-", 1);
            let error = pieces.read(&client, 1, &question, usize::MAX, Duration::from_secs(5)).await.unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
            server.await.unwrap();
        }
    }

    #[test]
    fn an_error_is_the_first_that_the_server_gave() {
        for (answer, code) in [
            ("-NOAUTH Authentication required.\r\n".repeat(4), "NOAUTH"),
            ("+OK\r\n-NOPERM no\r\n+QUEUED\r\n-EXECABORT Transaction discarded\r\n".to_owned(), "NOPERM"),
            (format!("{START}*2\r\n$-1\r\n-WRONGTYPE Operation\r\n"), "WRONGTYPE"),
            (format!("{START}-LOADING Redis is loading\r\n"), "LOADING"),
        ] {
            assert_eq!(crate::error::code_of(&piece(answer.as_bytes()).unwrap_err()), code, "{answer}");
        }
        for odd in [
            "*1\r\n$-1\r\n",
            "*2\r\n$-1\r\n*1\r\n$1\r\nx\r\n",
            "*2\r\n$-1\r\n*1\r\n*2\r\n$3\r\n9-0\r\n*2\r\n*0\r\n*0\r\n",
        ] {
            let error = piece(format!("{START}{odd}").as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Parse, "{odd}");
        }
    }
}
