//! What the terminal sends, as messages.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::Input;
use super::keymap::Key;
use super::update::Msg;

/// Waits for the next message; `None` for what means nothing to the screen. An input that ends is an error.
pub(super) async fn next(input: &mut Input) -> io::Result<Option<Msg>> {
    let event = poll_fn(|context| input.as_mut().poll_next(context)).await;
    event.unwrap_or_else(|| Err(ended())).map(message)
}

/// What has already come. The task's own waker is registered by it: the event stream remembers the first one
/// that it is polled with, so polling with another would lose every key after.
pub(super) async fn ready(input: &mut Input) -> Option<io::Result<Option<Msg>>> {
    let event = poll_fn(|context| match input.as_mut().poll_next(context) {
        Poll::Ready(event) => Poll::Ready(Some(event)),
        Poll::Pending => Poll::Ready(None),
    })
    .await?;
    Some(event.unwrap_or_else(|| Err(ended())).map(message))
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the terminal is gone")
}

fn message(event: Event) -> Option<Msg> {
    match event {
        Event::Key(key) => self::key(key).map(Msg::Key),
        Event::Paste(text) => Some(Msg::Paste(text)),
        Event::Resize(columns, rows) => Some(Msg::Resize(columns, rows)),
        Event::FocusGained | Event::FocusLost | Event::Mouse(_) => None,
    }
}

fn key(event: KeyEvent) -> Option<Key> {
    if event.kind == KeyEventKind::Release || event.modifiers.contains(KeyModifiers::ALT) {
        return None;
    }
    Some(match event.code {
        KeyCode::Char(c) if event.modifiers.contains(KeyModifiers::CONTROL) => match c.to_ascii_lowercase() {
            // What some terminals send for these keys.
            'h' => Key::Backspace,
            'j' | 'm' => Key::Enter,
            'i' => Key::Tab,
            c => Key::Ctrl(c),
        },
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Esc,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Delete => Key::Delete,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        _ => return None,
    })
}
