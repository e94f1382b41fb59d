//! The Containers view: its rows, who listens inside, and the form that it fills in.

use portolan::model::container::{Container, DockerState, EnginePlace, Publication};
use portolan::model::mapping::Protocol;
use portolan::model::request::{Request, RequestError};
use portolan::model::untrusted::SafeText;
use portolan::model::update::Update;
use portolan::tui::keymap::Key;
use portolan::tui::state::{Pane, View};
use portolan::tui::update::{Asked, Effect, Msg};
use ratatui::style::Modifier;

use crate::player::Player;

/// The screen with that view, and the selection at rest.
fn viewing(columns: u16, rows: u16, keys: &str) -> Player {
    let mut player = Player::new(columns, rows);
    player.types("3");
    player.types(keys);
    player.advance(500);
    player
}

/// Containers that were asked for their inside, by name.
fn looked_into(player: &Player) -> Vec<String> {
    let name = |id: &SafeText| player.state.live.containers[id].name.to_string();
    let asked = player.asked.iter();
    asked
        .filter_map(|(_, call)| match &call.request {
            Request::Inside { container } => Some(name(container)),
            _ => None,
        })
        .collect()
}

fn names(player: &Player) -> Vec<String> {
    player.state.containers.order.iter().map(|id| player.state.world().containers[id].name.to_string()).collect()
}

fn named(player: &Player, name: &str) -> Container {
    player
        .state
        .live
        .containers
        .values()
        .find(|container| container.name.as_str() == name)
        .expect("it is there")
        .clone()
}

fn tell(player: &mut Player, change: impl FnOnce(&mut Update)) {
    let mut update = Update { at_ms: player.story.now_ms(), ..Update::default() };
    change(&mut update);
    player.tell(Msg::Update(Box::new(update)));
}

#[test]
fn containers_view() {
    for (columns, rows) in [(80, 24), (160, 50), (60, 20), (120, 30), (40, 10)] {
        let player = viewing(columns, rows, "jjj");
        insta::assert_snapshot!(format!("containers_{columns}x{rows}"), player.picture());
    }
}

#[test]
fn everything_about_one_container() {
    let mut player = viewing(60, 20, "jjj");
    player.press(Key::Enter);
    insta::assert_snapshot!(player.picture());
}

#[test]
fn a_container_is_looked_into_once_when_the_selection_rests_on_it() {
    let mut player = Player::new(80, 24);
    player.types("3jjj");
    assert!(looked_into(&player).is_empty(), "it has just come there");
    player.advance(250);
    assert_eq!(looked_into(&player), ["web_1"], "not those that it passed");
    player.advance(2_000);
    player.types("jk");
    player.advance(2_000);
    assert_eq!(looked_into(&player), ["web_1"], "once");
    player.types("r");
    assert_eq!(looked_into(&player), ["web_1", "web_1"], "r asks again");
    player.types("G");
    player.advance(1_000);
    assert_eq!(looked_into(&player).len(), 2, "an exited one has no inside");
    assert!(!player.picture().contains("inside"), "{}", player.picture());
}

#[test]
fn a_container_that_was_restarted_is_looked_into_again() {
    let mut player = viewing(80, 24, "jjj");
    let mut web = named(&player, "web_1");
    web.addresses = vec!["172.17.0.9".parse().expect("an address")];
    tell(&mut player, |update| update.containers = vec![web]);
    assert!(!player.picture().contains("nginx (pid 7)"), "{}", player.picture());
    player.advance(500);
    assert_eq!(looked_into(&player), ["web_1", "web_1"]);
    assert!(player.picture().contains("nginx (pid 7)"), "{}", player.picture());
}

#[test]
fn what_listens_on_loopback_alone_is_marked_at_every_width() {
    for (columns, mark) in [(80, "! loopback only"), (40, "! 127.0.0.1:8443")] {
        let mut player = viewing(columns, 24, "jjj");
        player.press(Key::Enter);
        let picture = player.picture();
        assert!(picture.contains(mark), "{columns}:\n{picture}");
        assert_eq!(picture.matches("! ").count() - picture.matches("!! ").count(), 1, "80 is not marked:\n{picture}");
    }
}

#[test]
fn what_cannot_be_seen_says_what_it_needs() {
    let mut player = viewing(80, 24, "jj");
    assert!(player.picture().contains("inside  ?? cannot see inside: needs root"), "{}", player.picture());
    let id = player.state.containers.selected.clone().expect("selected");
    let refused = RequestError::Failed { message: SafeText::new("not in this release") };
    player.tell(Msg::Answer(Asked::Inside(id), Box::new(Err(refused))));
    assert!(player.picture().contains("inside  ?? not in this release"), "{}", player.picture());
}

