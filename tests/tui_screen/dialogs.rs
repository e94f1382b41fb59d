//! The form, the palette, profiles.

use portolan::model::identity::Identity;
use portolan::model::mapping::Family;
use portolan::model::request::{PortConflict, PortReport, Request, RequestError};
use portolan::model::untrusted::SafeText;
use portolan::model::update::Update;
use portolan::tui::keymap::Key;
use portolan::tui::state::Overlay;
use portolan::tui::update::{Asked, Effect, Msg};

use crate::player::Player;

fn added(player: &Player) -> Vec<(String, String, bool)> {
    player
        .asked
        .iter()
        .filter_map(|(_, call)| match &call.request {
            Request::Add { mapping, even_if_busy } => {
                Some((mapping.listen.clone(), mapping.target.clone(), *even_if_busy))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn form_with_a_port_in_use() {
    let mut player = Player::new(80, 24);
    player.types("a80");
    player.pause();
    player.press(Key::Tab);
    player.press(Key::Tab);
    player.types("web");
    player.pause();
    player.press(Key::Down);
    insta::assert_snapshot!(player.picture());
}

#[test]
fn form_filled_in() {
    let mut player = Player::new(80, 24);
    player.types("a8081");
    player.press(Key::Tab);
    player.press(Key::Tab);
    player.types("web");
    player.press(Key::Down);
    player.press(Key::Tab);
    player.press(Key::Tab);
    player.pause();
    insta::assert_snapshot!(player.picture());
}

#[test]
fn a_mapping_is_added_through_the_form() {
    let mut player = Player::new(80, 24);
    player.types("a8081");
    player.press(Key::Tab);
    player.press(Key::Tab);
    player.types("web_2");
    player.press(Key::Tab);
    player.types("80");
    player.press(Key::Enter);
    assert_eq!(added(&player), [("localhost:8081".to_owned(), "web_2:80".to_owned(), false)]);
    assert!(player.news().contains("Only this machine can connect; e opens it to the network"), "{}", player.news());
    let selected = player.state.selected_mapping().expect("the new one is selected");
    assert_eq!(selected.row.mapping.to_string(), "localhost:8081:web_2:80");
}

#[test]
fn a_port_in_use_is_refused_first_and_kept_the_second_time() {
    let mut player = Player::new(80, 24);
    player.types("a80");
    player.press(Key::Tab);
    player.press(Key::Tab);
    player.types("web_2");
    player.press(Key::Tab);
    player.types("80");
    player.press(Key::Enter);
    assert!(matches!(player.state.overlay, Overlay::Form(_)), "the first save is refused");
    assert!(player.picture().contains("80/tcp is in use by nginx (pid 123, www)"), "{}", player.picture());
    player.press(Key::Enter);
    assert_eq!(
        added(&player).iter().map(|(_, _, even_if_busy)| *even_if_busy).collect::<Vec<_>>(),
        [false, true],
        "the second one keeps it"
    );
    let selected = player.state.selected_mapping().expect("selected");
    assert_eq!(portolan::model::format::mapping_state_word(selected.row.state), "failed");
}

#[test]
fn at_the_smallest_size_the_form_follows_the_focus() {
    let mut player = Player::new(40, 10);
    player.types("a80");
    player.pause();
    // Port, protocol, target, its port, identity, name: what has the focus is seen, whatever there is to say above it.
    for label in ["Port ", "tcp", "Target", "] : [", "Client", "Name"] {
        let picture = player.picture();
        assert!(picture.contains(label), "{label}:\n{picture}");
        player.press(Key::Tab);
    }
    player.press(Key::Tab);
    player.press(Key::Tab);
    player.press(Key::Tab);
    player.types("web_2");
    player.press(Key::Tab);
    player.types("80");
    player.press(Key::Enter);
    let picture = player.picture();
    // Nobody can answer for a holder whose name is cut.
    assert!(picture.split_whitespace().collect::<Vec<_>>().join(" ").contains("(pid 123, www)"), "{picture}");
    assert!(picture.contains("enter again keeps it as failed"), "{picture}");
    assert!(picture.contains(" of "), "it says that there is more:\n{picture}");
    insta::assert_snapshot!(picture);
}

#[test]
fn how_the_container_learns_who_its_client_is_is_chosen_in_plain_words() {
    let mut player = Player::new(80, 24);
    player.types("a8081");
    for _ in 0..2 {
        player.press(Key::Tab);
    }
    player.types("web_2");
    player.press(Key::Tab);
    player.types("80");
    player.press(Key::Tab);
    for expected in [
        "the container sees this host's address for every client",
        "a PROXY v1 line",
        "a PROXY v2 header",
        "Forwarded and X-Forwarded-For",
        "each client as an IPv4 address of its own",
    ] {
        let picture = player.picture();
        let text = picture.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(expected), "{expected}:\n{picture}");
        player.press(Key::Right);
    }
    player.press(Key::Enter);
    let added = player.asked.iter().find_map(|(_, call)| match &call.request {
        Request::Add { mapping, .. } => mapping.identity,
        _ => None,
    });
    assert_eq!(added, Some(Identity::Alias));
}

#[test]
fn an_identity_that_does_not_go_with_the_protocol_is_not_offered() {
    let mut player = Player::new(80, 24);
    player.types("a8081");
    player.press(Key::Tab);
    player.press(Key::Right);
    let picture = player.picture();
    assert!(picture.contains("<udp>") && picture.contains("proxy-v2"), "{picture}");
    assert!(!picture.contains("proxy-v1") && !picture.contains("http"), "{picture}");
}

#[test]
fn a_missing_field_is_told_where_it_is_typed() {
    for size in [(40, 10), (80, 24)] {
        let mut player = Player::new(size.0, size.1);
        player.types("a8099");
        player.press(Key::Enter);
        let picture = player.picture();
        let lines: Vec<&str> = picture.lines().collect();
        let field = lines.iter().position(|line| line.starts_with(" Target")).expect("the field is seen");
        assert!(lines[field + 1].contains("!! which target?"), "{picture}");
    }
}

#[test]
fn a_refused_command_goes_on_in_the_form() {
    for (line, edits) in [("add 80:web_2:80", false), ("edit api 80:web_2:80", true)] {
        let mut player = Player::new(80, 24);
        player.types(":");
        player.types(line);
        player.press(Key::Enter);
        let form = player.state.form().expect("opened, with what was typed");
        assert_eq!((form.port.value(), form.host.value(), form.target_port.value()), ("80", "web_2", "80"), "{line}");
        assert_eq!(form.edits.is_some(), edits, "{line}");
        let picture = player.picture();
        assert!(picture.contains("80/tcp is in use by nginx (pid 123, www)"), "{picture}");
        assert!(picture.contains("^n takes 81 (free)"), "{picture}");
        assert!(picture.contains("enter again keeps it as failed"), "{picture}");
        player.press(Key::Enter);
        assert!(matches!(player.state.overlay, Overlay::None), "{line}");
        let kept = player.state.selected_mapping().expect("selected");
        assert_eq!(portolan::model::format::mapping_state_word(kept.row.state), "failed", "{line}");
    }
}

#[test]
fn another_port_is_another_first_save() {
    let mut player = Player::new(80, 24);
    player.types("a80");
    player.press(Key::Tab);
    player.press(Key::Tab);
    player.types("web_2");
    player.press(Key::Tab);
    player.types("80");
    player.press(Key::Enter);
    player.press(Key::Backspace);
    player.press(Key::Backspace);
    player.types("5432");
    player.press(Key::Enter);
    assert_eq!(added(&player).last().map(|(_, _, even)| *even), Some(false), "refused for 80, not for 5432");
}

#[test]
fn ctrl_n_takes_the_next_free_port() {
    let mut player = Player::new(80, 24);
    player.types("a80");
    player.press(Key::Ctrl('n'));
    player.pause();
    assert!(player.picture().contains("^n takes 81 (free)"), "{}", player.picture());
    player.press(Key::Ctrl('n'));
    player.pause();
    let form = player.state.form().expect("open");
    assert_eq!(form.port.value(), "81");
    assert!(player.picture().contains("ok free"), "{}", player.picture());
}

#[test]
fn typing_asks_once_it_pauses_and_never_probes_on_its_own() {
    let mut player = Player::new(80, 24);
    player.types("a8080");
    assert!(!player.asked.iter().any(|(_, call)| matches!(call.request, Request::WhoHolds { .. })));
    player.pause();
    let holds = player.asked.iter().filter(|(_, call)| matches!(call.request, Request::WhoHolds { .. })).count();
    assert_eq!(holds, 1, "once for four keys");
    player.press(Key::Tab);
    player.press(Key::Tab);
    player.types("web_1");
    player.press(Key::Tab);
    player.types("80");
    player.pause();
    let probes =
        |player: &Player| player.asked.iter().filter(|(_, call)| matches!(call.request, Request::Probe { .. })).count();
    assert_eq!(probes(&player), 0, "not before the field is left");
    player.press(Key::Tab);
    assert_eq!(probes(&player), 1);
}

#[test]
fn an_invalid_target_is_told_at_its_field() {
    let mut player = Player::new(80, 24);
    player.types("a8081");
    player.press(Key::Tab);
    player.press(Key::Tab);
    player.types("web/x");
    player.press(Key::Tab);
    player.types("99999");
    player.pause();
    let picture = player.picture();
    assert!(picture.lines().any(|line| line.starts_with("   !! ")), "{picture}");
}

#[test]
fn a_pasted_docker_line_fills_the_form() {
    for (pasted, listen, target) in [
        ("docker run -d -p 8088:80 nginx", "8088", "80"),
        ("any:9090:web_2:80", "9090", "80"),
        ("ssh -L 5433:localhost:5432 host", "5433", "5432"),
        // As terminals send lines that go on, as files hold them, and as other machines' files do.
        ("docker run -d \\\r  -p 8088:80 \\\r  nginx\r", "8088", "80"),
        ("docker run -d \\\n  -p 8088:80 \\\n  nginx\n", "8088", "80"),
        ("docker run -d \\\r\n  -p 8088:80 \\\r\n  nginx", "8088", "80"),
    ] {
        // The form need not be open.
        for keys in ["a", ""] {
            let mut player = Player::new(80, 24);
            player.types(keys);
            player.tell(Msg::Paste(pasted.to_owned()));
            let form = player.state.form().expect("open");
            assert_eq!((form.port.value(), form.target_port.value()), (listen, target), "{pasted}");
        }
    }
}

#[test]
fn what_makes_no_mapping_opens_no_form() {
    for pasted in ["jjj", "hello there", "docker run nginx", "q"] {
        let mut player = Player::new(80, 24);
        player.tell(Msg::Paste(pasted.to_owned()));
        assert!(matches!(player.state.overlay, Overlay::None), "{pasted}");
        assert!(player.outside.is_empty() && player.asked.is_empty(), "{pasted}");
    }
}

#[test]
fn a_port_that_cannot_be_is_told_as_it_is_typed_without_a_target() {
    let table = [
        ("70000", "host port 70000 is out of range (1-65535)"),
        ("0", "host port 0 means"),
        ("0abc", "host port \"0abc\" is not a number"),
        ("9000-8000", "the range starts at 9000, after its end 8000"),
    ];
    for (typed, said) in table {
        let mut player = Player::new(80, 24);
        player.types("a");
        player.types(typed);
        let picture = player.picture();
        assert!(picture.contains(said) && !picture.contains("ok free"), "{typed}:\n{picture}");
        player.pause();
        assert_eq!(player.picture().matches(said).count(), 1, "{typed}: once");
    }
    // What may still become right is left alone.
    for typed in ["8000-", "a", "aut", "auto", "8099"] {
        let mut player = Player::new(80, 24);
        player.types("a");
        player.types(typed);
        assert!(!player.picture().contains("!! host port"), "{typed}:\n{}", player.picture());
    }
}

#[test]
fn a_port_at_an_address_of_another_host_is_not_free() {
    for (address, said) in [("10.9.9.9", "10.9.9.9 is not an address of this host"), ("192.0.2.10", "ok free")] {
        let mut player = Player::new(80, 24);
        player.types("a8099");
        player.press(Key::BackTab);
        player.types("ll");
        player.press(Key::Tab);
        player.types(address);
        player.press(Key::Tab);
        player.pause();
        let picture = player.picture();
        assert!(picture.contains(said), "{picture}");
        assert_eq!(picture.contains("ok free"), said == "ok free", "{picture}");
    }
}

#[test]
fn what_is_said_after_a_save_is_what_came_of_it() {
    for (port, target, saves, said) in [
        ("80", "web_2", 2, "saved as failed: 127.0.0.1:80 is in use by nginx (pid 123, www)"),
        ("8099", "nobody", 1, "saved as waiting: nobody has no address now"),
        ("8099", "web_2", 1, "Only this machine can connect; e opens it to the network"),
    ] {
        let mut player = Player::new(120, 24);
        player.types("a");
        player.types(port);
        player.press(Key::Tab);
        player.press(Key::Tab);
        player.types(target);
        player.press(Key::Tab);
        player.types("80");
        for _ in 0..saves {
            player.press(Key::Enter);
        }
        assert!(player.news().contains(said), "{}", player.news());
        assert_eq!(player.news().contains("can connect"), said.contains("can connect"), "{}", player.news());
    }
}

#[test]
fn a_socket_of_both_families_leaves_nothing_to_be_half() {
    let conflict = |address: &str, family| PortConflict {
        address: address.parse().expect("an address"),
        family,
        holder: SafeText::new("python3 (pid 4)"),
    };
    let table = [
        // A dual-stack socket is in the way of both, and has one address.
        (vec![conflict("[::]:8080", Family::V4), conflict("[::]:8080", Family::V6)], "failed"),
        (vec![conflict("[::]:8080", Family::V6)], "half"),
        (vec![conflict("127.0.0.1:8080", Family::V4)], "half"),
        (vec![conflict("0.0.0.0:8080", Family::V4), conflict("[::1]:8080", Family::V6)], "failed"),
    ];
    for (conflicts, foretold) in table {
        let mut player = Player::new(80, 24);
        player.types("a8080");
        player.pause();
        let report = PortReport { conflicts, next_free: None, problem: None };
        player.tell(Msg::Answer(Asked::Save, Box::new(Err(RequestError::PortInUse { report }))));
        assert!(player.picture().contains(&format!("enter again keeps it as {foretold}")), "{}", player.picture());
    }
}

#[test]
fn commands_without_their_argument_show_how_they_are_written() {
    for (line, syntax) in [
        ("add", "add MAPPING: "),
        ("add ", "add MAPPING: "),
        ("edit", "edit NAME MAPPING: "),
        ("delete", "delete NAME: "),
        ("open", "open PROFILE: "),
        ("saveas", "saveas NAME: "),
    ] {
        let mut player = Player::new(80, 24);
        player.types(":");
        player.types(line);
        player.press(Key::Enter);
        assert!(player.picture().contains(&format!("!! {syntax}")), "{line}:\n{}", player.picture());
        match &player.state.overlay {
            Overlay::Palette(palette) => assert_eq!(palette.input.value(), format!("{} ", line.trim())),
            other => panic!("{line}: {other:?}"),
        }
    }
    // The action of that name is a line below, and arguments are completed.
    let mut player = Player::new(80, 24);
    player.types(":add");
    player.press(Key::Down);
    player.press(Key::Enter);
    assert!(player.state.form().is_some(), "{}", player.picture());
    let mut player = Player::new(80, 24);
    player.types(":delete ");
    player.press(Key::Enter);
    assert!(matches!(&player.state.overlay, Overlay::Palette(palette) if palette.input.value() == "delete api"));
}

#[test]
fn a_pasted_piece_goes_into_the_field_as_one_clean_line() {
    let mut player = Player::new(80, 24);
    player.types("a");
    player.press(Key::Tab);
    player.press(Key::Tab);
    player.tell(Msg::Paste("web\n\x1b[2J_1\u{202e}".to_owned()));
    assert_eq!(player.state.form().expect("open").host.value(), "web [2J_1");
}

#[test]
fn edit_starts_from_what_there_is_and_keeps_connections_where_nothing_moved() {
    let mut player = Player::new(80, 24);
    player.types("e");
    let form = player.state.form().expect("open");
    assert_eq!((form.port.value(), form.host.value(), form.target_port.value()), ("8080", "web_1", "80"));
    player.press(Key::Enter);
    assert!(matches!(player.state.overlay, Overlay::None));
    assert_eq!(player.state.live.open_of(portolan::model::id::MappingId(1)), 5);
}

#[test]
fn a_form_saves_over_no_change_of_another_window_that_was_not_seen() {
    let mut player = Player::new(80, 24);
    player.types("e");
    // Another window edits the mapping meanwhile, also what the form does not show.
    let mut row = player.state.live.mappings[&portolan::model::id::MappingId(1)].row.clone();
    row.written.max_connections = Some(7);
    row.written.listen = "9090".to_owned();
    let update = Update { seq: 9, at_ms: 9, mappings: vec![row.clone()], ..Update::default() };
    player.tell(Msg::Update(Box::new(update)));
    player.press(Key::Enter);
    assert!(player.asked.iter().all(|(_, call)| !matches!(call.request, Request::Edit { .. })), "nothing is saved");
    assert!(player.picture().contains("changed elsewhere meanwhile (9090"), "{}", player.picture());
    // Said once, it is known; and what is not shown is theirs.
    player.press(Key::Enter);
    let saved = player.asked.iter().find_map(|(_, call)| match &call.request {
        Request::Edit { mapping, .. } => Some(mapping.clone()),
        _ => None,
    });
    let saved = saved.expect("saved");
    assert_eq!((saved.listen.as_str(), saved.max_connections), ("any:8080", Some(7)));

    // One that is gone cannot be saved.
    let mut player = Player::new(80, 24);
    player.types("e");
    let gone = Update { seq: 9, at_ms: 9, mappings_removed: vec![row.id], ..Update::default() };
    player.tell(Msg::Update(Box::new(gone)));
    player.press(Key::Enter);
    assert!(player.picture().contains("it was removed in the meantime"), "{}", player.picture());
}

#[test]
fn a_copy_takes_the_place_of_nothing() {
    let mut player = Player::new(80, 24);
    player.types("c");
    player.pause();
    assert!(player.picture().contains("is in use by mapping web"), "{}", player.picture());
    player.press(Key::Ctrl('n'));
    player.press(Key::Enter);
    assert_eq!(player.state.live.ours().count(), 5);
}

#[test]
fn commands_of_the_palette() {
    type Is = fn(&Request) -> bool;
    let table: [(&str, Is); 5] = [
        ("add 8181:web_2:80", |request| matches!(request, Request::Add { .. })),
        ("edit api any:9100:api_1:9000", |request| matches!(request, Request::Edit { .. })),
        ("delete web-tls", |request| matches!(request, Request::Remove { .. })),
        ("open staging", |request| matches!(request, Request::OpenProfile { .. })),
        ("saveas mine", |request| matches!(request, Request::SaveAs { .. })),
    ];
    for (line, expected) in table {
        let mut player = Player::new(80, 24);
        player.types(":");
        player.types(line);
        player.press(Key::Enter);
        let (_, call) = player.asked.last().expect("asked");
        assert!(expected(&call.request), "{line}: {:?}", call.request);
        assert!(matches!(player.state.overlay, Overlay::None), "{line}");
    }
}

#[test]
fn a_wrong_command_stays_with_its_reason() {
    for (line, reason) in
        [("add 8080", "expected"), ("delete nobody", "no mapping is named nobody"), ("fly", "no such command: fly")]
    {
        let mut player = Player::new(100, 24);
        player.types(":");
        player.types(line);
        player.press(Key::Enter);
        assert!(player.picture().contains(reason), "{line}:\n{}", player.picture());
    }
}

#[test]
fn the_palette_completes_and_runs_actions_by_name() {
    let mut player = Player::new(80, 24);
    player.types(":del");
    player.press(Key::Tab);
    player.types("web-");
    player.press(Key::Tab);
    match &player.state.overlay {
        Overlay::Palette(palette) => assert_eq!(palette.input.value(), "delete web-tls"),
        other => panic!("{other:?}"),
    }
    player.press(Key::Esc);
    player.types(":freeze");
    player.press(Key::Enter);
    assert!(player.state.frozen.is_some());
    player.types(":quit");
    player.press(Key::Enter);
    player.types("q");
    assert_eq!(player.outside, [Effect::Quit]);
}

#[test]
fn palette() {
    let mut player = Player::new(80, 24);
    player.types(":so");
    insta::assert_snapshot!(player.picture());
}

#[test]
fn help() {
    let mut player = Player::new(80, 24);
    player.types("?");
    insta::assert_snapshot!(player.picture());
}

#[test]
fn another_profile_is_opened_from_the_list() {
    let mut player = Player::new(80, 24);
    player.types("oj");
    assert!(player.picture().contains("staging"));
    player.press(Key::Enter);
    assert!(player.line(0).contains("portolan empty"), "{}", player.line(0));
    assert_eq!(player.state.live.ours().count(), 0);
    player.advance(10_000);
    assert!(player.news().contains("no mapping of yours yet: a adds one"), "{}", player.news());
}
