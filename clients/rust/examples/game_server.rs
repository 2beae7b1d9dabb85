//! A game server: it plays tank games, its AI tanks decide with the champion in this process, and every event of the
//! games goes to the loop, which learns from them.
//!
//! usage: game_server URL [GAMES] [NAME]

use std::{env, error::Error, process::ExitCode, time::Duration};

use flywheel_client::{ClientError, Decider, EmitConfig, Emitter, FollowConfig, Follower, Game, GameId, System};
use flywheel_tank::{
    ACTIONS, Decide, Decision, Headless, Map, OBSERVATION_LEN, Recorder, Script, TankConfig, TankEvent,
    headless::HeadlessOptions,
};

/// The AI tanks of one game: all that wait decide together, by one version, which the events name.
struct Pilot {
    decider: Decider,
    last: Decision,
}

impl Decide for Pilot {
    fn decide(&mut self, observations: &[f32], _n: usize, actions: &mut Vec<u8>) {
        let mut chosen = Vec::new();
        self.last.model = self.decider.decide_all(observations, &mut chosen);
        actions.extend(chosen.into_iter().map(|action| action as u8));
    }

    fn decision(&self) -> Decision {
        self.last.clone()
    }
}

/// The game's events, as they happen.
struct Feed<'a> {
    game: &'a Game,
    failed: Option<ClientError>,
}

impl Recorder for Feed<'_> {
    fn record(&mut self, event: TankEvent) {
        let draft = self.game.event(event.kind()).actor(event.actor()).model(event.model.clone()).payload(&event.body);
        if let Err(error) = draft.emit() {
            self.failed.get_or_insert(error);
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [url, rest @ ..] = &arguments[..] else {
        eprintln!("usage: game_server URL [GAMES] [NAME]");
        return ExitCode::from(2);
    };
    let n_games = rest.first().map_or(Ok(1), |text| text.parse());
    let name = rest.get(1).map_or("game-server", String::as_str);
    match n_games.map_err(Into::into).and_then(|n_games| serve(url, n_games, name)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(url: &str, n_games: u64, name: &str) -> Result<(), Box<dyn Error>> {
    let emitter = Emitter::start(EmitConfig::new(url).spool(env::temp_dir().join(format!("{name}.spool"))))?;
    let champion = Follower::start(FollowConfig::new(url).shape(OBSERVATION_LEN, ACTIONS))?;
    let mut pilot = Pilot { decider: champion.decider(), last: Decision::default() };
    for seed in 0..n_games {
        let game = emitter.game(System::Tank, GameId::new(format!("{name}-{seed}"))?);
        let options = HeadlessOptions { source: "game-server".to_owned(), ..HeadlessOptions::default() };
        let map = &Map::shipped()[seed as usize % Map::shipped().len()];
        let mut headless = Headless::with_options(map, &TankConfig::default(), seed, Script::Hunter, options)?;
        let mut feed = Feed { game: &game, failed: None };
        let result = loop {
            if let Some(result) = headless.run_period(&mut pilot, &mut feed) {
                break result;
            }
        };
        if let Some(error) = feed.failed {
            return Err(error.into());
        }
        if !emitter.flush(Duration::from_secs(300)) {
            return Err(format!("not everything was acknowledged: {:?}", emitter.stats()).into());
        }
        let (stats, model) = (emitter.stats(), pilot.last.model.as_ref().map(ToString::to_string));
        println!(
            "{}: {:?} after {} ticks, played by {}; last seq {} acknowledged ({:?})",
            game.id(),
            result.reason,
            result.ticks,
            model.as_deref().unwrap_or("nobody"),
            game.acknowledged().ok_or("nothing was acknowledged")?,
            stats.durability.ok_or("nothing was acknowledged")?,
        );
    }
    Ok(())
}
