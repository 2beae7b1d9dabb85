//! A network between log and server that does what networks do.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
};

#[derive(Default)]
struct State {
    to: AtomicU16,
    /// The next answer does not arrive: the connection ends in its place.
    lose_answer: AtomicBool,
    /// Nobody gets through.
    closed: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
}

impl Proxy {
    /// Its threads end with the process.
    pub fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State { to: AtomicU16::new(to), ..State::default() });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.closed.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", shared.to.load(Ordering::SeqCst))) else { continue };
                for stream in [&client, &server] {
                    stream.set_nodelay(true).unwrap();
                    shared.open.lock().unwrap().push(stream.try_clone().unwrap());
                }
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || copy(from, to, || false));
                let state = Arc::clone(&shared);
                std::thread::spawn(move || copy(server, client, || state.lose_answer.swap(false, Ordering::SeqCst)));
            }
        });
        Self { port, state }
    }

    pub fn lose_the_next_answer(&self) {
        self.state.lose_answer.store(true, Ordering::SeqCst);
    }

    pub fn answer_was_lost(&self) -> bool {
        !self.state.lose_answer.load(Ordering::SeqCst)
    }

    /// New connections go to another server; those that are open stay.
    pub fn point_to(&self, port: u16) {
        self.state.to.store(port, Ordering::SeqCst);
    }

    pub fn close(&self) {
        self.state.closed.store(true, Ordering::SeqCst);
        for stream in self.state.open.lock().unwrap().drain(..) {
            let _gone = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn reopen(&self) {
        self.state.closed.store(false, Ordering::SeqCst);
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, lose: impl Fn() -> bool) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if lose() || to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _gone = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
