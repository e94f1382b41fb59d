//! What containers expose becomes mappings.

use portolan::model::container::EnginePlace;
use portolan::model::request::Request;
use portolan::model::untrusted::SafeText;
use portolan::model::update::{Overview, Update};
use portolan::tui::keymap::Key;
use portolan::tui::state::{Look, Overlay};
use portolan::tui::update::Msg;

use crate::player::Player;

fn added(player: &Player) -> Vec<Vec<String>> {
    let asked = player.asked.iter();
    asked
        .filter_map(|(_, call)| match &call.request {
            Request::AddAll { mappings, even_if_busy: false } => {
                Some(mappings.iter().map(|mapping| format!("{}:{}", mapping.listen, mapping.target)).collect())
            }
            _ => None,
        })
        .collect()
}

#[test]
fn import() {
    for (columns, rows) in [(80, 24), (160, 50), (40, 10)] {
        let mut player = Player::new(columns, rows);
        player.types("i j ");
        insta::assert_snapshot!(format!("import_{columns}x{rows}"), player.picture());
    }
}

#[test]
fn the_chosen_become_mappings_by_one_change_that_one_undo_takes_back() {
    let mut player = Player::new(80, 24);
    // Lines: dns_1 53/tcp, grafana 3000/tcp, web_2 80/tcp, then those that are mapped already.
    player.types("3i  ");
    player.press(Key::Enter);
    assert_eq!(added(&player), [["localhost:8053:dns_1:53", "localhost:3001:grafana:3000"]]);
    assert!(matches!(player.state.overlay, Overlay::None));
    assert!(player.news().contains("added 2 mappings; u undoes"), "{}", player.news());
    assert_eq!(player.state.live.ours().count(), 6);
    player.types("1u");
    assert_eq!(player.state.live.ours().count(), 4, "one undo");
}

#[test]
fn without_a_mark_enter_takes_the_line_under_the_cursor() {
    let mut player = Player::new(80, 24);
    player.types("ij");
    player.press(Key::Enter);
    assert_eq!(added(&player), [["localhost:3001:grafana:3000"]]);
}

#[test]
fn all_marks_what_is_not_mapped_already() {
    let mut player = Player::new(80, 24);
    player.types("ia");
    player.press(Key::Char('n'));
    let Overlay::Import(import) = &player.state.overlay else { panic!("open") };
    let marked: Vec<_> =
        import.choices.iter().filter(|choice| choice.is_marked).map(|c| c.container.as_str()).collect();
    assert_eq!(marked, ["dns_1", "grafana", "web_2"]);
    assert_eq!(import.choices[0].host_port, Some(8054), "n gives the line under the cursor another port");
    player.types("a");
    let Overlay::Import(import) = &player.state.overlay else { panic!("open") };
    assert!(import.choices.iter().all(|choice| !choice.is_marked), "and takes the marks off again");
}

#[test]
fn a_port_in_use_adds_nothing_and_says_who_holds_it_and_which_is_free() {
    for (columns, rows) in [(80, 24), (40, 10)] {
        let mut player = Player::new(columns, rows);
        player.types("ia");
        player.press(Key::Enter);
        assert_eq!(player.state.live.ours().count(), 4, "none of them");
        let picture = player.picture();
        assert!(picture.contains("!! in use by vite (pid 5120)"), "{picture}");
        if columns == 80 {
            insta::assert_snapshot!("import_busy", picture);
        }
        player.types("n");
        player.press(Key::Enter);
        assert_eq!(player.state.live.ours().count(), 7, "{}", player.picture());
        assert!(added(&player)[1].contains(&"localhost:8083:web_2:80".to_owned()), "{:?}", added(&player));
    }
}

#[test]
fn of_an_engine_elsewhere_only_what_it_publishes_is_offered_and_by_that_port() {
    let mut player = Player::new(80, 24);
    let mut overview = player.state.live.overview.clone();
    overview.engine_place = EnginePlace::Elsewhere {
        reason: SafeText::new("rootless: its network is its own"),
        published_at: Some([127, 0, 0, 1].into()),
    };
    let update = Update { at_ms: player.story.now_ms(), overview: Some(overview), ..Update::default() };
    player.tell(Msg::Update(Box::new(update)));
    player.types("i");
    let picture = player.picture();
    assert!(picture.contains("rootless: its network is its own: only what it publishes can be mapped"), "{picture}");
    assert!(picture.contains("grafana 3000/tcp -> localhost:3001 (by localhost:3000)"), "{picture}");
    assert!(!picture.contains("web_2"), "{picture}");
    player.press(Key::Enter);
    assert_eq!(added(&player), [["localhost:3001:localhost:3000"]]);
}

#[test]
fn escape_adds_nothing() {
    let mut player = Player::new(80, 24);
    player.types("ia");
    player.press(Key::Esc);
    assert!(added(&player).is_empty() && matches!(player.state.overlay, Overlay::None));
}

#[test]
fn with_nothing_to_import_the_reason_is_said() {
    let mut player = Player::silent(Look::default(), 80, 24);
    let update = Update { seq: 1, at_ms: 5, is_full: true, overview: Some(Overview::default()), ..Update::default() };
    player.tell(Msg::Update(Box::new(update)));
    assert!(player.picture().contains("i  imports"), "the first run says the key:\n{}", player.picture());
    player.types("i");
    assert!(player.picture().contains("docker has not answered yet"), "{}", player.picture());
    player.press(Key::Enter);
    assert!(matches!(player.state.overlay, Overlay::None) && added(&player).is_empty());
}
