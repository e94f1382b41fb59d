//! Sequences of keys and what comes of them.

use portolan::model::id::MappingId;
use portolan::model::request::Request;
use portolan::tui::keymap::{self, Key};
use portolan::tui::state::{Overlay, View, Zoom};
use portolan::tui::update::{Effect, Msg};

use crate::player::Player;

fn requests(player: &Player) -> Vec<&Request> {
    player.asked.iter().map(|(_, call)| &call.request).collect()
}

#[test]
fn every_binding_can_be_found_by_searching_the_help() {
    for binding in keymap::table() {
        let mut player = Player::new(100, 24);
        player.types("?");
        player.types(binding.help);
        let picture = player.picture();
        assert!(picture.contains(&binding.keys_text()), "{} is not in\n{picture}", binding.keys_text());
    }
}

#[test]
fn no_key_does_two_things_at_once() {
    let mut player = Player::new(100, 30);
    for keys in ["", "jjjj", "2", "3", "4", "1i", "gjjw", "a", ":", "?"] {
        player.types(keys);
        let works: Vec<_> = keymap::table()
            .iter()
            .filter(|binding| keymap::scopes(&player.state).contains(&binding.scope) && binding.works(&player.state))
            .collect();
        for (at, one) in works.iter().enumerate() {
            for other in &works[at + 1..] {
                let both = one.keys.iter().find(|key| other.keys.contains(key));
                assert!(both.is_none(), "{both:?} after {keys:?}: {one:?} and {other:?}");
            }
        }
        player.press(Key::Esc);
    }
}

#[test]
fn typing_freeze_leaves_the_freeze_rows() {
    let mut player = Player::new(80, 24);
    player.types("?freeze");
    let rows: Vec<String> =
        player.picture().lines().skip(4).take(16).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert!(rows[0].contains("freeze the screen"), "{rows:?}");
}

#[test]
fn delete_asks_while_connections_are_open_and_says_how_many() {
    let mut player = Player::new(80, 24);
    player.types("d");
    assert!(player.news().contains("Delete web and drop 5 open connections?"), "{}", player.news());
    player.press(Key::Esc);
    assert!(requests(&player).is_empty(), "escape changes nothing");
    player.types("dd");
    assert_eq!(requests(&player), [&Request::Remove { ids: vec![MappingId(1)] }]);
    assert!(player.news().contains("deleted web; u undoes"), "{}", player.news());
    assert_eq!(player.state.mappings.order.len(), 4, "three of ours and one of Docker's");
    player.types("u");
    assert_eq!(player.state.mappings.order.len(), 5);
    assert!(player.news().contains("connections that were dropped stay so"), "{}", player.news());
}

#[test]
fn delete_without_connections_does_not_ask() {
    let mut player = Player::new(80, 24);
    player.types("jjd");
    assert_eq!(requests(&player), [&Request::Remove { ids: vec![MappingId(3)] }]);
}

#[test]
fn any_other_key_than_the_one_asked_for_says_no() {
    for key in [Key::Char('x'), Key::Esc, Key::Char('n'), Key::Tab, Key::Ctrl('c')] {
        let mut player = Player::new(80, 24);
        player.types("d");
        player.press(key);
        assert!(requests(&player).is_empty(), "{key}");
        assert!(matches!(player.state.overlay, Overlay::None), "{key}");
    }
}

#[test]
fn stop_asks_and_start_does_not() {
    let mut player = Player::new(80, 24);
    player.types("t");
    assert!(player.news().contains("Stop web and drop 5 open connections?"), "{}", player.news());
    player.types("y");
    assert_eq!(requests(&player), [&Request::Stop { ids: vec![MappingId(1)] }]);
    assert!(player.line(4).contains("stop"), "{}", player.line(4));
    player.types("t");
    assert_eq!(requests(&player)[1], &Request::Start { ids: vec![MappingId(1)] });
}

#[test]
fn marked_mappings_are_stopped_together() {
    let mut player = Player::new(80, 24);
    player.press(Key::Down);
    player.types("  ");
    assert!(player.line(5).starts_with(" *!"), "{}", player.line(5));
    player.types("t");
    assert!(player.news().contains("Stop 2 mappings and drop 2 open connections?"), "{}", player.news());
    player.press(Key::Enter);
    assert_eq!(requests(&player), [&Request::Stop { ids: vec![MappingId(2), MappingId(3)] }]);
    assert!(player.state.marks.is_empty());
}

