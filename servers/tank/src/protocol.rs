//! Frames from clients (tank spec 5.1): what they mean, or how they are wrong.

use std::borrow::Cow;

use flywheel_tank::{Action, Move, Role};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Close code of an AI socket whose place another one took.
pub const CLOSE_REPLACED: u16 = 4000;
/// Close code of a socket that keeps sending what is not JSON.
pub const CLOSE_POLICY: u16 = 1008;
/// Close code after the game has ended.
pub const CLOSE_NORMAL: u16 = 1000;
/// Close code at server shutdown.
pub const CLOSE_GOING_AWAY: u16 = 1001;
/// Close code of a socket that does not read fast enough.
pub const CLOSE_TRY_AGAIN: u16 = 1013;
/// Largest WebSocket message or frame taken.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

fn role_of(text: &str) -> Option<Role> {
    [Role::Player, Role::Ai].into_iter().find(|role| role.as_str() == text)
}

/// One understood frame.
#[derive(Debug)]
pub enum ClientFrame<'a> {
    Join {
        role: Role,
        session_id: Option<Cow<'a, str>>,
        player_id: Option<Cow<'a, str>>,
        /// An addition to the spec: who plays, such as `hunter`; shown on the page.
        opponent: Option<Cow<'a, str>>,
    },
    Input {
        role: Role,
        session_id: Option<Cow<'a, str>>,
        tank_id: Option<Cow<'a, str>>,
        action: Action,
        debug: Option<&'a RawValue>,
    },
    EpisodeLog {
        text: Cow<'a, str>,
        tick: i64,
    },
    DebugAi(bool),
    DebugGbe(bool),
}

/// Why a frame is dropped; also the label of the counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// Not JSON at all; a hundred in a minute close the socket.
    NotJson,
    /// JSON, but no object with a known `type`.
    UnknownType,
    /// A known `type` with a field missing or of the wrong kind.
    BadField,
    /// An input before a join, or for another role than the joined one.
    WrongRole,
    /// An input for a tank that is not this socket's to move.
    NotYourTank,
    /// An input or join that names another session.
    WrongSession,
    /// The player queue of this tick is full.
    QueueFull,
}

impl Dropped {
    pub const ALL: [Self; 7] = [
        Self::NotJson,
        Self::UnknownType,
        Self::BadField,
        Self::WrongRole,
        Self::NotYourTank,
        Self::WrongSession,
        Self::QueueFull,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::UnknownType => "unknown_type",
            Self::BadField => "bad_field",
            Self::WrongRole => "wrong_role",
            Self::NotYourTank => "not_your_tank",
            Self::WrongSession => "wrong_session",
            Self::QueueFull => "queue_full",
        }
    }
}

#[derive(Deserialize)]
struct KindOnly<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Join<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow, default)]
    session_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    player_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    opponent: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Input<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow, default)]
    session_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tank_id: Option<Cow<'a, str>>,
    #[serde(rename = "move", borrow, default)]
    movement: Option<Cow<'a, str>>,
    #[serde(default)]
    fire: bool,
    #[serde(borrow, default)]
    debug: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EpisodeLog<'a> {
    #[serde(borrow)]
    episode_log: Cow<'a, str>,
    #[serde(default)]
    episode_log_tick: i64,
}

#[derive(Deserialize)]
struct Toggle {
    enabled: bool,
}

