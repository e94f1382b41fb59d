//! Pictures of the screen at each size, and what holds of all of them.

use portolan::model::container::DockerState;
use portolan::model::untrusted::SafeText;
use portolan::model::update::{Overview, Update};
use portolan::tui::keymap::Key;
use portolan::tui::state::{ColorMode, Look};
use portolan::tui::update::Msg;
use ratatui::style::{Color, Modifier};

use crate::player::Player;

const SIZES: [(u16, u16); 5] = [(80, 24), (160, 50), (60, 20), (40, 10), (30, 8)];

#[test]
fn mappings_view() {
    for (columns, rows) in SIZES {
        let player = Player::new(columns, rows);
        insta::assert_snapshot!(format!("mappings_{columns}x{rows}"), player.picture());
    }
}

#[test]
fn connections_view() {
    for (columns, rows) in [(80, 24), (120, 30), (60, 14)] {
        let mut player = Player::new(columns, rows);
        player.types("2x");
        insta::assert_snapshot!(format!("connections_{columns}x{rows}"), player.picture());
    }
}

#[test]
fn events_view() {
    let mut player = Player::new(80, 24);
    player.types("4");
    insta::assert_snapshot!(player.picture());
}

#[test]
fn all_of_the_selected_event_is_read_below_the_list() {
    for (columns, rows) in [(60, 20), (80, 24)] {
        let mut player = Player::new(columns, rows);
        player.types("4");
        let event = player.state.selected_event().expect("the newest is selected").event.kind.to_string();
        let picture = player.picture();
        let detail = picture.lines().skip_while(|line| !line.contains("DETAIL")).skip(1).take(3);
        let words: Vec<&str> = detail.flat_map(str::split_whitespace).collect();
        assert_eq!(words.join(" "), event);
    }
}

#[test]
fn everything_about_one_connection() {
    let mut player = Player::new(80, 30);
    player.press(Key::Enter);
    insta::assert_snapshot!(player.picture());
}

#[test]
fn ascii_has_no_byte_above_0x7f() {
    let look = Look { ascii: true, ..Look::default() };
    for (columns, rows) in SIZES {
        let mut player = Player::looking(look, columns, rows);
        assert!(player.picture().is_ascii(), "{}", player.picture());
        if (columns, rows) == (80, 24) {
            insta::assert_snapshot!("mappings_ascii", player.picture());
        }
        for keys in ["4", "2x", "?", "3", "3a", "1i", "1jjw", "1a8080"] {
            player.types(keys);
            player.pause();
            assert!(player.picture().is_ascii(), "{}", player.picture());
            player.press(Key::Esc);
        }
    }
}

#[test]
fn ascii_replaces_foreign_letters_of_a_container_too() {
    let mut player = Player::looking(Look { ascii: true, ..Look::default() }, 80, 24);
    player.state.hint = Some(SafeText::new("wëb コンテナ … done"));
    player.state.note = None;
    let news = player.news();
    assert!(news.is_ascii() && news.ends_with("done"), "{news}");
}

#[test]
fn without_color_the_selection_is_still_seen() {
    let look = Look { color: ColorMode::None, ..Look::default() };
    let mut player = Player::looking(look, 80, 24);
    for keys in ["", "2", "3", "4", "1jjw", "q", "i", "q?"] {
        player.types(keys);
        for cell in &player.buffer().content {
            assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset));
        }
    }
    player.press(Key::Esc);
    player.types("g");
    let buffer = player.buffer();
    assert_eq!(buffer[(0, 4)].symbol(), ">");
    assert!(buffer[(10, 4)].modifier.contains(Modifier::REVERSED));
    assert!(!buffer[(10, 5)].modifier.contains(Modifier::REVERSED));
}

#[test]
fn the_background_is_never_painted() {
    for color in [ColorMode::Dark, ColorMode::Light] {
        let mut player = Player::looking(Look { color, ..Look::default() }, 160, 50);
        for keys in ["", "2", "3", "4", "1jjw", "q", "i", "q?"] {
            player.types(keys);
            assert!(player.buffer().content.iter().all(|cell| cell.bg == Color::Reset));
        }
    }
}

#[test]
fn light_terminals_get_blue_where_dark_ones_get_cyan() {
    let title = |color| Player::looking(Look { color, ..Look::default() }, 80, 24).buffer()[(1, 0)].fg;
    assert_eq!(title(ColorMode::Dark), Color::Cyan);
    assert_eq!(title(ColorMode::Light), Color::Blue);
}

#[test]
fn a_first_run_says_what_to_do() {
    let mut player = Player::silent(Look::default(), 80, 24);
    let update = Update { seq: 1, at_ms: 5, is_full: true, overview: Some(Overview::default()), ..Update::default() };
    player.tell(Msg::Update(Box::new(update)));
    insta::assert_snapshot!(player.picture());
}

