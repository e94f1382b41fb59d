//! A list on the screen: its order, what is selected (by id, never by place), how it is sorted and filtered.

use crate::model::filter::Filter;

/// Rows by id, in the order shown.
#[derive(Clone, Debug)]
pub struct List<I, S> {
    /// Every row that the filter lets through, in the order shown.
    pub order: Vec<I>,
    /// The selected row; it stays selected wherever it moves.
    pub selected: Option<I>,
    /// Where the selected row stood, to go on from there when it is gone.
    place: usize,
    /// First row shown.
    pub offset: usize,
    /// By what it is sorted.
    pub sort: S,
    /// Largest first.
    pub descending: bool,
    /// What is let through.
    pub filter: Filter,
    /// Columns scrolled away.
    pub column_skip: usize,
}

impl<I: Clone + PartialEq, S: Copy> List<I, S> {
    /// An empty list.
    pub fn new(sort: S, descending: bool) -> Self {
        Self {
            order: Vec::new(),
            selected: None,
            place: 0,
            offset: 0,
            sort,
            descending,
            filter: Filter::default(),
            column_skip: 0,
        }
    }

    /// Where the selected row stands.
    pub fn position(&self) -> Option<usize> {
        let selected = self.selected.as_ref()?;
        // It seldom moves: look where it was first.
        if self.order.get(self.place) == Some(selected) {
            return Some(self.place);
        }
        self.order.iter().position(|id| id == selected)
    }

    /// Selects the row at a place, the last one if there are fewer.
    pub fn select(&mut self, place: usize) {
        self.place = place.min(self.order.len().saturating_sub(1));
        self.selected = self.order.get(self.place).cloned();
    }

    /// Moves the selection by so many rows.
    pub fn step(&mut self, by: isize) {
        let from = self.position().unwrap_or(self.place);
        self.select(from.saturating_add_signed(by));
    }

    /// Makes the selection and the first row shown agree with the rows there are.
    pub fn settle(&mut self, visible: usize) {
        match self.position() {
            Some(place) => self.place = place,
            None => self.select(self.place),
        }
        let most = self.order.len().saturating_sub(visible);
        if self.place < self.offset {
            self.offset = self.place;
        } else if visible > 0 && self.place >= self.offset + visible {
            self.offset = self.place + 1 - visible;
        }
        self.offset = self.offset.min(most);
    }
}

/// By what mappings are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingSort {
    /// Host port, then address.
    Listen,
    /// The order of the profile.
    Profile,
    /// State.
    State,
    /// Target.
    Target,
    /// Open connections.
    Connections,
    /// Bytes a second from clients.
    In,
    /// Bytes a second to clients.
    Out,
    /// Errors.
    Errors,
}

/// By what connections are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionSort {
    /// Bytes a second to the client.
    OutRate,
    /// Bytes a second from the client.
    InRate,
    /// Bytes to the client.
    Out,
    /// Bytes from the client.
    In,
    /// Age.
    Age,
    /// Client address.
    Client,
    /// State.
    State,
}

/// By what containers are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerSort {
    /// Those that run first, then by name.
    State,
    /// Name.
    Name,
    /// Image.
    Image,
    /// First address.
    Address,
}

impl MappingSort {
    /// Its name, and the one that `s` goes to.
    pub fn name_and_next(self) -> (&'static str, Self) {
        match self {
            Self::Profile => ("profile", Self::Listen),
            Self::Listen => ("listen", Self::Target),
            Self::Target => ("target", Self::State),
            Self::State => ("state", Self::Connections),
            Self::Connections => ("conns", Self::In),
            Self::In => ("in/s", Self::Out),
            Self::Out => ("out/s", Self::Errors),
            Self::Errors => ("errors", Self::Profile),
        }
    }

    /// Whether the largest comes first by default.
    pub fn starts_descending(self) -> bool {
        matches!(self, Self::Connections | Self::In | Self::Out | Self::Errors)
    }
}

impl ConnectionSort {
    /// Its name, and the one that `s` goes to.
    pub fn name_and_next(self) -> (&'static str, Self) {
        match self {
            Self::OutRate => ("out/s", Self::InRate),
            Self::InRate => ("in/s", Self::Out),
            Self::Out => ("out", Self::In),
            Self::In => ("in", Self::Age),
            Self::Age => ("age", Self::Client),
            Self::Client => ("client", Self::State),
            Self::State => ("state", Self::OutRate),
        }
    }

    /// Whether the largest comes first by default.
    pub fn starts_descending(self) -> bool {
        !matches!(self, Self::Client | Self::State)
    }
}

impl ContainerSort {
    /// Its name, and the one that `s` goes to.
    pub fn name_and_next(self) -> (&'static str, Self) {
        match self {
            Self::State => ("state", Self::Name),
            Self::Name => ("name", Self::Image),
            Self::Image => ("image", Self::Address),
            Self::Address => ("address", Self::State),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(rows: &[u8]) -> List<u8, ()> {
        List { order: rows.to_vec(), ..List::new((), false) }
    }

    #[test]
    fn the_selection_follows_the_id() {
        let mut list = list(&[1, 2, 3, 4]);
        list.select(2);
        list.order = vec![4, 3, 2, 1];
        list.settle(2);
        assert_eq!((list.selected, list.position()), (Some(3), Some(1)));
    }

    #[test]
    fn a_row_that_went_gives_the_selection_to_the_one_in_its_place() {
        let mut list = list(&[1, 2, 3]);
        list.select(1);
        list.settle(3);
        list.order = vec![1, 3];
        list.settle(3);
        assert_eq!(list.selected, Some(3));
        list.order.clear();
        list.settle(3);
        assert_eq!(list.selected, None);
    }

    #[test]
    fn the_selected_row_is_always_among_those_shown() {
        let mut list = list(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        for step in [7, -3, 5, -9, 2] {
            list.step(step);
            list.settle(3);
            let place = list.position().expect("rows");
            assert!((list.offset..list.offset + 3).contains(&place));
        }
        list.settle(100);
        assert_eq!(list.offset, 0);
    }
}
