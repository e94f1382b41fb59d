//! The table against what is promised of it, and against a plain one.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

const KEY: [u8; 16] = *b"0123456789abcdef";

fn pool(text: &str) -> Pool {
    Pool::new(text.parse().unwrap()).unwrap()
}

fn table(text: &str) -> AliasTable {
    AliasTable::new(pool(text), KEY)
}

/// The client of that number, out of `2001:db8::/32`.
fn client(number: u32) -> ClientKey {
    ClientKey::from(IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(number))))
}

#[test]
fn the_same_client_has_the_same_alias() {
    let mut table = table("198.18.0.0/15");
    let first = table.take(client(1), Client::Known, 10).unwrap();
    assert!(first.is_new);
    let again = table.take(client(1), Client::Known, 11).unwrap();
    assert_eq!((again.slot, again.is_new), (first.slot, false));
    table.give_back(first.place, 12);
    table.give_back(again.place, 13);
    let later = table.take(client(1), Client::Known, 14).unwrap();
    assert_eq!((later.slot, later.is_new), (first.slot, false));
    let standing = table.by_slot(first.slot).unwrap();
    assert_eq!(
        standing,
        Standing { slot: first.slot, client: client(1), since: 10, last_seen: 14, open: 1, is_known: true }
    );
    assert_eq!(table.by_client(client(1)), Some(standing));
    assert_eq!(table.by_client(client(2)), None);
}

#[test]
fn no_two_of_as_many_clients_as_the_pool_has_addresses_share_one_and_the_figures_are_told() {
    for (network, counts) in [("198.18.0.0/15", [10_000, 131_070]), ("fd00:a::/64", [10_000, 131_072])] {
        for count in counts {
            let mut table = table(network);
            let mut slots = HashSet::new();
            for number in 0..count {
                let taken = table.take(client(number), Client::Known, 1).unwrap();
                assert!(slots.insert(taken.slot), "client {number} shares {:?}", taken.slot);
                assert_eq!(taken.handed_on, None);
            }
            assert_eq!(table.len(), count as usize);
            for number in 0..count {
                assert!(slots.contains(&table.by_client(client(number)).unwrap().slot));
            }
            let bytes = table.bytes();
            println!("{network}, {count} clients: {bytes} bytes, {:.1} a client", bytes as f64 / f64::from(count));
            // Entry, indexes and the room that doubling leaves.
            assert!(bytes / count as usize <= 96, "{bytes}");
        }
    }
}

#[test]
fn clients_that_are_given_the_same_slot_first_get_two_and_keep_them() {
    let mut table = table("192.0.2.0/28");
    // Of so many for fourteen slots, several meet.
    let slots: Vec<Slot> = (0..14).map(|number| table.take(client(number), Client::Known, 1).unwrap().slot).collect();
    let first: HashSet<u32> = (0..14).map(|number| table.first_choice(client(number))).collect();
    assert!(first.len() < 14, "no two meet");
    assert_eq!(slots.iter().collect::<HashSet<_>>().len(), 14);
    let again: Vec<Slot> =
        (0..14).rev().map(|number| table.take(client(number), Client::Known, 1).unwrap().slot).collect();
    assert!(slots.iter().eq(again.iter().rev()));
}

#[test]
fn while_every_alias_is_in_use_a_new_client_is_refused_and_the_others_are_not() {
    let mut table = table("192.0.2.0/29");
    let taken: Vec<Taken> = (0..6).map(|number| table.take(client(number), Client::Known, 1).unwrap()).collect();
    assert_eq!(table.take(client(6), Client::Known, 2), Err(Refused::AllInUse));
    let again = table.take(client(3), Client::Known, 2).unwrap();
    table.give_back(taken[3].place, 3);
    assert_eq!(table.take(client(6), Client::Known, 3), Err(Refused::AllInUse), "it has another connection");
    table.give_back(again.place, 4);
    let handed = table.take(client(6), Client::Known, 5).unwrap();
    assert_eq!(handed.slot, taken[3].slot);
    let former = FormerAlias { slot: handed.slot, client: client(3), since: 1, last_seen: 4, until: 5 };
    assert_eq!(handed.handed_on, Some(former));
    assert_eq!(table.former(handed.slot).collect::<Vec<_>>(), [&former]);
    assert_eq!(table.by_slot(handed.slot).unwrap().since, 5);
    assert_eq!(table.by_client(client(3)), None);
    assert_eq!(table.take(client(3), Client::Known, 6), Err(Refused::AllInUse));
}

