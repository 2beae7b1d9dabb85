//! Checkpoints of runs, wherever they lie: one suite for the folder of one machine and for object stores that several
//! share, in memory and on real S3-compatible servers.

mod apart;
mod cases;
#[allow(dead_code)]
#[path = "../../../../storage/backends/tests/s3/server.rs"]
mod server;
#[path = "../support/mod.rs"]
mod support;

use std::{cell::Cell, path::PathBuf, sync::Arc};

use flywheel_registry::{CheckpointStore, RunCheckpoints};
use flywheel_train::{Beat, Checkpoints, Ended, Origin, Session, Step, TrainConfig, TrainError, Trainer};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, memory::InMemory, path::Path};
use support::{Linear, Memory, SHAPE, World, config, experience, game, store};
use tokio_util::sync::CancellationToken;

const RUN: &str = "run-1";

/// Where the checkpoints of a run lie.
enum Place {
    /// In one folder, whatever the machine is called.
    Folder,
    /// In a folder of each machine, and here.
    Store(Arc<dyn ObjectStore>),
}

/// What the cases ask for: data to learn from, machines, and a hand that damages things.
struct Ground {
    world: World,
    place: Place,
    fence: Cell<i64>,
}

impl Ground {
    fn new(place: Place) -> Self {
        let world = World::new();
        let games: Vec<_> = (0..20).map(|i| game(&format!("g-{i}"), 25 + i % 7)).collect();
        world.handle().block_on(store(&world.sources.lake, &games));
        Self { world, place, fence: Cell::new(0) }
    }

    fn dir(&self, machine: &str) -> PathBuf {
        match &self.place {
            Place::Folder => self.world.dir.path().join("runs"),
            Place::Store(_) => self.world.dir.path().join(machine),
        }
    }

    /// Takes the run over under the next fence.
    fn claim(&self) -> Option<RunCheckpoints> {
        self.fence.set(self.fence.get() + 1);
        let Place::Store(objects) = &self.place else { return None };
        let all = CheckpointStore::open(Arc::clone(objects), "checkpoints", "s3://lake/checkpoints");
        Some(self.world.runtime.block_on(all.claim(RUN, self.fence.get())).unwrap())
    }

    fn open(&self, machine: &str) -> Checkpoints {
        let here = Checkpoints::open(self.dir(machine).join(RUN)).unwrap();
        match self.claim() {
            Some(claimed) => here.and_in(claimed, self.world.handle(), CancellationToken::new()),
            None => here,
        }
    }

    fn session(
        &mut self,
        machine: &str,
        config: &TrainConfig,
        host: Memory,
    ) -> Result<Session<Linear, Memory>, TrainError> {
        let checkpoints = self.open(machine);
        let trainer = Trainer::new(config.clone(), SHAPE, Linear::new(&config.dqn(SHAPE)), experience);
        let (handle, world) = (self.world.handle(), &mut self.world);
        let tasks = (&mut world.tasks, &world.cancel);
        Session::open(&handle, trainer, host, checkpoints, &world.sources, Origin::default(), tasks)
    }

    /// Learns up to a step and returns each step's loss.
    fn learn(&mut self, machine: &str, until: u64) -> Vec<(u64, u32)> {
        let handle = self.world.handle();
        let mut session = self.session(machine, &fixed(until), Memory::new(|_| Beat::Continue)).unwrap();
        let mut seen = Vec::new();
        let ended = session.run(&handle, |step: Step| seen.push((step.step, step.loss.to_bits()))).unwrap();
        assert_eq!(ended, Ended::Completed);
        seen
    }

    /// What the same settings and data give in one go.
    fn undisturbed(&self, until: u64) -> Vec<(u64, u32)> {
        let mut other = Ground::new(Place::Folder);
        other.learn("one", until)
    }

    /// Changes a file of the checkpoint at `steps`; `None` removes it. Returns what puts it back.
    fn damage(&self, steps: u64, file: &str, how: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Box<dyn FnOnce() + '_> {
        let folder = format!("step-{steps:012}");
        match &self.place {
            Place::Folder => {
                let path = self.dir("any").join(RUN).join(folder).join(file);
                let bytes = std::fs::read(&path).unwrap();
                match how(&bytes) {
                    Some(damaged) => std::fs::write(&path, damaged).unwrap(),
                    None => std::fs::remove_file(&path).unwrap(),
                }
                Box::new(move || std::fs::write(path, bytes).unwrap())
            }
            Place::Store(objects) => {
                let at = |path: &Path| path.as_ref().contains(&folder) && path.as_ref().contains(file);
                let path = self.objects().into_iter().find(at).unwrap();
                let wait = &self.world.runtime;
                let bytes = wait.block_on(async { objects.get(&path).await.unwrap().bytes().await.unwrap() });
                match how(&bytes) {
                    Some(damaged) => drop(wait.block_on(objects.put(&path, damaged.into())).unwrap()),
                    None => wait.block_on(objects.delete(&path)).unwrap(),
                }
                Box::new(move || drop(wait.block_on(objects.put(&path, PutPayload::from_bytes(bytes))).unwrap()))
            }
        }
    }

    /// As a writer does that is killed half-way.
    fn leave_half_of_a_checkpoint(&self, machine: &str, steps: u64) {
        match &self.place {
            Place::Folder => {
                let dir = self.dir(machine).join(RUN).join(format!("tmp-{steps:012}"));
                std::fs::create_dir(&dir).unwrap();
                std::fs::write(dir.join("linear.json"), "{").unwrap();
            }
            Place::Store(objects) => {
                let path = format!("checkpoints/{RUN}/step-{steps:012}-000001-0badcafe/linear.json.0000");
                self.world.runtime.block_on(objects.put(&path.into(), PutPayload::from_static(b"{"))).unwrap();
            }
        }
    }

    /// Names in the object store.
    fn objects(&self) -> Vec<Path> {
        let Place::Store(objects) = &self.place else { return Vec::new() };
        let listed = objects.list(None).map_ok(|object| object.location).try_collect();
        self.world.runtime.block_on(listed).unwrap()
    }

    /// Steps of all whole or partial checkpoints that take room, and names that are none.
    fn kept(&self, machine: &str) -> Vec<String> {
        let mut names: Vec<String> = match &self.place {
            Place::Folder => std::fs::read_dir(self.dir(machine).join(RUN))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect(),
            Place::Store(_) => {
                let folder = |path: &Path| path.parts().nth(2).map(|part| part.as_ref().to_owned());
                self.objects().iter().filter_map(folder).filter(|name| name != "newest").collect()
            }
        };
        names.iter_mut().for_each(|name| name.truncate("step-000000000000".len()));
        names.sort();
        names.dedup();
        names
    }
}

fn fixed(until: u64) -> TrainConfig {
    TrainConfig { follow: false, max_steps: Some(until), ..config() }
}

/// Every place; the servers live as long as the second.
fn places() -> (Vec<Place>, Vec<Arc<server::Server>>) {
    let servers = server::shared();
    let mut places = vec![Place::Folder, Place::Store(Arc::new(InMemory::new()))];
    places.extend(servers.iter().map(|server| Place::Store(server.fresh())));
    (places, servers)
}
