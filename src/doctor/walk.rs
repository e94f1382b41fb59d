//! What rules of the packet filter do with a packet that is known in part. Pure.
//!
//! It says that a packet is dropped only where that is certain whatever is not known of it: a rule that may let it
//! pass before leaves it open, and so does everything that is not understood.

use crate::host::packet_filter::{Action, Chain, Hook, Packet, Policy, Rule, Rules, Table, Truth};
use crate::model::mapping::Family;

/// Most chains within chains, and most rules of one walk; what goes deeper is left open.
const DEEPEST: usize = 16;
const MOST_RULES: usize = 100_000;

/// What becomes of a packet.
#[derive(Debug, Default)]
pub(super) struct Walk<'a> {
    /// It certainly comes to its end here: by a rule, or by the policy of a chain.
    pub(super) end: Option<End<'a>>,
    /// Whatever may drop or refuse it, certainly or not: what to look at when it gets lost.
    pub(super) suspects: Vec<Suspect>,
    /// A rule sends it elsewhere, or may.
    pub(super) may_redirect: bool,
    /// The rule that certainly gives it another source.
    pub(super) rewrites: Option<&'a Rule>,
}

/// How a packet certainly comes to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End<'a> {
    /// A rule drops, rejects or redirects it.
    Rule(&'a Rule),
    /// The policy of a chain drops it.
    Policy(String),
}

/// What may drop a packet, with its counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Suspect {
    /// Which: told apart by its place, and the same in another reading of the same rules.
    pub(super) place: String,
    /// As it is shown.
    pub(super) text: String,
    /// Packets that it met.
    pub(super) packets: Option<u64>,
    /// It answers with a refusal.
    pub(super) rejects: bool,
}

/// What a chain comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Decided: it goes on, and no later rule of this chain is asked.
    Accepted,
    /// Decided: it is gone.
    Ended,
    /// The chain before goes on.
    Returned,
}

struct Walker<'a> {
    packet: &'a Packet,
    table: &'a Table,
    /// Something that is not certain may have let it pass already.
    is_open: bool,
    rules_left: usize,
    walk: Walk<'a>,
}

/// The way of `packet` through the chains of `hooks`, in order.
pub(super) fn walk<'a>(rules: &'a Rules, hooks: &[Hook], packet: &'a Packet) -> Walk<'a> {
    let family = Family::of(packet.destination);
    let (mut whole, mut rules_left) = (Walk::default(), MOST_RULES);
    for hook in hooks {
        let mut entries: Vec<(&Table, &str, &Chain)> = rules
            .tables
            .iter()
            .filter(|table| table.family.is_none_or(|of| of == family))
            .flat_map(|table| table.chains.iter().map(move |(name, chain)| (table, name.as_str(), chain)))
            .filter(|(.., chain)| chain.hook == Some(*hook))
            .collect();
        entries.sort_by_key(|(.., chain)| chain.priority);
        for (table, name, chain) in entries {
            // An answer has its addresses changed back without being asked.
            if table.name == "nat" && packet.state == crate::host::packet_filter::State::Answer {
                continue;
            }
            let mut way = Walker { packet, table, is_open: false, rules_left, walk: Walk::default() };
            way.enter(name, chain);
            // A thousand chains may lead into one tree of chains that makes a million rules of a hundred.
            rules_left = way.rules_left;
            let walked = way.walk;
            whole.suspects.extend(walked.suspects);
            let is_certain = !whole.may_redirect;
            whole.rewrites = whole.rewrites.or(walked.rewrites.filter(|_| is_certain));
            whole.may_redirect |= walked.may_redirect;
            // What may have been sent elsewhere before is not certain to meet this.
            if walked.end.is_some() && is_certain {
                whole.end = walked.end;
                return whole;
            }
        }
    }
    whole
}

impl<'a> Walker<'a> {
    fn enter(&mut self, name: &str, chain: &'a Chain) {
        let fate = self.chain(name, chain, false, 0);
        if chain.policy == Policy::Drop && fate == Fate::Returned {
            let text = format!("{} {}: the policy of {name} is DROP", self.table.source, self.table.name);
            self.walk.suspects.push(Suspect {
                place: format!("{} {} {name} policy", self.table.source, self.table.name),
                text: text.clone(),
                packets: chain.policy_packets,
                rejects: false,
            });
            if !self.is_open {
                self.walk.end = Some(End::Policy(text));
            }
        }
    }

