//! What the page and those who follow models ask of the loop.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use flywheel_control::{
    AliasInfo, AliasMove, ControlError, ControlErrorKind, GameFrame, GameInfo, GameWatch, History, LoopStatus,
    LoopView, ModelInfo, Promote, Rollback, Tiles, Weights,
};
use flywheel_events::{BaseKey, ModelRef, ModelVersion};
use flywheel_registry::{AliasState, RegistryError};
use tokio::sync::watch;

use super::{View, models::model_info};

/// Versions shown in the table of models.
const MODELS_SHOWN: usize = 200;

const READING_ALIAS: &str = "reading an alias";

fn control_error(operation: &'static str, error: RegistryError) -> ControlError {
    let kind = match &error {
        e if e.is_not_found() => ControlErrorKind::NotFound,
        e if e.is_conflict() => ControlErrorKind::Conflict,
        e if e.is_corrupt() => ControlErrorKind::Invalid,
        _ => ControlErrorKind::Unavailable,
    };
    ControlError::new(kind, operation, error.to_string()).caused_by(error)
}

#[async_trait]
impl LoopView for View {
    fn status(&self) -> LoopStatus {
        self.snapshot()
    }

    fn history(&self) -> History {
        self.parts.history.get()
    }

    fn games(&self) -> Vec<GameInfo> {
        let mut games = self.parts.backend.sessions();
        games.sort_by_key(|session| std::cmp::Reverse(session.started_at_ms));
        games.into_iter().map(|session| self.info(session)).collect()
    }

    fn watch_game(&self, id: &str) -> Option<GameWatch> {
        let session = self.parts.backend.sessions().into_iter().find(|session| session.id.as_str() == id)?;
        let mut source = self.parts.backend.subscribe(id)?;
        let first = Arc::new(frame(&source.borrow_and_update().clone()));
        let (sender, frames) = watch::channel(first);
        tokio::spawn(async move {
            // Ends with the game, or when nobody watches any more.
            loop {
                tokio::select! {
                    biased;
                    () = sender.closed() => return,
                    changed = source.changed() => if changed.is_err() { return },
                }
                let next = frame(&source.borrow_and_update().clone());
                sender.send_replace(Arc::new(next));
            }
        });
        Some(GameWatch { info: self.info(session), frames })
    }

    async fn models(&self) -> Result<Vec<ModelInfo>, ControlError> {
        let parts = &self.parts;
        let registry = &parts.backends.registry;
        let failed = |error| control_error("listing models", error);
        let cards = registry.list_newest(&parts.base, MODELS_SHOWN).await.map_err(failed)?;
        let aliases = self.aliases(&parts.base).await.map_err(failed)?;
        let judge = parts.judge.state();
        let ratings = Arc::clone(&self.kept().ratings);
        Ok(cards.into_iter().map(|card| model_info(&judge, &ratings, &aliases, card)).collect())
    }

    async fn alias(&self, base_key: &str, alias: &str) -> Result<AliasInfo, ControlError> {
        let base = parse_base(base_key, READING_ALIAS)?;
        let key = (base.clone(), alias.to_owned());
        self.named.get(key, Instant::now(), || self.read_alias(base, alias)).await
    }

    async fn weights(&self, base_key: &str, version: u64) -> Result<Weights, ControlError> {
        const OPERATION: &str = "reading weights";
        let model = ModelRef::new(parse_base(base_key, OPERATION)?, ModelVersion(version));
        let read = self.parts.backends.registry.weights(&model).await;
        let (card, bytes) = read.map_err(|error| control_error(OPERATION, error))?;
        Ok(Weights { sha256: card.sha256, bytes })
    }

