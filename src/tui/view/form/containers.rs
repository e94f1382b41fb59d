//! The containers to choose from, below the target of the form.

use ratatui::style::Style;

use super::Page;
use crate::model::container::{Container, DockerState, EnginePlace};
use crate::model::format;
use crate::tui::state::{Severity, offer};
use crate::tui::view::theme::Role;

/// Containers listed at most, if the screen has room for them, and at least.
const CONTAINERS: usize = 12;
const FEW_CONTAINERS: usize = 3;

/// Lists those that match what is typed.
pub(super) fn draw(page: &mut Page<'_, '_>) {
    let form = page.form;
    if let DockerState::Unavailable { reason } = &form.docker {
        page.remark(Severity::Warn, "!", &format!("docker: {reason}"), "");
        page.remark(Severity::None, "", "mappings by address still work: 172.17.0.2, [fd00::2], host/NAME", "");
        return;
    }
    if let EnginePlace::Elsewhere { reason, .. } = &form.place {
        page.remark(Severity::Warn, "!", &format!("{reason}: its published ports are offered"), "");
    }
    let matching = form.matching();
    // Fields and remarks below need seven lines.
    let room = usize::from(page.room.saturating_sub(page.y + 7)).clamp(FEW_CONTAINERS, CONTAINERS);
    let rows: Vec<[String; 5]> = matching.iter().map(|container| cells(container, &form.place)).collect();
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

fn cells(container: &Container, place: &EnginePlace) -> [String; 5] {
    let addresses = offer::addresses(container, |_| true);
    let addresses = if container.host_network && addresses.is_empty() {
        "host network".to_owned()
    } else if addresses.is_empty() {
        "-".to_owned()
    } else {
        addresses.join("  ")
    };
    let ports = match place {
        // What would be dialled, not what cannot be.
        EnginePlace::Elsewhere { .. } => {
            container.ports.iter().filter_map(|port| Some(offer::offer(container, port, place)?.target())).collect()
        }
        _ => offer::exposed(container),
    };
    let ports = if ports.is_empty() { "-".to_owned() } else { ports.join(" ") };
    let state = if container.is_running() || !container.addresses.is_empty() {
        container.state.to_string()
    } else {
        format!("{}, no address", container.state)
    };
    [container.name.to_string(), container.image.to_string(), addresses, ports, state]
}
