//! The state of the screen: plain data, changed by [`super::update()`] alone and read by [`super::view`].
//!
//! No clock, no terminal, no service in here. Lists hold ids, so a row stays selected wherever it moves.

pub mod columns;
pub mod dialog;
pub mod event_line;
pub mod form;
pub mod fuzzy;
pub mod import;
pub mod inside;
pub mod layout;
pub mod list;
pub mod offer;
mod shown;
pub mod suggest;
pub mod why;
pub mod words;
pub mod world;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use crate::model::container::Container;
use crate::model::filter::Filter;
use crate::model::id::{ConnectionId, MappingId};
use crate::model::request::RequestError;
use crate::model::untrusted::SafeText;

pub use dialog::Overlay;
pub use form::Form;
pub use inside::{Inside, Insides};
pub use list::{ConnectionSort, ContainerSort, List, MappingSort};
pub use shown::url_of;
pub use world::{ConnectionItem, MappingItem, Severity, World};

/// The whole screen.
#[derive(Clone, Debug)]
pub struct State {
    /// How it is drawn.
    pub look: Look,
    /// A line for newcomers, until it is dismissed by escape.
    pub hint: Option<SafeText>,
    /// Columns and rows of the terminal.
    pub size: (u16, u16),
    /// The screen's clock, in milliseconds; comes in messages.
    pub now_ms: u64,
    /// What the service has told.
    pub live: World,
    /// While frozen: what is shown instead.
    pub frozen: Option<Frozen>,
    /// The view.
    pub view: View,
    /// The pane that keys act on; see [`State::focus`].
    pub focus: Pane,
    /// What fills the screen.
    pub zoom: Zoom,
    /// Mappings.
    pub mappings: List<MappingId, MappingSort>,
    /// Connections: of the selected mapping, or all.
    pub connections: List<ConnectionId, ConnectionSort>,
    /// Containers, by id.
    pub containers: List<SafeText, ContainerSort>,
    /// Events, by number.
    pub events: List<u64, ()>,
    /// Who listens inside containers.
    pub insides: Insides,
    /// Where clients find the mapping whose detail was opened.
    pub whereabouts: Option<Whereabouts>,
    /// Whose connections are listed.
    pub listed: Listed,
    /// Marked mappings.
    pub marks: BTreeSet<MappingId>,
    /// Counters are shown from here on.
    pub baselines: HashMap<MappingId, Baseline>,
    /// Connections that closed long ago are shown, too.
    pub show_closed: bool,
    /// What lies over the screen.
    pub overlay: Overlay,
    /// One line of news.
    pub note: Option<Note>,
    /// Whether something is to be drawn.
    pub paint: Paint,
    /// When a key was last pressed.
    pub last_key_ms: u64,
    /// When the lists were last sorted.
    pub last_sort_ms: u64,
    /// The lists have been sorted by figures at least once.
    pub has_sorted: bool,
    /// When figures were last taken over.
    pub last_second_ms: u64,
    /// The rows have changed in a way that sorting could show.
    pub is_unsorted: bool,
    /// `^c` was pressed at this moment.
    pub cancelled_at_ms: Option<u64>,
    /// That suspending stops forwarding has been said.
    pub told_of_suspend: bool,
    /// The service has ended, or cannot be reached.
    pub is_gone: bool,
    /// If so, what is known of it.
    pub absence: Absence,
    /// How this window stands to the engine.
    pub standing: Standing,
    /// The control socket of an engine in another process, by which one without a profile is named.
    pub socket: Option<SafeText>,
    /// A mapping to select as soon as its row is there.
    pub select_when_told: Option<MappingId>,
    /// A mapping that was just added, and what is to be said of it once it is seen to listen.
    pub saved_when_told: Option<(MappingId, SafeText)>,
}

/// How a window stands to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The engine is in this process: leaving ends it.
    Owner {
        /// It can also go on without a screen.
        can_leave: bool,
    },
    /// The engine is another process, and goes on when this window is left.
    Attached,
}

/// What is known of an engine that this window has lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Absence {
    /// Nobody is there.
    #[default]
    Lost,
    /// It has said that it ends, and is gone.
    Ended,
    /// It is there, and does not answer: it is stopped, or has too much to do.
    Silent,
    /// It is there, and says that it cannot: another release, or as many windows as there may be.
    Refuses(SafeText),
}

