//! Keeps the addresses of DNS names current, off the data path (fault 17).
//!
//! A look-up is one call of the system's resolver on a thread of its own, which cannot be called off. So one that
//! takes longer than [`DnsTiming::cap`] is told as failed and left to end by itself; meanwhile the same name is not asked
//! again, and such stuck ones are counted apart, so that a hundred names of a dead server do not keep a healthy
//! one waiting. A name's last good answer stays until there is another.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::model::untrusted::SafeText;

/// Most look-ups that are within their time; more wait their turn.
const MAX_IN_TIME: usize = 64;
/// Most look-ups at all, those beyond their time included: each holds a thread. More wait until one ends.
const MAX_IN_FLIGHT: usize = 192;
/// A name whose last look-up got stuck is asked again only while fewer than this are in flight.
const MAX_FOR_STUCK: usize = 96;
/// Requests to look again that may wait; one that finds it full is dropped, the next failed connect repeats it.
const PENDING_REFRESHES: usize = 64;
/// Most addresses of a name that are kept: a connect that has tried so many has run out of time.
const MAX_ADDRESSES: usize = 16;

/// What is wrong with a name that means only addresses such as 0.0.0.0.
const NO_ADDRESS: &str = "it has no address that can be dialled";

/// Finds the addresses of a name. Tests bring their own.
pub type Lookup = Arc<dyn Fn(String) -> LookupFuture + Send + Sync>;
/// See [`Lookup`].
pub type LookupFuture = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// What is known of the names that are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsTable(pub BTreeMap<String, DnsAnswer>);

/// What is known of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsAnswer {
    /// The last good answer, in the order of trying; empty when there was none.
    pub addresses: Vec<IpAddr>,
    /// Why the last look-up failed, even if `addresses` stay.
    pub problem: Option<SafeText>,
}

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub struct DnsTiming {
    /// A look-up that takes longer has failed.
    pub cap: Duration,
    /// From one look-up of a name to the next.
    pub again: Duration,
    /// The same while the name has no address.
    pub again_without_address: Duration,
    /// At least so long after the last one, however many connects fail.
    pub refresh: Duration,
}

impl Default for DnsTiming {
    fn default() -> Self {
        Self {
            cap: Duration::from_secs(5),
            again: Duration::from_secs(30),
            again_without_address: Duration::from_secs(5),
            refresh: Duration::from_secs(1),
        }
    }
}

/// What the service holds of the resolver.
#[derive(Clone, Debug)]
pub struct Resolver {
    wanted: watch::Sender<BTreeSet<String>>,
    refreshes: mpsc::Sender<String>,
    table: watch::Receiver<Arc<DnsTable>>,
}

impl Resolver {
    /// A resolver and the future that does its work until `cancel`; the caller owns and joins it.
    pub fn new(lookup: Lookup, cancel: CancellationToken) -> (Self, impl Future<Output = ()> + Send + 'static) {
        Self::with_timing(lookup, DnsTiming::default(), cancel)
    }

    /// As [`Resolver::new`], with other durations.
    pub fn with_timing(
        lookup: Lookup,
        timing: DnsTiming,
        cancel: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (wanted, wanted_receiver) = watch::channel(BTreeSet::new());
        let (refreshes, refresh_receiver) = mpsc::channel(PENDING_REFRESHES);
        let (table, table_receiver) = watch::channel(Arc::default());
        let work = Work {
            lookup,
            timing,
            wanted: wanted_receiver,
            refreshes: refresh_receiver,
            table,
            names: BTreeMap::new(),
            lookups: JoinSet::new(),
            running: HashMap::new(),
        };
        (Self { wanted, refreshes, table: table_receiver }, work.run(cancel))
    }

    /// The names that are wanted from now on; others are forgotten.
    pub fn want(&self, names: BTreeSet<String>) {
        self.wanted.send_if_modified(|wanted| {
            let is_news = *wanted != names;
            *wanted = names;
            is_news
        });
    }

    /// Looks a name up again soon, because a connect to it has failed. Cheap, and no more often than it may be.
    pub fn refresh(&self, name: &str) {
        // Full: so many are waiting that this one's next failure is soon enough.
        let _ = self.refreshes.try_send(name.to_owned());
    }

