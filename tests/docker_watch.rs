//! The list of containers follows a daemon that restarts, stalls and answers nonsense (faults 21 and 22).

#[path = "common/docker_fake.rs"]
mod docker_fake;
#[path = "common/docker_watched.rs"]
mod docker_watched;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use docker_fake::{Answer, FakeDocker, container, until};
use docker_watched::{TIMING, address_of, reason, start};
use portolan::docker::{Endpoint, Timing};
use portolan::model::container::{Container, DockerState};
use portolan::model::untrusted::acts_on_a_terminal;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_container_that_comes_back_elsewhere_is_seen_within_a_second() {
    for fake in [FakeDocker::unix(), FakeDocker::tcp().await] {
        fake.set_containers(vec![container("web_1", "running", Some("172.17.0.2"))]);
        // The event itself must be what finds the change, not the lists that follow it.
        let mut watched = start(fake.endpoint(), Timing { settle: [Duration::from_hours(1); 3], ..Timing::default() });
        watched.until_at("web_1", "172.17.0.2").await;

        fake.change(vec![container("web_1", "exited", None)]);
        watched.until("stopped", |view| view.containers[0].state.as_str() == "exited").await;
        let changed = Instant::now();
        fake.change(vec![container("web_1", "running", Some("172.17.0.9"))]);
        watched.until_at("web_1", "172.17.0.9").await;
        assert!(changed.elapsed() < Duration::from_secs(1), "{:?}", changed.elapsed());
        watched.end().await;
        until("no connection left", || fake.open_connections() == 0).await;
    }
}

#[tokio::test]
async fn only_get_is_sent_and_the_event_stream_is_opened_before_the_list() {
    let fake = FakeDocker::unix();
    let mut watched = start(fake.endpoint(), TIMING);
    watched.until("connected", |view| view.state == DockerState::Connected).await;
    fake.change(vec![container("web_1", "running", Some("172.17.0.9"))]);
    watched.until_at("web_1", "172.17.0.9").await;
    let requests = fake.requests();
    assert!(requests.iter().all(|request| request.starts_with("GET ")), "{requests:?}");
    assert_eq!(requests[0], "GET /version");
    assert!(requests[1].starts_with("GET /v1.41/events?filters="), "{requests:?}");
    let first: Vec<&str> = requests[2..5].iter().map(String::as_str).collect();
    for path in ["/containers/json?all=1", "/info", "/networks"] {
        assert!(first.contains(&format!("GET /v1.41{path}").as_str()), "{requests:?}");
    }
    watched.end().await;
}

/// An engine refuses a version of the API that it does not have, so the newest known is asked of a newer one alone.
#[tokio::test]
async fn old_and_future_engines_are_spoken_to_in_a_version_they_have() {
    for (engine, spoken) in [("1.24", "/v1.24/"), ("1.44", "/v1.44/"), ("1.999", "/v1.53/")] {
        let fake = FakeDocker::unix();
        fake.set_api_version(engine);
        let mut watched = start(fake.endpoint(), TIMING);
        watched.until("connected", |view| view.state == DockerState::Connected).await;
        assert!(fake.requests()[1..].iter().all(|request| request.contains(spoken)), "{:?}", fake.requests());
        watched.end().await;
    }
}