#[test]
fn a_first_run_can_be_read_at_every_size() {
    for (columns, rows) in [(40, 10), (40, 30), (60, 20), (120, 12)] {
        let mut player = Player::silent(Look::default(), columns, rows);
        let update =
            Update { seq: 1, at_ms: 5, is_full: true, overview: Some(Overview::default()), ..Update::default() };
        player.tell(Msg::Update(Box::new(update)));
        let picture = player.picture();
        assert!(!picture.contains('…'), "{picture}");
        for word in ["No mapping yet", "   a  add", "portolan try"] {
            assert!(picture.contains(word), "{word} at {columns}x{rows}:\n{picture}");
        }
    }
}

#[test]
fn docker_out_of_reach_is_one_line_with_the_reason() {
    for (columns, comfort) in [(100, true), (80, true), (60, true), (40, false)] {
        let mut player = Player::new(columns, 24);
        let mut overview = player.state.live.overview.clone();
        overview.docker =
            DockerState::Unavailable { reason: SafeText::new("cannot open /var/run/docker.sock: permission denied") };
        let update = Update { at_ms: 700_000, overview: Some(overview), ..Update::default() };
        player.tell(Msg::Update(Box::new(update)));
        assert!(player.line(1).contains(if columns < 60 { "no docker" } else { "! docker not reachable" }));
        let news = player.news();
        let comfort = if comfort { "; mappings by address still work" } else { "" };
        assert!(news.ends_with(&format!("permission denied{comfort}")), "{columns}: {news}");
    }
}

#[test]
fn a_refused_edit_says_where_and_what_before_the_path_of_the_file() {
    let mut player = Player::new(80, 24);
    let mut overview = player.state.live.overview.clone();
    let profile = overview.profile.as_mut().expect("the demo has one");
    let path = "/home/somebody/.config/portolan/profiles/dev.json";
    profile.path = SafeText::new(path);
    profile.problem = Some(SafeText::new(&format!("not applied: {path}:2:19: mappings[1].listn: unknown field")));
    let update = Update { at_ms: 700_000, overview: Some(overview), ..Update::default() };
    player.tell(Msg::Update(Box::new(update)));
    assert_eq!(player.news().trim(), "!! not applied: dev.json:2:19: mappings[1].listn: unknown field");
    player.tell(Msg::Resize(160, 24));
    assert!(player.news().contains(path), "{}", player.news());
}

#[test]
fn a_question_keeps_its_keys_and_its_figures_at_every_width() {
    for columns in [20, 30, 39, 40, 41, 60, 80] {
        let mut player = Player::new(columns, 10);
        player.types("q");
        let picture = player.picture();
        assert!(picture.contains("q quit") && picture.contains("esc stay"), "{columns}:\n{picture}");
        assert!(columns < 35 || picture.contains("Quit stops 3 mappings and 7 conn"), "{columns}:\n{picture}");
    }
}

#[test]
fn hostile_text_never_reaches_a_cell() {
    let mut player = Player::new(80, 24);
    // Such a value cannot be made by the model's constructors; the last look at the cells holds all the same.
    player.state.hint = Some(SafeText::new("\x1b[2J\u{202e}evil\u{9b}31m"));
    for cell in &player.buffer().content {
        for c in cell.symbol().chars() {
            assert!(!portolan::model::untrusted::acts_on_a_terminal(c), "{c:?}");
        }
    }
}

#[test]
fn every_size_can_be_drawn() {
    let mut player = Player::new(80, 24);
    for keys in ["", "2", "3", "4", "1i", "1w", "1?"] {
        player.types(keys);
        for columns in (0..200).step_by(13) {
            for rows in (0..70).step_by(3) {
                player.tell(Msg::Resize(columns, rows));
                player.buffer();
            }
        }
        player.tell(Msg::Resize(80, 24));
        player.press(Key::Esc);
    }
}

#[test]
fn resizing_keeps_the_selection() {
    let mut player = Player::new(80, 24);
    player.press(Key::Down);
    player.press(Key::Tab);
    player.press(Key::Down);
    let before = (player.state.mappings.selected, player.state.connections.selected);
    for (columns, rows) in [(160, 50), (30, 8), (80, 24)] {
        player.tell(Msg::Resize(columns, rows));
        player.buffer();
    }
    assert_eq!((player.state.mappings.selected, player.state.connections.selected), before);
}

#[test]
fn no_port_is_cut_at_any_width() {
    let mut player = Player::new(80, 24);
    for columns in 40..170 {
        player.tell(Msg::Resize(columns, 24));
        let picture = player.picture();
        for port in [":8080", ":9000", ":8443", ":5353"] {
            assert!(picture.contains(port), "{port} at {columns}:\n{picture}");
        }
    }
}