#[test]
fn those_that_do_not_run_are_muted() {
    let player = viewing(80, 24, "");
    let buffer = player.buffer();
    let row = |text: &str| (0..24).find(|y| player.line(usize::from(*y)).contains(text)).expect("it is shown");
    assert!(buffer[(14, row("web_old"))].modifier.contains(Modifier::DIM));
    assert!(!buffer[(14, row("web_2"))].modifier.contains(Modifier::DIM));
}

#[test]
fn a_filter_leaves_what_it_says() {
    let table: [(&str, &[&str]); 7] = [
        ("nginx running", &["web_1", "web_2"]),
        ("port:443", &["web_1"]),
        ("port:3000", &["grafana"]),
        ("fam:6", &["web_1"]),
        ("state:exited", &["web_old"]),
        ("shop dns", &["dns_1"]),
        ("172.17.0.4", &["api_1"]),
    ];
    let mut player = Player::new(80, 24);
    player.types("3");
    for (filter, shown) in table {
        player.types("/");
        player.types(filter);
        assert_eq!(names(&player), shown, "{filter}");
        player.press(Key::Esc);
    }
    player.types("/nobody");
    assert!(player.picture().contains("no container passes the filter"), "{}", player.picture());
}

#[test]
fn rows_come_and_go_under_a_selection_that_stays() {
    let mut player = viewing(80, 24, "jjj");
    let (api, mut new) = (named(&player, "api_1"), named(&player, "web_2"));
    (new.id, new.name) = (SafeText::new("c0ffee"), SafeText::new("aaa"));
    player.press(Key::Up);
    player.press(Key::Down);
    tell(&mut player, |update| {
        update.containers = vec![new];
        update.containers_removed = vec![api.id];
    });
    assert_eq!(names(&player), ["dns_1", "grafana", "web_1", "web_2", "web_old", "aaa"], "new ones wait at the end");
    assert_eq!(player.state.selected_container().expect("there").name.as_str(), "web_1");
    player.advance(6_000);
    assert_eq!(names(&player)[0], "aaa", "once the keys rest, they are sorted");
    assert_eq!(player.state.selected_container().expect("there").name.as_str(), "web_1");
}

#[test]
fn frozen_the_list_stands_still() {
    let mut player = viewing(80, 24, "f");
    let before = names(&player);
    let gone = named(&player, "api_1");
    tell(&mut player, |update| update.containers_removed = vec![gone.id]);
    assert_eq!(names(&player), before);
    assert!(player.picture().contains("api_1"), "{}", player.picture());
    player.types("f");
    assert!(!names(&player).contains(&"api_1".to_owned()));
}

#[test]
fn sorting_and_copying_work_as_in_every_list() {
    let mut player = viewing(80, 24, "s");
    assert!(player.line(2).contains("name ^"), "{}", player.line(2));
    player.types("S");
    assert_eq!(names(&player)[0], "web_old");
    player.types("Sgjjj");
    player.types("y");
    player.types("Ya");
    player.types("Yc");
    let copied: Vec<_> = player
        .outside
        .iter()
        .filter_map(|effect| if let Effect::Copy(text) = effect { Some(text.as_str()) } else { None })
        .collect();
    assert_eq!(
        copied,
        ["web_1 nginx:1.27 running 172.17.0.2 fd00::2 80/tcp 443/tcp", "172.17.0.2", "curl 'http://172.17.0.2:80/'"]
    );
}

#[test]
fn a_on_a_container_opens_the_form_filled_in() {
    // Rows: api_1, dns_1, grafana, web_1: a port that anybody may take, and that is not used already.
    for (keys, port, target) in [("", "9000", "api_1:9000"), ("j", "8053", "dns_1:53"), ("jjj", "8081", "web_1:80")] {
        let mut player = viewing(80, 24, keys);
        player.types("a");
        let form = player.state.form().expect("open");
        assert_eq!((form.port.value(), form.target_text().as_str()), (port, target));
        player.pause();
        if port == "9000" {
            assert!(player.picture().contains("^n takes 9001 (free)"), "{}", player.picture());
        }
    }
}

