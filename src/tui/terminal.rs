//! The terminal: raw mode and alternate screen, given back on every end.
//!
//! Bytes go out through a thread of their own, so a terminal that stops reading stops that thread alone: no
//! frame is drawn until the one before has been taken, and giving the terminal back waits 200 ms at most.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, Once, PoisonError};
use std::thread;
use std::time::Duration;

use crossterm::event::{DisableBracketedPaste, EnableBracketedPaste};
use crossterm::style::{Attribute, SetAttribute};
use crossterm::terminal::{self, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, queue};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use ratatui::backend::CrosstermBackend;
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};

use super::state::State;
use super::{Surface, view};

/// How long the terminal may take to swallow the last bytes.
const PATIENCE: Duration = Duration::from_millis(200);
/// Frames and other writes that may wait for the terminal. A frame is drawn only when none waits; what else
/// finds it full is dropped (a copied row, which can be copied again).
const PENDING_WRITES: usize = 8;

/// The screen that was entered last; for the panic hook.
static ENTERED: Mutex<Option<Arc<Output>>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// The terminal in raw mode, on its alternate screen. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Frame>>,
    frame: Frame,
    output: Arc<Output>,
}

/// The bytes of the frame that is being drawn.
#[derive(Clone, Debug, Default)]
struct Frame(Arc<Mutex<Vec<u8>>>);

/// The way out.
#[derive(Debug)]
struct Output {
    writes: SyncSender<Vec<u8>>,
    progress: Arc<Progress>,
    /// The thread whose panic ends the screen.
    thread: thread::ThreadId,
    is_entered: AtomicBool,
}

#[derive(Debug, Default)]
struct Progress {
    /// Writes that have not reached the terminal.
    pending: Mutex<usize>,
    changed: Condvar,
}

impl Screen {
    /// Takes the terminal.
    pub(super) fn enter(size: (u16, u16)) -> io::Result<Self> {
        HOOK.call_once(install_hook);
        // Its own descriptor: std's stdout has a lock, which a stuck write would hold for ever.
        let terminal = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let output = Arc::new(Output::start(terminal)?);
        output.enter()?;
        *lock(&ENTERED) = Some(Arc::clone(&output));
        let area = Rect::new(0, 0, size.0, size.1);
        let options = TerminalOptions { viewport: Viewport::Fixed(area) };
        let frame = Frame::default();
        let terminal = Terminal::with_options(CrosstermBackend::new(frame.clone()), options)?;
        Ok(Self { terminal, frame, output })
    }

    /// Sends what was drawn.
    fn flush(&mut self) {
        let bytes = std::mem::take(&mut *lock(&self.frame.0));
        if !bytes.is_empty() {
            self.output.send(bytes);
        }
    }

    /// Gives the terminal back; false when it did not take that.
    pub(super) fn leave(self) -> bool {
        self.output.leave();
        self.output.is_idle()
    }

    fn resize(&mut self, size: (u16, u16)) -> io::Result<()> {
        let area = Rect::new(0, 0, size.0, size.1);
        if self.terminal.get_frame().area() == area {
            return Ok(());
        }
        self.terminal.resize(area)?;
        self.redraw();
        Ok(())
    }
}

impl Write for Frame {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).write(bytes)
    }

    /// A frame goes out whole ([`Screen::flush`]).
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Surface for Screen {
    fn is_ready(&self) -> bool {
        self.output.is_idle()
    }

    fn paint(&mut self, state: &State) -> io::Result<()> {
        self.resize(state.size)?;
        self.terminal.draw(|frame| view::draw(state, frame))?;
        self.flush();
        Ok(())
    }

    fn send(&mut self, bytes: Vec<u8>) {
        self.output.send(bytes);
    }

    fn redraw(&mut self) {
        // Clears what is there; the buffer that the next frame is compared with becomes empty, too.
        let _ = queue!(self.frame, terminal::Clear(terminal::ClearType::All));
        self.terminal.swap_buffers();
    }

    /// Gives the terminal back, stops this process and what else is in its group (a pipe's other end, `cargo
    /// run`), and takes the terminal again when it is continued.
    fn suspend(&mut self, whole_group: bool) -> io::Result<(u16, u16)> {
        self.output.leave();
        if whole_group {
            // Ours is caught; the others stop.
            signal::kill(Pid::from_raw(0), Signal::SIGTSTP)?;
        }
        // To this thread, so that it does not run on before the process stands still.
        signal::raise(Signal::SIGSTOP)?;
        self.output.enter()?;
        self.redraw();
        terminal::size()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.output.leave();
        *lock(&ENTERED) = None;
    }
}

