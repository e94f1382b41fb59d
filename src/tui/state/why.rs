//! The page that says why a mapping does not work: the report as lines of the screen.

use crate::model::format;
use crate::model::id::MappingId;
use crate::model::mapping::{Mapping, Protocol};
use crate::model::report::{Report, Step, Verdict};
use crate::model::untrusted::SafeText;

/// Narrower screens have the text of a step begin right after its word.
const ROOMY: usize = 60;
/// Columns before the text of a cause.
const LABEL: usize = 8;

/// The page.
#[derive(Clone, Debug, PartialEq)]
pub struct Why {
    /// Whose.
    pub id: MappingId,
    /// `any:8443 -> web_1:443`.
    pub title: String,
    /// The last report.
    pub report: Option<Report>,
    /// When it came, in the screen's clock.
    pub told_ms: u64,
    /// Why there is none, or none anew.
    pub refused: Option<SafeText>,
    /// An answer is awaited.
    pub is_checking: bool,
    /// First line shown.
    pub offset: usize,
}

/// What a piece of a line is, for its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Body text.
    Plain,
    /// Names, what was not looked at.
    Muted,
    /// `ok`
    Ok,
    /// `!!`, and CAUSE.
    Bad,
    /// `??`
    Unknown,
    /// TRY.
    Remedy,
}

/// One line: what stands at which column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line(pub Vec<(u16, String, Tone)>);

impl Why {
    /// A page without an answer yet.
    pub fn new(id: MappingId, mapping: &Mapping) -> Self {
        Self {
            id,
            title: format!("{} -> {}", mapping.listen, mapping.target),
            report: None,
            told_ms: 0,
            refused: None,
            is_checking: true,
            offset: 0,
        }
    }

    /// What stands at the right of the title.
    pub fn state(&self, now_ms: u64) -> String {
        if self.is_checking {
            "checking ...".to_owned()
        } else if self.report.is_some() {
            format!("checked {} ago", format::age(now_ms.saturating_sub(self.told_ms)))
        } else {
            String::new()
        }
    }

    /// The page as lines of at most so many columns.
    pub fn lines(&self, width: u16) -> Vec<Line> {
        let mut lines = Vec::new();
        let width = usize::from(width);
        if let Some(refused) = &self.refused {
            hang(&mut lines, ("!!", Tone::Bad), 4, (refused.as_str(), Tone::Plain), width);
        }
        let Some(report) = &self.report else { return lines };
        let words: Vec<String> = report.steps.iter().map(word).collect();
        let longest = words.iter().map(String::len).max().unwrap_or(0);
        for (number, (step, word)) in report.steps.iter().zip(&words).enumerate() {
            self::step(&mut lines, number + 1, step, word, longest, width);
        }
        for cause in &report.causes {
            hang(&mut lines, ("CAUSE", Tone::Bad), LABEL, (cause.text.as_str(), Tone::Plain), width);
            for remedy in &cause.remedies {
                hang(&mut lines, ("TRY", Tone::Remedy), LABEL, (remedy.as_str(), Tone::Plain), width);
            }
        }
        if report.is_healthy() {
            let unseen = report.steps.iter().any(|step| step.verdict == Verdict::Unknown);
            let text = if unseen { "nothing wrong, as far as can be seen" } else { "nothing wrong" };
            hang(&mut lines, ("ok", Tone::Ok), LABEL, (text, Tone::Plain), width);
        }
        if !report.who.as_str().is_empty() {
            hang(&mut lines, ("WHO", Tone::Muted), LABEL, (report.who.as_str(), Tone::Plain), width);
        }
        let places = self.places();
        if !places.is_empty() {
            hang(&mut lines, ("AT", Tone::Muted), LABEL, (&places.join("  "), Tone::Plain), width);
        }
        lines
    }

    fn places(&self) -> Vec<String> {
        let Some(report) = &self.report else { return Vec::new() };
        let mapping = report.mapping.parse::<Mapping>().ok();
        let protocol = mapping.as_ref().map_or(Protocol::Tcp, |mapping| mapping.protocol);
        let port = mapping.map_or(0, |mapping| mapping.target.ports.first());
        report.will_be_at.iter().map(|address| format::place(*address, protocol, port)).collect()
    }

    /// Scrolls by so many lines, as far as there are any.
    pub fn scroll(&mut self, by: isize, width: u16, visible: usize) {
        let most = self.lines(width).len().saturating_sub(visible);
        self.offset = self.offset.saturating_add_signed(by).min(most);
    }

    /// How many lines stand below each other on a page of that height; one less where it has to say that it goes on.
    pub fn visible(&self, width: u16, room: usize) -> usize {
        if self.lines(width).len() > room { room.saturating_sub(1) } else { room }
    }
}

