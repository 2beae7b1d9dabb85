//! The run: lives that end badly, one after the other, and a last one that ends well.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use flywheel_log::Durability;
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    LogChoice, Plan, Report,
    book::Book,
    check,
    cut::{Journals, Power, Undone},
    node::Node,
    oracle,
    plan::open_lake,
    producer::{self, Settings},
    redis::Redis,
};

/// How far a run is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    pub kills: u32,
    pub cuts: u32,
    pub acknowledged: u64,
}

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Kill,
    Cut,
}

/// Runs `plan` and reports; the folder holds what the child wrote and said.
///
/// # Errors
/// Only if the run could not even begin or its table not be read; what went wrong on the way is in the report.
pub async fn run(plan: &Plan, mut show: impl FnMut(Progress)) -> anyhow::Result<Report> {
    plan.check().map_err(anyhow::Error::msg)?;
    is_fresh(plan).await?;
    let began = Instant::now();
    let mut stage = Stage::new(plan)?;
    let (address, addresses) = watch::channel(None);
    let (finish, give_up) = (CancellationToken::new(), CancellationToken::new());
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut producers = JoinSet::new();
    for index in 0..plan.producers {
        let settings = Settings {
            seed: plan.seed,
            index,
            producers: plan.producers,
            rate: plan.rate,
            finish: finish.clone(),
            give_up: give_up.clone(),
            acknowledged: Arc::clone(&acknowledged),
        };
        producers.spawn(producer::produce(settings, addresses.clone()));
    }
    let mut report = Report {
        seed: plan.seed,
        log: plan.log.to_string(),
        store: (!plan.store.is_local()).then(|| plan.store.url.clone()),
        faults: plan.faults,
        ..Report::default()
    };
    let mut books = Vec::new();
    let lives = async {
        let mut random = ChaCha8Rng::seed_from_u64(plan.seed);
        for end in ends(plan, &mut random) {
            stage.live(end, &address, &mut random, &mut report).await?;
            let acknowledged = acknowledged.load(Ordering::Relaxed);
            show(Progress { kills: report.kills, cuts: report.cuts, acknowledged });
        }
        // The last one: everything that waits is sent, and landed.
        let node = stage.start(&address, &mut report).await?;
        finish.cancel();
        // What is not acknowledged by then is counted as unanswered.
        let _in_time = timeout(plan.patience, collect(&mut producers, &mut books)).await;
        give_up.cancel();
        node.drain(plan.patience + Duration::from_secs(120)).await
    }
    .await;
    finish.cancel();
    give_up.cancel();
    // Waiting producers end with the address.
    drop(address);
    collect(&mut producers, &mut books).await;
    report.broken = lives.err().map(|error| format!("{error:#}"));
    stage.end().await?;
    summarise(&mut report, &books);
    let lake = open_lake(&stage.data, &plan.store)?;
    match check::check(&lake, plan.seed, &books).await {
        Ok(verdict) => {
            report.verdict = verdict;
            let opinion = async {
                let table = local_events(plan, &stage.data).await?;
                oracle::ask(&table, plan.seed, &books, &plan.folder).await
            };
            match opinion.await {
                Ok(Ok(opinion)) => report.opinion = Some(opinion),
                Ok(Err(why)) => report.no_opinion = Some(why),
                Err(error) => drop(report.broken.get_or_insert_with(|| format!("{error:#}"))),
            }
        }
        Err(error) if report.broken.is_some() => {
            report.broken.as_mut().expect("just asked").push_str(&format!("; {error:#}"));
        }
        Err(error) => report.broken = Some(format!("{error:#}")),
    }
    report.undone = stage.undone;
    report.seconds = began.elapsed().as_secs_f64();
    report.judge();
    Ok(report)
}

/// The table's folder, for readers that read folders; of a bucket it is a copy.
async fn local_events(plan: &Plan, data: &Path) -> anyhow::Result<PathBuf> {
    let Some(bucket) = plan.store.bucket()? else { return Ok(data.join("lake/events")) };
    let copy = plan.folder.join("copy/events");
    bucket.copy("lake/events", &copy).await.map(|()| copy)
}

/// Removes what a run left in a bucket: everything below its own prefix.
///
/// # Errors
/// If the store refuses.
pub async fn sweep(plan: &Plan) -> anyhow::Result<()> {
    let Some(bucket) = plan.store.bucket()? else { return Ok(()) };
    ensure!(bucket.prefix().filename() == Some(&*plan.name()), "`{bucket}` is not of this run alone");
    bucket.remove().await
}

/// Whether nothing of an earlier run with this seed lies in the bucket.
async fn is_fresh(plan: &Plan) -> anyhow::Result<()> {
    let Some(bucket) = plan.store.bucket()? else { return Ok(()) };
    bucket.reach().await?;
    ensure!(bucket.is_empty().await?, "`{bucket}` holds an earlier run of this seed; take another one, or remove it");
    Ok(())
}

async fn collect(producers: &mut JoinSet<Book>, books: &mut Vec<Book>) {
    while let Some(book) = producers.join_next().await {
        books.push(book.expect("producers do not panic"));
    }
}