    /// Walks one chain; `doubted`: it is not certain that the packet comes here.
    fn chain(&mut self, name: &str, chain: &'a Chain, doubted: bool, depth: usize) -> Fate {
        // A rule that may have returned leaves the rest of this chain in doubt.
        let mut doubted = doubted;
        for (number, rule) in chain.rules.iter().enumerate() {
            if self.rules_left == 0 {
                self.is_open = true;
                return Fate::Returned;
            }
            self.rules_left -= 1;
            let met = self.packet.meets(&rule.conditions);
            if met == Truth::No {
                continue;
            }
            let certain = met == Truth::Yes && !doubted;
            match &rule.action {
                Action::Continue => {}
                Action::Accept if certain => return Fate::Accepted,
                Action::Rewrite if certain => {
                    if !self.is_open {
                        self.walk.rewrites = Some(rule);
                    }
                    return Fate::Accepted;
                }
                Action::Accept | Action::Rewrite | Action::Unknown => self.is_open = true,
                Action::Drop | Action::Reject | Action::Redirect { .. } => {
                    if matches!(rule.action, Action::Redirect { .. }) {
                        self.walk.may_redirect = true;
                    } else {
                        self.suspect(name, number, rule);
                    }
                    if certain {
                        if !self.is_open {
                            self.walk.end = Some(End::Rule(rule));
                        }
                        return Fate::Ended;
                    }
                }
                Action::Return if certain => return Fate::Returned,
                Action::Return => doubted = true,
                Action::Jump(target) | Action::Goto(target) => {
                    let is_goto = matches!(rule.action, Action::Goto(_));
                    match self.table.chains.get(target) {
                        Some(next) if depth < DEEPEST => {
                            let fate = self.chain(target, next, !certain, depth + 1);
                            if certain && (fate != Fate::Returned || is_goto) {
                                return fate;
                            }
                            // It may have gone there and not come back.
                            doubted |= is_goto && !certain;
                        }
                        _ => self.is_open = true,
                    }
                }
            }
        }
        Fate::Returned
    }

    fn suspect(&mut self, chain: &str, number: usize, rule: &'a Rule) {
        self.walk.suspects.push(Suspect {
            place: format!("{} {} {chain} {number}", self.table.source, self.table.name),
            text: rule.text.to_string(),
            packets: rule.packets,
            rejects: rule.action == Action::Reject,
        });
    }
}

