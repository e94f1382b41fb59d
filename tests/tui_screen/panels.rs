//! Pictures of the screen at each size, and what holds of all of them.

use jiff::Timestamp;
use portolan::model::container::DockerState;
use portolan::model::event::MappingState;
use portolan::model::exchange::Exchange;
use portolan::model::mapping::Family;
use portolan::model::untrusted::SafeText;
use portolan::model::update::{ListenerRow, MappingRow, Overview, Update};
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

/// The first connection of the story, with an alias, a proxy in front and requests.
fn identified(player: &mut Player, has_requests: bool) {
    let mut row = player.state.selected_connection().expect("one is selected").row.clone();
    row.connection.alias = Some("198.18.3.7".parse().expect("an address"));
    row.connection.peer = Some("10.0.0.9:40112".parse().expect("an address"));
    row.process = None;
    if has_requests {
        let answered = |path: &str, status, duration_us| Exchange {
            at: Timestamp::UNIX_EPOCH,
            method: "GET".into(),
            path: path.into(),
            status,
            duration_us,
        };
        row.connection.requests = Some(70);
        row.exchanges = vec![
            answered("/", Some(200), Some(1_234)),
            answered("/a/path/that/is/longer/than/there/is/room/for/in/any/column/of/the/list", Some(404), Some(420)),
            answered("/slow", None, None),
        ];
    }
    let update = Update { seq: 9, at_ms: 9, connections: vec![row], ..Update::default() };
    player.tell(Msg::Update(Box::new(update)));
}

#[test]
fn who_the_client_is_to_the_container_and_what_it_asks_stand_in_its_row_and_detail() {
    for (columns, rows) in [(80, 24), (160, 50)] {
        for has_requests in [false, true] {
            let mut player = Player::new(columns, rows);
            player.types("2");
            identified(&mut player, has_requests);
            let what = if has_requests { "requests" } else { "alias" };
            insta::assert_snapshot!(format!("identity_{what}_{columns}x{rows}"), player.picture());
        }
    }
    let mut player = Player::new(80, 30);
    player.types("2");
    identified(&mut player, true);
    player.press(Key::Enter);
    insta::assert_snapshot!("identity_whole_detail", player.picture());
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
    for (columns, one_line) in [(100, true), (80, true), (60, true), (40, false)] {
        let mut player = Player::new(columns, 24);
        let mut overview = player.state.live.overview.clone();
        overview.docker =
            DockerState::Unavailable { reason: SafeText::new("cannot open /var/run/docker.sock: permission denied") };
        let update = Update { at_ms: 700_000, overview: Some(overview), ..Update::default() };
        player.tell(Msg::Update(Box::new(update)));
        assert!(player.line(1).contains(if columns < 60 { "no docker" } else { "! docker not reachable" }));
        // Where one line is too short, it has two.
        let lines = if one_line { 1 } else { 2 };
        let picture = player.picture();
        let news: Vec<&str> = picture.lines().skip(24 - lines).flat_map(str::split_whitespace).collect();
        let news = news.join(" ");
        assert!(news.starts_with("! docker: "), "{columns}: {news}");
        assert!(news.ends_with("permission denied; mappings by address still work"), "{columns}: {news}");
        assert!(picture.lines().nth(23 - lines).is_some_and(|keys| keys.contains("? help")), "{columns}:\n{picture}");
    }
}

#[test]
fn the_first_run_says_on_the_narrowest_screen_that_mappings_by_address_work_without_docker() {
    let mut player = Player::silent(Look::default(), 40, 24);
    let reason = SafeText::new("cannot open /var/run/docker.sock: not running");
    let overview = Overview { docker: DockerState::Unavailable { reason }, ..Overview::default() };
    let update = Update { seq: 1, at_ms: 5, is_full: true, overview: Some(overview), ..Update::default() };
    player.tell(Msg::Update(Box::new(update)));
    let words: Vec<String> = player.picture().split_whitespace().map(str::to_owned).collect();
    let text = words.join(" ");
    assert!(text.contains("docker: not running; mappings by address still work"), "{text}");
}

/// The demo's screen with one of its mappings changed.
fn with(player: &mut Player, name: &str, change: impl FnOnce(&mut MappingRow)) {
    let mut row =
        player.state.live.mappings.values().find(|item| item.row.name == name).expect("in the cast").row.clone();
    change(&mut row);
    let at_ms = player.state.live.at.service_ms;
    player.tell(Msg::Update(Box::new(Update { at_ms, mappings: vec![row], ..Update::default() })));
}