    async fn promote(&self, base_key: &str, request: Promote) -> Result<AliasMove, ControlError> {
        const OPERATION: &str = "promoting a version";
        let (base, registry) = (parse_base(base_key, OPERATION)?, &self.parts.backends.registry);
        let failed = |error| control_error(OPERATION, error);
        let to = ModelVersion(request.version);
        registry.fetch(&ModelRef::new(base.clone(), to)).await.map_err(failed)?;
        let reason = request.reason.as_deref().unwrap_or("promoted by hand");
        let state = registry.promote(&base, "champion", to, request.expected_revision, reason).await.map_err(failed)?;
        self.named.forget();
        self.refresh().await;
        Ok(alias_move(&base, state))
    }

    async fn rollback(&self, base_key: &str, request: Rollback) -> Result<AliasMove, ControlError> {
        const OPERATION: &str = "rolling back";
        let base = parse_base(base_key, OPERATION)?;
        let to = request.to.map(ModelVersion);
        let state =
            self.parts.backends.registry.rollback(&base, to).await.map_err(|error| control_error(OPERATION, error))?;
        self.named.forget();
        self.refresh().await;
        Ok(alias_move(&base, state))
    }
}

impl View {
    /// Five reads of the registry.
    async fn read_alias(&self, base: BaseKey, alias: &str) -> Result<AliasInfo, ControlError> {
        let registry = &self.parts.backends.registry;
        let failed = |error| control_error(READING_ALIAS, error);
        let Some(state) = registry.resolve(&base, alias).await.map_err(failed)? else {
            let message = format!("`{alias}` of `{base}` names nothing");
            return Err(ControlError::new(ControlErrorKind::NotFound, READING_ALIAS, message)
                .hint("GET /v1/models lists the versions and their aliases"));
        };
        let model = ModelRef::new(base.clone(), state.version);
        let card = registry.card(&model).await.map_err(failed)?;
        let aliases = self.aliases(&base).await.map_err(failed)?;
        let ratings = Arc::clone(&self.kept().ratings);
        Ok(AliasInfo {
            name: model.to_string(),
            alias: state.alias,
            revision: state.revision,
            moved_at_ms: state.moved_at_ms,
            reason: state.reason,
            card: model_info(&self.parts.judge.state(), &ratings, &aliases, card),
        })
    }

    /// What the aliases that people know name now.
    async fn aliases(&self, base: &BaseKey) -> Result<Vec<(&'static str, ModelVersion)>, RegistryError> {
        let mut aliases = Vec::new();
        for alias in ["champion", "candidate", "previous"] {
            if let Some(state) = self.parts.backends.registry.resolve(base, alias).await? {
                aliases.push((alias, state.version));
            }
        }
        Ok(aliases)
    }

    fn info(&self, session: flywheel_tank_server::SessionInfo) -> GameInfo {
        GameInfo {
            id: session.id.to_string(),
            system: "tank".to_owned(),
            map: session.map_name,
            opponent: session.opponent,
            model: self.parts.agent.deciding(&session.model_key).map(|model| model.to_string()),
            source: "live".to_owned(),
            tick: session.tick,
            started_at_ms: session.started_at_ms,
            ended: session.ended.map(|end| end.as_str().to_owned()),
        }
    }
}

fn frame(frame: &flywheel_tank_server::GameFrame) -> GameFrame {
    let tiles = &frame.tiles;
    GameFrame {
        tick: frame.tick,
        state: Arc::clone(&frame.state),
        tiles: Arc::new(Tiles {
            revision: tiles.revision,
            tile_size: tiles.tile_size,
            columns: tiles.columns,
            rows: tiles.cells.len() / tiles.columns.max(1),
            cells: tiles.cells.clone(),
        }),
        ended: frame.ended.map(|end| end.as_str().to_owned()),
    }
}

fn parse_base(text: &str, operation: &'static str) -> Result<BaseKey, ControlError> {
    BaseKey::new(text).map_err(|error| ControlError::new(ControlErrorKind::Invalid, operation, error.to_string()))
}

fn alias_move(base: &BaseKey, state: AliasState) -> AliasMove {
    AliasMove {
        model_key: base.to_string(),
        alias: state.alias,
        version: state.version.0,
        previous: state.previous.map(|version| version.0),
        revision: state.revision,
    }
}