impl End<'_> {
    /// As it is shown.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Rule(rule) => rule.text.to_string(),
            Self::Policy(text) => text.clone(),
        }
    }

    /// It answers with a refusal, so a client need not wait.
    pub(super) fn rejects(&self) -> bool {
        matches!(self, Self::Rule(rule) if rule.action == Action::Reject)
    }

    /// Where a rule sends the packet instead.
    pub(super) fn redirects_to(&self) -> Option<&str> {
        match self {
            Self::Rule(Rule { action: Action::Redirect { to }, .. }) => Some(to.as_str()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::host::packet_filter::{Condition, State, What};
    use crate::model::mapping::Protocol;

    fn rule(what: Option<What>, action: Action) -> Rule {
        let conditions = what.into_iter().map(|what| Condition { what, is_negated: false }).collect();
        Rule { text: format!("{action:?}").as_str().into(), conditions, action, packets: Some(1) }
    }

    fn packet() -> Packet {
        Packet {
            protocol: Protocol::Tcp,
            source: None,
            source_port: None,
            destination: "192.0.2.7".parse().expect("address"),
            destination_port: Some(80),
            came_in: Some("eth0".into()),
            goes_out: None,
            is_for_this_host: true,
            state: State::New,
        }
    }

    fn end(input: Vec<Rule>, other: Vec<Rule>, policy: Policy) -> (Option<String>, usize) {
        let chain = |hook, rules| Chain { hook, policy, rules, ..Chain::default() };
        let chains = BTreeMap::from([
            ("INPUT".to_owned(), chain(Some(Hook::Input), input)),
            ("other".to_owned(), Chain { policy: Policy::Accept, ..chain(None, other) }),
        ]);
        let table = Table { source: "t".into(), name: "filter".into(), family: Some(Family::V4), chains };
        let mut rules = Rules::default();
        rules.tables.push(table);
        let packet = packet();
        let walked = walk(&rules, &[Hook::Input], &packet);
        (walked.end.map(|end| end.text()), walked.suspects.len())
    }

    /// The rules of INPUT and of another chain, the policy, and what comes of it.
    type Case = (Vec<Rule>, Vec<Rule>, Policy, (Option<String>, usize));

    #[test]
    fn a_packet_is_lost_only_where_nothing_could_have_let_it_pass() {
        use Action::{Accept, Continue, Drop, Goto, Jump, Reject, Return, Unknown};
        let (yes, maybe, no) = (Some(What::Opens), Some(What::Unknown), Some(What::In("docker0".into())));
        let sure = |text: &str| (Some(text.to_owned()), 1);
        let open = |suspects: usize| (None, suspects);
        let other = || vec![rule(None, Drop)];
        let jump = || Jump("other".into());
        let cases: Vec<Case> = vec![
            (vec![rule(yes.clone(), Drop)], vec![], Policy::Accept, sure("Drop")),
            (vec![rule(no.clone(), Drop)], vec![], Policy::Accept, open(0)),
            (vec![rule(maybe.clone(), Drop)], vec![], Policy::Accept, open(1)),
            (vec![rule(yes.clone(), Accept), rule(None, Drop)], vec![], Policy::Accept, open(0)),
            (vec![rule(maybe.clone(), Accept), rule(None, Drop)], vec![], Policy::Accept, open(1)),
            (vec![rule(no.clone(), Accept), rule(None, Reject)], vec![], Policy::Accept, sure("Reject")),
            (vec![rule(None, Continue), rule(None, Drop)], vec![], Policy::Accept, sure("Drop")),
            (vec![rule(None, Unknown), rule(None, Drop)], vec![], Policy::Accept, open(1)),
            (vec![rule(None, jump())], other(), Policy::Accept, sure("Drop")),
            (vec![rule(maybe.clone(), jump())], other(), Policy::Accept, open(1)),
            (vec![rule(None, Jump("gone".into())), rule(None, Drop)], vec![], Policy::Accept, open(1)),
            (
                vec![rule(None, jump()), rule(None, Drop)],
                vec![rule(yes.clone(), Return), rule(None, Drop)],
                Policy::Accept,
                sure("Drop"),
            ),
            (vec![rule(None, jump())], vec![rule(maybe.clone(), Return), rule(None, Drop)], Policy::Accept, open(1)),
            (vec![rule(None, Goto("other".into())), rule(None, Drop)], vec![], Policy::Accept, open(0)),
            (vec![], vec![], Policy::Drop, sure("t filter: the policy of INPUT is DROP")),
            (vec![rule(maybe, Accept)], vec![], Policy::Drop, open(1)),
            (vec![rule(yes, Accept)], vec![], Policy::Drop, open(0)),
        ];
        for (at, (input, other, policy, expected)) in cases.into_iter().enumerate() {
            assert_eq!(end(input, other, policy), expected, "case {at}");
        }
        // A circle ends.
        assert_eq!(end(vec![rule(None, jump())], vec![rule(None, jump())], Policy::Accept), open(0));
    }

    #[test]
    fn however_many_chains_lead_into_others_a_walk_has_an_end() {
        let mut chains = BTreeMap::new();
        for at in 0..10 {
            let rules = vec![rule(None, Action::Jump("deep 1".into()))];
            chains.insert(format!("entry {at}"), Chain { hook: Some(Hook::Input), rules, ..Chain::default() });
        }
        // Each level doubles.
        for at in 1..DEEPEST {
            let next = || rule(None, Action::Jump(format!("deep {}", at + 1)));
            chains.insert(format!("deep {at}"), Chain { rules: vec![next(), next()], ..Chain::default() });
        }
        let drops = vec![rule(Some(What::Unknown), Action::Drop)];
        chains.insert(format!("deep {DEEPEST}"), Chain { rules: drops, ..Chain::default() });
        let mut rules = Rules::default();
        rules.tables.push(Table { source: "t".into(), name: "filter".into(), family: None, chains });
        let packet = packet();
        let walked = walk(&rules, &[Hook::Input], &packet);
        assert!(walked.end.is_none() && (1..MOST_RULES).contains(&walked.suspects.len()), "{}", walked.suspects.len());
    }
}