#[test]
fn the_alias_whose_client_has_been_away_longest_is_handed_on_first() {
    let mut table = table("192.0.2.0/29");
    let places: Vec<Place> = (0..6).map(|number| table.take(client(number), Client::Known, 1).unwrap().place).collect();
    for number in [4usize, 0, 5, 2, 1, 3] {
        table.give_back(places[number], 2);
    }
    // Back for a moment: no longer the one that is away longest.
    let back = table.take(client(0), Client::Known, 3).unwrap();
    table.give_back(back.place, 3);
    let handed = (10..16).map(|number| table.take(client(number), Client::Known, 4).unwrap().handed_on.unwrap().client);
    assert_eq!(handed.collect::<Vec<_>>(), [4, 5, 2, 1, 3, 0].map(client));
}

#[test]
fn a_restored_table_gives_every_client_what_it_had() {
    let mut before = table("198.18.0.0/15");
    let slots: Vec<Slot> =
        (0..10_000).map(|number| before.take(client(number), Client::Known, number).unwrap().slot).collect();
    let mut after = AliasTable::restore(before.saved(), 20_000);
    assert_eq!(after.len(), 10_000);
    for (number, slot) in (0..).zip(&slots) {
        let taken = after.take(client(number), Client::Known, 1).unwrap();
        assert_eq!((taken.slot, taken.is_new), (*slot, false));
    }
    let new = after.take(client(10_000), Client::Known, 1).unwrap();
    assert!(new.is_new && !slots.contains(&new.slot));
}

#[test]
fn after_a_restart_who_was_seen_longest_ago_gives_way_first() {
    let mut before = table("192.0.2.0/29");
    let seen = [5, 3, 9, 1, 7, 2];
    for (number, seen) in (0..).zip(seen) {
        before.take(client(number), Client::Known, seen).unwrap();
    }
    let mut after = AliasTable::restore(before.saved(), 20_000);
    let handed =
        (10..16).map(|number| after.take(client(number), Client::Known, 20).unwrap().handed_on.unwrap().last_seen);
    assert_eq!(handed.collect::<Vec<_>>(), [1, 2, 3, 5, 7, 9]);
}

#[test]
fn of_saved_entries_that_contradict_each_other_one_counts() {
    let pool = pool("192.0.2.0/29");
    let entry =
        |slot, number| SavedAlias { slot: Slot(slot), client: client(number), since: 1, last_seen: 1, is_known: true };
    let entries = vec![entry(0, 0), entry(0, 1), entry(1, 0), entry(6, 2), entry(5, 3)];
    let table = AliasTable::restore(SavedAliases { pool, key: KEY, entries, former: Vec::new() }, 20_000);
    assert_eq!(table.len(), 2);
    assert_eq!(table.by_slot(Slot(0)).unwrap().client, client(0));
    assert_eq!(table.by_client(client(3)).unwrap().slot, Slot(5));
}

#[test]
fn what_is_remembered_of_former_clients_is_bounded() {
    let mut table = table("192.0.2.0/30");
    let count = u32::try_from(MOST_FORMER).unwrap() + 10;
    for number in 0..count {
        let taken = table.take(client(number), Client::Known, number).unwrap();
        table.give_back(taken.place, number);
    }
    assert_eq!(table.saved().former.len(), MOST_FORMER);
    assert_eq!(AliasTable::restore(table.saved(), 20_000).saved().former, table.saved().former);
}

