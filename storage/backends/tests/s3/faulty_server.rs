//! Stands between a client and a real server and does to requests what networks and overloaded stores do.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// 500, and the server has never heard of it.
    Before,
    /// 500, and the server has done it.
    After,
    /// 409: of a conditional put nothing is decided. (503 for what has no conditions.)
    Undecided,
    /// Done at once, and the answer comes when the client has given up.
    LateAnswer,
    /// Not before the client has given up; then it is done all the same.
    LateArrival,
    /// Delivered twice; the client hears the second answer.
    Twice,
}

/// Chances in a thousand: 5 % and 5 % of 500, 2 % of 409, 1 % of stalls, 1 % of doubles.
const CHANCES: [(u64, Fault); 6] = [
    (50, Fault::Before),
    (50, Fault::After),
    (20, Fault::Undecided),
    (5, Fault::LateAnswer),
    (5, Fault::LateArrival),
    (10, Fault::Twice),
];

#[derive(Debug, Default)]
pub struct Seen {
    requests: AtomicU64,
    faults: Mutex<BTreeMap<Fault, u64>>,
    /// Puts of each object that the server was given, and how many of them it said were done.
    puts: Mutex<BTreeMap<String, (u64, u64)>>,
}

/// The way to a server, until dropped.
pub struct Way {
    pub seen: Arc<Seen>,
    port: u16,
    _tasks: JoinSet<()>,
}

impl Seen {
    pub fn requests(&self) -> u64 {
        self.requests.load(SeqCst)
    }

    pub fn faults(&self) -> BTreeMap<Fault, u64> {
        self.faults.lock().unwrap().clone()
    }

    /// Of the entries of a table's log: the name, and how many puts of it the client sent and the server said were done.
    pub fn entries(&self) -> Vec<(String, u64, u64)> {
        let puts = self.puts.lock().unwrap();
        let entry = |path: &str| path.contains("/_delta_log/") && path.ends_with(".json");
        puts.iter().filter(|(path, _)| entry(path)).map(|(path, n)| (path.clone(), n.0, n.1)).collect()
    }

    fn choose(&self, seed: u64) -> Option<Fault> {
        // splitmix64
        let mut x = self.requests.fetch_add(1, SeqCst).wrapping_add(seed << 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mut left = (x ^ (x >> 31)) % 1000;
        let fault = CHANCES.iter().find_map(|(chance, fault)| {
            if left < *chance {
                return Some(*fault);
            }
            left -= chance;
            None
        });
        if let Some(fault) = fault {
            *self.faults.lock().unwrap().entry(fault).or_default() += 1;
        }
        fault
    }
}

impl Way {
    /// To the server on `port`; `stall` must be longer than clients wait.
    pub async fn to(port: u16, seed: u64, stall: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (seen, mut tasks) = (Arc::new(Seen::default()), JoinSet::new());
        let (port, told) = (port, (listener.local_addr().unwrap().port(), Arc::clone(&seen)));
        tasks.spawn(async move {
            let mut requests = JoinSet::new();
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                let seen = Arc::clone(&seen);
                // One request each; a client that goes away is no matter.
                requests.spawn(async move { drop(serve(client, port, seed, stall, &seen).await) });
                while requests.try_join_next().is_some() {}
            }
        });
        Self { port: told.0, seen: told.1, _tasks: tasks }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// A request or an answer: its head, as it was sent, and its body.
struct Message {
    head: String,
    body: Vec<u8>,
}

async fn serve(mut client: TcpStream, port: u16, seed: u64, stall: Duration, seen: &Seen) -> io::Result<()> {
    let request = read(&mut client).await?;
    let conditional = request.head.to_ascii_lowercase().contains("\r\nif-none-match:");
    let put = request.head.strip_prefix("PUT ").and_then(|rest| rest.split([' ', '?']).next()).map(str::to_owned);
    if let Some(path) = &put {
        seen.puts.lock().unwrap().entry(path.clone()).or_default().0 += 1;
    }
    let forward = async || {
        let answer = forward(port, &request).await?;
        if let Some(path) = &put
            && answer.starts_with(b"HTTP/1.1 200")
        {
            seen.puts.lock().unwrap().entry(path.clone()).or_default().1 += 1;
        }
        io::Result::Ok(answer)
    };
    let answer = match seen.choose(seed) {
        None => forward().await?,
        Some(Fault::Before) => refusal(500, "InternalError"),
        Some(Fault::After) => {
            forward().await?;
            refusal(500, "InternalError")
        }
        Some(Fault::Undecided) if conditional => refusal(409, "ConditionalRequestConflict"),
        Some(Fault::Undecided) => refusal(503, "SlowDown"),
        Some(Fault::LateAnswer) => {
            let answer = forward().await?;
            tokio::time::sleep(stall).await;
            answer
        }
        Some(Fault::LateArrival) => {
            tokio::time::sleep(stall).await;
            forward().await?
        }
        Some(Fault::Twice) => {
            forward().await?;
            forward().await?
        }
    };
    client.write_all(&answer).await?;
    client.shutdown().await
}

fn refusal(status: u16, code: &str) -> Vec<u8> {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>the test said so</Message></Error>");
    let length = body.len();
    format!("HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").into_bytes()
}

async fn read(stream: &mut TcpStream) -> io::Result<Message> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let mut body = bytes.split_off(end);
    let head = String::from_utf8(bytes).map_err(io::Error::other)?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    while body.len() < length.unwrap_or(0) {
        if stream.read_buf(&mut body).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Message { head, body })
}

/// The whole answer of the server, which is asked on a connection of its own.
async fn forward(port: u16, request: &Message) -> io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    // Everything but how long the connection lives goes through as it is: it is signed.
    let kept = request.head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let head: Vec<_> = kept.take_while(|line| !line.is_empty()).chain(["Connection: close", "", ""]).collect();
    server.write_all(head.join("\r\n").as_bytes()).await?;
    server.write_all(&request.body).await?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    Ok(answer)
}