#[test]
fn a_container_that_exposes_nothing_asks_for_its_port() {
    let mut player = Player::new(80, 24);
    let mut bare = named(&player, "web_2");
    bare.ports.clear();
    tell(&mut player, |update| update.containers = vec![bare]);
    player.types("3jjjj");
    player.types("a");
    let form = player.state.form().expect("open");
    assert_eq!((form.host.value(), form.target_port.value(), form.port.value()), ("web_2", "", ""));
    player.types("8000");
    assert_eq!(player.state.form().expect("open").target_port.value(), "8000", "the cursor is there");
}

/// The engine's network is not this host's; `web_2` publishes its port.
fn elsewhere(player: &mut Player) {
    let mut overview = player.state.live.overview.clone();
    overview.engine_place = EnginePlace::Elsewhere {
        reason: SafeText::new("rootless: its network is its own"),
        published_at: Some([127, 0, 0, 1].into()),
    };
    let mut web = named(player, "web_2");
    web.publications =
        vec![Publication { host: "0.0.0.0:32768".parse().expect("an address"), port: 80, protocol: Protocol::Tcp }];
    tell(player, |update| {
        update.overview = Some(overview);
        update.containers = vec![web];
    });
}

#[test]
fn of_an_engine_elsewhere_published_ports_are_offered_and_the_reason_is_said() {
    let mut player = viewing(80, 24, "jjjj");
    elsewhere(&mut player);
    assert!(player.news().contains("rootless: its network is its own"), "{}", player.news());
    assert!(player.picture().contains("reach   rootless: its network is its own"), "{}", player.picture());
    player.types("a");
    let form = player.state.form().expect("open");
    assert_eq!(form.target_text(), "localhost:32768");
    assert_eq!(form.port.value(), "8081");
    player.press(Key::Esc);
    // One that publishes nothing says so at once.
    player.types("k");
    player.types("a");
    assert!(player.news().contains("web_1 cannot be reached from here, and publishes no port"), "{}", player.news());
    player.press(Key::Esc);
    player.types("1a8085");
    player.press(Key::Tab);
    player.press(Key::Tab);
    player.types("grafana");
    assert!(player.picture().contains("localhost:3000"), "{}", player.picture());
    player.press(Key::Down);
    player.press(Key::Down);
    player.press(Key::Down);
    player.press(Key::Tab);
    assert_eq!(player.state.form().expect("open").target_text(), "localhost:3000");
}

#[test]
fn docker_out_of_reach_is_said_where_the_containers_would_be() {
    let mut player = Player::silent(portolan::tui::state::Look::default(), 60, 20);
    let unavailable = |reason: &str| DockerState::Unavailable { reason: SafeText::new(reason) };
    tell(&mut player, |update| {
        update.is_full = true;
        update.overview = Some(portolan::model::update::Overview {
            docker: unavailable("cannot open /var/run/docker.sock: permission denied"),
            ..Default::default()
        });
    });
    player.types("3");
    let picture = player.picture();
    let words: Vec<&str> = picture.lines().skip(3).take(4).flat_map(str::split_whitespace).collect();
    assert_eq!(
        words.join(" "),
        "! docker: cannot open /var/run/docker.sock: permission denied; mappings by address still work"
    );
}

#[test]
fn the_picker_of_the_form_finds_by_scattered_letters_by_image_and_by_service() {
    let first = |typed: &str| {
        let mut player = Player::new(80, 24);
        player.types("a8099");
        player.press(Key::Tab);
        player.press(Key::Tab);
        player.types(typed);
        let form = player.state.form().expect("open").clone();
        form.matching().into_iter().map(|container| container.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(first("wb2"), ["web_2"]);
    assert_eq!(first("gra"), ["grafana"]);
    assert_eq!(first("nginx"), ["web_1", "web_2", "web_old"], "by image, in their order");
    assert_eq!(first("coredns"), ["dns_1"]);
    assert_eq!(first("web")[..3], ["web_1", "web_2", "web_old"]);
    assert_eq!(first("api"), ["api_1"]);
}

#[test]
fn the_keys_of_containers_work_in_their_view_alone() {
    let player = viewing(80, 24, "");
    assert_eq!((player.state.view, player.state.focus()), (View::Containers, Pane::Containers));
    let footer = player.line(22);
    for key in ["a add", "i import", "y copy", "/ filter"] {
        assert!(footer.contains(key), "{key} is not in {footer}");
    }
    for key in ["d delete", "w why", "e edit", "K reset"] {
        assert!(!footer.contains(key), "{key} is in {footer}");
    }
}