#[tokio::test]
async fn nonsense_of_every_kind_is_survived_said_and_forgotten_once_it_is_over() {
    let long = |chunked| Answer::Long { bytes: 100 << 20, chunked };
    let status = || Answer::Status(500, "out of \x1b[31mcheese".into());
    let hostile_version = Answer::Body(r#"{"ApiVersion":"1.\u001b[2J\u202e"}"#.into());
    for (place, answer, expected) in [
        ("list", Answer::EndInTheMiddle, "has closed the connection"),
        ("list", Answer::EndAtOnce, "has closed the connection"),
        ("list", Answer::Garbage, "does not answer as Docker does"),
        ("list", Answer::NoJson, "does not answer as Docker does: expected value"),
        ("list", Answer::Body(r#"{"containers":[]}"#.into()), "does not answer as Docker does: invalid type"),
        ("list", long(false), "the answer is too long"),
        ("list", long(true), "the answer is too long"),
        ("list", Answer::EndlessHead, "does not answer as Docker does"),
        ("list", status(), "answers 500: out of \\u{1b}[31mcheese"),
        ("list", Answer::Stall, "has not answered for 0.4 s"),
        ("version", Answer::NoJson, "does not answer as Docker does"),
        ("version", hostile_version, "API version \"1.\\u{1b}[2J\\u{202e}\""),
        ("version", Answer::Garbage, "does not answer as Docker does"),
        ("version", long(false), "the answer is too long"),
        ("version", Answer::Stall, "has not answered for 0.4 s"),
        ("events", Answer::EndAtOnce, "has closed the connection"),
        ("events", Answer::Garbage, "does not answer as Docker does"),
        ("events", Answer::NoJson, "does not answer as Docker does: expected value"),
        ("events", long(true), "the answer is too long"),
        ("events", Answer::EndlessHead, "does not answer as Docker does"),
        ("events", status(), "answers 500: out of \\u{1b}[31mcheese"),
        ("events", Answer::Stall, "has not answered for 0.4 s"),
    ] {
        let fake = FakeDocker::unix();
        fake.set_containers(vec![container("web_1", "running", Some("172.17.0.2"))]);
        // A busy machine takes its time; only who never answers is given up soon.
        let is_stall = matches!(answer, Answer::Stall);
        let patience = if is_stall { TIMING.answer } else { Duration::from_secs(8) };
        let mut watched = start(fake.endpoint(), Timing { answer: patience, ..TIMING });
        watched.until_at("web_1", "172.17.0.2").await;
        let set = |answer| match place {
            "list" => fake.answer_list(answer),
            "version" => fake.answer_version(answer),
            _ => fake.answer_events(answer),
        };
        set(answer.clone());
        if place == "list" {
            fake.event("container", "start");
        } else {
            // Ends the event stream, so that everything is asked again.
            fake.say("}".into());
            watched.until_lost().await;
        }
        let what = format!("{place} {answer:?}: {expected}");
        let lost = watched
            .until(&what, |view| match &view.state {
                DockerState::Unavailable { reason } => reason.as_str().contains(expected),
                _ => false,
            })
            .await;
        assert_eq!(address_of(&lost, "web_1").as_deref(), Some("172.17.0.2"), "the last known stays");
        assert!(!reason(&lost).chars().any(acts_on_a_terminal), "{}", reason(&lost));

        fake.set_containers(vec![container("web_1", "running", Some("172.17.0.3"))]);
        set(Answer::Well);
        watched.until_at("web_1", "172.17.0.3").await;
        watched.end().await;
        until("no connection left", || fake.open_connections() == 0).await;
    }
}

#[tokio::test]
async fn a_hundred_mebibytes_and_millions_of_containers_cost_little_memory() {
    let fake = FakeDocker::unix();
    let patient = Timing { answer: Duration::from_mins(1), ..TIMING };
    let mut watched = start(fake.endpoint(), patient);
    watched.until("connected", |view| view.state == DockerState::Connected).await;
    let before = most_resident();
    fake.answer_list(Answer::Long { bytes: 100 << 20, chunked: true });
    fake.event("container", "start");
    assert!(watched.until_lost().await.contains("too long"));
    // 16 MiB, and what a vector that grows by doubling takes beyond.
    let grown = most_resident() - before;
    assert!(grown < 64 << 20, "grown by {} MiB", grown >> 20);

    fake.answer_list(Answer::Body(format!("[{}{{}}]", "{},".repeat(5_000_000))));
    let view = watched.until("connected", |view| view.containers.len() == 10_000).await;
    assert_eq!(view.state, DockerState::Connected);
    // The daemon's own 15 MB, twice over, live in this process too.
    let grown = most_resident() - before;
    assert!(grown < 120 << 20, "grown by {} MiB", grown >> 20);
    watched.end().await;
}

/// The most memory that this process has had, in bytes.
fn most_resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("VmHWM");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

#[tokio::test]
async fn a_daemon_that_restarts_is_found_again_with_what_is_new() {
    for mut fake in [FakeDocker::unix(), FakeDocker::tcp().await] {
        fake.set_containers(vec![container("web_1", "running", Some("172.17.0.2"))]);
        let mut watched = start(fake.endpoint(), TIMING);
        watched.until_at("web_1", "172.17.0.2").await;
        for round in 3..6 {
            fake.stop().await;
            watched
                .until("cannot be opened", |view| match &view.state {
                    DockerState::Unavailable { reason } => {
                        reason.as_str() == format!("cannot open {}: not running", fake.endpoint())
                    }
                    _ => false,
                })
                .await;
            fake.set_containers(vec![container("web_1", "running", Some(&format!("172.17.0.{round}")))]);
            fake.start();
            watched.until_at("web_1", &format!("172.17.0.{round}")).await;
        }
        watched.end().await;
    }
}

#[tokio::test]
async fn no_daemon_is_said_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("none.sock");
    let began = Instant::now();
    let mut watched = start(Endpoint::Unix(path.clone()), Timing::default());
    assert_eq!(watched.until_lost().await, format!("cannot open {}: not running", path.display()));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    watched.end().await;

    let cancel = CancellationToken::new();
    let (mut view, run) = portolan::docker::watch(Endpoint::parse("ssh://elsewhere", false), cancel.clone());
    let task = tokio::spawn(run);
    let told = view.wait_for(|view| view.state != DockerState::Unknown).await.expect("told").clone();
    assert!(reason(&told).starts_with("DOCKER_HOST is \"ssh://elsewhere\""), "{}", reason(&told));
    cancel.cancel();
    task.await.expect("no panic");
}

#[tokio::test]
async fn a_burst_of_events_costs_few_lists_and_its_last_one_is_seen() {
    let fake = FakeDocker::unix();
    let mut watched = start(fake.endpoint(), TIMING);
    watched.until("connected", |view| view.state == DockerState::Connected).await;
    until("all lists that follow the start", || fake.lists() > TIMING.settle.len()).await;
    let (lists, began) = (fake.lists(), Instant::now());
    for number in 1..=250 {
        fake.change(vec![container("web_1", "running", Some(&format!("10.0.0.{number}")))]);
        if number % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    watched.until_at("web_1", "10.0.0.250").await;
    let most = began.elapsed().as_millis() / TIMING.between_lists.as_millis() + 2;
    assert!((fake.lists() - lists) as u128 <= most, "{} lists in {:?}", fake.lists() - lists, began.elapsed());
    watched.end().await;
}

#[tokio::test]
async fn a_change_that_the_list_shows_only_after_its_event_is_seen() {
    for late in TIMING.settle {
        let fake = FakeDocker::unix();
        fake.set_containers(vec![container("web_1", "running", Some("172.17.0.2"))]);
        let mut watched = start(fake.endpoint(), TIMING);
        watched.until_at("web_1", "172.17.0.2").await;
        until("all lists that follow the start", || fake.lists() > TIMING.settle.len()).await;
        fake.event("container", "die");
        tokio::time::sleep(late.mul_f32(0.7)).await;
        fake.set_containers(vec![container("web_1", "exited", None)]);
        watched.until("stopped", |view| view.containers[0].state.as_str() == "exited").await;
        watched.end().await;
    }
}

#[tokio::test]
async fn health_checks_and_execs_lead_to_no_list() {
    let fake = FakeDocker::unix();
    let mut watched = start(fake.endpoint(), TIMING);
    watched.until("connected", |view| view.state == DockerState::Connected).await;
    until("all lists that follow the start", || fake.lists() > TIMING.settle.len()).await;
    let lists = fake.lists();
    for _ in 0..100 {
        fake.event("container", "exec_create: /bin/sh -c true");
        fake.event("container", "exec_die");
        fake.event("container", "health_status: healthy");
    }
    fake.set_containers(vec![container("web_1", "running", Some("10.0.0.1"))]);
    fake.event("network", "connect");
    watched.until_at("web_1", "10.0.0.1").await;
    assert_eq!(fake.lists(), lists + 1);
    watched.end().await;
}

#[tokio::test]
async fn an_event_of_a_kind_that_is_not_known_yet_does_no_lasting_harm() {
    let fake = FakeDocker::unix();
    let mut watched = start(fake.endpoint(), TIMING);
    watched.until("connected", |view| view.state == DockerState::Connected).await;
    fake.set_containers(vec![container("web_1", "running", Some("10.0.0.1"))]);
    fake.say(json!({"Type": "teleporter", "Action": "beam", "New": [1, 2]}).to_string());
    watched.until_at("web_1", "10.0.0.1").await;
    watched.end().await;
}

/// An engine that comes and goes is asked less and less often.
#[tokio::test(start_paused = true)]
async fn attempts_to_find_the_engine_grow_apart_up_to_ten_seconds() {
    let fake = FakeDocker::unix();
    fake.answer_version(Answer::EndAtOnce);
    let mut watched = start(fake.endpoint(), Timing::default());
    watched.until_lost().await;
    let began = tokio::time::Instant::now();
    let mut seen = Vec::new();
    for attempt in 2..=8 {
        until_paused(|| fake.requests().len() >= attempt).await;
        seen.push(began.elapsed().as_millis());
    }
    let gaps: Vec<u128> = seen.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (gap, expected) in gaps.iter().zip([1_000, 2_000, 4_000, 8_000, 10_000, 10_000]) {
        assert!(gap.abs_diff(expected) <= 100, "{gaps:?}");
    }
    watched.end().await;
}

/// As `until`, where the clock stands still until everybody sleeps.
async fn until_paused(mut holds: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never came true");
}

/// 200 texts that would do something to a terminal, a log or a reader.
fn hostile_texts() -> Vec<String> {
    let fragments = [
        "\x1b[2J",
        "\x1b]0;owned\x07",
        "\x1b]52;c;cHduZWQ=\x07",
        "\x1b[31;1m",
        "\x1bP+q544e\x1b\\",
        "\x1b[6n",
        "\x1bc",
        "\x1b[?1049h",
        "\u{9b}2J",
        "\u{9d}0;x\u{9c}",
        "\u{90}x\u{9c}",
        "\r\n",
        "\n",
        "\t",
        "\x08\x08\x08",
        "\x07",
        "\0",
        "\x7f",
        "\u{85}",
        "\u{202e}",
        "\u{202a}x\u{202c}",
        "\u{2066}x\u{2069}",
        "\u{200b}",
        "\u{200d}",
        "\u{200f}",
        "\u{feff}",
        "\u{2028}",
        "\u{2029}",
        "\u{ad}",
        "\u{e0041}",
        "\u{e007f}",
        "\u{fff9}x\u{fffb}",
        "\u{ffff}",
        "\u{fe0f}",
        "\u{180e}",
        "\u{3164}",
        "\u{115f}",
        "\u{61c}",
        "\x0e",
        "\x0f",
    ];
    let mut texts = Vec::new();
    for fragment in fragments {
        texts.push(fragment.to_owned());
        texts.push(format!("web{fragment}"));
        texts.push(format!("{fragment}{fragment}web_1{fragment}"));
        texts.push(format!("{}{fragment}", "long".repeat(100)));
        texts.push(fragment.repeat(300));
    }
    assert_eq!(texts.len(), 200);
    texts
}

#[tokio::test]
async fn two_hundred_hostile_texts_in_every_field_act_nowhere() {
    let texts = hostile_texts();
    let hostile: Vec<Value> = texts
        .iter()
        .map(|text| {
            json!({
                "Id": text, "Names": [text, text], "Image": text, "State": text,
                "Labels": {text: text, "com.docker.compose.project": text, "com.docker.compose.service": text,
                           "com.docker.compose.container-number": text},
                "Ports": [{"PrivatePort": 80, "Type": text, "IP": text}],
                "HostConfig": {"NetworkMode": text},
                "NetworkSettings": {"Networks": {text: {"IPAddress": text, "GlobalIPv6Address": text}}},
            })
        })
        .collect();
    let fake = FakeDocker::unix();
    // The list has 1.5 MB, which a busy machine does not read in a moment.
    let mut watched = start(fake.endpoint(), Timing { answer: Duration::from_secs(5), ..TIMING });
    fake.change(hostile);
    let view = watched.until("all of them", |view| view.containers.len() == texts.len()).await;
    for container in view.containers.iter() {
        let Container { id, name, image, state, addresses, ports, compose, .. } = container;
        let mut shown = String::new();
        write!(shown, "{id}{name}{image}{state}").expect("to a string");
        let compose = compose.as_ref().expect("labels");
        write!(shown, "{}{}", compose.project, compose.service).expect("to a string");
        assert!(!shown.chars().any(acts_on_a_terminal), "{shown:?}");
        assert!(shown.chars().count() < 6 * 256 * 10, "long texts are cut");
        assert!(addresses.is_empty() && ports.is_empty());
    }
    watched.until("connected", |view| view.state == DockerState::Connected).await;
    for text in texts.iter().step_by(19) {
        fake.answer_list(Answer::Status(500, text.clone()));
        fake.event("container", "start");
        let reason = watched.until_lost().await;
        assert!(!reason.chars().any(acts_on_a_terminal), "{reason:?}");
        fake.answer_list(Answer::Well);
        watched.until("connected", |view| view.state == DockerState::Connected).await;
    }
    watched.end().await;
}
