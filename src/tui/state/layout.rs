//! Which panes there are room for, and where: a pure function of size, view and focus.
//!
//! It stands with the state, since how many rows are visible decides how far a page is and when to scroll.

use super::{Pane, View, Zoom};

/// Below this the screen is one line.
pub const SMALLEST: (u16, u16) = (40, 10);
/// From this height on a two-line detail is shown, from the next the graph beside it, then events too.
const WITH_DETAIL: u16 = 16;
const WITH_GRAPH: u16 = 24;
const WITH_EVENTS: u16 = 50;
/// Lines above the panes (title, views) and below them (keys, note).
const ABOVE: u16 = 2;
const BELOW: u16 = 2;
/// Lines of a pane that are not rows: its rule and the names of its columns.
const PANE_HEAD: u16 = 2;

/// Lines of the screen, from the top.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// The first.
    pub y: u16,
    /// How many.
    pub height: u16,
}

/// Where everything is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Too small for anything but one line.
    pub is_tiny: bool,
    /// The list of mappings.
    pub mappings: Option<Lines>,
    /// A list of connections.
    pub connections: Option<Lines>,
    /// The list of containers.
    pub containers: Option<Lines>,
    /// Detail of the selected connection, mapping or container.
    pub detail: Option<Lines>,
    /// Events: the view, or the last few.
    pub events: Option<Lines>,
    /// All lines between head and foot.
    pub body: Lines,
}

/// Makes the layout. `rows` is how many mappings there are, or in their view containers.
pub fn layout(size: (u16, u16), view: View, focus: Pane, zoom: Zoom, rows: usize) -> Layout {
    let (width, height) = size;
    if width < SMALLEST.0 || height < SMALLEST.1 {
        return Layout { is_tiny: true, ..Layout::default() };
    }
    let body = Lines { y: ABOVE, height: height - ABOVE - BELOW };
    let mut layout = Layout { body, ..Layout::default() };
    match (zoom, view) {
        (Zoom::Detail, _) => {
            layout.detail = Some(body);
            return layout;
        }
        (_, View::Events) => {
            // Three lines hold the longest event at 80 columns.
            let detail = if zoom == Zoom::Pane || height < WITH_DETAIL { 0 } else { 4 };
            let list = body.height - detail;
            layout.events = Some(Lines { y: body.y, height: list });
            layout.detail = (detail > 0).then_some(Lines { y: body.y + list, height: detail });
            return layout;
        }
        (_, View::Containers) => {
            // Of a container there is more to say than of anything else: the list takes what it needs, up to a half.
            let detail = match height {
                _ if zoom == Zoom::Pane || rows == 0 => 0,
                ..WITH_DETAIL => 0,
                WITH_DETAIL..WITH_GRAPH => 3,
                _ => body.height - wanted(rows).min(body.height / 2),
            };
            let list = body.height - detail;
            layout.containers = Some(Lines { y: body.y, height: list });
            layout.detail = (detail > 0).then_some(Lines { y: body.y + list, height: detail });
            return layout;
        }
        _ => {}
    }
    if view == View::Mappings && rows == 0 {
        layout.mappings = Some(body);
        return layout;
    }
    if zoom == Zoom::Pane || height < WITH_DETAIL {
        match focus {
            Pane::Mappings => layout.mappings = Some(body),
            _ => layout.connections = Some(body),
        }
        return layout;
    }
    let detail = match height {
        ..WITH_GRAPH => 3,
        WITH_GRAPH..WITH_EVENTS => 4,
        _ => 13,
    };
    let events = if height >= WITH_EVENTS { 8 } else { 0 };
    let lists = body.height - detail - events;
    let mut y = body.y;
    let mut take = |height: u16| {
        let lines = Lines { y, height };
        y += height;
        (height > 0).then_some(lines)
    };
    if view == View::Mappings {
        let list = wanted(rows).min(lists / 2);
        layout.mappings = take(list);
        layout.connections = take(lists - list);
    } else {
        layout.connections = take(lists);
    }
    layout.detail = take(detail);
    layout.events = take(events);
    layout
}

/// Lines of a list that shows all its rows.
fn wanted(rows: usize) -> u16 {
    u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(PANE_HEAD + 1)
}

/// How many rows of a list of `len` a pane shows; one line less when it has to say that the list goes on.
pub fn visible_rows(pane: Option<Lines>, len: usize) -> usize {
    let room = usize::from(pane.map_or(0, |lines| lines.height.saturating_sub(PANE_HEAD)));
    if len > room { room.saturating_sub(1) } else { room }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panes_come_with_the_height_and_fill_the_body() {
        for height in 10..80 {
            let layout = layout((80, height), View::Mappings, Pane::Mappings, Zoom::None, 4);
            let panes = [layout.mappings, layout.connections, layout.detail, layout.events];
            let sum: u16 = panes.iter().flatten().map(|lines| lines.height).sum();
            assert_eq!(sum, height - 4, "{height}");
            assert_eq!(layout.detail.is_some(), height >= 16);
            assert_eq!(layout.connections.is_some(), height >= 16);
            assert_eq!(layout.events.is_some(), height >= 50);
        }
    }

    #[test]
    fn containers_leave_the_rest_to_their_detail() {
        for height in 10..80 {
            for rows in [0, 1, 5, 500] {
                let layout = layout((80, height), View::Containers, Pane::Containers, Zoom::None, rows);
                let sum: u16 = [layout.containers, layout.detail].iter().flatten().map(|lines| lines.height).sum();
                assert_eq!(sum, height - 4, "{rows} at {height}");
                assert_eq!(layout.detail.is_some(), height >= 16 && rows > 0);
            }
        }
    }

    #[test]
    fn at_24_rows_the_panes_are_as_drawn() {
        let layout = layout((80, 24), View::Mappings, Pane::Mappings, Zoom::None, 4);
        assert_eq!(layout.mappings, Some(Lines { y: 2, height: 7 }));
        assert_eq!(layout.connections, Some(Lines { y: 9, height: 9 }));
        assert_eq!(layout.detail, Some(Lines { y: 18, height: 4 }));
    }

    #[test]
    fn below_40_by_10_there_is_one_line() {
        for size in [(39, 24), (80, 9), (1, 1), (0, 0)] {
            assert!(layout(size, View::Mappings, Pane::Mappings, Zoom::None, 4).is_tiny);
        }
    }
}
