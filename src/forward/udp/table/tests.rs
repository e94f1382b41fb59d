//! The table against a naive model that scans everything, and the rules of eviction one by one.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const TIMEOUT: Duration = Duration::from_millis(50);

fn key(number: u8) -> FlowKey {
    FlowKey {
        client: SocketAddr::from((Ipv4Addr::LOCALHOST, 1000 + u16::from(number / 3))),
        local: SocketAddr::from(([127, 0, 0, number % 3 + 1], 53)),
        told: None,
    }
}

/// The same table, written so simply that it can be seen to be right: flows stand in order of last use.
#[derive(Default)]
struct Model {
    flows: Vec<ModelFlow>,
}

struct ModelFlow {
    key: FlowKey,
    id: FlowId,
    used: Instant,
    after_first_reply: Option<u32>,
}

impl Model {
    fn touch(&mut self, id: FlowId, reply: bool, now: Instant) {
        let Some(at) = self.flows.iter().position(|flow| flow.id == id) else { return };
        let mut flow = self.flows.remove(at);
        flow.used = now;
        flow.after_first_reply = match flow.after_first_reply {
            None => reply.then_some(0),
            Some(count) => Some(count + 1),
        };
        self.flows.push(flow);
    }

    fn expired(&self, now: Instant) -> Option<FlowId> {
        self.flows.first().filter(|flow| now >= flow.used + TIMEOUT).map(|flow| flow.id)
    }

    fn victim(&self, now: Instant, full: Full) -> Option<FlowId> {
        let first = |accept: &dyn Fn(&ModelFlow) -> bool| self.flows.iter().find(|flow| accept(flow));
        let one_way = first(&|flow| flow.after_first_reply.is_none());
        let answered = first(&|flow| flow.after_first_reply == Some(0));
        let quiet = first(&|flow| flow.after_first_reply > Some(0)).filter(|flow| now >= flow.used + PROTECTED);
        let waiting = self.flows.iter().filter(|flow| flow.after_first_reply.is_none()).count();
        let order = match full {
            _ if waiting > self.flows.len() / 4 => [one_way, answered, quiet],
            Full::Here => [answered, quiet, one_way],
            Full::Elsewhere => [answered, one_way, quiet],
        };
        order.into_iter().flatten().next().map(|flow| flow.id)
    }
}

#[derive(Clone, Debug)]
enum Step {
    FromClient(u8),
    FromTarget(u8),
    Pass(u64),
    Expire,
    Evict(bool),
    Remove(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..24_u8).prop_map(Step::FromClient),
        4 => (0..24_u8).prop_map(Step::FromTarget),
        2 => (0..40_u64).prop_map(Step::Pass),
        1 => Just(Step::Pass(1_000)),
        1 => Just(Step::Expire),
        2 => any::<bool>().prop_map(Step::Evict),
        1 => (0..24_u8).prop_map(Step::Remove),
    ]
}

