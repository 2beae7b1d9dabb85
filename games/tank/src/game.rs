//! The AI side of one game as a [`Game`]: seats are the AI tanks' places, the players are scripted.

use flywheel_game_api::{Game, IllegalAction, Outcome, Seat};
use serde::{Deserialize, Serialize};

use crate::{
    ACTIONS, Action, ClientView, InputSource, Map, OBSERVATION_LEN, ObservationStack, Rules, STATE_LEN, Script,
    ScriptedPlayer, TankConfig, TankId, observe,
};

/// What a [`TankGame`] is played with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TankGameConfig {
    /// Name of a shipped map.
    pub map: String,
    pub opponent: Script,
    pub tank: TankConfig,
}

impl Default for TankGameConfig {
    fn default() -> Self {
        Self { map: "Stage01.json".to_owned(), opponent: Script::Hunter, tank: TankConfig::default() }
    }
}

/// One game. A step is one transition interval; a seat keeps its tank until that is destroyed and then waits for
/// the next spawn. A seat without an action repeats its tank's last one, as the rules do.
#[derive(Debug, Clone)]
pub struct TankGame {
    rules: Rules,
    view: ClientView,
    script: ScriptedPlayer,
    player: TankId,
    /// One per seat, with the tank's observation.
    seats: Vec<Option<(TankId, ObservationStack)>>,
}

impl TankGame {
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    fn seat_tanks(&mut self) {
        for seat in &mut self.seats {
            if seat.as_ref().is_some_and(|(id, _)| self.view.tank(*id).is_none()) {
                *seat = None;
            }
        }
        for tank in self.view.ai_tanks() {
            let known = self.seats.iter().flatten().any(|(id, _)| *id == tank.id);
            if let (false, Some(free)) = (known, self.seats.iter_mut().find(|seat| seat.is_none())) {
                *free = Some((tank.id, ObservationStack::new()));
            }
        }
        for (id, stack) in self.seats.iter_mut().flatten() {
            if let Some(tank) = self.view.tank(*id) {
                let mut vector = [0.0; STATE_LEN];
                observe::state_vector(&self.view, tank, &mut vector);
                stack.push(&vector);
            }
        }
    }
}

impl Game for TankGame {
    type Config = TankGameConfig;
    type Action = Action;

    fn start(config: &Self::Config, seed: u64) -> Result<Self, String> {
        let map = Map::find(&config.map).ok_or_else(|| format!("no shipped map is called `{}`", config.map))?;
        let mut rules = Rules::new(map, &config.tank, seed).map_err(|e| e.to_string())?;
        let player = rules.add_player(None).map_err(|e| e.to_string())?.id;
        let seats = (config.tank.max_enemies_alive as usize).min(map.ai_spawns().len());
        let script = ScriptedPlayer::new(config.opponent, seed ^ 0x9e37_79b9_7f4a_7c15);
        let mut view = ClientView::new(map);
        view.refresh(&rules);
        Ok(Self { rules, view, script, player, seats: vec![None; seats] })
    }

    fn to_move(&self) -> Vec<Seat> {
        if self.rules.end().is_some() {
            return Vec::new();
        }
        (0..self.seats.len()).filter(|&i| self.seats[i].is_some()).map(|i| Seat(i as u16)).collect()
    }

    fn legal(&self, seat: Seat) -> Vec<Action> {
        if self.rules.end().is_some() || self.seats.get(usize::from(seat.0)).is_none_or(Option::is_none) {
            return Vec::new();
        }
        (0..ACTIONS).filter_map(Action::from_index).collect()
    }

    fn apply(&mut self, actions: &[(Seat, Action)]) -> Result<(), IllegalAction> {
        for (seat, action) in actions {
            let fail = |reason: &str| IllegalAction {
                seat: *seat,
                action: format!("action {}", action.index()),
                reason: reason.to_owned(),
            };
            if self.rules.end().is_some() {
                return Err(fail("the game is over"));
            }
            if self.seats.get(usize::from(seat.0)).is_none_or(Option::is_none) {
                return Err(fail("it has no tank now"));
            }
        }
        for (seat, action) in actions {
            if let Some((id, _)) = &self.seats[usize::from(seat.0)] {
                // The tank lives and one queue takes far more than one input a step.
                let _ = self.rules.queue_input(*id, *action, InputSource::Farm);
            }
        }
        while self.rules.end().is_none() {
            let action = self.script.act(&self.view, self.player);
            if action != Action::NOTHING {
                // The player can be gone only once the game is over.
                let _ = self.rules.queue_input(self.player, action, InputSource::Farm);
            }
            let report = self.rules.tick();
            self.view.refresh(&self.rules);
            if report.transition_due {
                break;
            }
        }
        self.seat_tanks();
        Ok(())
    }

    fn outcome(&self, seat: Seat) -> Option<Outcome> {
        let outcome = self.rules.outcome()?;
        (usize::from(seat.0) < self.seats.len()).then_some(Outcome(outcome))
    }

    fn observation_len(_config: &Self::Config) -> usize {
        OBSERVATION_LEN
    }

    fn encode(&self, seat: Seat, out: &mut [f32]) {
        assert_eq!(out.len(), OBSERVATION_LEN, "an observation has 108 numbers");
        match self.seats.get(usize::from(seat.0)) {
            Some(Some((_, stack))) => out.copy_from_slice(stack.values()),
            _ => out.fill(0.0),
        }
    }

    fn state_hash(&self) -> u64 {
        self.rules.state_hash()
    }
}
