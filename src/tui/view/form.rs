//! The form that adds or edits a mapping.

mod containers;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};

use super::canvas::Canvas;
use super::theme::{self, Role};
use crate::model::format;
use crate::model::identity::Identity;
use crate::model::mapping::Protocol;
use crate::model::problem::Problem;
use crate::tui::state::Severity;
use crate::tui::state::form::{Field, Form, Verdict, Who};
use crate::tui::state::layout::Lines;
use crate::tui::state::words::probe_words;

/// Narrower screens have shorter labels and choices.
const ROOMY: u16 = 70;
/// Lines that the form has at most.
const PAPER: u16 = 64;

/// Draws the page; says where the cursor stands.
pub(super) fn draw(canvas: &mut Canvas<'_>, lines: Lines, form: &Form) -> Option<(u16, u16)> {
    let title = if form.edits.is_some() { "EDIT MAPPING" } else { "ADD MAPPING" };
    let room = lines.height.saturating_sub(1);
    // Drawn as if the screen were tall enough; then the part with the focus is shown.
    let mut paper = Buffer::empty(Rect { x: 0, y: 0, width: canvas.width(), height: PAPER });
    let mut sheet = Canvas { buffer: &mut paper, state: canvas.state };
    let mut page = Page { canvas: &mut sheet, form, y: 0, end: PAPER, room, cursor: None };
    let mut focused = (0, 0);
    let parts: [(&[Field], Part); 5] = [
        (&[Field::Who, Field::Address], who),
        (&[Field::Port, Field::Protocol], port),
        (&[Field::Host, Field::TargetPort], target),
        (&[Field::Identity], identity),
        (&[Field::Name], name),
    ];
    for (fields, draw) in parts {
        let start = page.y;
        draw(&mut page);
        if fields.contains(&form.focus) {
            focused = (start, page.y);
        }
    }
    whereabouts(&mut page);
    let (length, cursor) = (page.y.min(PAPER), page.cursor);
    if form.focus == Field::Name {
        focused.1 = length;
    }
    let first = if length <= room { 0 } else { focused.1.saturating_sub(room).min(focused.0) };
    let last = (first + room).min(length);
    let right =
        if length <= room { "enter save  esc cancel".to_owned() } else { format!("{}-{last} of {length}", first + 1) };
    canvas.rule(lines.y, title, "", &right, true);
    for (y, from) in (lines.y + 1..).zip(first..last) {
        for x in 0..canvas.width() {
            canvas.buffer[(x, y)] = paper[(x, from)].clone();
        }
    }
    cursor.filter(|(_, y)| (first..last).contains(y)).map(|(x, y)| (x, y - first + lines.y + 1))
}

/// Draws some fields and what there is to say of them.
type Part = fn(&mut Page<'_, '_>);

struct Page<'a, 'b> {
    canvas: &'a mut Canvas<'b>,
    form: &'a Form,
    y: u16,
    end: u16,
    /// Lines that the screen shows at once.
    room: u16,
    cursor: Option<(u16, u16)>,
}

impl Page<'_, '_> {
    fn is_roomy(&self) -> bool {
        self.canvas.width() >= ROOMY
    }

    /// Where the fields begin.
    fn left(&self) -> u16 {
        if self.is_roomy() { 17 } else { 8 }
    }

    fn label(&mut self, text: &str, has_focus: bool) {
        let style = if has_focus { self.canvas.style(Role::Accent) } else { Style::new() };
        self.canvas.text(1, self.y, text, style);
    }

    /// `[8080 ]`; the cursor stands in it when it has the focus.
    fn input(&mut self, x: u16, width: u16, field: Field) -> u16 {
        let form = self.form;
        let input = match field {
            Field::Address => &form.address,
            Field::Host => &form.host,
            Field::TargetPort => &form.target_port,
            Field::Name => &form.name,
            // The others are no lines of text.
            Field::Port | Field::Who | Field::Protocol | Field::Identity => &form.port,
        };
        let has_focus = self.form.focus == field;
        let style = if has_focus { self.canvas.style(Role::Accent) } else { Style::new() };
        self.canvas.text(x, self.y, "[", style);
        let scroll = input.visual_scroll(usize::from(width));
        let shown: String = input.value().chars().skip(scroll).collect();
        self.canvas.cut(x + 1, self.y, &shown, width, Style::new());
        self.canvas.text(x + 1 + width, self.y, "]", style);
        if has_focus {
            let at = u16::try_from(input.visual_cursor().saturating_sub(scroll)).unwrap_or(0).min(width);
            self.cursor = Some((x + 1 + at, self.y));
        }
        x + width + 2
    }

    /// `<this machine>  this network`: the chosen one in angles.
    fn choice(&mut self, mut x: u16, choices: &[(&str, bool)], has_focus: bool) -> u16 {
        for (text, is_chosen) in choices {
            let (text, style) = if *is_chosen {
                let style = if has_focus {
                    self.canvas.style(Role::Accent).add_modifier(Modifier::REVERSED)
                } else {
                    Style::new().add_modifier(Modifier::BOLD)
                };
                (format!("<{text}>"), style)
            } else {
                (format!(" {text} "), Style::new())
            };
            x = self.canvas.text(x, self.y, &text, style) + 1;
        }
        x
    }

