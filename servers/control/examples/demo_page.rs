//! The page over a made-up loop, for work on the page itself.
//!
//! Nothing here is measured: model, scores and games are invented, and every name says `demo`. The page's browser
//! test runs against it.
//!
//! ```text
//! cargo run -p flywheel-control --example demo_page -- [--port 8099] [--empty] [--hostile] [--stub]
//! ```

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use flywheel_control::{
    AliasInfo, AliasMove, Candidate, Champion, ControlConfig, ControlError, ControlErrorKind, Degraded, FrameMaker,
    GameFrame, GameInfo, GameWatch, History, HistoryKeeper, Lack, LatencyPoint, LoopStatus, LoopView, LossPoint,
    ModelInfo, OpponentScore, Promote, Rollback, ScorePoint, ScoreSource, Stage, StageStatus, SwapPoint, Tiles,
    Verdict, Weights, install_metrics, router, serve,
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const MODEL: &str = "demo-model";
const ANCHORS: [&str; 3] = ["random", "camper", "hunter"];
const TILES: usize = 32;
/// The made-up past is this long.
const PAST_MS: i64 = 480_000;

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// A small generator, so that the demo needs no crate for it.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        (self.roll() * n as f64) as usize
    }
}

fn demo_score(version: u64, opponent: &str) -> f64 {
    let ceiling = match opponent {
        "random" => 0.98,
        "camper" => 0.84,
        _ => 0.76,
    };
    let start = if opponent == "random" { 0.45 } else { 0.12 };
    let wobble = ((version * 7 + opponent.len() as u64 * 3) % 11) as f64 / 110.0 - 0.05;
    (start + (ceiling - start) * (1.0 - (-0.22 * (version as f64 - 1.0)).exp()) + wobble).clamp(0.0, 1.0)
}

fn promoted(version: u64) -> bool {
    version == 1 || matches!(version, 2 | 4 | 5 | 8 | 9 | 12 | 15)
}

struct DemoLoop {
    started_ms: i64,
    empty: bool,
    hostile: bool,
    history: HistoryKeeper,
    games: Vec<(GameInfo, watch::Receiver<Arc<GameFrame>>)>,
}

impl DemoLoop {
    fn new(empty: bool, hostile: bool) -> Self {
        let started_ms = now_ms() - if empty { 4_000 } else { PAST_MS };
        let history = HistoryKeeper::default();
        if !empty {
            invent_past(&history, started_ms);
        }
        Self { started_ms, empty, hostile, history, games: Vec::new() }
    }

    fn start_games(&mut self) {
        let names = ["demo-hunter", "demo-camper", "demo-random"];
        for (place, opponent) in names.into_iter().enumerate() {
            let hostile = self.hostile && place == 0;
            let info = GameInfo {
                id: format!("demo-game-{place}"),
                system: "tank".into(),
                map: if hostile {
                    "<img src=x onerror=document.title='owned'>.json".into()
                } else {
                    format!("Demo0{}.json", place + 1)
                },
                opponent: if hostile { "<img src=x onerror=document.title='owned'>".into() } else { opponent.into() },
                model: Some(format!("{MODEL}@15")),
                source: "live".into(),
                tick: 0,
                started_at_ms: now_ms(),
                ended: None,
            };
            let mut game = DemoGame::new(place as u64 + 1);
            let (sender, frames) = watch::channel(Arc::new(game.step()));
            tokio::spawn(async move {
                let mut every = tokio::time::interval(Duration::from_millis(33));
                loop {
                    every.tick().await;
                    if sender.send(Arc::new(game.step())).is_err() {
                        return;
                    }
                }
            });
            self.games.push((info, frames));
        }
    }

    fn scores(version: u64) -> Vec<OpponentScore> {
        let score = |opponent: &str| OpponentScore {
            opponent: opponent.to_owned(),
            games: 60,
            score: demo_score(version, opponent),
        };
        ANCHORS.into_iter().map(score).collect()
    }
}

