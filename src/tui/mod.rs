//! The terminal interface: message -> update -> effects -> draw.
//!
//! It is one client of the service among others: it holds a [`Handle`] and nothing else. It touches no file, no
//! Docker and no socket, and it runs on a thread of its own, so that nothing it does slows the forwarder.

mod effects;
mod input;
pub mod keymap;
pub mod state;
mod terminal;
pub mod update;
pub mod view;

use std::io;
use std::pin::Pin;
use std::time::{Duration, Instant};

use crossterm::event::EventStream;
use futures_util::Stream;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::model::count::count;
use crate::model::request::RequestError;
use crate::model::untrusted::SafeText;
use crate::model::update::{Interest, Update};
use crate::service::{Handle, Subscription};

pub use state::{ColorMode, Standing};
pub(crate) use terminal::leave_sequence;

use state::{Absence, Look, Paint, State};
use update::{Effect, Msg, update};

/// Frames follow each other no faster,
const FRAME: Duration = Duration::from_millis(100);
/// but a key's effect is seen sooner.
const KEY_FRAME: Duration = Duration::from_millis(30);
/// A terminal that has not taken the last frame is looked at again after so long.
const BUSY: Duration = Duration::from_millis(20);
/// The first frame waits so long for the first update, to be of use.
const FIRST_UPDATE: Duration = Duration::from_millis(300);
/// How often an engine that was lost is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// An engine that is found and has said nothing for so long is said to be silent.
const SILENCE: Duration = Duration::from_secs(1);
/// Keys and updates taken in before a frame is drawn.
const DRAIN: usize = 64;

/// How the screen is drawn.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// No byte above 0x7f.
    pub ascii: bool,
    /// Colours; `NO_COLOR` asks for none.
    pub color: ColorMode,
    /// A line for newcomers, shown until it is dismissed, such as the command of `portolan try`.
    pub hint: Option<SafeText>,
    /// How the window stands to the engine.
    pub standing: Standing,
    /// The control socket of an engine in another process.
    pub socket: Option<SafeText>,
}

/// How the screen ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The user quit, or the program was told to end.
    Quit {
        /// To be printed now that the terminal is given back; empty when the terminal has stopped reading.
        message: String,
    },
    /// The user left the screen; the engine is to go on without one.
    Left {
        /// Mappings that listen.
        listening: usize,
    },
}

