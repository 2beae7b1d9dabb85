//! What runs inside the server, each at one moment. A server that does not know a script any more is sent it again.

use std::sync::LazyLock;

use redis::Script;

macro_rules! with_ids {
    ($file:literal) => {
        LazyLock::new(|| Script::new(concat!(include_str!("scripts/ids.lua"), include_str!($file))))
    };
}

pub(crate) static APPEND: LazyLock<Script> = with_ids!("scripts/append.lua");
pub(crate) static TRIM: LazyLock<Script> = with_ids!("scripts/trim.lua");
pub(crate) static RENUMBER: LazyLock<Script> = with_ids!("scripts/renumber.lua");
pub(crate) static SYNC: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/sync.lua")));