impl Absence {
    /// What is answered to whoever asks such an engine.
    pub fn as_answer(&self) -> RequestError {
        let text = match self {
            Self::Lost | Self::Ended => return RequestError::Gone,
            Self::Silent => "not done: the engine does not answer",
            Self::Refuses(why) => why.as_str(),
        };
        RequestError::Failed { message: SafeText::new(text) }
    }
}

impl Default for Standing {
    fn default() -> Self {
        Self::Owner { can_leave: false }
    }
}

/// How the screen is drawn, and what the machine can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// No byte above 0x7f.
    pub ascii: bool,
    /// Colours.
    pub color: ColorMode,
    /// There is a browser to open.
    pub can_browse: bool,
}

/// Which colours suit the terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColorMode {
    /// For a dark background.
    #[default]
    Dark,
    /// For a light background.
    Light,
    /// None at all (`NO_COLOR`).
    None,
}

/// What is shown while the screen is frozen.
#[derive(Clone, Debug)]
pub struct Frozen {
    /// The world as it stood.
    pub world: Box<World>,
    /// Since when, in the screen's clock.
    pub since_ms: u64,
    /// Connections that came since.
    pub new: u64,
}

/// Whose connections are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// Nobody's.
    Nothing,
    /// One mapping's.
    Of(MappingId),
    /// All.
    All,
}

/// A view, by its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Mappings, the connections of the selected one, detail.
    Mappings,
    /// Every connection.
    Connections,
    /// Every container.
    Containers,
    /// What happened.
    Events,
}

/// A pane that keys can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pane {
    /// The list of mappings.
    Mappings,
    /// A list of connections.
    Connections,
    /// The list of containers.
    Containers,
    /// The list of events.
    Events,
}

/// What fills the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zoom {
    /// Nothing: all panes.
    None,
    /// The pane with the focus.
    Pane,
    /// The detail.
    Detail,
}

/// Counters at the moment from which they are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Baseline {
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Errors.
    pub errors: u64,
}

/// Where clients find a mapping, as the service said when it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    /// Whose.
    pub id: MappingId,
    /// Addresses, best first.
    pub will_be_at: Vec<SocketAddr>,
    /// What to know of it.
    pub notes: Vec<SafeText>,
}

/// One line of news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// How bad it is.
    pub severity: Severity,
    /// The text.
    pub text: SafeText,
    /// Until when it is shown.
    pub until_ms: u64,
}

/// Whether something is to be drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Paint {
    /// Nothing changed.
    #[default]
    None,
    /// With the next frame.
    Soon,
    /// A key was pressed: at once.
    Now,
}

impl State {
    /// Before anything was told.
    pub fn new(look: Look, size: (u16, u16)) -> Self {
        Self {
            look,
            hint: None,
            size,
            now_ms: 0,
            live: World::default(),
            frozen: None,
            view: View::Mappings,
            focus: Pane::Mappings,
            zoom: Zoom::None,
            mappings: List::new(MappingSort::Profile, false),
            connections: List::new(ConnectionSort::OutRate, true),
            containers: List::new(ContainerSort::State, false),
            events: List::new((), false),
            insides: Insides::default(),
            whereabouts: None,
            listed: Listed::Nothing,
            marks: BTreeSet::new(),
            baselines: HashMap::new(),
            show_closed: false,
            overlay: Overlay::None,
            note: None,
            paint: Paint::Now,
            last_key_ms: 0,
            last_sort_ms: 0,
            has_sorted: false,
            last_second_ms: 0,
            is_unsorted: false,
            cancelled_at_ms: None,
            told_of_suspend: false,
            is_gone: false,
            absence: Absence::default(),
            socket: None,
            standing: Standing::default(),
            select_when_told: None,
            saved_when_told: None,
        }
    }

    /// The world that is shown: as it is, or as it stood when it was frozen.
    pub fn world(&self) -> &World {
        self.frozen.as_ref().map_or(&self.live, |frozen| &frozen.world)
    }

    /// The screen's clock as the lists show it: it stands still while frozen.
    pub fn shown_ms(&self) -> u64 {
        self.frozen.as_ref().map_or(self.now_ms, |frozen| frozen.since_ms)
    }