impl Output {
    fn start(terminal: File) -> io::Result<Self> {
        let (writes, receiver) = sync_channel(PENDING_WRITES);
        let progress = Arc::new(Progress::default());
        let taken = Arc::clone(&progress);
        // Ends when its sender is gone. It is not joined: a terminal that does not read would hold it for ever.
        thread::Builder::new().name("terminal".to_owned()).spawn(move || write_all(terminal, &receiver, &taken))?;
        Ok(Self { writes, progress, thread: thread::current().id(), is_entered: AtomicBool::new(false) })
    }

    fn send(&self, bytes: Vec<u8>) {
        *lock(&self.progress.pending) += 1;
        if self.writes.try_send(bytes).is_err() {
            *lock(&self.progress.pending) -= 1;
        }
    }

    fn is_idle(&self) -> bool {
        *lock(&self.progress.pending) == 0
    }

    fn wait(&self) {
        let pending = lock(&self.progress.pending);
        // Out of patience or not, we go on.
        let _ = self.progress.changed.wait_timeout_while(pending, PATIENCE, |pending| *pending > 0);
    }

    fn enter(&self) -> io::Result<()> {
        terminal::enable_raw_mode()?;
        self.is_entered.store(true, Ordering::Relaxed);
        let mut bytes = Vec::new();
        queue!(
            bytes,
            EnterAlternateScreen,
            EnableBracketedPaste,
            terminal::Clear(terminal::ClearType::All),
            cursor::Hide
        )?;
        self.send(bytes);
        Ok(())
    }

    /// Gives the terminal back; the second time it does nothing.
    fn leave(&self) {
        if !self.is_entered.swap(false, Ordering::Relaxed) {
            return;
        }
        self.send(leave_sequence());
        self.wait();
        // Does not wait for output, so a stuck terminal cannot hold it.
        let _ = terminal::disable_raw_mode();
    }
}

/// What gives the terminal back, but for its modes.
pub(crate) fn leave_sequence() -> Vec<u8> {
    let mut bytes = Vec::new();
    // A vector takes everything.
    let _ = queue!(bytes, SetAttribute(Attribute::Reset), DisableBracketedPaste, LeaveAlternateScreen, cursor::Show);
    bytes
}

fn write_all(mut terminal: File, writes: &Receiver<Vec<u8>>, progress: &Progress) {
    while let Ok(bytes) = writes.recv() {
        // A terminal that is gone is noticed by its input ending, or by SIGHUP.
        let _ = terminal.write_all(&bytes);
        *lock(&progress.pending) -= 1;
        progress.changed.notify_all();
    }
}

/// Every panic is logged. One of the screen's thread, or of the main one, gives the terminal back before it is
/// printed; one of another thread is its owner's to report, and nothing but the screen writes to the terminal.
fn install_hook() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        tracing::error!("panic: {info}");
        let entered = lock(&ENTERED).clone().filter(|output| output.is_entered.load(Ordering::Relaxed));
        match entered {
            Some(output) => {
                let current = thread::current();
                if current.id() == output.thread || current.name() == Some("main") {
                    output.leave();
                    print(info);
                }
            }
            None => print(info),
        }
    }));
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_terminal_that_does_not_read_is_left_after_a_moment() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let output = Output::start(File::from(OwnedFd::from(writer))).expect("a thread");
        output.is_entered.store(true, Ordering::Relaxed);
        // More than a pipe holds, so that the write never ends.
        output.send(vec![b'x'; 1 << 20]);
        assert!(!output.is_idle(), "no frame is drawn meanwhile");
        let started = Instant::now();
        output.leave();
        let waited = started.elapsed();
        assert!(waited >= PATIENCE && waited < 5 * PATIENCE, "{waited:?}");
        drop(reader);
    }

    #[test]
    fn a_terminal_that_reads_gets_everything_before_it_is_left() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let output = Output::start(File::from(OwnedFd::from(writer))).expect("a thread");
        output.is_entered.store(true, Ordering::Relaxed);
        output.send(b"the last frame".to_vec());
        output.leave();
        assert!(output.is_idle());
        drop(output);
        let mut read = String::new();
        io::Read::read_to_string(&mut reader, &mut read).expect("the writer has ended");
        assert!(read.starts_with("the last frame") && read.contains("\x1b[?1049l"), "{read:?}");
    }
}
