//! The page that says why a mapping does not work.

use portolan::model::id::MappingId;
use portolan::model::request::{Request, RequestError};
use portolan::model::untrusted::SafeText;
use portolan::tui::keymap::Key;
use portolan::tui::state::Overlay;
use portolan::tui::update::{Asked, Effect, Msg, update};

use crate::player::Player;

fn asked(player: &Player) -> usize {
    player.asked.iter().filter(|(_, call)| matches!(call.request, Request::Why { .. })).count()
}

#[test]
fn why() {
    for (columns, rows) in [(80, 24), (160, 50), (40, 10)] {
        let mut player = Player::new(columns, rows);
        player.types("jjw");
        player.advance(2_000);
        insta::assert_snapshot!(format!("why_{columns}x{rows}"), player.picture());
    }
}

#[test]
fn families_that_stand_differently_have_a_step_each() {
    let mut player = Player::new(80, 24);
    player.types("jw");
    insta::assert_snapshot!("why_of_half_a_mapping", player.picture());
}

#[test]
fn the_app_on_its_own_loopback_is_the_cause() {
    let mut player = Player::new(80, 24);
    assert!(player.line(6).contains("refused 3/3: w"), "{}", player.line(6));
    player.types("jj");
    assert!(player.news().contains("any:8443 -> web_1:443 refused, 3 of 3 connections: press w"), "{}", player.news());
    player.types("w");
    let picture = player.picture();
    let cause = picture.lines().find(|line| line.starts_with(" CAUSE")).expect("there is one");
    assert_eq!(cause, " CAUSE  web_1 listens only on its own loopback, on port 8443.");
}

#[test]
fn a_healthy_mapping_has_no_cause_and_says_where_it_is_found() {
    let mut player = Player::new(80, 24);
    player.types("w");
    let picture = player.picture();
    assert!(!picture.contains("CAUSE") && picture.contains("ok     nothing wrong, as far as can be seen"), "{picture}");
    assert!(picture.contains("Other machines can connect.") && picture.contains("http://[::1]:8080/"), "{picture}");
}

#[test]
fn it_says_that_it_checks_until_the_answer_is_there() {
    let mut player = Player::new(80, 24);
    let effects = update(&mut player.state, Msg::Key(Key::Char('w')));
    assert!(matches!(&effects[..], [Effect::Ask(Asked::Why(MappingId(1)), _)]), "{effects:?}");
    let picture = player.picture();
    assert!(picture.contains("WHY any:8080 -> web_1:80") && picture.contains("checking ..."), "{picture}");
    assert!(update(&mut player.state, Msg::Key(Key::Char('r'))).is_empty(), "one at a time");
    let effects = update(&mut player.state, Msg::Key(Key::Char('y')));
    assert!(effects.is_empty() && !player.line(22).contains("copy report"), "nothing to copy: {}", player.line(22));
}

#[test]
fn its_age_counts_on_and_r_checks_again() {
    let mut player = Player::new(80, 24);
    player.types("w");
    player.advance(4_000);
    assert!(player.line(2).contains("checked 4s ago"), "{}", player.line(2));
    player.types("r");
    assert_eq!(asked(&player), 2);
    assert!(player.line(2).contains("checked 0s ago"), "{}", player.line(2));
}

#[test]
fn its_keys_are_those_of_the_footer() {
    let mut player = Player::new(80, 24);
    player.types("jjw");
    assert_eq!(player.line(22).trim(), "r rerun  e edit  y copy report  esc back");
    player.types("y");
    let [Effect::Copy(report)] = &player.outside[..] else { panic!("{:?}", player.outside) };
    assert!(report.contains("CAUSE  web_1 listens only on its own loopback"), "{report}");
    player.press(Key::Esc);
    assert!(matches!(player.state.overlay, Overlay::None));
    player.types("we");
    let form = player.state.form().expect("edit opens the form");
    assert_eq!((form.edits, form.target_port.value()), (Some(MappingId(3)), "443"));
}

#[test]
fn what_does_not_fit_is_scrolled_to() {
    let mut player = Player::new(40, 10);
    player.types("jjw");
    assert!(!player.picture().contains("192.0.2.10:8443"), "{}", player.picture());
    player.types("G");
    assert!(player.picture().contains("192.0.2.10:8443"), "{}", player.picture());
    player.types("g");
    assert!(player.picture().contains("1 listener"), "{}", player.picture());
    let mut seen = String::new();
    for _ in 0..30 {
        seen.push_str(&player.picture());
        player.press(Key::Down);
    }
    for word in ["1 listener", "6 inside", "CAUSE", "TRY", "WHO", "AT"] {
        assert!(seen.contains(word), "{word}");
    }
}

#[test]
fn a_refusal_is_said_and_what_was_known_stays() {
    let mut player = Player::new(80, 24);
    player.types("jjw");
    let refused = || RequestError::Failed { message: SafeText::new("not in this release") };
    player.tell(Msg::Answer(Asked::Why(MappingId(1)), Box::new(Err(refused()))));
    assert!(!player.picture().contains("not in this release"), "that was about another mapping");
    player.tell(Msg::Answer(Asked::Why(MappingId(3)), Box::new(Err(refused()))));
    let picture = player.picture();
    assert!(picture.contains("!! not in this release") && picture.contains("CAUSE"), "{picture}");
}

#[test]
fn the_palette_knows_it() {
    let mut player = Player::new(80, 24);
    player.types("jj:why");
    player.press(Key::Enter);
    assert!(matches!(&player.state.overlay, Overlay::Why(why) if why.id == MappingId(3)));
}

#[test]
fn the_detail_of_a_mapping_says_where_clients_find_it() {
    let mut player = Player::new(80, 30);
    player.types("jjj");
    player.press(Key::Enter);
    let picture = player.picture();
    assert!(picture.contains("be at   [::1]:5353/udp  127.0.0.1:5353/udp"), "{picture}");
}