/// Why there is no screen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The terminal cannot be used.
    #[error("terminal: {0}")]
    Terminal(#[from] io::Error),
    /// The service does not answer.
    #[error(transparent)]
    Service(#[from] RequestError),
}

/// What the loop draws on.
pub(crate) trait Surface {
    /// Whether the last frame was taken.
    fn is_ready(&self) -> bool;
    /// Draws a frame.
    fn paint(&mut self, state: &State) -> io::Result<()>;
    /// Sends bytes that are no frame.
    fn send(&mut self, bytes: Vec<u8>);
    /// The next frame draws everything anew.
    fn redraw(&mut self);
    /// Suspends the program; says the size of the terminal afterwards.
    fn suspend(&mut self, whole_group: bool) -> io::Result<(u16, u16)>;
}

/// Runs the screen until the user quits or `shutdown` is cancelled.
///
/// Call it on a thread of its own with its own current-thread runtime (time and I/O enabled).
pub async fn run(handle: Handle, options: Options, shutdown: CancellationToken) -> Result<Outcome, Error> {
    crossterm::style::force_color_output(options.color != ColorMode::None);
    let interest = Interest {
        mappings: true,
        connections: true,
        processes: true,
        events: true,
        containers: true,
        published: true,
        sample_ms: 0,
    };
    let subscription = tokio::select! {
        subscription = handle.subscribe(interest.clone()) => subscription?,
        // An engine that is stopped does not answer for long.
        () = shutdown.cancelled() => return Ok(Outcome::Quit { message: String::new() }),
    };
    let size = crossterm::terminal::size()?;
    let look = Look { ascii: options.ascii, color: options.color, can_browse: effects::can_browse() };
    let mut state = State::new(look, size);
    state.hint = options.hint;
    state.standing = options.standing;
    state.socket = options.socket;
    let mut screen = terminal::Screen::enter(size)?;
    let input = EventStream::new();
    let mut session = Session {
        state,
        runner: effects::Runner::new(handle.clone()),
        subscription,
        source: (handle, interest),
        started: Instant::now(),
        expected_stops: 0,
        is_left: false,
    };
    session.drive(&mut screen, Box::pin(input), shutdown).await?;
    let reads = screen.leave();
    if session.is_left {
        return Ok(Outcome::Left { listening: session.state.live.listening() });
    }
    // Who does not read must not be written to: that would wait for ever.
    let message = if reads { farewell(&session.state) } else { String::new() };
    Ok(Outcome::Quit { message })
}

struct Session {
    state: State,
    runner: effects::Runner,
    subscription: Subscription,
    /// Where the subscription came from, and another comes from when it is lost.
    source: (Handle, Interest),
    started: Instant,
    /// The engine is to go on without a screen.
    is_left: bool,
    /// Stop signals that we sent to our own group, and shall not obey.
    expected_stops: u32,
}

type Input = Pin<Box<dyn Stream<Item = io::Result<crossterm::event::Event>>>>;

/// What woke the loop.
enum Woken {
    Msg(Option<Msg>),
    Stop,
    End,
    Time,
}

impl Session {
    async fn drive(
        &mut self,
        surface: &mut impl Surface,
        mut input: Input,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let mut stops = signal(SignalKind::from_raw(nix::libc::SIGTSTP))?;
        let mut painted: Option<Instant> = None;
        let (mut search, mut searches): (Option<Search>, u32) = (None, 0);
        if let Ok(first) = tokio::time::timeout(FIRST_UPDATE, self.subscription.next()).await {
            self.take(surface, told(first))?;
        }
        loop {
            let clock = Msg::Clock(self.now_ms());
            if self.take(surface, clock)? {
                return Ok(());
            }
            for bytes in self.runner.reap() {
                surface.send(bytes);
            }
            let due = self.paint_due(painted);
            if due.is_some_and(|due| due <= Instant::now()) && surface.is_ready() {
                self.state.paint = Paint::None;
                surface.paint(&self.state)?;
                painted = Some(Instant::now());
            }
            let wake = self.wake_at(painted, surface.is_ready());
            let is_gone = self.state.is_gone;
            if is_gone && search.is_none() && self.state.standing == Standing::Attached {
                let pause = if searches == 0 { Duration::ZERO } else { LOOK_AGAIN };
                searches += 1;
                search = Some(Search::new(self.source.clone(), pause));
            }
            if let Some(search) = search.as_mut().filter(|search| search.is_without_answer()) {
                search.is_told = true;
                self.take(surface, Msg::ServiceSilent)?;
            }
            let woken = tokio::select! {
                biased;
                () = shutdown.cancelled() => Woken::End,
                event = input::next(&mut input) => Woken::Msg(event?),
                Some(()) = stops.recv() => Woken::Stop,
                update = self.subscription.next(), if !is_gone => Woken::Msg(Some(told(update))),
                found = found(search.as_mut()), if search.is_some() => {
                    search = None;
                    Woken::Msg(Some(match found {
                        Ok((subscription, first)) => {
                            self.subscription = subscription;
                            searches = 0;
                            self.take(surface, Msg::ServiceBack)?;
                            Msg::Update(Box::new(first))
                        }
                        Err(error) => Msg::ServiceRefused(error),
                    }))
                }
                msg = self.runner.next() => Woken::Msg(Some(msg)),
                () = tokio::time::sleep_until(wake.into()) => Woken::Time,
            };
            let clock = Msg::Clock(self.now_ms());
            self.take(surface, clock)?;
            match woken {
                Woken::End => return Ok(()),
                Woken::Time | Woken::Msg(None) => {}
                Woken::Stop if self.expected_stops > 0 => self.expected_stops -= 1,
                Woken::Stop => self.suspend(surface, false)?,
                Woken::Msg(Some(msg)) => {
                    if self.take(surface, msg)? || self.drain(surface, &mut input).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Takes in what else has already come, so that one frame shows it all.
    async fn drain(&mut self, surface: &mut impl Surface, input: &mut Input) -> Result<bool, Error> {
        for _ in 0..DRAIN {
            let msg = match input::ready(input).await {
                Some(event) => event?,
                None => break,
            };
            if let Some(msg) = msg
                && self.take(surface, msg)?
            {
                return Ok(true);
            }
        }
        for _ in 0..DRAIN {
            let Some(update) = self.subscription.try_next() else { break };
            self.take(surface, Msg::Update(Box::new(update)))?;
        }
        Ok(false)
    }

    /// Updates the state and carries the effects out; true when the screen is to end.
    fn take(&mut self, surface: &mut impl Surface, msg: Msg) -> Result<bool, Error> {
        let mut effects = update(&mut self.state, msg);
        while !effects.is_empty() {
            let mut answers = Vec::new();
            for effect in effects.drain(..) {
                match effect {
                    // It may be there and stopped: what is asked now would be done when nobody thinks of it any more.
                    Effect::Ask(asked, _) if self.state.is_gone => {
                        answers.push(Msg::Answer(asked, Box::new(Err(self.state.absence.as_answer()))));
                    }
                    Effect::Ask(asked, call) => answers.extend(self.runner.ask(asked, *call)),
                    Effect::Copy(text) => {
                        let (bytes, answer) = self.runner.copy(&text);
                        if let Some(bytes) = bytes {
                            surface.send(bytes);
                        }
                        answers.push(answer);
                    }
                    Effect::Browse(url) => answers.push(self.runner.browse(&url)),
                    Effect::Suspend => self.suspend(surface, true)?,
                    Effect::Redraw => {
                        surface.redraw();
                        self.state.paint = Paint::Now;
                    }
                    Effect::Quit => return Ok(true),
                    Effect::Leave => {
                        self.is_left = true;
                        return Ok(true);
                    }
                }
            }
            for answer in answers {
                effects.extend(update(&mut self.state, answer));
            }
        }
        Ok(false)
    }

    fn suspend(&mut self, surface: &mut impl Surface, whole_group: bool) -> Result<(), Error> {
        self.expected_stops += u32::from(whole_group);
        let (columns, rows) = surface.suspend(whole_group)?;
        let clock = Msg::Clock(self.now_ms());
        update(&mut self.state, clock);
        update(&mut self.state, Msg::Resize(columns, rows));
        Ok(())
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// When the next frame may be drawn, if one is wanted.
    fn paint_due(&self, painted: Option<Instant>) -> Option<Instant> {
        let pause = match self.state.paint {
            Paint::None => return None,
            Paint::Soon => FRAME,
            Paint::Now => KEY_FRAME,
        };
        Some(painted.map_or_else(Instant::now, |painted| painted + pause))
    }

    /// When there is something to do without being told: a frame, the next second, what the state waits for.
    fn wake_at(&self, painted: Option<Instant>, is_ready: bool) -> Instant {
        let now_ms = self.now_ms();
        let mut wake = self.started + Duration::from_millis((now_ms / 1000 + 1) * 1000);
        if let Some(at_ms) = update::wake_at(&self.state) {
            wake = wake.min(self.started + Duration::from_millis(at_ms));
        }
        if let Some(due) = self.paint_due(painted) {
            wake = wake.min(if is_ready { due } else { due.max(Instant::now() + BUSY) });
        }
        if self.runner.has_children() {
            wake = wake.min(Instant::now() + FRAME);
        }
        wake
    }
}

/// What a search for an engine that was lost has found: a subscription and its first update, or why there is none.
type Found = Result<(Subscription, Update), RequestError>;

/// One attempt to find an engine that was lost.
struct Search {
    attempt: Pin<Box<dyn Future<Output = Found>>>,
    /// When it asks.
    asks: Instant,
    /// That there is no answer has been said.
    is_told: bool,
}

impl Search {
    fn new((handle, interest): (Handle, Interest), pause: Duration) -> Self {
        let attempt = async move {
            tokio::time::sleep(pause).await;
            let mut subscription = handle.subscribe(interest).await?;
            let first = subscription.next().await.ok_or(RequestError::Gone)?;
            Ok((subscription, first))
        };
        Self { attempt: Box::pin(attempt), asks: Instant::now() + pause, is_told: false }
    }

    /// Somebody is there, and says nothing. That is looked at once a second.
    fn is_without_answer(&self) -> bool {
        !self.is_told && self.asks.elapsed() > SILENCE
    }
}

async fn found(search: Option<&mut Search>) -> Found {
    match search {
        Some(search) => search.attempt.as_mut().await,
        None => std::future::pending().await,
    }
}

/// What the subscription brought; nothing more is the service's end.
fn told(update: Option<Update>) -> Msg {
    update.map_or(Msg::ServiceEnded, |update| Msg::Update(Box::new(update)))
}

/// `Stopped 4 mappings. Saved in FILE. Without a screen: portolan run --profile dev`.
fn farewell(state: &State) -> String {
    let world = &state.live;
    if state.standing == Standing::Attached {
        return if state.is_gone {
            match &state.absence {
                Absence::Silent => "The engine does not answer.".to_owned(),
                Absence::Refuses(why) => format!("The engine has refused this window: {why}."),
                Absence::Lost | Absence::Ended => "The engine has ended.".to_owned(),
            }
        } else {
            let listening = world.listening();
            let going = if listening == 1 { "1 mapping goes" } else { &format!("{listening} mappings go") };
            let named = world
                .overview
                .profile
                .as_ref()
                .map(|profile| how_to_open(profile.name.as_str(), profile.path.as_str()));
            let by_socket = || state.socket.as_ref().map(|path| format!("--socket {path}"));
            let named = named.or_else(by_socket).filter(|named| named != "--profile default");
            let named = named.map(|named| format!(" {named}")).unwrap_or_default();
            format!(
                "{going} on without this window.\nportolan attach{named} comes back; portolan shutdown{named} ends it all."
            )
        };
    }
    let stopped = format!("Stopped {}.", count(world.listening() as u64, "mapping"));
    match &world.overview.profile {
        None if world.ours().next().is_none() => stopped,
        None => {
            let was = if world.ours().count() == 1 { "It was" } else { "They were" };
            format!("{stopped} {was} for this session; next time :saveas NAME keeps what there is.")
        }
        Some(profile) => {
            let (name, path) = (profile.name.as_str(), profile.path.as_str());
            let how = how_to_open(name, path);
            format!("{stopped} Saved in {path}. Without a screen: portolan run {how}")
        }
    }
}

/// A profile of the config folder is opened by its name, any other by its file.
fn how_to_open(name: &str, path: &str) -> String {
    if path.ends_with(&format!("/profiles/{name}.json")) {
        format!("--profile {name}")
    } else {
        format!("--file {path}")
    }
}

#[cfg(test)]
mod tests {
    use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
    use futures_util::{StreamExt, stream};

    use super::*;

    #[derive(Default)]
    struct Paper {
        frames: usize,
        sent: Vec<u8>,
        is_stuck: bool,
    }

    impl Surface for Paper {
        fn is_ready(&self) -> bool {
            !self.is_stuck
        }
        fn paint(&mut self, _: &State) -> io::Result<()> {
            self.frames += 1;
            Ok(())
        }
        fn send(&mut self, bytes: Vec<u8>) {
            self.sent.extend(bytes);
        }
        fn redraw(&mut self) {}
        fn suspend(&mut self, _: bool) -> io::Result<(u16, u16)> {
            Ok((80, 24))
        }
    }

    fn keys(text: &str) -> Input {
        let events: Vec<_> =
            text.chars().map(|c| Ok(Event::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE)))).collect();
        Box::pin(stream::iter(events).chain(stream::pending()))
    }

    /// `begins`: what begins its subscription, and gives what keeps that up.
    async fn session<T>(handle: Handle, begins: impl Future<Output = T>) -> (Session, T) {
        let interest = Interest { mappings: true, ..Interest::default() };
        let (subscription, lease) = tokio::join!(handle.subscribe(interest), begins);
        let subscription = subscription.expect("leased");
        let session = Session {
            state: State::new(Look::default(), (80, 24)),
            runner: effects::Runner::new(handle.clone()),
            subscription,
            source: (handle, Interest::default()),
            started: Instant::now(),
            expected_stops: 0,
            is_left: false,
        };
        (session, lease)
    }

    #[tokio::test]
    async fn keys_are_obeyed_and_the_service_is_asked() {
        let (handle, mut incoming) = Handle::channel();
        let (mut session, _lease) =
            session(handle, async { incoming.recv().await.map(|call| call.begin(Ok(()))) }).await;
        let mut paper = Paper::default();
        let asked = async { format!("{:?}", incoming.recv().await) };
        let driven = session.drive(&mut paper, keys("o"), CancellationToken::new());
        let request = tokio::select! {
            request = asked => request,
            ended = driven => panic!("{ended:?}"),
        };
        assert!(request.contains("Profiles"), "{request}");
    }

    #[tokio::test]
    async fn a_service_that_ends_is_said_and_the_screen_can_still_be_left() {
        let (handle, mut incoming) = Handle::channel();
        let (mut session, lease) =
            session(handle, async { incoming.recv().await.map(|call| call.begin(Ok(()))) }).await;
        drop((incoming, lease));
        let mut paper = Paper::default();
        session.drive(&mut paper, keys("q"), CancellationToken::new()).await.expect("left by q");
        assert!(session.state.is_gone);
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_refuses_a_window_is_said_to_and_asked_again() {
        let (handle, mut incoming) = Handle::channel();
        let (mut session, lease) =
            session(handle, async { incoming.recv().await.map(|call| call.begin(Ok(()))) }).await;
        session.state.standing = Standing::Attached;
        drop(lease);
        let refusing = async {
            for _ in 0..3 {
                let error = RequestError::Failed { message: "48 streams are open".into() };
                incoming.recv().await.expect("it asks again").begin(Err(error));
            }
        };
        let mut paper = Paper::default();
        let driven = session.drive(&mut paper, keys(""), CancellationToken::new());
        tokio::select! {
            () = refusing => {}
            ended = driven => panic!("{ended:?}"),
        }
        assert_eq!(session.state.absence, Absence::Refuses("48 streams are open".into()));
        assert_eq!(session.state.note.expect("it is said").text.as_str(), "48 streams are open");
    }

    #[tokio::test]
    async fn a_terminal_that_does_not_read_gets_no_frame_and_the_end_is_obeyed() {
        let (handle, mut incoming) = Handle::channel();
        let (mut session, _lease) =
            session(handle, async { incoming.recv().await.map(|call| call.begin(Ok(()))) }).await;
        let mut paper = Paper { is_stuck: true, ..Paper::default() };
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        session.drive(&mut paper, keys("121212"), shutdown).await.expect("told to end");
        assert_eq!(paper.frames, 0);
    }
}
