//! A terminal on which one page takes the place of the one before.
//!
//! A page goes out in one piece, each line wiping what stood there before, so that nothing flickers; it is cut to the
//! terminal, so that nothing scrolls. It stands on the alternate screen: what was on the terminal is there again
//! afterwards, however it ends.

use std::io::{self, Write};

use crossterm::terminal::{
    BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
};
use crossterm::{cursor, queue};

use crate::model::format;

/// Says how many columns and rows the terminal has now.
pub type Size = fn() -> io::Result<(u16, u16)>;

/// The terminal, taken; dropping it gives it back.
#[derive(Debug)]
pub(super) struct InPlace<W: Write> {
    out: W,
    size: Size,
    is_entered: bool,
}

impl<W: Write> InPlace<W> {
    pub(super) fn enter(out: W, size: Size) -> io::Result<Self> {
        let mut screen = Self { out, size, is_entered: false };
        screen.take()?;
        Ok(screen)
    }

    /// Takes the terminal again after [`Self::leave`].
    pub(super) fn take(&mut self) -> io::Result<()> {
        self.is_entered = true;
        let mut bytes = Vec::new();
        queue!(bytes, EnterAlternateScreen, cursor::Hide, Clear(ClearType::All))?;
        self.send(&bytes)
    }

    /// Gives the terminal back; the second time it does nothing.
    pub(super) fn leave(&mut self) -> io::Result<()> {
        if !std::mem::take(&mut self.is_entered) {
            return Ok(());
        }
        let mut bytes = Vec::new();
        queue!(bytes, cursor::Show, LeaveAlternateScreen)?;
        self.send(&bytes)
    }

    pub(super) fn page(&mut self, text: &str) -> io::Result<()> {
        // A terminal of no known size gets the page whole.
        let (columns, rows) = (self.size)().unwrap_or((u16::MAX, u16::MAX));
        let mut bytes = Vec::new();
        queue!(bytes, BeginSynchronizedUpdate, cursor::MoveTo(0, 0))?;
        for (at, line) in cut(text, columns, rows).into_iter().enumerate() {
            if at > 0 {
                bytes.extend(b"\r\n");
            }
            bytes.extend(line.as_bytes());
            queue!(bytes, Clear(ClearType::UntilNewLine))?;
        }
        queue!(bytes, Clear(ClearType::FromCursorDown), EndSynchronizedUpdate)?;
        self.send(&bytes)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.out.flush()
    }
}

impl<W: Write> Drop for InPlace<W> {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = self.leave();
    }
}

/// As many lines as there are rows; the last one says how many more there would be.
fn cut(text: &str, columns: u16, rows: u16) -> Vec<String> {
    let (columns, rows) = (usize::from(columns), usize::from(rows.max(1)));
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let mut page: Vec<String> = lines.iter().take(rows).map(|line| format::elide_end(line, columns)).collect();
    if lines.len() > rows {
        page.pop();
        page.push(format::elide_end(&format!("… {} more", lines.len() - page.len()), columns));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_cut_to_the_terminal_and_says_so() {
        assert_eq!(cut("one\ntwo\n", 80, 24), ["one", "two"]);
        assert_eq!(cut("one\ntwo\nthree\nfour\n", 4, 3), ["one", "two", "… 2…"]);
        assert_eq!(cut("one\ntwo\nthree\nfour\n", 80, 3), ["one", "two", "… 2 more"]);
        assert_eq!(cut("コンテナ", 5, 3), ["コン…"]);
    }

    #[test]
    fn a_page_wipes_what_stood_there_and_the_terminal_is_given_back_on_every_end() {
        let mut bytes = Vec::new();
        let mut screen = InPlace::enter(&mut bytes, || Ok((80, 24))).expect("it is memory");
        screen.page("one\ntwo").expect("it is memory");
        screen.page("").expect("it is memory");
        drop(screen);
        let text = String::from_utf8(bytes).expect("it is text");
        assert_eq!(text.matches("\x1b[?1049h").count(), 1);
        assert!(text.contains("\x1b[1;1Hone\x1b[K\r\ntwo\x1b[K\x1b[J"), "{text:?}");
        assert!(text.ends_with("\x1b[?25h\x1b[?1049l"), "{text:?}");
    }
}
