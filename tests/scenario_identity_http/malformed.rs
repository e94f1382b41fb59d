//! The table of [`super::vectors`] against two servers: what is refused reaches neither by a single byte, and of what is
//! passed on, both read the same requests, which are those that we passed on.

use crate::common::{SOON, require, wait_for};
use crate::vectors::{Vector, vectors};
use crate::world::{NEEDS, World};

#[test]
fn two_servers_read_what_was_passed_on_and_nothing_of_what_was_refused() {
    if !require(NEEDS) {
        return;
    }
    let vectors = vectors();
    assert!(vectors.len() >= 100, "{} vectors", vectors.len());
    let mut world = World::new();
    for server in [8001, 8002] {
        let mut expected = world.read_by(server).len();
        for Vector { name, bytes, status, passed, is_begun } in &vectors {
            // At once, and byte by byte where that is no matter of minutes.
            let pieces: Vec<&[u8]> = bytes.chunks(if bytes.len() < 64 { 1 } else { bytes.len() }).collect();
            let (answer, closed) = world.say(server, &pieces);
            let text = String::from_utf8_lossy(&answer);
            let statuses: Vec<&str> =
                text.match_indices("HTTP/1.1 ").filter_map(|(at, _)| text.get(at + 9..at + 12)).collect();
            let mut should = vec!["200"; passed.len()];
            should.extend(*status);
            assert_eq!(statuses, should, "{name} at {server}: {text}");
            // Both write their line when the response is sent.
            let lines = wait_for(&format!("{name}: the log of {server}"), SOON, || {
                Some(world.read_by(server)).filter(|lines| lines.len() >= expected + passed.len())
            });
            let read: Vec<&str> = lines[expected..].iter().map(String::as_str).collect();
            let wanted: Vec<String> = passed.iter().map(|request| request.as_read(server)).collect();
            assert_eq!(read, wanted, "{name} at {server}");
            expected = lines.len();
            if status.is_some() {
                assert_eq!(closed["reason"], "rejected", "{name}: {closed}");
                assert!(closed["error"].is_string(), "{name}: {closed}");
            } else {
                assert_eq!(closed["reason"], "finished", "{name}: {closed}");
            }
            if passed.is_empty() && !is_begun {
                assert_eq!(closed["bytes_in"], 0, "{name}: not a byte reached it: {closed}");
            }
            assert_eq!(closed["requests"], should.len(), "{name}: {closed}");
        }
        // And after all of them nothing has come late.
        assert_eq!(world.read_by(server).len(), expected);
        assert!(world.read_by(server).iter().all(|line| !line.contains("evil")));
    }
}