    /// What is known, and whenever it changes.
    pub fn changes(&self) -> watch::Receiver<Arc<DnsTable>> {
        self.table.clone()
    }
}

/// The system's resolver: /etc/hosts, DNS and whatever else the machine is set up for.
pub fn system() -> Lookup {
    Arc::new(|name| {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    })
}

/// Looks a name up once, because somebody asks who wants no more of it.
pub(super) async fn look_up_once(lookup: Lookup, name: String) -> DnsAnswer {
    let cap = DnsTiming::default().cap;
    match timeout(cap, lookup(name)).await {
        Ok(Ok(found)) => match usable(found) {
            none if none.is_empty() => DnsAnswer { addresses: none, problem: Some(NO_ADDRESS.into()) },
            addresses => DnsAnswer { addresses, problem: None },
        },
        Ok(Err(error)) => DnsAnswer { problem: Some(plain(&error.to_string()).into()), ..DnsAnswer::default() },
        Err(_) => DnsAnswer { problem: Some(overdue(cap).as_str().into()), ..DnsAnswer::default() },
    }
}

/// One name that is wanted.
struct Name {
    /// When it is to be looked up.
    next: Instant,
    /// When its last look-up began.
    last: Option<Instant>,
    /// That one did not end in time.
    is_stuck: bool,
}

/// A look-up in flight.
struct Running {
    name: String,
    since: Instant,
    is_overdue: bool,
}

struct Work {
    lookup: Lookup,
    timing: DnsTiming,
    wanted: watch::Receiver<BTreeSet<String>>,
    refreshes: mpsc::Receiver<String>,
    table: watch::Sender<Arc<DnsTable>>,
    names: BTreeMap<String, Name>,
    lookups: JoinSet<io::Result<Vec<IpAddr>>>,
    running: HashMap<Id, Running>,
}