#[test]
fn the_reason_is_read_where_addresses_are_long() {
    let long = "[2001:db8:1111:2222:3333:4444:5555:6666]:48443";
    let holder = format!("{long}/tcp is in use by node (pid 812)");
    for (reason, cell, news) in [
        (holder.as_str(), "node 812", "[2001:…6666]:48443/tcp is in use by node (pid 812)"),
        ("2001:db8:1111:2222:3333:4444:5555:6666 is not an address of this host", "not local", "of this host"),
    ] {
        let mut player = Player::new(80, 24);
        with(&mut player, "web", |row| {
            row.mapping = format!("{long}:[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:38443").parse().expect("a mapping");
            row.state = MappingState::Failed;
            row.reason = Some(SafeText::new(reason));
            row.listeners = vec![ListenerRow {
                family: Family::V6,
                address: long.to_owned(),
                bound: None,
                error: Some(SafeText::new(reason)),
            }];
        });
        let row = player.picture().lines().find(|line| line.contains("fail")).expect("its row").to_owned();
        assert!(row.contains(":48443") && row.contains(cell), "{row}");
        assert!(player.news().contains(news), "{}", player.news());
    }
}

#[test]
fn what_docker_lacks_is_read_in_the_last_result() {
    for (why, cell) in [("not running", "not running"), ("permission denied", "permission")] {
        let mut player = Player::new(80, 24);
        with(&mut player, "api", |row| {
            row.state = MappingState::Waiting;
            row.listeners.iter_mut().for_each(|listener| listener.error = None);
            row.reason = Some(SafeText::new(&format!("Docker: cannot open /var/run/docker.sock: {why}")));
        });
        let row = player.line(5);
        assert!(row.contains("wait") && row.contains(cell) && !row.contains("Docker"), "{row}");
    }
}

#[test]
fn the_number_of_the_process_is_read_at_every_width_that_shows_it() {
    let mut player = Player::new(80, 24);
    with(&mut player, "web", |row| row.mapping = "any:18080:127.0.0.1:18093".parse().expect("a mapping"));
    for columns in 60..170 {
        player.tell(Msg::Resize(columns, 24));
        let row = player.line(5);
        assert!(row.contains("node 812"), "{columns}: {row}");
        assert!(row.contains("[::1] node 812") || row.contains("v6 node 812"), "{columns}: {row}");
    }
}

#[test]
fn what_is_for_this_session_alone_is_marked_at_every_width() {
    let mut player = Player::new(80, 24);
    with(&mut player, "api", |row| row.is_session = true);
    player.press(Key::Down);
    for columns in [40, 60, 80, 120, 160] {
        player.tell(Msg::Resize(columns, 24));
        let row = player.line(5);
        let sign = if columns < 160 { "localhost:9000/tcp s " } else { "session" };
        let sign = if columns < 80 { "localhost:9000 s " } else { sign };
        assert!(row.contains(sign), "{columns}: {row}");
        let others = [player.line(4), player.line(6), player.line(7)];
        assert!(others.iter().all(|row| !row.contains(" s ") && !row.contains("session")), "{others:?}");
        let title = "localhost:9000 -> api_1:9000, this session";
        assert!(columns < 80 || player.picture().contains(title), "{}", player.picture());
        player.press(Key::Enter);
        assert!(columns < 80 || player.picture().contains("for this session alone"), "{}", player.picture());
        player.press(Key::Esc);
    }
}

#[test]
fn the_title_of_an_auto_mapping_has_the_port_that_it_took() {
    let mut player = Player::new(80, 24);
    player.types(":add auto:web_2:80");
    player.press(Key::Enter);
    let title = player.picture().lines().find(|line| line.contains("CONNECTIONS")).expect("its title").to_owned();
    assert!(title.contains("localhost:49157 -> web_2:80"), "{title}");
}

#[test]
fn the_first_line_shows_both_ways_or_neither() {
    let mut player = Player::new(80, 24);
    for columns in 40..170 {
        player.tell(Msg::Resize(columns, 24));
        let line = player.line(0);
        assert_eq!(line.contains("  in "), line.contains("  out "), "{columns}: {line}");
        assert!(columns < 60 || line.contains("  in "), "{columns}: {line}");
    }
}

#[test]
fn two_plays_show_the_same_screens() {
    let mut plays = [Player::new(160, 50), Player::new(160, 50)];
    for step in 0..40 {
        let [one, other] = plays.each_ref().map(Player::picture);
        assert_eq!(one, other, "step {step}");
        for play in &mut plays {
            play.advance(250);
        }
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