    /// The panes of the view, in the order of `tab`.
    pub fn panes(&self) -> &'static [Pane] {
        match self.view {
            View::Mappings if self.world().mappings.is_empty() => &[Pane::Mappings],
            View::Mappings => &[Pane::Mappings, Pane::Connections],
            View::Connections => &[Pane::Connections],
            View::Containers => &[Pane::Containers],
            View::Events => &[Pane::Events],
        }
    }

    /// The pane that keys act on.
    pub fn focus(&self) -> Pane {
        let panes = self.panes();
        if panes.contains(&self.focus) { self.focus } else { panes[0] }
    }

    /// Where everything is.
    pub fn layout(&self) -> layout::Layout {
        let rows = match self.view {
            View::Containers => self.world().containers.len(),
            _ => self.world().mappings.len(),
        };
        layout::layout(self.size, self.view, self.focus(), self.zoom, rows)
    }

    /// Rows of the pane with the focus.
    pub fn focused_len(&self) -> usize {
        match self.focus() {
            Pane::Mappings => self.mappings.order.len(),
            Pane::Connections => self.connections.order.len(),
            Pane::Containers => self.containers.order.len(),
            Pane::Events => self.events.order.len(),
        }
    }

    /// Rows of a pane that are visible.
    pub fn visible(&self, pane: Pane) -> usize {
        let layout = self.layout();
        let (lines, len) = match pane {
            Pane::Mappings => (layout.mappings, self.mappings.order.len()),
            Pane::Connections => (layout.connections, self.connections.order.len()),
            Pane::Containers => (layout.containers, self.containers.order.len()),
            // Events have no names of columns, so one line more.
            Pane::Events => {
                (layout.events.map(|l| layout::Lines { y: l.y, height: l.height + 1 }), self.events.order.len())
            }
        };
        layout::visible_rows(lines, len)
    }

    /// The selected mapping.
    pub fn selected_mapping(&self) -> Option<&MappingItem> {
        self.world().mappings.get(&self.mappings.selected?)
    }

    /// What the listed connections have beside their ends.
    pub fn beside(&self) -> columns::Beside {
        let listed = self.connections.order.iter().filter_map(|id| self.world().connections.get(id));
        listed.fold(columns::Beside::default(), |beside, item| columns::Beside {
            alias: beside.alias || item.row.connection.alias.is_some(),
            requests: beside.requests || !item.row.exchanges.is_empty(),
        })
    }

    /// The selected connection.
    pub fn selected_connection(&self) -> Option<&ConnectionItem> {
        self.world().connections.get(&self.connections.selected?)
    }

    /// The selected container.
    pub fn selected_container(&self) -> Option<&Container> {
        self.world().containers.get(self.containers.selected.as_ref()?)
    }

    /// The selected event.
    pub fn selected_event(&self) -> Option<&world::EventItem> {
        let number = self.events.selected?;
        self.world().events.iter().find(|item| item.number == number)
    }

    /// Columns that the focused table has scrolled away.
    pub fn column_skip(&self) -> usize {
        match self.focus() {
            Pane::Mappings => self.mappings.column_skip,
            Pane::Connections => self.connections.column_skip,
            Pane::Containers => self.containers.column_skip,
            Pane::Events => 0,
        }
    }

    /// Whether the focused table has more columns to the right.
    pub fn can_scroll_columns(&self) -> bool {
        match self.focus() {
            Pane::Mappings => columns::mappings(self.size.0, self.wanted(), self.mappings.column_skip).1,
            Pane::Connections => columns::connections(self.size.0, self.beside(), self.connections.column_skip).1,
            Pane::Containers => columns::containers(self.size.0, self.containers.column_skip).1,
            Pane::Events => false,
        }
    }

    /// Whether escape changes anything.
    pub fn can_go_back(&self) -> bool {
        self.zoom != Zoom::None || !self.marks.is_empty() || !self.focused_filter().is_empty() || self.hint.is_some()
    }

    /// The filter of the pane with the focus.
    pub fn focused_filter(&self) -> &Filter {
        self.filter(self.focus())
    }

    /// The filter of a pane.
    pub fn filter(&self, pane: Pane) -> &Filter {
        match pane {
            Pane::Mappings => &self.mappings.filter,
            Pane::Connections => &self.connections.filter,
            Pane::Containers => &self.containers.filter,
            Pane::Events => &self.events.filter,
        }
    }

    /// The form, while it is open.
    pub fn form(&self) -> Option<&Form> {
        match &self.overlay {
            Overlay::Form(form) => Some(form),
            _ => None,
        }
    }
}