fn invent_past(history: &HistoryKeeper, started_ms: i64) {
    let mut dice = Dice(7);
    let mut champion = None;
    for version in 1..=16_u64 {
        let t_ms = started_ms + 20_000 + (version as i64 - 1) * 29_000;
        for opponent in ANCHORS {
            let score = demo_score(version, opponent);
            history.score(ScorePoint {
                t_ms,
                version,
                opponent: opponent.into(),
                games: 60,
                score,
                source: ScoreSource::Judge,
            });
        }
        if promoted(version) {
            let took_ms = Some(3.0 + 6.0 * dice.roll());
            history.swap(SwapPoint {
                t_ms: t_ms + 400,
                from: champion,
                to: version,
                reason: "promoted".into(),
                took_ms,
            });
            champion = Some(version);
        }
    }
    for step in 0..460_u64 {
        let t_ms = started_ms + 18_000 + step as i64 * 1_000;
        let loss = 0.012 + 0.09 * (-(step as f64) / 120.0).exp() + 0.01 * dice.roll();
        history.loss(LossPoint { t_ms, step: step * 120, loss });
        let p50_us = 62.0 + 9.0 * dice.roll();
        let spike = if step % 29 == 2 { 130.0 } else { 0.0 };
        history.latency(LatencyPoint { t_ms, p50_us, p99_us: 210.0 + 70.0 * dice.roll() + spike });
    }
}

#[async_trait]
impl LoopView for DemoLoop {
    fn status(&self) -> LoopStatus {
        let now = now_ms();
        let mut status = LoopStatus::new(self.started_ms, now);
        status.version = "demo".into();
        status.device = "demo, nothing here is measured".into();
        let wave = (now as f64 / 3_000.0).sin();
        if self.empty {
            status.set_stage(StageStatus::new(Stage::Play).running("4 demo games").rate(120.0, "ticks/s"));
            status.set_stage(StageStatus::new(Stage::Stream).running("4 partitions").rate(480.0, "events/s"));
            status.set_stage(
                StageStatus::new(Stage::Land).running("table version 3").rate(410.0, "rows/s").lag(620.0, "ms"),
            );
            status.set_stage(StageStatus::new(Stage::Learn).waiting("12,400 of 20,000 transitions").progress(0.62));
            status.set_stage(StageStatus::new(Stage::Judge).waiting("a first version"));
            status.set_stage(StageStatus::new(Stage::Swap).waiting("a first promotion"));
            return status;
        }
        status.set_stage(
            StageStatus::new(Stage::Play)
                .running("9 live games, 2 farm threads")
                .rate(18_400.0 + 900.0 * wave, "ticks/s")
                .detail("live_games", 9)
                .detail("farm_games", 2)
                .detail("decisions_per_second", 1_080),
        );
        status.set_stage(
            StageStatus::new(Stage::Stream)
                .running("4 partitions, nothing spilled")
                .rate(6_120.0 + 300.0 * wave, "events/s")
                .lag(3.1, "ms")
                .detail("queue_bytes", 48_200)
                .detail("spilled", 0),
        );
        status.set_stage(
            StageStatus::new(Stage::Land)
                .running("table version 912, 0 gaps, 0 dead letters")
                .rate(6_090.0 + 280.0 * wave, "rows/s")
                .lag(740.0 + 120.0 * wave, "ms")
                .detail("freshness_p99_ms", 1_210)
                .detail("duplicates", 0)
                .detail("files", 88),
        );
        status.set_stage(
            StageStatus::new(Stage::Learn)
                .running("step 54,120, 200,000 transitions kept")
                .rate(118.0 + 6.0 * wave, "steps/s")
                .lag(42.0, "ms")
                .detail("q_mean", 0.83)
                .detail("samples_per_insert", 7.9)
                .detail("staleness", 1.2),
        );
        status.set_stage(
            StageStatus::new(Stage::Judge)
                .running("v17 against v15 and three anchors")
                .rate(31.0 + 2.0 * wave, "games/s")
                .lag(1.0, "versions")
                .detail("error_rates", "5 % / 5 %"),
        );
        status.set_stage(
            StageStatus::new(Stage::Swap)
                .waiting("the next promotion")
                .rate(0.0, "swaps/s")
                .detail("swap_p50_ms", 4.8)
                .detail("swap_p99_ms", 11.2),
        );
        let last = self.history.last_swap();
        status.champion = Some(Champion {
            model_key: MODEL.into(),
            version: 15,
            since_ms: last.as_ref().map_or(now, |swap| swap.t_ms),
            previous: Some(12),
            scores: Self::scores(15),
            rating: Some(1_348.0),
        });
        let games = (now / 200 % 200) as u64;
        status.candidate = Some(Candidate {
            model_key: MODEL.into(),
            version: 17,
            games,
            games_cap: 200,
            line: "ahead of v15, not yet sure".into(),
        });
        status.last_swap = last;
        if self.hostile {
            let why = "appending `<img src=x onerror=document.title='owned'>`: connection refused";
            status.degraded.push(Degraded::new(Lack::Log, now - 95_000, why));
        }
        let asked = (status.seconds * 1_080.0) as u64;
        status.decisions.requested = asked;
        status.decisions.answered = asked;
        status.decisions.per_second = 1_080.0;
        status.decisions.p50_us = Some(66.0 + 3.0 * wave);
        status.decisions.p99_us = Some(251.0 + 20.0 * wave);
        let events = (status.seconds * 6_100.0).floor();
        for (name, value) in [
            ("events_acknowledged", events),
            ("events_in_table", events - 4_400.0),
            ("transitions", (status.seconds * 1_060.0).floor()),
            ("train_steps", (status.seconds * 118.0).floor()),
            ("versions_published", 17.0),
            ("versions_promoted", 8.0),
            ("versions_refused", 8.0),
            ("swaps", 8.0),
            ("first_promotion_seconds", 41.0),
        ] {
            status.count(name, value);
        }
        status
    }