/// Reads one text frame.
///
/// # Errors
/// Why it is dropped.
pub fn parse(text: &str) -> Result<ClientFrame<'_>, Dropped> {
    let Ok(KindOnly { kind }) = serde_json::from_str::<KindOnly>(text) else {
        return Err(match serde_json::from_str::<serde::de::IgnoredAny>(text) {
            Ok(_) => Dropped::UnknownType,
            Err(_) => Dropped::NotJson,
        });
    };
    fn body<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Dropped> {
        serde_json::from_str(text).map_err(|_| Dropped::BadField)
    }
    match &*kind {
        "join" => {
            let join: Join = body(text)?;
            let role = role_of(&join.role).ok_or(Dropped::BadField)?;
            let Join { session_id, player_id, opponent, .. } = join;
            Ok(ClientFrame::Join { role, session_id, player_id, opponent })
        }
        "input" => {
            let input: Input = body(text)?;
            let role = role_of(&input.role).ok_or(Dropped::BadField)?;
            let action = action(input.movement.as_deref(), input.fire).ok_or(Dropped::BadField)?;
            Ok(ClientFrame::Input {
                role,
                session_id: input.session_id,
                tank_id: input.tank_id,
                action,
                debug: input.debug,
            })
        }
        "episode_log" => {
            let log: EpisodeLog = body(text)?;
            Ok(ClientFrame::EpisodeLog { text: log.episode_log, tick: log.episode_log_tick })
        }
        "debug_ai_toggle" => body::<Toggle>(text).map(|t| ClientFrame::DebugAi(t.enabled)),
        "debug_gbe_toggle" => body::<Toggle>(text).map(|t| ClientFrame::DebugGbe(t.enabled)),
        _ => Err(Dropped::UnknownType),
    }
}

/// The action of a `move` word and `fire`; `None` if the word is none of the four.
pub fn action(movement: Option<&str>, fire: bool) -> Option<Action> {
    let movement = match movement {
        None => None,
        Some(word) => Some(Move::from_wire(word)?),
    };
    Some(Action { movement, fire })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_of_the_spec_is_understood() {
        assert!(matches!(
            parse(r#"{"type":"join","role":"ai","sessionId":"7d0c"}"#),
            Ok(ClientFrame::Join { role: Role::Ai, session_id: Some(id), player_id: None, .. }) if id == "7d0c"
        ));
        assert!(matches!(
            parse(r#"{"type":"input","role":"ai","tankId":"3","move":"move_left","fire":true,"debug":{"epsilon":0.19}}"#),
            Ok(ClientFrame::Input { role: Role::Ai, tank_id: Some(id), action, debug: Some(_), .. })
                if id == "3" && action == Action { movement: Some(Move::Left), fire: true }
        ));
        assert!(matches!(
            parse(r#"{"type":"input","role":"player","move":null,"fire":false}"#),
            Ok(ClientFrame::Input { role: Role::Player, tank_id: None, .. })
        ));
        assert!(matches!(
            parse(r#"{"type":"episode_log","episodeLog":"won","episodeLogTick":41}"#),
            Ok(ClientFrame::EpisodeLog { tick: 41, .. })
        ));
        assert!(matches!(parse(r#"{"type":"debug_ai_toggle","enabled":true}"#), Ok(ClientFrame::DebugAi(true))));
        assert!(matches!(parse(r#"{"type":"debug_gbe_toggle","enabled":false}"#), Ok(ClientFrame::DebugGbe(false))));
    }

    #[test]
    fn a_wrong_frame_is_told_from_one_that_is_not_json() {
        for (text, why) in [
            ("", Dropped::NotJson),
            ("join", Dropped::NotJson),
            ("{\"type\":\"join\"", Dropped::NotJson),
            ("[1,2]", Dropped::UnknownType),
            ("7", Dropped::UnknownType),
            ("{}", Dropped::UnknownType),
            (r#"{"type":7}"#, Dropped::UnknownType),
            (r#"{"type":"jump"}"#, Dropped::UnknownType),
            (r#"{"type":"join"}"#, Dropped::BadField),
            (r#"{"type":"join","role":"god"}"#, Dropped::BadField),
            (r#"{"type":"input","role":"ai","move":"move_sideways"}"#, Dropped::BadField),
            (r#"{"type":"input","role":"ai","fire":"yes"}"#, Dropped::BadField),
            (r#"{"type":"debug_ai_toggle"}"#, Dropped::BadField),
        ] {
            assert_eq!(parse(text).err(), Some(why), "{text}");
        }
    }
}
