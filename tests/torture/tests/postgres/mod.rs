//! A real PostgreSQL whose power can be cut: its processes journal what they change and sync.

use std::{
    env, fs, io,
    net::{TcpListener, TcpStream},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use flywheel_torture::cut::{Disk, Journals, Undone, format};
use rand_chacha::ChaCha8Rng;
use tokio::process::{Child, Command};

const PATIENCE: Duration = Duration::from_secs(60);

pub struct Postgres {
    programs: PathBuf,
    folder: tempfile::TempDir,
    user: Option<(u32, u32)>,
    port: u16,
    journals: Journals,
    server: Option<Child>,
}

/// The newest one installed.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.filter(|path| number(path).is_some()).max_by_key(|path| number(path))?.join("bin");
    newest.join("initdb").is_file().then_some(newest)
}

/// PostgreSQL refuses to run as root: then it runs as the user that its package made, or as nobody.
fn unprivileged() -> Option<(u32, u32)> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|of| of.uid() == 0);
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    is_root.then(|| ids("postgres").or_else(|| ids("nobody")).expect("every system has a nobody"))
}

impl Postgres {
    /// A cluster of its own, not started yet. `None` where it is not installed.
    ///
    /// # Panics
    /// If it is not, and `FLYWHEEL_REQUIRE` lists `postgres`.
    pub async fn new(shim: &Path) -> Option<Self> {
        let Some(programs) = programs() else {
            let required = env::var("FLYWHEEL_REQUIRE").unwrap_or_default();
            let how = "PostgreSQL is not installed; `apt-get install postgresql`";
            assert!(!required.split(',').any(|word| word.trim() == "postgres"), "{how}");
            eprintln!("SKIPPED: {how}");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("flywheel-postgres-").tempdir().unwrap();
        let (world, power) = (folder.path().join("world"), folder.path().join("power"));
        // That user need not be able to read the folder of the build.
        let own = folder.path().join("powercut.so");
        fs::copy(shim, &own).unwrap();
        fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
        // Its files of data get their names from its log, not from a sync of their folder.
        let journals = Journals::new(&own, &world, &power, Disk::Ordered).unwrap();
        let user = unprivileged();
        if let Some((uid, gid)) = user {
            for path in [folder.path(), &world, &power, &power.join("stash"), &power.join("journals")] {
                chown(path, Some(uid), Some(gid)).unwrap();
            }
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let this = Self { programs, folder, user, port, journals, server: None };
        let made = this
            .command("initdb")
            .args(["--username=flywheel", "--auth=trust", "--encoding=UTF8", "--no-sync", "-D"])
            .arg(this.data())
            .output()
            .await
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Some(this)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("world/data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(self.folder.path()).env("TZ", "UTC").env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        // SAFETY: prctl is async-signal-safe and touches no memory of ours. Its children end with the server.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            })
        };
        command
    }

    pub fn url(&self) -> String {
        format!("postgres://flywheel@127.0.0.1:{}/postgres", self.port)
    }

    /// # Errors
    /// What the server said, if it does not start.
    pub async fn start(&mut self, settings: &[&str]) -> Result<(), String> {
        let log = self.folder.path().join("server.log");
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
        // Of the hundreds of files that it would sync one by one at its start, none was left unsynced by a cut.
        let always = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "recovery_init_sync_method=syncfs"];
        for setting in always.iter().chain(settings) {
            command.args(["-c", setting]);
        }
        let said = fs::File::create(&log).unwrap();
        command.stdout(said.try_clone().unwrap()).stderr(said);
        self.journals.watch(&mut command).unwrap();
        command.env(format::SLOW, "2000");
        let mut server = command.spawn().unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            let said = || fs::read_to_string(&log).unwrap_or_default();
            if let Some(status) = server.try_wait().unwrap() {
                return Err(format!("{status}: {}", said()));
            }
            if said().contains("ready to accept connections") && TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                break;
            }
            assert!(Instant::now() < until, "{}", said());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.server = Some(server);
        Ok(())
    }

    /// All of its processes die at once, and what they had not synced is taken back.
    pub async fn cut(&mut self, random: &mut ChaCha8Rng) -> Undone {
        let mut server = self.server.take().expect("it was started");
        let pid = server.id().expect("it runs") as i32;
        // Stopped first, so that it starts no others and none of its children hears of another's death.
        signal(pid, libc::SIGSTOP);
        let children = children_of(pid);
        children.iter().for_each(|child| signal(*child, libc::SIGKILL));
        signal(pid, libc::SIGKILL);
        server.wait().await.unwrap();
        let until = Instant::now() + PATIENCE;
        while children.iter().any(|child| is_alive(*child)) {
            assert!(Instant::now() < until, "processes of PostgreSQL that do not die");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.journals.cut(random).unwrap()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(pid) = self.server.as_ref().and_then(Child::id) {
            children_of(pid as i32).iter().for_each(|child| signal(*child, libc::SIGKILL));
            signal(pid as i32, libc::SIGKILL);
        }
    }
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: a process that we started, or a child of it that has not been waited for.
    unsafe { libc::kill(pid, signal) };
}

/// State and parent.
fn status(pid: i32) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn is_alive(pid: i32) -> bool {
    status(pid).is_some_and(|(state, _)| !"ZX".contains(state))
}

fn children_of(pid: i32) -> Vec<i32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|other| status(*other).is_some_and(|(_, parent)| parent == pid)).collect()
}