#[test]
fn quit_asks_while_something_listens() {
    let mut player = Player::new(80, 24);
    player.types("q");
    assert_eq!(player.news().trim(), "Quit stops 3 mappings and 7 connections.  q quit  esc stay");
    player.press(Key::Esc);
    assert!(player.outside.is_empty());
    player.types("qq");
    assert_eq!(player.outside, [Effect::Quit]);
}

#[test]
fn quit_goes_back_first() {
    let mut player = Player::new(80, 24);
    player.press(Key::Enter);
    assert_eq!(player.state.zoom, Zoom::Detail);
    player.types("q");
    assert_eq!(player.state.zoom, Zoom::None);
    assert!(matches!(player.state.overlay, Overlay::None));
}

#[test]
fn ctrl_c_twice_quits_and_once_cancels() {
    let mut player = Player::new(80, 24);
    player.types("?");
    player.press(Key::Ctrl('c'));
    assert!(matches!(player.state.overlay, Overlay::None));
    player.advance(3_000);
    player.press(Key::Ctrl('c'));
    assert!(player.outside.is_empty());
    player.press(Key::Ctrl('c'));
    assert_eq!(player.outside, [Effect::Quit]);
}

#[test]
fn suspending_says_once_that_forwarding_stops() {
    let mut player = Player::new(80, 24);
    player.press(Key::Ctrl('z'));
    assert!(player.news().contains("Suspending stops forwarding: 7 connections will stall."), "{}", player.news());
    player.press(Key::Ctrl('z'));
    assert_eq!(player.outside, [Effect::Suspend]);
    player.press(Key::Ctrl('z'));
    assert_eq!(player.outside, [Effect::Suspend, Effect::Suspend]);
}

#[test]
fn reset_asks_and_resets_the_selected_connection() {
    let mut player = Player::new(80, 24);
    player.press(Key::Tab);
    player.types("K");
    assert!(player.news().contains("Reset the connection from [::1]:41534?"), "{}", player.news());
    player.types("K");
    assert!(matches!(requests(&player)[..], [Request::Kill { .. }]));
    assert!(player.picture().contains("x reset by user"), "{}", player.picture());
}

#[test]
fn a_key_is_shown_only_if_it_works() {
    let mut player = Player::new(160, 24);
    let footer = |player: &Player| player.line(22);
    assert!(footer(&player).contains("d delete") && footer(&player).contains("f freeze"));
    player.types("4");
    assert!(!footer(&player).contains("d delete"), "{}", footer(&player));
    player.types("1f");
    assert!(footer(&player).contains("f resume"), "{}", footer(&player));
    player.press(Key::Tab);
    assert!(footer(&player).contains("K reset") && !footer(&player).contains("d delete"), "{}", footer(&player));
}

#[test]
fn below_the_smallest_size_quitting_works() {
    let mut player = Player::new(30, 8);
    player.types("d");
    assert!(requests(&player).is_empty());
    player.types("qq");
    assert_eq!(player.outside, [Effect::Quit]);
}

#[test]
fn what_lies_over_a_screen_of_one_line_gets_no_key_and_is_left_by_q() {
    for open in ["a", ":", "?", "/", "o"] {
        let mut player = Player::new(80, 24);
        player.types(open);
        player.tell(Msg::Resize(30, 8));
        player.types("wd1 \u{7f}");
        player.press(Key::Enter);
        player.tell(Msg::Paste("8080:web_1:80".to_owned()));
        let asked = requests(&player).into_iter().filter(|request| !matches!(request, Request::Profiles)).count();
        assert_eq!(asked, usize::from(open == "a"), "{open}: only the containers for the form, as it opened");
        match &player.state.overlay {
            Overlay::Form(form) => assert_eq!(form.port.value(), ""),
            Overlay::Palette(palette) => assert_eq!(palette.input.value(), ""),
            Overlay::Help(help) => assert_eq!(help.input.value(), ""),
            Overlay::Filter(line) => assert_eq!(line.input.value(), ""),
            Overlay::Profiles(_) => {}
            other => panic!("{open}: {other:?}"),
        }
        assert!(player.line(0).ends_with("q back"), "{open}: {}", player.line(0));
        player.types("q");
        assert!(matches!(player.state.overlay, Overlay::None), "{open}");
        assert!(player.line(0).ends_with("q quit"), "{}", player.line(0));
        player.types("q");
        assert!(player.line(0).starts_with("Quit stops 3 mappings"), "{}", player.line(0));
        player.types("q");
        assert_eq!(player.outside, [Effect::Quit], "{open}");
    }
}