/// `listener v6`.
fn word(step: &Step) -> String {
    match step.family {
        Some(family) => format!("{} {family}", step.kind.word()),
        None => step.kind.word().to_owned(),
    }
}

fn step(lines: &mut Vec<Line>, number: usize, step: &Step, word: &str, longest: usize, width: usize) {
    let tone = match step.verdict {
        Verdict::Ok => Tone::Ok,
        Verdict::Bad => Tone::Bad,
        Verdict::Unknown => Tone::Unknown,
        Verdict::Skipped => Tone::Muted,
    };
    let text_tone = if step.verdict == Verdict::Skipped { Tone::Muted } else { Tone::Plain };
    let number = number.to_string();
    let word_x = 5 + number.len();
    let mark = |line: &mut Line| {
        line.0.push((1, step.verdict.mark().to_owned(), tone));
        line.0.push((4, number.clone(), Tone::Muted));
        line.0.push((column(word_x), word.to_owned(), text_tone));
    };
    let (first_x, rest_x) = if width < ROOMY {
        (word_x + word.len() + 2, 6)
    } else {
        let x = word_x.max(6) + longest + 2;
        (x, x)
    };
    // The first line may have less room than those below it.
    let text = step.text.as_str().trim_start();
    let first = format::wrap(text, width.saturating_sub(first_x + 1)).swap_remove(0);
    let rest = text.get(first.len()..).unwrap_or_default().trim_start();
    let mut line = Line::default();
    mark(&mut line);
    line.0.push((column(first_x), first, text_tone));
    lines.push(line);
    if !rest.is_empty() {
        for part in format::wrap(rest, width.saturating_sub(rest_x + 1)) {
            lines.push(Line(vec![(column(rest_x), part, text_tone)]));
        }
    }
}

/// A label, and a text that hangs beside it.
fn hang(lines: &mut Vec<Line>, label: (&str, Tone), x: usize, (text, tone): (&str, Tone), width: usize) {
    for (at, part) in format::wrap(text, width.saturating_sub(x + 1)).into_iter().enumerate() {
        let mut line = Line::default();
        if at == 0 {
            line.0.push((1, label.0.to_owned(), label.1));
        }
        line.0.push((column(x), part, tone));
        lines.push(line);
    }
}

fn column(x: usize) -> u16 {
    u16::try_from(x).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::mapping::Family;
    use crate::model::report::StepKind;

    fn page(texts: &[&str]) -> Why {
        let mapping: Mapping = "any:8443:web_1:443".parse().expect("a mapping");
        let steps = texts.iter().map(|text| Step {
            kind: StepKind::Listener,
            family: Some(Family::V6),
            verdict: Verdict::Ok,
            text: SafeText::new(text),
        });
        let report = Report {
            name: "web".to_owned(),
            mapping: mapping.to_string(),
            steps: steps.collect(),
            causes: Vec::new(),
            who: SafeText::new("Other machines can connect."),
            will_be_at: Vec::new(),
            took_ms: 1,
        };
        Why { report: Some(report), is_checking: false, ..Why::new(MappingId(1), &mapping) }
    }

    fn text(line: &Line) -> String {
        let mut out = String::new();
        for (x, text, _) in &line.0 {
            out.push_str(&" ".repeat(usize::from(*x).saturating_sub(format::width(&out))));
            out.push_str(text);
        }
        out
    }

    #[test]
    fn no_line_is_wider_than_the_screen_and_no_word_is_lost() {
        let long = "bound [2001:db8:1111:2222:3333:4444:5555:6666]:8443 and コンテナ, queue 0/4096, every word of it";
        let page = page(&[long; 12]);
        for width in 40..120 {
            let lines: Vec<String> = page.lines(width).iter().map(text).collect();
            assert!(lines.iter().all(|line| format::width(line) <= usize::from(width)), "{width}: {lines:#?}");
            let all = lines.join(" ");
            for word in ["queue", "コンテナ,", "0/4096,", "it"] {
                assert!(all.matches(word).count() >= 12, "{word} at {width}: {lines:#?}");
            }
        }
    }

    #[test]
    fn it_scrolls_as_far_as_there_are_lines() {
        let mut page = page(&["bound"; 12]);
        let (width, visible) = (80, page.visible(80, 6));
        assert_eq!(visible, 5, "one line says that it goes on");
        page.scroll(100, width, visible);
        assert_eq!(page.offset, page.lines(width).len() - visible);
        page.scroll(-100, width, visible);
        assert_eq!(page.offset, 0);
    }
}