fn ends(plan: &Plan, random: &mut ChaCha8Rng) -> Vec<End> {
    let mut ends = vec![End::Kill; plan.kills as usize];
    ends.resize((plan.kills + plan.cuts) as usize, End::Cut);
    ends.shuffle(random);
    ends
}

fn summarise(report: &mut Report, books: &[Book]) {
    let mut weakest: Option<Durability> = None;
    for book in books {
        report.games += book.games.len() as u64;
        report.unanswered += book.unanswered;
        report.tally.add(&book.tally);
        if let Some(complaint) = book.complaints.first() {
            report.broken.get_or_insert_with(|| format!("a producer was answered wrongly: {complaint}"));
        }
        for promise in book.games.iter().flat_map(|game| &game.acknowledged) {
            weakest = Some(weakest.map_or(promise.durability, |weakest| weakest.min(promise.durability)));
        }
    }
    report.durability = weakest.map_or_else(|| "nothing".to_owned(), |weakest| weakest.to_string());
}

/// The set-up: folders, the log's server if there is one, and what power cuts need.
struct Stage<'p> {
    plan: &'p Plan,
    data: PathBuf,
    log: String,
    redis: Option<Redis>,
    power: Option<Power>,
    undone: Undone,
    lives: u64,
    starts: Vec<Duration>,
}

impl<'p> Stage<'p> {
    fn new(plan: &'p Plan) -> anyhow::Result<Self> {
        let data = plan.folder.join("world/data");
        std::fs::create_dir_all(&data).with_context(|| format!("making {}", data.display()))?;
        let redis = match &plan.log {
            LogChoice::Redis(sync) => {
                Some(Redis::new(&plan.folder.join("world/redis"), &plan.folder.join("redis.log"), *sync)?)
            }
            LogChoice::Embedded | LogChoice::Url(_) => None,
        };
        let log = match (&plan.log, &redis) {
            (LogChoice::Url(url), _) => url.clone(),
            (_, Some(redis)) => redis.url(),
            (_, None) => "embedded:".to_owned(),
        };
        let power = plan.shim.as_deref().filter(|_| plan.cuts > 0);
        let power = power.map(|shim| Power::new(shim, &plan.folder)).transpose()?;
        Ok(Self { plan, data, log, redis, power, undone: Undone::default(), lives: 0, starts: Vec::new() })
    }

    async fn node(&mut self) -> anyhow::Result<Node> {
        if let Some(redis) = &mut self.redis
            && !redis.is_running()
        {
            redis.start(self.plan.patience, self.power.as_mut().map(|power| &mut power.redis)).await?;
        }
        let journals: Option<&mut Journals> = self.power.as_mut().map(|power| &mut power.node);
        self.lives += 1;
        Node::start(self.plan, self.lives, (&*self.data, &*self.log), journals)
    }

    /// A life with open doors, whose address the producers are told.
    async fn start(&mut self, address: &watch::Sender<Option<String>>, report: &mut Report) -> anyhow::Result<Node> {
        let mut node = self.node().await?;
        let (at, took) = node.ready(self.plan.patience).await?;
        self.starts.push(took);
        self.starts.sort_unstable();
        report.restart_p50_ms = self.starts[self.starts.len() / 2].as_millis() as u64;
        report.restart_max_ms = self.starts.last().map_or(0, |longest| longest.as_millis() as u64);
        address.send_replace(Some(at));
        Ok(node)
    }

    /// One life, from its start to its bad end.
    async fn live(
        &mut self,
        end: End,
        address: &watch::Sender<Option<String>>,
        random: &mut ChaCha8Rng,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let (shortest, longest) = self.plan.life;
        // One in eight does not live to open its doors.
        let node = if !self.starts.is_empty() && random.random_bool(0.125) {
            let node = self.node().await?;
            sleep(Duration::from_millis(random.random_range(0..60))).await;
            node
        } else {
            let node = self.start(address, report).await?;
            sleep(random.random_range(shortest..=longest)).await;
            node
        };
        match end {
            End::Kill => {
                report.kills += 1;
                // Now and then the log's server dies, too, before or after.
                let server_first = random.random_bool(0.3);
                if server_first && let Some(redis) = &mut self.redis {
                    redis.kill().await?;
                    sleep(Duration::from_millis(random.random_range(0..100))).await;
                }
                node.kill().await?;
                address.send_replace(None);
            }
            End::Cut => {
                report.cuts += 1;
                // Both at the same moment, as nearly as one program can.
                let mut redis = self.redis.take();
                let (server, child) = tokio::join!(
                    async {
                        match &mut redis {
                            Some(redis) => redis.kill().await,
                            None => Ok(()),
                        }
                    },
                    node.kill()
                );
                self.redis = redis;
                server.and(child)?;
                address.send_replace(None);
                let power = self.power.as_mut().context("a cut without what it needs")?;
                self.undone.add(power.cut(random)?);
            }
        }
        Ok(())
    }

    async fn end(&mut self) -> anyhow::Result<()> {
        match &mut self.redis {
            Some(redis) => redis.kill().await,
            None => Ok(()),
        }
    }
}