    fn history(&self) -> History {
        self.history.get()
    }

    fn games(&self) -> Vec<GameInfo> {
        let newest = |(info, frames): &(GameInfo, watch::Receiver<Arc<GameFrame>>)| GameInfo {
            tick: frames.borrow().tick,
            ..info.clone()
        };
        self.games.iter().map(newest).collect()
    }

    fn watch_game(&self, id: &str) -> Option<GameWatch> {
        let (info, frames) = self.games.iter().find(|(info, _)| info.id == id)?;
        Some(GameWatch { info: info.clone(), frames: frames.clone() })
    }

    async fn models(&self) -> Result<Vec<ModelInfo>, ControlError> {
        if self.empty {
            return Ok(Vec::new());
        }
        let card = |version: u64| {
            let (verdict, line) = match version {
                17 => (Verdict::Judging, "ahead, not yet sure".to_owned()),
                _ if promoted(version) => (Verdict::Promoted, format!("won {} of 60 games", 34 + version)),
                _ => (Verdict::Refused, "no better than the champion after 200 games".to_owned()),
            };
            let aliases: &[&str] = match version {
                17 => &["candidate"],
                15 => &["champion"],
                12 => &["previous"],
                _ => &[],
            };
            ModelInfo {
                model_key: MODEL.into(),
                version,
                parent: (version > 1).then(|| version - 1),
                published_at_ms: self.started_ms + 15_000 + (version as i64 - 1) * 29_000,
                aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
                verdict,
                verdict_line: if self.hostile && version == 15 {
                    "<img src=x onerror=document.title='owned'>".into()
                } else {
                    line
                },
                scores: if version == 17 { Vec::new() } else { Self::scores(version) },
                rating: (version != 17).then_some(1_000.0 + 24.0 * version as f64),
                train_steps: Some(version * 3_200),
                size_bytes: 118_000,
                sha256: "demo".into(),
            }
        };
        Ok((1..=17).rev().map(card).collect())
    }

