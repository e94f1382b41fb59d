//! The form that adds or edits a mapping.

use ratatui::style::{Modifier, Style};

use super::canvas::Canvas;
use super::theme::{self, Role};
use crate::model::container::{Container, DockerState};
use crate::model::mapping::Protocol;
use crate::model::problem::Problem;
use crate::tui::format;
use crate::tui::state::Severity;
use crate::tui::state::form::{Field, Form, Verdict, Who};
use crate::tui::state::layout::Lines;
use crate::tui::state::words::probe_words;

/// Narrower screens have shorter labels and choices.
const ROOMY: u16 = 70;
/// Containers listed at most, if the screen has room for them.
const CONTAINERS: usize = 12;

/// Draws the page; says where the cursor stands.
pub(super) fn draw(canvas: &mut Canvas<'_>, lines: Lines, form: &Form) -> Option<(u16, u16)> {
    let title = if form.edits.is_some() { "EDIT MAPPING" } else { "ADD MAPPING" };
    canvas.rule(lines.y, title, "", "enter save  esc cancel", true);
    let mut page = Page { canvas, form, y: lines.y + 1, end: lines.y + lines.height, cursor: None };
    who(&mut page);
    port(&mut page);
    target(&mut page);
    name(&mut page);
    whereabouts(&mut page);
    page.cursor
}

struct Page<'a, 'b> {
    canvas: &'a mut Canvas<'b>,
    form: &'a Form,
    y: u16,
    end: u16,
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
            Field::Port | Field::Who | Field::Protocol => &form.port,
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
        self.canvas.text(6, self.y, &format::elide_end(text, room), style);
        let accent = self.canvas.style(Role::Accent);
        if !right.is_empty() && format::width(text) + format::width(right) + 2 > room {
            self.y += 1;
            self.canvas.text(6, self.y, right, accent);
        } else {
            self.canvas.right(width - 1, self.y, right, accent);
        }
        self.y += 1;
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
    page.problems("listen");
    let Some(report) = &form.port_report else { return };
    let Some(first) = report.conflicts.first() else {
        if !form.port.value().trim().is_empty()
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
        page.remark(Severity::Warn, "!", "enter again keeps it as failed; it listens once the port is free", "");
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
    if form.focus == Field::Host {
        containers(page);
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

/// Containers that match what is typed.
fn containers(page: &mut Page<'_, '_>) {
    let form = page.form;
    if let DockerState::Unavailable { reason } = &form.docker {
        page.remark(Severity::Warn, "!", &format!("docker: {reason}"), "");
        page.remark(Severity::None, "", "mappings by address still work: 172.17.0.2, [fd00::2], host/NAME", "");
        return;
    }
    let matching = form.matching();
    // Fields and remarks below need seven lines.
    let room = usize::from(page.end.saturating_sub(page.y + 7)).clamp(1, CONTAINERS);
    let rows: Vec<[String; 5]> = matching.iter().map(|container| cells(container)).collect();
    let widths: Vec<usize> = (0..4)
        .map(|column| {
            rows.iter().map(|row| format::width(&row[column])).max().unwrap_or(0).min([18, 18, 30, 16][column])
        })
        .collect();
    let chosen = form.chosen.unwrap_or(0);
    let shown = if rows.len() > room { room.saturating_sub(1).max(1) } else { room };
    let first = (chosen + 1).saturating_sub(shown);
    for (at, row) in rows.iter().enumerate().skip(first).take(shown) {
        let is_chosen = form.chosen == Some(at);
        let style = if matching[at].is_running() { Style::new() } else { page.canvas.style(Role::Muted) };
        let mut x = 5;
        for (text, width) in row.iter().zip(widths.iter().chain([&30])) {
            let room = usize::from(page.canvas.width().saturating_sub(x));
            page.canvas.text(x, page.y, &format::elide_end(text, room.min(*width)), style);
            x += u16::try_from(*width).unwrap_or(0) + 2;
        }
        if is_chosen {
            page.canvas.text(3, page.y, ">", Style::new());
            page.canvas.select(page.y, true);
        }
        page.y += 1;
    }
    if rows.len() > shown {
        let text = format!("{shown} of {}", rows.len());
        page.canvas.text(5, page.y, &text, page.canvas.style(Role::Muted));
        page.y += 1;
    }
    if rows.is_empty() && form.docker == DockerState::Connected && form.target_kind() == "container" {
        page.remark(Severity::None, "", "no container of that name; it may also be an id, an address or host/NAME", "");
    }
}

fn cells(container: &Container) -> [String; 5] {
    let addresses: Vec<_> = container.addresses.iter().map(ToString::to_string).collect();
    let addresses = if container.host_network && addresses.is_empty() {
        "host network".to_owned()
    } else if addresses.is_empty() {
        "-".to_owned()
    } else {
        addresses.join("  ")
    };
    let mut ports: Vec<_> = container
        .ports
        .iter()
        .map(|port| match port.protocol {
            Protocol::Tcp => port.port.to_string(),
            other => format!("{}/{other}", port.port),
        })
        .collect();
    ports.dedup();
    let ports = if ports.is_empty() { "-".to_owned() } else { ports.join(" ") };
    let state = if container.is_running() || !container.addresses.is_empty() {
        container.state.to_string()
    } else {
        format!("{}, no address", container.state)
    };
    [container.name.to_string(), container.image.to_string(), addresses, ports, state]
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
    page.problems("name");
}

/// Where clients will find it, and what else there is to say.
fn whereabouts(page: &mut Page<'_, '_>) {
    let form = page.form;
    page.problems("other");
    if let Some(Verdict::Valid { notes, will_be_at, .. }) = &form.verdict {
        if !will_be_at.is_empty() && page.y < page.end {
            page.label(if page.is_roomy() { "Will be at" } else { "At" }, false);
            let places: Vec<_> = will_be_at
                .iter()
                .map(|address| match (form.protocol, form.target_port.value().trim()) {
                    (Protocol::Tcp, "443" | "8443") => format!("https://{address}/"),
                    (Protocol::Tcp, _) => format!("http://{address}/"),
                    (protocol, _) => format!("{address}/{protocol}"),
                })
                .collect();
            let room = usize::from(page.canvas.width().saturating_sub(page.left() + 1));
            page.canvas.text(page.left(), page.y, &format::elide_end(&places.join("  "), room), Style::new());
            page.y += 1;
        }
        for note in notes {
            page.remark(Severity::None, "i", note.as_str(), "");
        }
    }
    if let Some(error) = &form.save_error {
        page.remark(Severity::Error, "!!", error.as_str(), "");
    }
    if form.is_saving {
        page.remark(Severity::None, "", "saving ...", "");
    }
}
