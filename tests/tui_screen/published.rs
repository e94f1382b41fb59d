//! Ports that Docker publishes: only looked at, and never taken for ours.

use portolan::model::id::ConnectionId;
use portolan::model::request::Request;
use portolan::model::untrusted::SafeText;
use portolan::model::update::{Owner, Update};
use portolan::tui::keymap::Key;
use portolan::tui::state::Overlay;
use portolan::tui::update::{Effect, Msg};

use crate::player::Player;

/// The screen with the published port selected: it is the last row.
fn on_published(columns: u16, rows: u16) -> Player {
    let mut player = Player::new(columns, rows);
    player.types("G");
    assert!(player.state.selected_mapping().expect("a row").row.is_docker());
    player
}

fn changes(player: &Player) -> Vec<&Request> {
    let is_change = |request: &&Request| {
        !matches!(
            request,
            Request::Containers | Request::WhoHolds { .. } | Request::Validate { .. } | Request::Profiles
        )
    };
    player.asked.iter().map(|(_, call)| &call.request).filter(is_change).collect()
}

#[test]
fn published() {
    for (columns, rows) in [(80, 24), (160, 50), (60, 20), (40, 10)] {
        let player = on_published(columns, rows);
        insta::assert_snapshot!(format!("published_{columns}x{rows}"), player.picture());
    }
}

#[test]
fn everything_about_one_session() {
    let mut player = on_published(80, 30);
    player.press(Key::Tab);
    player.types("G");
    player.press(Key::Enter);
    insta::assert_snapshot!(player.picture());
}

#[test]
fn it_stands_below_ours_however_they_are_sorted() {
    let mut player = Player::new(80, 24);
    for _ in 0..8 {
        player.types("s");
        for _ in 0..2 {
            player.types("S");
            let rows: Vec<_> =
                player.state.mappings.order.iter().map(|id| player.state.live.mappings[id].row.is_docker()).collect();
            assert_eq!(rows, [false, false, false, false, true], "{}", player.line(2));
        }
    }
}

#[test]
fn nothing_that_changes_or_stops_it_works() {
    let mut player = on_published(160, 24);
    let footer = player.line(22);
    for key in ["e edit", "d delete", "w why"] {
        assert!(!footer.contains(key), "{key} in {footer}");
    }
    player.types("edt w");
    assert!(changes(&player).is_empty(), "{:?}", changes(&player));
    assert!(matches!(player.state.overlay, Overlay::None) && player.state.marks.is_empty());
    // Marked ones of ours are deleted, it is not among them.
    player.types("gjj Gd");
    assert!(changes(&player).is_empty(), "d does not work on it");
    player.press(Key::Tab);
    player.types("K");
    assert!(matches!(player.state.overlay, Overlay::None), "its sessions cannot be reset");
    assert!(!player.line(22).contains("K reset"), "{}", player.line(22));
    for command in [":delete grafana-3000", ":edit grafana-3000 any:1:web_1:80"] {
        player.types(command);
        player.press(Key::Enter);
        assert!(player.picture().contains("no mapping is named grafana-3000"), "{}", player.picture());
        player.press(Key::Esc);
    }
    assert!(changes(&player).is_empty());
}

#[test]
fn a_mapping_of_ours_can_be_made_from_it() {
    let mut player = on_published(80, 24);
    player.types("c");
    player.pause();
    let form = player.state.form().expect("open");
    assert_eq!((form.edits, form.name.value(), form.target_text().as_str()), (None, "", "grafana:3000"));
    assert!(player.picture().contains("in use by docker-proxy (pid 9"), "{}", player.picture());
    player.press(Key::Ctrl('n'));
    player.press(Key::Enter);
    assert_eq!(player.state.live.ours().count(), 5, "{}", player.picture());
}