    async fn alias(&self, base_key: &str, alias: &str) -> Result<AliasInfo, ControlError> {
        let named = |card: &ModelInfo| card.model_key == base_key && card.aliases.iter().any(|name| name == alias);
        let card = self.models().await?.into_iter().find(named).ok_or_else(|| {
            ControlError::new(ControlErrorKind::NotFound, "reading an alias", "the demo has no such alias")
        })?;
        Ok(AliasInfo {
            name: format!("{base_key}@{}", card.version),
            alias: alias.to_owned(),
            revision: card.version,
            moved_at_ms: card.published_at_ms,
            reason: card.verdict_line.clone(),
            card,
        })
    }

    async fn weights(&self, _: &str, _: u64) -> Result<Weights, ControlError> {
        let message = "the versions of the demo are made up";
        Err(ControlError::new(ControlErrorKind::NotFound, "reading weights", message))
    }

    async fn promote(&self, _base_key: &str, _request: Promote) -> Result<AliasMove, ControlError> {
        Err(ControlError::new(ControlErrorKind::Conflict, "promoting", "the demo has no registry"))
    }

    async fn rollback(&self, _base_key: &str, _request: Rollback) -> Result<AliasMove, ControlError> {
        Err(ControlError::new(ControlErrorKind::Conflict, "rolling back", "the demo has no registry"))
    }
}

/// Tanks that wander and fire; no rules of the real game.
struct DemoGame {
    dice: Dice,
    tick: u64,
    maker: FrameMaker,
    grid: Vec<Vec<u8>>,
    tanks: Vec<DemoTank>,
    bullets: Vec<(f64, f64, i64, i64)>,
}

struct DemoTank {
    label: &'static str,
    x: f64,
    y: f64,
    direction: (i64, i64),
    health: u32,
}

