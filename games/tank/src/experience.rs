//! Transitions and outcomes, read off the events of one game.

use flywheel_events::{Event, GameId, ModelRef, kinds, tank as payload};
use flywheel_game_api::{EpisodeRow, Experience, ExperienceError, Lane, SeatOutcome, TransitionRow};

use crate::{ACTIONS, OBSERVATION_LEN};

/// The tank system's experience.
#[derive(Debug, Clone, Default)]
pub struct TankExperience {
    map_key: String,
    source: String,
    opponent: Option<String>,
    models: Vec<ModelRef>,
    ended: Option<EpisodeRow>,
}

impl TankExperience {
    pub fn new() -> Self {
        Self::default()
    }

    fn transition(&mut self, event: &Event, out: &mut Vec<TransitionRow>) -> Result<(), ExperienceError> {
        let transition: payload::Transition = event.payload_as()?;
        for tank in &transition.tanks {
            check(tank)?;
        }
        if let Some(model) = &event.model
            && !self.models.contains(model)
        {
            self.models.push(model.clone());
        }
        out.extend(transition.tanks.into_iter().map(|tank| TransitionRow {
            lane: Lane { game_id: event.game_id.clone(), seat: tank.tank_id },
            tick: transition.tick,
            label: tank.label,
            map_key: transition.map_key.clone(),
            model: event.model.clone(),
            s: tank.s,
            a: tank.a.into(),
            r: tank.r,
            s2: tank.s2,
            done: tank.done,
            epsilon: tank.epsilon,
        }));
        Ok(())
    }

    fn end(&self, game_id: &GameId, ended: payload::EpisodeEnded) -> Result<EpisodeRow, ExperienceError> {
        if !(-1..=1).contains(&ended.outcome) {
            return Err(ExperienceError::Invalid(format!("`outcome` is {}; it is -1, 0 or 1", ended.outcome)));
        }
        if let Some(tank) = ended.tanks.iter().find(|t| !t.episode_return.is_finite()) {
            return Err(ExperienceError::Invalid(format!("the return of tank `{}` is not finite", tank.tank_id)));
        }
        Ok(EpisodeRow {
            game_id: game_id.clone(),
            map_key: self.map_key.clone(),
            opponent: self.opponent.clone().unwrap_or_else(|| "human".to_owned()),
            reason: ended.reason,
            outcome: ended.outcome,
            ticks: ended.ticks,
            source: if self.source.is_empty() { "live".to_owned() } else { self.source.clone() },
            models: self.models.clone(),
            seats: ended
                .tanks
                .into_iter()
                .map(|t| SeatOutcome { seat: t.tank_id, label: t.label, episode_return: t.episode_return })
                .collect(),
        })
    }
}

fn check(tank: &payload::TankTransition) -> Result<(), ExperienceError> {
    let fail = |what: String| Err(ExperienceError::Invalid(format!("tank `{}`: {what}", tank.tank_id)));
    for (name, values) in [("s", &tank.s), ("s2", &tank.s2)] {
        if values.len() != OBSERVATION_LEN {
            return fail(format!("`{name}` has {} numbers; an observation has {OBSERVATION_LEN}", values.len()));
        }
        if values.iter().any(|v| !v.is_finite()) {
            return fail(format!("`{name}` holds a number that is not finite"));
        }
    }
    if !(0..ACTIONS as i8).contains(&tank.a) {
        return fail(format!("`a` is {}; actions are 0 to 9", tank.a));
    }
    if !tank.r.is_finite() || !tank.epsilon.is_finite() {
        return fail("`r` or `epsilon` is not finite".to_owned());
    }
    Ok(())
}

impl Experience for TankExperience {
    fn accept(&mut self, event: &Event, out: &mut Vec<TransitionRow>) -> Result<(), ExperienceError> {
        match event.kind.as_str() {
            kinds::TANK_SESSION_OPENED => {
                let opened: payload::SessionOpened = event.payload_as()?;
                (self.map_key, self.source) = (opened.map_key, opened.source);
                self.opponent = opened.opponent.or(self.opponent.take());
            }
            kinds::TANK_PLAYER_JOINED => {
                let joined: payload::PlayerJoined = event.payload_as()?;
                if self.opponent.is_none() {
                    self.opponent = joined.opponent;
                }
            }
            kinds::TANK_TRANSITION => self.transition(event, out)?,
            kinds::TANK_EPISODE_ENDED => {
                let ended = event.payload_as()?;
                self.ended = Some(self.end(&event.game_id, ended)?);
            }
            _ => {}
        }
        Ok(())
    }

    fn ended(&self) -> Option<EpisodeRow> {
        self.ended.clone()
    }
}