#[test]
fn undo_speaks_of_dropped_connections_only_where_some_were() {
    for (keys, says) in [("jjd", false), ("dd", true), ("jjt", false), ("ty", true)] {
        let mut player = Player::new(80, 24);
        player.types(keys);
        player.types("u");
        assert!(player.news().contains("undid: "), "{keys}: {}", player.news());
        assert_eq!(player.news().contains("connections that were dropped stay so"), says, "{keys}: {}", player.news());
    }
}

#[test]
fn a_profile_that_does_not_exist_is_asked_for_while_connections_are_open() {
    let mut player = Player::new(80, 24);
    player.types(":open stagin");
    player.press(Key::Enter);
    let question = "Drop 7 open connections and open stagin (new, empty)?  o open  esc stay";
    assert!(player.news().contains(question), "{}", player.news());
    player.press(Key::Esc);
    assert!(!requests(&player).iter().any(|request| matches!(request, Request::OpenProfile { .. })));
    player.types(":open stagin");
    player.press(Key::Enter);
    player.types("o");
    assert!(player.news().contains("opened stagin (new, empty); :open dev goes back"), "{}", player.news());
    assert!(player.state.live.ours().next().is_none(), "what Docker publishes is still there");
    // One that is there, or with nothing to lose, is opened as one says.
    player.types(":open nothing");
    player.press(Key::Enter);
    assert!(player.news().contains("opened nothing (new, empty); :open stagin goes back"), "{}", player.news());
    let mut player = Player::new(80, 24);
    player.types(":open staging");
    player.press(Key::Enter);
    assert!(player.news().contains("opened staging; :open dev goes back"), "{}", player.news());
}

#[test]
fn the_row_is_copied_and_the_menu_copies_other_forms() {
    let mut player = Player::new(80, 24);
    player.types("yYu");
    player.types("Yc");
    player.press(Key::Tab);
    player.types("Yn");
    let copied: Vec<_> = player
        .outside
        .iter()
        .map(|effect| match effect {
            Effect::Copy(text) => text.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(copied[..3], ["any:8080:web_1:80", "http://[::1]:8080/", "curl 'http://[::1]:8080/'"]);
    assert!(copied[3].starts_with("tcp6 [::1]:41534 [::1]:8080 | tcp 172.17.0.1:"), "{}", copied[3]);
}

#[test]
fn trying_a_target_says_how_each_address_answered() {
    let mut player = Player::new(80, 24);
    player.types("r");
    assert!(player.news().contains("172.17.0.2:80 answers in 0.4ms; [fd00::2]:80 refused"), "{}", player.news());
}

#[test]
fn counters_can_start_from_here() {
    let mut player = Player::new(120, 24);
    player.types("0");
    assert!(player.news().contains("counters of web from here"), "{}", player.news());
    let item = player.state.selected_mapping().expect("there").clone();
    assert_eq!(player.state.counters(&item).bytes_out, 0);
    player.advance(2_000);
    let item = player.state.selected_mapping().expect("there").clone();
    let counted = player.state.counters(&item).bytes_out;
    assert!(counted > 0 && counted < item.figures.bytes_out);
    player.types("0");
    assert_eq!(player.state.counters(&item).bytes_out, item.figures.bytes_out);
}

#[test]
fn columns_scroll_where_they_have_no_room() {
    let mut player = Player::new(80, 24);
    assert!(!player.picture().contains("TARGET ADDRESS"));
    player.types("lllll");
    assert!(player.picture().contains("TARGET ADDRESS"), "{}", player.picture());
    player.types("hhhhh");
    assert!(!player.picture().contains("TARGET ADDRESS"));
}

#[test]
fn views_and_panes_are_a_key_away() {
    let mut player = Player::new(80, 24);
    let views = [('2', View::Connections), ('3', View::Containers), ('4', View::Events), ('1', View::Mappings)];
    for (key, view) in views {
        player.press(Key::Char(key));
        assert_eq!(player.state.view, view);
    }
}

#[test]
fn a_resize_is_drawn_at_once() {
    let mut player = Player::new(80, 24);
    player.tell(Msg::Resize(160, 50));
    assert!(player.picture().contains("TARGET ADDRESS"));
}
