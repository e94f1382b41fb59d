//! Tables as they are printed, and filters: the same text finds what the screen finds.

use std::collections::BTreeSet;

use insta::assert_snapshot;
use portolan::commands::{Connections, Mappings, connections, mappings};
use portolan::tui::keymap::Key;
use serde_json::Value;

use crate::player::Player;
use crate::story::{engine, tells};
use crate::{json, text};

#[tokio::test]
async fn mappings_are_listed_with_the_columns_and_words_of_the_screen() {
    let handle = engine();
    let ours = Mappings::default();
    assert_snapshot!("ls", text(async |out| mappings(&handle, &ours, out).await).await.well());
    let published = Mappings { published: true, ..Mappings::default() };
    assert_snapshot!("ls_published", text(async |out| mappings(&handle, &published, out).await).await.well());
}

#[tokio::test]
async fn connections_are_listed_with_their_ids() {
    let handle = engine();
    let open = Connections::default();
    assert_snapshot!("connections", text(async |out| connections(&handle, &open, out).await).await.well());
    let all = Connections { closed: true, published: true, ..Connections::default() };
    assert_snapshot!("connections_all", text(async |out| connections(&handle, &all, out).await).await.well());
}

#[tokio::test]
async fn a_mapping_in_json_is_the_row_of_the_model() {
    let handle = engine();
    let what = Mappings { filter: "web".into(), ..Mappings::default() };
    let listed = json(async |out| mappings(&handle, &what, out).await).await.json();
    let rows: Vec<portolan::model::update::MappingRow> = serde_json::from_value(listed.clone()).expect("they are rows");
    assert_eq!(rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["web", "web-tls"]);
    assert_eq!(listed[0]["mapping"], "any:8080:web_1:80");
}

/// Its fields as in the contract (§5), and what its row knows beside them.
#[tokio::test]
async fn a_connection_in_json_is_that_of_the_event_stream() {
    let handle = engine();
    let listed = json(async |out| connections(&handle, &Connections::default(), out).await).await.json();
    let first = &listed[0];
    let of_contract: portolan::model::event::Connection =
        serde_json::from_value(first.clone()).expect("it is a connection");
    assert_eq!(first["id"], of_contract.id.0);
    assert!(first["mapping_id"].is_u64() && first["duration_ms"].is_u64(), "{first}");
    assert!(listed.as_array().expect("a list").iter().any(|row| row["process"] == "curl 4242"), "{listed}");
}

const FILTERS: [&str; 24] = [
    "",
    "web",
    "WEB",
    "web tls",
    "dns",
    "docker",
    "refused",
    "curl",
    "172.17.0.2",
    "2001:db8",
    "port:8080",
    "port:80",
    "port:51520",
    "port:x",
    "fam:6",
    "fam:v4",
    "fam:5",
    "state:up",
    "state:st",
    "state:open",
    "state:half",
    "state:docker",
    "web fam:6 state:open",
    "port:8080 no such thing",
];

#[tokio::test]
async fn a_filter_finds_the_mappings_that_the_screen_finds() {
    let handle = tells(Player::new(160, 50).story);
    for filter in FILTERS {
        let mut player = Player::new(160, 50);
        type_filter(&mut player, filter);
        let shown: BTreeSet<u64> = player.state.mappings.order.iter().map(|id| id.0).collect();
        let what = Mappings { filter: filter.into(), published: true };
        let listed = json(async |out| mappings(&handle, &what, out).await).await;
        assert_eq!(ids(&listed.text), shown, "{filter}");
    }
}

#[tokio::test]
async fn a_filter_finds_the_connections_that_the_screen_finds() {
    let handle = tells(Player::new(160, 50).story);
    for filter in FILTERS {
        let mut player = Player::new(160, 50);
        player.press(Key::Char('2'));
        if !player.state.show_closed {
            player.press(Key::Char('x'));
        }
        type_filter(&mut player, filter);
        let shown: BTreeSet<u64> = player.state.connections.order.iter().map(|id| id.0).collect();
        let what = Connections { filter: filter.into(), closed: true, published: true };
        let listed = json(async |out| connections(&handle, &what, out).await).await;
        assert_eq!(ids(&listed.text), shown, "{filter}");
    }
}

fn type_filter(player: &mut Player, filter: &str) {
    player.press(Key::Char('/'));
    player.types(filter);
    player.press(Key::Enter);
}

/// The ids of a list in JSON.
fn ids(text: &str) -> BTreeSet<u64> {
    let listed: Vec<Value> = serde_json::from_str(text).expect("a list");
    listed.iter().map(|row| row["id"].as_u64().expect("an id")).collect()
}

#[tokio::test]
async fn an_empty_list_says_so_beside_it() {
    let handle = engine();
    let nothing = Mappings { filter: "nothing-of-that-name".into(), ..Mappings::default() };
    let said = text(async |out| mappings(&handle, &nothing, out).await).await;
    assert_eq!(said.text, "");
    assert_eq!(said.remark(), "no mapping passes the filter");
    let said = json(async |out| mappings(&handle, &nothing, out).await).await;
    assert_eq!(said.text, "[]\n");
    let nothing = Connections { filter: "nothing-of-that-name".into(), ..Connections::default() };
    let said = text(async |out| connections(&handle, &nothing, out).await).await;
    assert_eq!((said.text.as_str(), said.ended.is_ok()), ("", true));
    assert_eq!(said.remark(), "no connection passes the filter");
    let said = json(async |out| connections(&handle, &nothing, out).await).await;
    assert_eq!(said.text, "[]\n");
}