/// Clients that are known and away, of these numbers.
fn away(table: &mut AliasTable, numbers: std::ops::Range<u32>) -> Vec<Slot> {
    let mut one = |number| {
        let taken = table.take(client(number), Client::Known, 1).unwrap();
        table.give_back(taken.place, 1);
        taken.slot
    };
    numbers.map(&mut one).collect()
}

#[test]
fn two_hundred_thousand_sources_that_nobody_has_answered_leave_known_clients_their_aliases() {
    for (network, known, open) in [("198.18.0.0/15", 1_000, 10_000), ("198.18.0.0/24", 100, 100)] {
        let mut table = table(network);
        let slots = away(&mut table, 0..known);
        let mut flows = VecDeque::new();
        for number in 1_000_000..1_200_000 {
            let taken = table.take(client(number), Client::Claimed, 2).unwrap();
            assert_eq!((taken.is_new, taken.handed_on), (false, None));
            flows.push_back(taken.place);
            if flows.len() > open {
                table.give_back(flows.pop_front().unwrap(), 3);
            }
        }
        for (number, slot) in (0..).zip(&slots) {
            assert_eq!(table.by_client(client(number)).unwrap().slot, *slot, "{network}");
        }
        // Nor do they keep anybody out who connects, or is answered, and they give way first after a restart, too.
        flows.drain(..).for_each(|place| table.give_back(place, 4));
        let mut table = AliasTable::restore(table.saved(), 20_000);
        let new = table.take(client(known), Client::Claimed, 5).unwrap();
        assert!(table.prove(new.place) && !table.prove(new.place));
        table.give_back(new.place, 6);
        for number in 2_000_000..2_001_000 {
            let taken = table.take(client(number), Client::Claimed, 7).unwrap();
            table.give_back(taken.place, 7);
        }
        assert_eq!(table.by_client(client(known)).unwrap().slot, new.slot);
        assert!(table.former.is_empty());
    }
}

#[test]
fn as_many_sources_as_there_are_aliases_keep_out_nobody_who_connects() {
    let mut table = table("198.18.0.0/24");
    let held: Vec<Taken> =
        (1_000..1_127).map(|number| table.take(client(number), Client::Claimed, 1).unwrap()).collect();
    assert_eq!(table.take(client(1_127), Client::Claimed, 1), Err(Refused::TooManyClaimed));
    for number in 0..127 {
        let taken = table.take(client(number), Client::Known, 2).unwrap();
        assert!(taken.is_new && taken.handed_on.is_none());
    }
    assert_eq!(table.take(client(127), Client::Known, 2), Err(Refused::AllInUse));
    // One that is away gives its alias to the next, one that is answered has its own.
    table.give_back(held[0].place, 3);
    let next = table.take(client(1_127), Client::Claimed, 4).unwrap();
    assert_eq!((next.slot, next.is_recycled), (held[0].slot, true));
    assert!(table.prove(next.place));
    assert_eq!(table.take(client(1_128), Client::Claimed, 5), Err(Refused::AllInUse));
}

#[test]
fn what_a_clock_that_was_ahead_has_seen_is_of_now() {
    let mut before = table("192.0.2.0/29");
    let slots: Vec<Slot> = [9_000, 10].map(|now| before.take(client(now), Client::Known, now).unwrap().slot).into();
    let mut after = AliasTable::restore(before.saved(), 20);
    let [ahead, real] = [0, 1].map(|at| after.by_slot(slots[at]).unwrap());
    assert_eq!((ahead.since, ahead.last_seen, real.since, real.last_seen), (9_000, 20, 10, 10));
    // Nor does it last while it runs.
    let taken = after.take(client(9_000), Client::Known, 9_000).unwrap();
    after.give_back(taken.place, 30);
    assert_eq!(after.by_slot(slots[0]).unwrap().last_seen, 30);
}