proptest! {
    #[test]
    fn behaves_as_a_table_that_scans_everything(steps in prop::collection::vec(step(), 1..300)) {
        let mut now = Instant::now();
        let mut table = FlowTable::new();
        let mut model = Model::default();
        let mut gone = Vec::new();
        for step in steps {
            let take_out = match step {
                Step::FromClient(number) => {
                    if let Some(id) = table.find(&key(number)) {
                        table.touch(id, Direction::In, now);
                        model.touch(id, false, now);
                    } else {
                        let id = table.insert(key(number), number, now);
                        model.flows.push(ModelFlow { key: key(number), id, used: now, after_first_reply: None });
                    }
                    None
                }
                Step::FromTarget(number) => {
                    if let Some(id) = table.find(&key(number)) {
                        table.touch(id, Direction::Out, now);
                        model.touch(id, true, now);
                    }
                    None
                }
                Step::Pass(milliseconds) => {
                    now += Duration::from_millis(milliseconds);
                    None
                }
                Step::Expire => {
                    // Flows used at the same moment may go in any order, so the moment is compared.
                    let expired = table.expired(now, TIMEOUT);
                    let used = |id| model.flows.iter().find(|flow| flow.id == id).map(|flow| flow.used);
                    prop_assert_eq!(expired.and_then(used), model.expired(now).and_then(used));
                    expired
                }
                Step::Evict(is_here) => {
                    let full = if is_here { Full::Here } else { Full::Elsewhere };
                    let victim = table.victim(now, full);
                    prop_assert_eq!(victim, model.victim(now, full));
                    victim
                }
                Step::Remove(number) => table.find(&key(number)),
            };
            if let Some(id) = take_out {
                let (removed, _) = table.remove(id).expect("it stood");
                let at = model.flows.iter().position(|flow| flow.id == id).expect("it stood in the model");
                prop_assert_eq!(removed, model.flows.remove(at).key);
                gone.push(id);
            }
            prop_assert_eq!(table.len(), model.flows.len());
            prop_assert_eq!(table.is_empty(), model.flows.is_empty());
            prop_assert_eq!(table.ids().len(), model.flows.len());
            prop_assert_eq!(table.next_expiry(TIMEOUT), model.flows.first().map(|flow| flow.used + TIMEOUT));
            for flow in &model.flows {
                prop_assert_eq!(table.find(&flow.key), Some(flow.id));
                prop_assert_eq!(FlowId::from_bits(flow.id.to_bits()), flow.id);
                prop_assert_eq!(table.last_used(flow.id), Some(flow.used));
                let (found, &mut value) = table.get_mut(flow.id).expect("it stands");
                prop_assert_eq!(found, flow.key);
                prop_assert_eq!(key(value), flow.key);
            }
            for &id in &gone {
                prop_assert!(table.get_mut(id).is_none(), "the id of a flow that is gone finds nothing");
            }
        }
    }
}

#[test]
fn one_way_flows_give_way_before_an_established_one() {
    let now = Instant::now();
    let mut table = FlowTable::new();
    let established = table.insert(key(0), (), now);
    table.touch(established, Direction::Out, now);
    table.touch(established, Direction::In, now);
    let later = now + Duration::from_mins(1);
    let first = table.insert(key(1), (), later);
    table.insert(key(2), (), later);
    assert_eq!(table.victim(later, Full::Here), Some(first));
}

#[test]
fn an_established_flow_in_use_never_gives_way() {
    let now = Instant::now();
    let mut table = FlowTable::new();
    let flow = table.insert(key(0), (), now);
    table.touch(flow, Direction::Out, now);
    table.touch(flow, Direction::Out, now);
    assert_eq!(table.victim(now, Full::Here), None);
    assert_eq!(table.victim(now + PROTECTED, Full::Here), Some(flow));
}

#[test]
fn a_table_full_of_answered_flows_leaves_room_to_wait_for_an_answer() {
    let now = Instant::now();
    let mut table = FlowTable::new();
    let answered: Vec<_> = (0..7).map(|number| table.insert(key(number), (), now)).collect();
    for &id in &answered {
        table.touch(id, Direction::Out, now);
    }
    table.insert(key(7), (), now);
    assert_eq!(table.victim(now, Full::Here), Some(answered[0]));
}

#[test]
fn a_table_full_of_quiet_flows_leaves_room_to_wait_for_an_answer() {
    let now = Instant::now();
    let mut table = FlowTable::new();
    let quiet: Vec<_> = (0..7).map(|number| table.insert(key(number), (), now)).collect();
    for &id in &quiet {
        table.touch(id, Direction::Out, now);
        table.touch(id, Direction::Out, now);
    }
    let newcomer = table.insert(key(7), (), now + PROTECTED);
    assert_eq!(table.victim(now + PROTECTED, Full::Here), Some(quiet[0]));
    table.remove(quiet[0]);
    table.insert(key(8), (), now + PROTECTED);
    assert_eq!(table.victim(now + PROTECTED, Full::Here), Some(quiet[1]), "two of eight wait");
    table.remove(quiet[1]);
    table.insert(key(9), (), now + PROTECTED);
    assert_eq!(table.victim(now + PROTECTED, Full::Here), Some(newcomer), "a flood has no more than its quarter");
}

#[test]
fn a_clock_that_steps_back_keeps_the_order() {
    let now = Instant::now();
    let mut table = FlowTable::new();
    let first = table.insert(key(0), (), now + TIMEOUT);
    table.insert(key(1), (), now);
    assert_eq!(table.next_expiry(TIMEOUT), Some(now + TIMEOUT * 2));
    assert_eq!(table.expired(now + TIMEOUT * 2, TIMEOUT), Some(first));
}