#[test]
fn it_is_in_none_of_the_sums_and_not_in_the_question_before_the_end() {
    let mut player = Player::new(120, 24);
    assert!(player.line(0).contains("4 mappings  7 conns (3 v6, 4 v4)"), "{}", player.line(0));
    assert!(player.line(0).ends_with("docker 1 port, 4 conns"), "{}", player.line(0));
    player.types("q");
    assert_eq!(player.news().trim(), "Quit stops 3 mappings and 7 connections.  q quit  esc stay");
    player.press(Key::Esc);
    let in_all: f64 = player.state.live.mappings.values().filter_map(|item| item.figures.out_rate).sum();
    assert!(in_all > player.state.live.sums.out_rate, "it has a rate of its own");
}

#[test]
fn a_session_that_is_gone_leaves_the_lists() {
    let mut player = on_published(80, 24);
    let before = player.state.connections.order.clone();
    let gone: Vec<ConnectionId> = before[..2].to_vec();
    let update = Update { at_ms: player.story.now_ms(), connections_removed: gone.clone(), ..Update::default() };
    player.tell(Msg::Update(Box::new(update)));
    assert_eq!(player.state.connections.order, before[2..]);
    assert!(gone.iter().all(|id| !player.state.live.connections.contains_key(id)));
    assert!(player.state.connections.selected.is_some(), "another one is selected");
}

#[test]
fn what_is_not_known_of_a_session_is_said_so_and_cannot_be_found_by_it() {
    let mut player = on_published(120, 24);
    let rows: Vec<String> = player.picture().lines().filter(|line| line.contains("??")).map(str::to_owned).collect();
    assert!(rows.iter().any(|row| row.contains("??-v4  ??")), "a client that is not known: {rows:#?}");
    assert!(rows.iter().any(|row| row.contains("v6-??")), "a target that is not known: {rows:#?}");
    assert!(rows.iter().any(|row| row.contains("??    ??    ??    ??")), "bytes that are not counted: {rows:#?}");
    assert!(!player.picture().contains("0.0.0.0:0"), "{}", player.picture());
    player.press(Key::Tab);
    player.types("/fam:4");
    let listed = player.state.connections.order.len();
    assert_eq!(listed, 1, "the client of unknown family is in none");
    player.press(Key::Esc);
    player.types("G");
    for _ in 0..4 {
        player.types("y");
        player.press(Key::Up);
    }
    let copied: Vec<_> = player.outside.iter().map(|effect| format!("{effect:?}")).collect();
    assert!(copied.iter().any(|text| text.contains("tcp ?? ?? | tcp 172.17.0.1:38230")), "{copied:#?}");
    assert!(player.outside.iter().all(|effect| matches!(effect, Effect::Copy(text) if !text.contains("0.0.0.0:0"))));
}

#[test]
fn nothing_seen_is_not_zero_where_something_cannot_be_seen() {
    let mut player = on_published(80, 24);
    let mut row = player.state.selected_mapping().expect("selected").row.clone();
    (row.connections, row.bytes_in, row.bytes_out) = (0, 0, 0);
    row.owner =
        Owner::Docker { unseen: vec![SafeText::new("IPv4 via DNAT: not visible without root")], is_partial: true };
    let gone = player.state.connections.order.clone();
    let update = |row| Update {
        at_ms: player.story.now_ms(),
        mappings: vec![row],
        connections_removed: gone.clone(),
        ..Update::default()
    };
    let (unseen, mut seen) = (update(row.clone()), row);
    seen.owner = Owner::Docker { unseen: Vec::new(), is_partial: false };
    let seen = update(seen);
    player.tell(Msg::Update(Box::new(unseen)));
    assert!(player.line(8).contains("grafana:3000    ??"), "{}", player.line(8));
    assert!(player.picture().contains("unseen  ?? IPv4 via DNAT: not visible without root"), "{}", player.picture());
    player.tell(Msg::Update(Box::new(seen)));
    assert!(player.line(8).contains("grafana:3000     0"), "{}", player.line(8));
}
