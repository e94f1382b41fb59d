//! Sorting, filtering, freezing, and rows that come and go.

use portolan::model::id::ConnectionId;
use portolan::model::request::{Call, Request};
use portolan::model::update::Update;
use portolan::tui::keymap::Key;
use portolan::tui::state::{Paint, Severity};
use portolan::tui::update::Msg;

use crate::player::Player;

#[test]
fn a_filter_leaves_what_it_says() {
    let table = [
        ("fam:4", vec!["198.51.100.7:60090", "198.51.100.7:60112"], vec!["[::1]:41534"]),
        ("curl 41534", vec!["[::1]:41534"], vec!["198.51.100.7"]),
        ("state:half", vec!["198.51.100.7:60090"], vec!["198.51.100.7:60112"]),
        ("port:51544", vec!["[2001:db8:2::41]:51544"], vec!["[2001:db8:2::41]:51520"]),
    ];
    for (filter, shown, hidden) in table {
        let mut player = Player::new(80, 24);
        player.types("2/");
        player.types(filter);
        let picture = player.picture();
        let list: String = picture.lines().skip(4).take(12).collect::<Vec<_>>().join("\n");
        for text in shown {
            assert!(list.contains(text), "{filter}: {text} is not in\n{picture}");
        }
        for text in hidden {
            assert!(!list.contains(text), "{filter}: {text} is in\n{picture}");
        }
        player.press(Key::Esc);
        assert!(player.state.connections.filter.is_empty(), "escape goes back to what was");
    }
}

#[test]
fn a_kept_filter_stands_in_the_title_until_escape() {
    let mut player = Player::new(80, 24);
    player.types("/web");
    player.press(Key::Enter);
    assert!(player.line(2).contains("/web"), "{}", player.line(2));
    assert_eq!(player.state.mappings.order.len(), 2);
    player.press(Key::Esc);
    assert_eq!(player.state.mappings.order.len(), 5);
}

#[test]
fn rows_are_not_sorted_under_a_hand() {
    let mut player = Player::new(80, 24);
    // By the bytes to the client: who comes has soon had more than those who idle.
    player.types("2ss");
    let mut before = player.state.connections.order.clone();
    // Keys keep coming for twenty seconds while busy connections come and go: rows stay, arrivals are appended.
    for _ in 0..80 {
        player.press(Key::Down);
        player.advance(250);
        let now = player.state.connections.order.clone();
        before.retain(|id| now.contains(id));
        assert_eq!(now[..before.len()], before);
        before = now;
    }
    let is_sorted = |player: &Player| {
        let rows = player.state.connections.order.iter().map(|id| &player.state.live.connections[id]);
        rows.map(|item| item.figures.bytes_out).is_sorted_by(|one, next| one >= next)
    };
    assert!(!is_sorted(&player), "{}", player.picture());
    let sorted = (0..20).any(|_| {
        player.advance(250);
        is_sorted(&player)
    });
    assert!(sorted, "once the keys rest, they are sorted");
}

#[test]
fn the_selection_follows_its_connection_through_churn() {
    let mut player = Player::new(80, 24);
    player.press(Key::Tab);
    player.press(Key::Down);
    let selected = player.state.connections.selected.expect("a row");
    for _ in 0..20 {
        player.advance(1_000);
        assert_eq!(player.state.connections.selected, Some(selected));
        assert!(player.picture().contains(&format!(
            "client  {}",
            player.state.selected_connection().expect("there").row.connection.client
        )));
    }
}

#[test]
fn a_closed_row_stays_ten_seconds_with_its_reason_and_comes_back_with_x() {
    let mut player = Player::new(80, 40);
    // A curl opens 5 s into each 7 s and finishes 1.5 s later.
    player.advance(7_000);
    let closed: Vec<ConnectionId> = player
        .state
        .connections
        .order
        .iter()
        .copied()
        .filter(|id| player.state.live.connections[id].row.is_closed())
        .collect();
    let last = *closed.last().expect("one has just finished");
    assert!(player.picture().contains("x finished"));
    player.advance(1_000);
    assert!(player.state.connections.order.contains(&last));
    player.advance(10_000);
    assert!(!player.state.connections.order.contains(&last), "it has had its ten seconds");
    player.types("x");
    assert!(player.state.connections.order.contains(&last), "x shows it again");
    player.types("x");
    assert!(!player.state.connections.order.contains(&last));
}

/// Rows of the story that are there from its beginning to its end.
const LASTING: u64 = 7;

#[test]
fn a_closed_row_keeps_its_place_while_the_list_is_sorted_again_and_again() {
    let mut player = Player::new(80, 40);
    player.types("2");
    player.advance(5_000);
    // The busiest one ends: it stood first.
    let first = player.state.connections.order[0];
    assert!(first.0 <= LASTING && player.state.live.connections[&first].figures.out_rate.is_some());
    let call = Call { expected: None, request: Request::Kill { id: first } };
    player.story.answer(&call).expect("reset");
    for step in 0..36 {
        player.advance(250);
        assert!(player.state.live.connections[&first].row.is_closed());
        assert_eq!(player.state.connections.order[0], first, "step {step}");
        assert!(player.line(4).contains("x reset by user"), "step {step}: {}", player.line(4));
    }
    player.advance(3_000);
    assert!(!player.state.connections.order.contains(&first), "it has had its ten seconds");
    // History is another part of the list.
    player.types("x");
    let place = player.state.connections.order.iter().position(|id| *id == first).expect("x shows it");
    let open = player.state.live.connections.values().filter(|item| !item.row.is_closed()).count();
    assert!(place >= open, "{place} among {open} open ones");
}

