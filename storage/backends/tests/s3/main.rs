//! Tables and models on real S3-compatible servers: SeaweedFS, and moto as a second opinion.
//!
//! The cases of the lake (`storage/lake/tests/common/commits.rs`) and of the registry (`storage/registry/tests/it`) run
//! here unchanged, beside what only a server can break.

mod archive;
mod faults;
mod faulty_server;
mod kill;
mod messages;
mod python;
mod server;
mod whole;

#[path = "../../../registry/tests/it/checkpoints.rs"]
mod checkpoints;
#[path = "../../../lake/tests/common/mod.rs"]
mod lake_cases;
#[path = "../../../registry/tests/it/races.rs"]
mod races;
#[path = "../../../registry/tests/it/common.rs"]
mod registry_common;
#[path = "../../../registry/tests/it/versions.rs"]
mod versions;

use std::sync::Arc;

use object_store::ObjectStore;
// What the cases of the registry ask their root for.
use registry_common::{assert_whole, base, model, network, new_version, open};
use server::{Server, shared};

/// An empty prefix of every server; the servers live as long as the second.
fn stores() -> (Vec<Arc<dyn ObjectStore>>, Vec<Arc<Server>>) {
    let servers = shared();
    (servers.iter().map(|server| server.fresh()).collect(), servers)
}

macro_rules! on_servers {
    ($($name:ident),* $(,)?) => {
        mod commits {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    for server in crate::server::shared() {
                        crate::lake_cases::commits::$name(&|| server.fresh()).await;
                    }
                }
            )*
        }
    };
}

lake_cases::commits::commit_cases!(on_servers);