impl DemoGame {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed * 7_919 + 3);
        let mut grid = vec![vec![0_u8; TILES]; TILES];
        for _ in 0..26 {
            let tile = [2, 2, 2, 4, 3, 3, 1][dice.below(7)];
            let (row, column, wide, high) = (3 + dice.below(24), dice.below(29), 1 + dice.below(4), 1 + dice.below(3));
            for cells in grid.iter_mut().skip(row).take(high) {
                for cell in cells.iter_mut().skip(column).take(wide) {
                    *cell = tile;
                }
            }
        }
        for (row, column, tile) in [(1, 1, 5), (1, 15, 5), (1, 30, 5), (30, 10, 6), (30, 15, 7)] {
            grid[row][column] = tile;
        }
        for (row, column) in [(29, 14), (29, 15), (29, 16), (30, 14), (30, 16)] {
            grid[row][column] = 2;
        }
        let maker = FrameMaker::new(Tiles::from_grid(16, &grid).expect("the demo map is square"));
        let tank = |label, x, y| DemoTank { label, x, y, direction: (0, 1), health: 4 };
        let tanks = vec![
            tank("normal_pl", 176.0, 456.0),
            tank("normal_en", 32.0, 40.0),
            tank("heavy_en", 250.0, 40.0),
            tank("speedy_en", 470.0, 40.0),
            tank("rapid_en", 250.0, 130.0),
        ];
        Self { dice, tick: 0, maker, grid, tanks, bullets: Vec::new() }
    }

    fn step(&mut self) -> GameFrame {
        self.tick += 1;
        let mut effects = Vec::new();
        let mut changed = Vec::new();
        for tank in &mut self.tanks {
            let (x, y) = (tank.x + 2.0 * tank.direction.0 as f64, tank.y + 2.0 * tank.direction.1 as f64);
            let stuck = !(18.0..494.0).contains(&x) || !(18.0..494.0).contains(&y);
            if stuck || self.dice.roll() < 0.02 {
                tank.direction = [(0, -1), (0, 1), (-1, 0), (1, 0)][self.dice.below(4)];
            } else {
                (tank.x, tank.y) = (x, y);
            }
            if self.dice.roll() < 0.03 {
                self.bullets.push((tank.x, tank.y, tank.direction.0, tank.direction.1));
                effects.push(json!({"type": "fx", "name": "fire", "x": tank.x, "y": tank.y}));
            }
        }
        let grid = &mut self.grid;
        self.bullets.retain_mut(|(x, y, dx, dy)| {
            (*x, *y) = (*x + 5.0 * *dx as f64, *y + 5.0 * *dy as f64);
            let (row, column) = ((*y / 16.0) as usize, (*x / 16.0) as usize);
            if *x < 0.0 || *y < 0.0 || row >= TILES || column >= TILES {
                return false;
            }
            let tile = grid[row][column];
            if tile == 2 {
                grid[row][column] = 0;
                changed.push(json!({"row": row, "col": column, "tileId": 0}));
            }
            if tile == 2 || tile == 4 {
                effects.push(json!({"type": "fx", "name": "hit", "x": *x, "y": *y}));
            }
            tile != 2 && tile != 4
        });
        if self.tick.is_multiple_of(90) {
            let tank = &mut self.tanks[1 + self.dice.below(4)];
            tank.health = if tank.health > 1 { tank.health - 1 } else { 4 };
            effects.push(json!({"type": "fx", "name": "destroy_tank", "x": tank.x, "y": tank.y}));
        }
        let players: Vec<Value> = self
            .tanks
            .iter()
            .enumerate()
            .map(|(place, tank)| {
                json!({
                    "id": place.to_string(), "label": tank.label, "x": tank.x, "y": tank.y,
                    "role": if tank.label.ends_with("_en") { "ai" } else { "player" },
                    "dirX": tank.direction.0, "dirY": tank.direction.1, "health": tank.health, "maxHealth": 4,
                })
            })
            .collect();
        let bullets: Vec<Value> = self.bullets.iter().enumerate().map(|(place, (x, y, dx, dy))| {
            json!({"id": place.to_string(), "x": x, "y": y, "dirX": dx, "dirY": dy, "radius": 2})
        }).collect();
        let state = json!({
            "tick": self.tick, "mapName": "Demo.json", "players": players, "bullets": bullets, "events": effects,
            "gameOver": false, "gameOverReason": null, "mapTilesChanged": changed,
            "stats": {"ticks": self.tick, "enemiesDestroyed": self.tick / 360},
        });
        self.maker.frame(state).expect("the demo changes tiles of its own map only")
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let port = match arguments.iter().position(|argument| argument == "--port") {
        Some(place) => arguments.get(place + 1).ok_or("--port needs a number")?.parse()?,
        None => 0_u16,
    };
    let mut demo = DemoLoop::new(has("--empty"), has("--hostile"));
    if !has("--empty") {
        demo.start_games();
    }
    let demo = Arc::new(demo);
    if !demo.empty {
        let past = Arc::clone(&demo);
        tokio::spawn(async move {
            let mut dice = Dice(11);
            let mut step = 460_u64;
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                step += 1;
                past.history.loss(LossPoint { t_ms: now_ms(), step: step * 120, loss: 0.014 + 0.01 * dice.roll() });
                let (p50_us, p99_us) = (62.0 + 9.0 * dice.roll(), 210.0 + 70.0 * dice.roll());
                past.history.latency(LatencyPoint { t_ms: now_ms(), p50_us, p99_us });
            }
        });
    }
    let stop = CancellationToken::new();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("demo page at http://{}", listener.local_addr()?);
    let config = ControlConfig { stub_page: has("--stub"), ..ControlConfig::default() };
    let app = router(demo, install_metrics()?, config, stop.clone());
    serve(listener, app, stop).await?;
    Ok(())
}