impl Work {
    async fn run(mut self, cancel: CancellationToken) {
        loop {
            let now = Instant::now();
            self.tell_overdue(now);
            self.begin_due(now);
            let wake = self.next_wake(now);
            tokio::select! {
                () = cancel.cancelled() => break,
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.take_wanted(),
                    Err(_) => break,
                },
                Some(name) = self.refreshes.recv() => self.bring_forward(&name),
                Some(ended) = self.lookups.join_next_with_id() => self.take_answer(ended),
                () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
            }
        }
        self.lookups.shutdown().await;
    }

    fn take_wanted(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        self.names.retain(|name, _| wanted.contains(name));
        self.change_table(|table| table.0.retain(|name, _| wanted.contains(name)));
        for name in wanted {
            self.names.entry(name).or_insert_with(|| Name { next: Instant::now(), last: None, is_stuck: false });
        }
    }

    fn bring_forward(&mut self, name: &str) {
        if let Some(name) = self.names.get_mut(name) {
            let soonest = name.last.map_or_else(Instant::now, |last| last + self.timing.refresh);
            name.next = name.next.min(soonest);
        }
    }

    /// Starts what is due, as far as the limits allow: names that were never stuck first, then the longest due.
    fn begin_due(&mut self, now: Instant) {
        let in_flight: BTreeSet<&str> = self.running.values().map(|running| running.name.as_str()).collect();
        let mut due: Vec<(bool, Instant, String)> = self
            .names
            .iter()
            .filter(|(name, state)| state.next <= now && !in_flight.contains(name.as_str()))
            .map(|(name, state)| (state.is_stuck, state.next, name.clone()))
            .collect();
        due.sort();
        for (is_stuck, _, name) in due {
            let in_time = self.running.values().filter(|running| !running.is_overdue).count();
            let most = if is_stuck { MAX_FOR_STUCK } else { MAX_IN_FLIGHT };
            if in_time >= MAX_IN_TIME || self.running.len() >= most {
                continue;
            }
            if let Some(state) = self.names.get_mut(&name) {
                state.last = Some(now);
                state.next = now + self.timing.again;
            }
            let task = self.lookups.spawn((self.lookup)(name.clone()));
            self.running.insert(task.id(), Running { name, since: now, is_overdue: false });
        }
    }

    /// Look-ups that have run out of time have failed, though they go on.
    fn tell_overdue(&mut self, now: Instant) {
        let mut failed = Vec::new();
        for running in self.running.values_mut() {
            if !running.is_overdue && running.since + self.timing.cap <= now {
                running.is_overdue = true;
                failed.push(running.name.clone());
            }
        }
        for name in failed {
            if let Some(state) = self.names.get_mut(&name) {
                state.is_stuck = true;
            }
            self.tell_problem(&name, &overdue(self.timing.cap));
        }
    }

    /// When there is something to do without anything happening. What is due but finds no room is woken by the
    /// end of another.
    fn next_wake(&self, now: Instant) -> Option<Instant> {
        let overdue = self.running.values().filter(|running| !running.is_overdue).map(|r| r.since + self.timing.cap);
        let due = self.names.values().map(|name| name.next).filter(|next| *next > now);
        overdue.chain(due).min()
    }

    fn take_answer(&mut self, ended: Result<(Id, io::Result<Vec<IpAddr>>), JoinError>) {
        let (id, answer) = match ended {
            Ok((id, answer)) => (id, answer),
            Err(failed) => (failed.id(), Err(io::Error::other("the look-up failed"))),
        };
        let Some(Running { name, is_overdue, .. }) = self.running.remove(&id) else { return };
        let answer = answer.map(usable);
        let has_address = match &answer {
            Ok(addresses) if !addresses.is_empty() => {
                self.tell_addresses(&name, addresses);
                true
            }
            Ok(_) => self.tell_problem(&name, NO_ADDRESS),
            Err(error) => self.tell_problem(&name, plain(&error.to_string())),
        };
        if let Some(state) = self.names.get_mut(&name) {
            state.is_stuck = is_overdue;
            let pause = if has_address { self.timing.again } else { self.timing.again_without_address };
            // What was set when it began, or a refresh that was asked for meanwhile, may come sooner.
            state.next = state.next.min(Instant::now() + pause);
        }
    }

    fn tell_addresses(&mut self, name: &str, addresses: &[IpAddr]) {
        self.change(name, |answer| {
            answer.problem = None;
            // Servers rotate their answers: the same addresses in another order are no news.
            let same = |a: &[IpAddr], b: &[IpAddr]| a.iter().collect::<BTreeSet<_>>() == b.iter().collect();
            if !same(&answer.addresses, addresses) {
                answer.addresses = addresses.to_vec();
            }
        });
    }

    /// Says whether the name still has an address from before.
    fn tell_problem(&mut self, name: &str, problem: &str) -> bool {
        self.change(name, |answer| answer.problem = Some(SafeText::new(problem)));
        self.table.borrow().0.get(name).is_some_and(|answer| !answer.addresses.is_empty())
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut DnsAnswer)) {
        if self.names.contains_key(name) {
            self.change_table(|table| change(table.0.entry(name.to_owned()).or_default()));
        }
    }

    fn change_table(&mut self, change: impl FnOnce(&mut DnsTable)) {
        self.table.send_if_modified(|table| {
            let mut changed = (**table).clone();
            change(&mut changed);
            let is_news = changed != **table;
            if is_news {
                *table = Arc::new(changed);
            }
            is_news
        });
    }
}

/// The addresses of an answer that can be dialled, each once. A wildcard would be taken for this machine.
fn usable(found: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    // An IPv4-mapped address is dialled over IPv4, and shows as such everywhere else.
    for ip in found.into_iter().map(|ip| ip.to_canonical()) {
        let is_group = ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST);
        if !is_group && !ip.is_unspecified() && !addresses.contains(&ip) && addresses.len() < MAX_ADDRESSES {
            addresses.push(ip);
        }
    }
    addresses
}

fn overdue(cap: Duration) -> String {
    format!("no answer within {} s", cap.as_secs_f32())
}

