//! Why a mapping does not work: a fixture for every cause, each with the report of `portolan doctor` (or of the engine,
//! for what only that knows), as root and as an ordinary user. The table of causes and results is printed.

#[path = "../common/mod.rs"]
mod common;
mod containers;
mod engine;
mod firewalls;
mod healthy;
mod host;
mod relay;
mod table;
#[path = "../service/world.rs"]
#[allow(dead_code, reason = "it is shared with the tests of the service")]
mod world;

use common::{Need, require};
use table::Table;

#[test]
fn each_cause_is_told_and_no_other_and_healthy_mappings_have_none() {
    if !require(&[Need::Namespaces, Need::Docker, Need::Python]) {
        return;
    }
    let mut table = Table::new();
    healthy::rows(&mut table);
    host::rows(&mut table);
    firewalls::rows(&mut table);
    containers::rows(&mut table);
    engine::rows(&mut table);
    table.finish();
}