    /// A line under a field: a mark, what there is to say, and what can be done, if need be on a line of its own.
    fn remark(&mut self, severity: Severity, mark: &str, text: &str, right: &str) {
        if self.y >= self.end {
            return;
        }
        let style = theme::severity(self.canvas.state.look, severity);
        let mark_style = if mark == "ok" { self.canvas.style(Role::Ok) } else { style };
        self.canvas.text(3, self.y, mark, mark_style);
        let width = self.canvas.width();
        let room = usize::from(width.saturating_sub(7));
        for line in format::wrap(text, room) {
            self.canvas.text(6, self.y, &line, style);
            self.y += 1;
        }
        let accent = self.canvas.style(Role::Accent);
        if right.is_empty() {
            return;
        }
        if format::width(text) + format::width(right) + 2 > room {
            self.canvas.text(6, self.y, right, accent);
            self.y += 1;
        } else {
            self.canvas.right(width - 1, self.y - 1, right, accent);
        }
    }

    /// Why it was not saved, at the field that has the focus since.
    fn refusal(&mut self, fields: &[Field]) {
        let form = self.form;
        if let Some(error) = &form.save_error
            && fields.contains(&form.focus)
        {
            self.remark(Severity::Error, "!!", error.as_str(), "");
        }
    }

    fn problems(&mut self, side: &str) {
        let form = self.form;
        for problem in form.problems(side) {
            self.remark(Severity::Error, "!!", &words(problem), "");
        }
    }
}

fn words(problem: &Problem) -> String {
    match &problem.hint {
        Some(hint) => format!("{} ({hint})", problem.problem),
        None => problem.problem.clone(),
    }
}

fn who(page: &mut Page<'_, '_>) {
    let form = page.form;
    let has_focus = form.focus == Field::Who;
    let texts = if page.is_roomy() {
        page.label("Who can connect", has_focus);
        ["this machine", "this network", "one address"]
    } else {
        page.label("Who", has_focus);
        ["machine", "network", "address"]
    };
    let whos = [Who::ThisMachine, Who::ThisNetwork, Who::One];
    let choices: Vec<_> = texts.into_iter().zip(whos).map(|(text, who)| (text, form.who == who)).collect();
    let x = page.choice(page.left(), &choices, has_focus);
    if form.who == Who::One {
        let room = page.canvas.width().saturating_sub(x + 3);
        if room >= 24 {
            page.input(x, room.min(40), Field::Address);
        } else {
            page.y += 1;
            let left = page.left();
            let width = page.canvas.width().saturating_sub(left + 3).min(40);
            page.input(left, width, Field::Address);
        }
    }
    page.y += 1;
    page.refusal(&[Field::Who, Field::Address]);
    if form.who == Who::ThisNetwork {
        page.remark(Severity::Warn, "!", "other machines can connect", "");
    }
}

fn port(page: &mut Page<'_, '_>) {
    let form = page.form;
    page.label("Port", matches!(form.focus, Field::Port | Field::Protocol));
    let x = page.input(page.left(), 11, Field::Port);
    let protocols = [
        ("tcp", form.protocol == Protocol::Tcp),
        ("udp", form.protocol == Protocol::Udp),
        ("sctp", form.protocol == Protocol::Sctp),
    ];
    // SCTP is shown where it was written by hand.
    let shown = if form.protocol == Protocol::Sctp { &protocols[..] } else { &protocols[..2] };
    page.choice(x + 1 + u16::from(page.is_roomy()), shown, form.focus == Field::Protocol);
    page.y += 1;
    page.refusal(&[Field::Port, Field::Protocol]);
    if let Some(problem) = form.listen_problem() {
        page.remark(Severity::Error, "!!", &problem, "");
        return;
    }
    page.problems("listen");
    let Some(report) = &form.port_report else { return };
    if let Some(problem) = &report.problem {
        page.remark(Severity::Warn, "!", problem.as_str(), "");
    }
    let Some(first) = report.conflicts.first() else {
        if report.problem.is_none()
            && !form.port.value().trim().is_empty()
            && form.problems("listen").next().is_none()
            && form.port.value().trim() != "auto"
        {
            page.remark(Severity::None, "ok", "free", "");
        }
        return;
    };
    // One holder often stands in the way in both families.
    let one_holder = report.conflicts.iter().all(|conflict| conflict.holder == first.holder);
    let right = form.free_port().map(|port| format!("^n takes {port} (free)")).unwrap_or_default();
    if one_holder {
        let port = first.address.port();
        let text = format!("{port}/{} is in use by {}", form.protocol, first.holder);
        page.remark(Severity::Error, "!!", &text, &right);
    } else {
        for (at, conflict) in report.conflicts.iter().take(3).enumerate() {
            let text = format!("{} is in use by {}", conflict.address, conflict.holder);
            page.remark(Severity::Error, "!!", &text, if at == 0 { &right } else { "" });
        }
    }
    if form.refused_busy.is_some() {
        let state = if form.is_half_free() { "half" } else { "failed" };
        let more = if page.is_roomy() { "; it listens once the port is free" } else { "" };
        page.remark(Severity::Warn, "!", &format!("enter again keeps it as {state}{more}"), "");
    }
}