#[test]
fn of_a_pool_that_is_given_away_claimed_clients_get_a_quarter_and_known_ones_any() {
    let mut table = table("198.18.0.0/24");
    away(&mut table, 0..254);
    let held: Vec<Taken> =
        (1_000..1_063).map(|number| table.take(client(number), Client::Claimed, 2).unwrap()).collect();
    assert!(held.iter().all(|taken| taken.is_new && taken.handed_on.is_some()));
    assert_eq!(table.take(client(1_063), Client::Claimed, 2), Err(Refused::TooManyClaimed));
    // Who is answered counts no more.
    assert!(table.prove(held[0].place));
    let more = table.take(client(1_063), Client::Claimed, 3).unwrap();
    let newcomer = table.take(client(2_000), Client::Known, 3).unwrap();
    assert_eq!(newcomer.handed_on.unwrap().client, client(64));
    // The claimed one gives way before those that are known, and is not remembered.
    table.give_back(more.place, 4);
    let newcomer = table.take(client(2_001), Client::Known, 5).unwrap();
    assert_eq!((newcomer.slot, newcomer.handed_on, newcomer.is_recycled), (more.slot, None, true));
    // One that connects after all is known.
    let same = table.take(client(1_001), Client::Known, 6).unwrap();
    assert!(same.is_new && !table.prove(held[1].place));
}

/// A table as one would write it without a thought for its cost.
#[derive(Default)]
struct Plain {
    aliases: HashMap<ClientKey, (Slot, u32)>,
    idle: Vec<ClientKey>,
}

proptest! {
    #[test]
    fn it_does_what_a_plain_table_does(steps in prop::collection::vec((0u32..40, any::<bool>(), any::<bool>()), 1..400)) {
        const SIZE: usize = 14;
        let mut table = table("192.0.2.0/28");
        let mut plain = Plain::default();
        let mut open: Vec<(ClientKey, Place)> = Vec::new();
        for (now, (number, is_take, is_restart)) in (0u32..).zip(steps) {
            if is_take {
                let client = client(number);
                let taken = table.take(client, Client::Known, now);
                let known = plain.aliases.get(&client).copied();
                let victim = plain.idle.first().copied();
                match (known, taken) {
                    (Some((slot, _)), Ok(taken)) => {
                        prop_assert_eq!((taken.slot, taken.is_new, taken.handed_on), (slot, false, None));
                        plain.idle.retain(|idle| *idle != client);
                    }
                    (None, Ok(taken)) if plain.aliases.len() < SIZE => {
                        prop_assert!(taken.is_new && taken.handed_on.is_none());
                        prop_assert!(plain.aliases.values().all(|(slot, _)| *slot != taken.slot));
                        plain.aliases.insert(client, (taken.slot, 0));
                    }
                    (None, Ok(taken)) => {
                        let victim = victim.expect("somebody is idle");
                        let (slot, _) = plain.aliases.remove(&victim).expect("it has one");
                        plain.idle.remove(0);
                        prop_assert_eq!(taken.handed_on.map(|former| former.client), Some(victim));
                        prop_assert_eq!(taken.slot, slot);
                        plain.aliases.insert(client, (slot, 0));
                    }
                    (None, Err(Refused::AllInUse)) => {
                        prop_assert!(plain.aliases.len() == SIZE && plain.idle.is_empty());
                        continue;
                    }
                    (_, Err(_)) => prop_assert!(false, "who has an alias is never refused"),
                }
                plain.aliases.get_mut(&client).expect("it was entered").1 += 1;
                open.push((client, taken.expect("it was given").place));
            } else if !open.is_empty() {
                let (client, place) = open.swap_remove(number as usize % open.len());
                table.give_back(place, now);
                let count = &mut plain.aliases.get_mut(&client).expect("it is open").1;
                *count -= 1;
                if *count == 0 {
                    plain.idle.push(client);
                }
            } else if is_restart {
                // Nothing is open: the order of those that are idle is that of when they were seen.
                table = AliasTable::restore(table.saved(), 20_000);
            }
            for (client, (slot, count)) in &plain.aliases {
                let standing = table.by_slot(*slot).expect("it is given away");
                prop_assert_eq!((standing.client, standing.open), (*client, *count));
            }
            prop_assert_eq!(table.len(), plain.aliases.len());
            prop_assert_eq!(table.is_in_use(), !open.is_empty());
        }
    }
}