#[test]
fn an_idle_row_that_closes_stays_between_its_neighbours() {
    let mut player = Player::new(80, 40);
    player.types("2");
    player.advance(5_000);
    let lasting = |player: &Player| -> Vec<ConnectionId> {
        player.state.connections.order.iter().copied().filter(|id| id.0 <= LASTING).collect()
    };
    let before = lasting(&player);
    let id = before[before.len() - 2];
    let call = Call { expected: None, request: Request::Kill { id } };
    player.story.answer(&call).expect("reset");
    for step in 0..36 {
        player.advance(250);
        assert_eq!(lasting(&player), before, "step {step}");
    }
}

#[test]
fn rates_that_look_the_same_move_no_row() {
    let mut player = Player::new(80, 24);
    player.types("2");
    player.advance(5_000);
    let first = [player.state.connections.order[0], player.state.connections.order[1]];
    let mut rows = first.map(|id| player.state.live.connections[&id].row.clone());
    let (mut now_ms, mut at_ms) = (player.state.now_ms, player.state.live.at.service_ms);
    for step in 0..40 {
        (now_ms, at_ms) = (now_ms + 1_000, at_ms + 1_000);
        for (at, row) in rows.iter_mut().enumerate() {
            // They take turns in being the faster one, by what three digits do not show.
            row.connection.bytes_out += if (step / 3 + at) % 2 == 0 { 1_003_000 } else { 1_001_000 };
        }
        let update = Update { at_ms, connections: rows.to_vec(), ..Update::default() };
        player.tell(Msg::Clock(now_ms));
        player.tell(Msg::Update(Box::new(update)));
        assert_eq!(player.state.connections.order[..2], first, "step {step}");
    }
    let shown = |id| portolan::model::format::rate(player.state.live.connections[id].figures.out_rate);
    assert_eq!(first.each_ref().map(shown), ["1.00M", "1.00M"]);
}

#[test]
fn a_frozen_screen_changes_nothing_but_the_line_that_says_so() {
    let mut player = Player::new(80, 24);
    player.types("f");
    let before: Vec<String> = player.picture().lines().map(str::to_owned).collect();
    player.advance(12_000);
    let after: Vec<String> = player.picture().lines().map(str::to_owned).collect();
    for (y, (before, after)) in before.iter().zip(&after).enumerate() {
        if y != 1 {
            assert_eq!(before, after);
        }
    }
    assert!(after[1].contains("FROZEN 12s, 2 new") || after[1].contains("FROZEN 12s, 3 new"), "{}", after[1]);
    player.types("f");
    assert!(player.line(1).ends_with("LIVE"));
    assert_ne!(player.picture().lines().map(str::to_owned).collect::<Vec<_>>()[4..], after[4..]);
}

#[test]
fn counters_alone_are_drawn_once_a_second() {
    let mut player = Player::new(80, 24);
    let mut paints = 0;
    // From one event of the story to the next only counters move.
    player.advance(2_500);
    for _ in 0..8 {
        player.state.paint = Paint::None;
        player.advance(250);
        paints += u32::from(player.state.paint != Paint::None);
    }
    assert_eq!(paints, 2, "two seconds");
}

#[test]
fn idle_mappings_need_no_drawing() {
    let mut player = Player::new(80, 24);
    player.types("jjj");
    player.advance(20_000);
    assert!(player.state.connections.order.is_empty(), "a stopped mapping is selected");
    // The service has nothing to tell: only the clock goes on.
    let now_ms = player.state.now_ms;
    for second in 1..10 {
        player.tell(Msg::Clock(now_ms + second * 1_000));
    }
    player.state.paint = Paint::None;
    for second in 10..20 {
        player.tell(Msg::Clock(now_ms + second * 1_000));
        assert_eq!(player.state.paint, Paint::None);
    }
}

#[test]
fn errors_that_nobody_looked_at_are_counted_beside_the_events() {
    let mut player = Player::new(80, 24);
    assert!(player.line(1).contains("4 Events (1 error)"), "{}", player.line(1));
    player.types("41");
    assert!(!player.line(1).contains("error"), "{}", player.line(1));
}

#[test]
fn a_list_that_goes_on_says_so() {
    let mut player = Player::new(80, 24);
    player.advance(2_500);
    assert!(player.picture().contains("5 of 8"), "{}", player.picture());
    player.press(Key::Tab);
    player.types("G");
    assert!(player.picture().contains("4-8 of 8"), "{}", player.picture());
}

#[test]
fn sorting_says_by_what_and_which_way() {
    let mut player = Player::new(80, 24);
    assert!(player.line(2).contains("profile ^"), "{}", player.line(2));
    player.types("s");
    assert!(player.line(2).contains("listen ^"), "{}", player.line(2));
    assert!(player.line(4).contains(":5353"));
    player.types("S");
    assert!(player.line(2).contains("listen v"));
    assert!(player.line(4).contains(":9000"), "{}", player.line(4));
}

#[test]
fn severity_is_told_by_marks() {
    let player = Player::new(80, 24);
    let marks: Vec<Severity> =
        player.state.mappings.order.iter().map(|id| player.state.live.mappings[id].severity()).collect();
    assert_eq!(marks, [Severity::None, Severity::Warn, Severity::Error, Severity::None, Severity::None]);
    assert!(player.line(6).starts_with(" !!"), "{}", player.line(6));
}