/// The resolver's own words, without those that std puts before them.
fn plain(error: &str) -> &str {
    error.strip_prefix("failed to lookup address information: ").unwrap_or(error)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinHandle;

    use super::*;

    /// Answers as the test says: an address for each name, or nothing for ever for one that begins with `stuck`.
    #[derive(Default)]
    struct Server {
        answers: Mutex<BTreeMap<String, Result<Vec<&'static str>, &'static str>>>,
        asked: Mutex<Vec<String>>,
        in_flight: AtomicUsize,
        most_in_flight: AtomicUsize,
    }

    impl Server {
        fn set(&self, name: &str, answer: Result<Vec<&'static str>, &'static str>) {
            self.answers.lock().expect("lock").insert(name.into(), answer);
        }

        fn asked(&self, name: &str) -> usize {
            self.asked.lock().expect("lock").iter().filter(|asked| *asked == name).count()
        }

        fn lookup(self: &Arc<Self>) -> Lookup {
            let server = Arc::clone(self);
            Arc::new(move |name| {
                let server = Arc::clone(&server);
                Box::pin(async move {
                    server.asked.lock().expect("lock").push(name.clone());
                    let now = server.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
                    server.most_in_flight.fetch_max(now, Ordering::Relaxed);
                    if name.starts_with("stuck") {
                        std::future::pending::<()>().await;
                    }
                    assert!(!name.starts_with("panic"), "as the test wants it");
                    server.in_flight.fetch_sub(1, Ordering::Relaxed);
                    match server.answers.lock().expect("lock").get(&name) {
                        Some(Ok(ips)) => Ok(ips.iter().map(|ip| ip.parse().expect("address")).collect()),
                        Some(Err(error)) => Err(io::Error::other(*error)),
                        None => {
                            Err(io::Error::other("failed to lookup address information: Name or service not known"))
                        }
                    }
                })
            })
        }
    }

    struct Running {
        resolver: Resolver,
        table: watch::Receiver<Arc<DnsTable>>,
        cancel: CancellationToken,
        task: JoinHandle<()>,
    }

    fn start(server: &Arc<Server>) -> Running {
        let cancel = CancellationToken::new();
        let (resolver, run) = Resolver::new(server.lookup(), cancel.clone());
        Running { table: resolver.changes(), resolver, cancel, task: tokio::spawn(run) }
    }

    impl Running {
        fn want(&self, names: &[&str]) {
            self.resolver.want(names.iter().map(|name| (*name).to_owned()).collect());
        }

        async fn until(&mut self, what: &str, mut holds: impl FnMut(&DnsTable) -> bool) -> Arc<DnsTable> {
            let found = tokio::time::timeout(Duration::from_mins(2), self.table.wait_for(|table| holds(table))).await;
            Arc::clone(&found.unwrap_or_else(|_| panic!("never came true: {what}")).expect("it runs"))
        }

        async fn until_at(&mut self, name: &str, ip: &str) {
            let ip: IpAddr = ip.parse().expect("address");
            self.until(&format!("{name} at {ip}"), |table| {
                table.0.get(name).is_some_and(|answer| answer.addresses.contains(&ip))
            })
            .await;
        }

        async fn end(self) {
            self.cancel.cancel();
            self.task.await.expect("no panic");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_looked_up_at_once_and_every_thirty_seconds() {
        let server = Arc::new(Server::default());
        server.set("db", Ok(vec!["10.0.0.1"]));
        let mut running = start(&server);
        let began = Instant::now();
        running.want(&["db"]);
        running.until_at("db", "10.0.0.1").await;
        assert!(began.elapsed() < Duration::from_secs(1));
        server.set("db", Ok(vec!["10.0.0.2"]));
        running.until_at("db", "10.0.0.2").await;
        assert_eq!(began.elapsed().as_secs(), 30);
        assert_eq!(server.asked("db"), 2);
        running.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_connect_has_the_name_looked_up_again_but_not_a_thousand_times() {
        let server = Arc::new(Server::default());
        server.set("db", Ok(vec!["10.0.0.1"]));
        let mut running = start(&server);
        running.want(&["db"]);
        running.until_at("db", "10.0.0.1").await;
        server.set("db", Ok(vec!["10.0.0.2"]));
        let began = Instant::now();
        for _ in 0..1000 {
            running.resolver.refresh("db");
            running.resolver.refresh("nobody wants this one");
            tokio::task::yield_now().await;
        }
        running.until_at("db", "10.0.0.2").await;
        assert!(began.elapsed() <= Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(server.asked("db"), 2);
        running.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_answer_stays_and_the_problem_is_told() {
        let server = Arc::new(Server::default());
        server.set("db", Ok(vec!["10.0.0.1", "10.0.0.2", "10.0.0.1", "0.0.0.0", "224.0.0.1"]));
        let mut running = start(&server);
        running.want(&["db"]);
        running.until_at("db", "10.0.0.1").await;
        for (answer, problem) in [
            (Err("Temporary failure \x1b[2J"), "Temporary failure \\u{1b}[2J"),
            (Ok(vec![]), "it has no address that can be dialled"),
            (Ok(vec!["::"]), "it has no address that can be dialled"),
        ] {
            server.set("db", answer);
            let table = running
                .until(problem, |table| table.0["db"].problem.as_ref().is_some_and(|told| told.as_str() == problem))
                .await;
            let kept: Vec<String> = table.0["db"].addresses.iter().map(ToString::to_string).collect();
            assert_eq!(kept, ["10.0.0.1", "10.0.0.2"]);
            server.set("db", Ok(vec!["10.0.0.2", "10.0.0.1"]));
            let table = running.until("no problem", |table| table.0["db"].problem.is_none()).await;
            assert_eq!(table.0["db"].addresses[0].to_string(), "10.0.0.1", "a rotated answer is no news");
        }
        running.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_without_an_address_is_asked_sooner_again_and_one_no_longer_wanted_is_forgotten() {
        let server = Arc::new(Server::default());
        let mut running = start(&server);
        let began = Instant::now();
        running.want(&["db", "panic"]);
        let table = running.until("a problem", |table| table.0.contains_key("db")).await;
        assert_eq!(table.0["db"].problem.as_ref().map(SafeText::as_str), Some("Name or service not known"));
        server.set("db", Ok(vec!["10.0.0.1"]));
        running.until_at("db", "10.0.0.1").await;
        assert_eq!(began.elapsed().as_secs(), 5);
        running.until("the panic is told", |table| table.0.contains_key("panic")).await;
        running.want(&["panic"]);
        running.until("forgotten", |table| !table.0.contains_key("db")).await;
        running.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_stuck_names_are_told_in_five_seconds_and_do_not_keep_a_healthy_one_waiting() {
        let server = Arc::new(Server::default());
        server.set("zz-healthy", Ok(vec!["10.0.0.1"]));
        let mut running = start(&server);
        let began = Instant::now();
        let names: Vec<String> = (0..100).map(|n| format!("stuck-{n}")).chain(["zz-healthy".to_owned()]).collect();
        running.resolver.want(names.iter().cloned().collect());
        running.until_at("zz-healthy", "10.0.0.1").await;
        assert!(began.elapsed() <= Duration::from_secs(5), "{:?}", began.elapsed());
        running
            .until("all are told", |table| {
                let stuck = |answer: &&DnsAnswer| {
                    answer.problem.as_ref().is_some_and(|told| told.as_str() == "no answer within 5 s")
                };
                table.0.values().filter(stuck).count() == 100
            })
            .await;
        assert!(began.elapsed() <= Duration::from_secs(10), "{:?}", began.elapsed());
        // The healthy one goes on being asked, the stuck ones are not asked twice.
        server.set("zz-healthy", Ok(vec!["10.0.0.2"]));
        running.until_at("zz-healthy", "10.0.0.2").await;
        assert!((0..100).all(|n| server.asked(&format!("stuck-{n}")) == 1));
        assert!(server.most_in_flight.load(Ordering::Relaxed) <= MAX_IN_FLIGHT);
        running.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_stuck_names_hold_no_more_threads_than_allowed() {
        let server = Arc::new(Server::default());
        let running = start(&server);
        running.resolver.want((0..1000).map(|n| format!("stuck-{n}")).collect());
        tokio::time::sleep(Duration::from_mins(2)).await;
        assert_eq!(server.most_in_flight.load(Ordering::Relaxed), MAX_IN_FLIGHT);
        running.end().await;
    }

    #[tokio::test]
    async fn the_systems_resolver_knows_localhost() {
        let found = system()("localhost".into()).await.expect("localhost");
        assert!(found.iter().all(IpAddr::is_loopback) && !found.is_empty(), "{found:?}");
    }
}