fn target(page: &mut Page<'_, '_>) {
    let form = page.form;
    page.label("Target", matches!(form.focus, Field::Host | Field::TargetPort));
    let mut x = page.left();
    let (host, between, port) = if page.is_roomy() {
        page.canvas.text(x, page.y, form.target_kind(), page.canvas.style(Role::Muted));
        x += 10;
        (25, "port", 11)
    } else {
        (page.canvas.width().saturating_sub(x + 14).min(25), ":", 6)
    };
    let x = page.input(x, host, Field::Host);
    let x = page.canvas.text(x + 1, page.y, between, Style::new()) + 1;
    page.input(x, port, Field::TargetPort);
    page.y += 1;
    page.refusal(&[Field::Host, Field::TargetPort]);
    if form.focus == Field::Host {
        containers::draw(page);
    }
    page.problems("target");
    if let Some(probe) = &form.probe {
        match &probe.results {
            None => page.remark(Severity::None, "", &format!("trying {} ...", probe.target), ""),
            Some(results) => {
                let (severity, text) = probe_words(&probe.target, results, probe.reason.as_ref().map(AsRef::as_ref));
                let mark = if severity == Severity::None { "ok" } else { theme::mark(severity) };
                page.remark(severity, mark, &text, "");
            }
        }
    } else if form.focus == Field::TargetPort && form.protocol == Protocol::Tcp {
        page.remark(Severity::None, "", "tab tries whether it answers", "");
    }
}

fn identity(page: &mut Page<'_, '_>) {
    let form = page.form;
    let has_focus = form.focus == Field::Identity;
    page.label(if page.is_roomy() { "Client shown by" } else { "Client" }, has_focus);
    let choices: Vec<_> =
        form.identities().into_iter().map(|identity| (short(identity, page), identity == form.identity)).collect();
    page.choice(page.left(), &choices, has_focus);
    page.y += 1;
    page.refusal(&[Field::Identity]);
    page.problems("identity");
    // By default there is nothing to say that was not so before.
    if has_focus || form.identity != Identity::None || form.base.accept_proxy == Some(true) {
        page.remark(Severity::None, "i", &form.seen_as(), "");
    }
}

/// Its word, in less room less of it.
fn short(identity: Identity, page: &Page<'_, '_>) -> &'static str {
    match identity {
        Identity::ProxyV1 if !page.is_roomy() => "v1",
        Identity::ProxyV2 if !page.is_roomy() => "v2",
        identity => identity.word(),
    }
}

fn name(page: &mut Page<'_, '_>) {
    let form = page.form;
    if page.y >= page.end {
        return;
    }
    page.label("Name", form.focus == Field::Name);
    let width = page.canvas.width().saturating_sub(page.left() + 3).min(25);
    let x = page.input(page.left(), width, Field::Name);
    if form.name.value().trim().is_empty()
        && let Some(Verdict::Valid { name, .. }) = &form.verdict
        && usize::from(x) + 2 + name.len() < usize::from(page.canvas.width())
    {
        page.canvas.text(x + 2, page.y, name, page.canvas.style(Role::Muted));
    }
    page.y += 1;
    page.refusal(&[Field::Name]);
    page.problems("name");
}

/// Where clients will find it, and what else there is to say.
fn whereabouts(page: &mut Page<'_, '_>) {
    let form = page.form;
    page.problems("other");
    if let Some(Verdict::Valid { notes, places, .. }) = &form.verdict {
        if !places.is_empty() && page.y < page.end {
            page.label(if page.is_roomy() { "Will be at" } else { "At" }, false);
            let places: Vec<_> = places
                .iter()
                .map(|address| match (form.protocol, form.target_port.value().trim()) {
                    (Protocol::Tcp, "443" | "8443") => format!("https://{address}/"),
                    (Protocol::Tcp, _) => format!("http://{address}/"),
                    (protocol, _) => format!("{address}/{protocol}"),
                })
                .collect();
            let room = usize::from(page.canvas.width().saturating_sub(page.left() + 1));
            let in_one = places.join("  ");
            let lines = if format::width(&in_one) <= room { vec![in_one] } else { places };
            for line in lines {
                page.canvas.text(page.left(), page.y, &format::elide_end(&line, room), Style::new());
                page.y += 1;
            }
        }
        for note in notes {
            page.remark(Severity::None, "i", note.as_str(), "");
        }
    }
    if form.is_saving {
        page.remark(Severity::None, "", "saving ...", "");
    }
}
