//! Which columns a list shows at a width: they come and go whole, each width adding to the one above.

use crate::model::format;

/// A column of the list of mappings, in the order shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "their titles say what they are")]
pub enum MappingColumn {
    State,
    Listen,
    Who,
    Target,
    Connections,
    InRate,
    OutRate,
    LastResult,
    In,
    Out,
    TargetAddress,
    Graph,
    Errors,
    ConnectTime,
    Profile,
}

/// A column of a list of connections, in the order shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "their titles say what they are")]
pub enum ConnectionColumn {
    Family,
    Client,
    Alias,
    Process,
    Request,
    State,
    In,
    Out,
    InRate,
    OutRate,
    Age,
    Listener,
    Source,
    TargetAddress,
}

/// A column of the list of containers, in the order shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "their titles say what they are")]
pub enum ContainerColumn {
    State,
    Name,
    Address,
    AddressV6,
    Image,
    Ports,
    Published,
    Networks,
    Service,
    Id,
}

/// How a column is laid out.
#[derive(Clone, Copy, Debug)]
pub struct Column<C> {
    /// Which.
    pub id: C,
    /// Its heading.
    pub title: &'static str,
    /// The screen width from which it is shown.
    from: u16,
    /// Never narrower than this; if there is room, as wide as `good`; with still more, up to `most`.
    least: u16,
    good: u16,
    most: u16,
    /// Figures stand at the right.
    pub is_right: bool,
    /// It does not scroll away.
    is_key: bool,
}

/// A column with its place.
#[derive(Clone, Copy, Debug)]
pub struct Placed<C> {
    /// Which.
    pub id: C,
    /// Its heading.
    pub title: &'static str,
    /// First column of the screen.
    pub x: u16,
    /// Width.
    pub width: u16,
    /// Figures stand at the right.
    pub is_right: bool,
}

const fn fixed<C: Copy>(id: C, title: &'static str, from: u16, width: u16) -> Column<C> {
    Column { id, title, from, least: width, good: width, most: width, is_right: false, is_key: false }
}

const fn figure<C: Copy>(id: C, title: &'static str, from: u16, width: u16) -> Column<C> {
    Column { is_right: true, ..fixed(id, title, from, width) }
}

const fn flexible<C: Copy>(id: C, title: &'static str, from: u16, least: u16, good: u16, most: u16) -> Column<C> {
    Column { id, title, from, least, good, most, is_right: false, is_key: false }
}

const fn key<C: Copy>(column: Column<C>) -> Column<C> {
    Column { is_key: true, ..column }
}

/// From this width on a column says which profile a mapping is of, or that it is of none.
pub const WITH_PROFILE: u16 = 160;
/// Columns before the first one: selection, mark and severity.
pub const MAPPING_GUTTER: u16 = 4;
/// Columns before the first one: selection.
pub const CONNECTION_GUTTER: u16 = 3;

/// How wide the listen and target columns of a list would have to be for nothing to be cut. These texts change
/// only when a mapping does, so the columns stand still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of STATE: a port that Docker publishes says `docker` there.
    pub state: u16,
    /// Of LISTEN.
    pub listen: u16,
    /// Of TARGET.
    pub target: u16,
    /// Of those targets that are IPv4 addresses: a piece of a number is of no use, so names give way first.
    pub target_numbers: u16,
}

/// `172.17.0.2:18080`; with longer addresses there would not be room for the rest.
const MOST_NUMBERS: u16 = 16;

fn mapping_columns(wanted: Wanted) -> [Column<MappingColumn>; 15] {
    use MappingColumn as M;
    let state = wanted.state.clamp(5, 6);
    // At 40 columns there is room for both at their least, and no more.
    let least = 18 - state;
    let listen = wanted.listen.clamp(13, 32);
    let target = wanted.target.clamp(11, 30);
    [
        key(fixed(M::State, "STATE", 0, state)),
        key(flexible(M::Listen, "LISTEN", 0, least, listen, 32)),
        fixed(M::Who, "WHO", 80, 4),
        flexible(M::Target, "TARGET", 0, wanted.target_numbers.clamp(11, MOST_NUMBERS), target.max(11), 30),
        figure(M::Connections, "CONNS", 60, 5),
        figure(M::InRate, "IN/s", 80, 5),
        figure(M::OutRate, "OUT/s", 80, 5),
        flexible(M::LastResult, "LAST RESULT", 60, 11, 14, 40),
        figure(M::In, "IN", 120, 5),
        figure(M::Out, "OUT", 120, 5),
        flexible(M::TargetAddress, "TARGET ADDRESS", 120, 15, 15, 39),
        fixed(M::Graph, "OUT/s 30s", 120, 10),
        figure(M::Errors, "ERRORS", 160, 6),
        figure(M::ConnectTime, "CONNECT", 160, 7),
        fixed(M::Profile, "PROFILE", WITH_PROFILE, 8),
    ]
}

/// What connections have beside their ends, if one of the list has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// An alias, as which the target sees the client.
    pub alias: bool,
    /// HTTP requests.
    pub requests: bool,
}

fn connection_columns(width: u16, beside: Beside) -> Vec<Column<ConnectionColumn>> {
    use ConnectionColumn as C;
    // What a mapping was asked to show stands where there is room for one column; the process then has to wait.
    let process = match (beside.alias, beside.requests) {
        (false, false) => 80,
        (true, true) => 180,
        _ => WITH_PROFILE,
    };
    let request = if beside.alias { 120 } else { 80 };
    let path = if width < WITH_PROFILE { 14 } else { 24 };
    // With a process column the reason of a closed connection runs over both; without, it needs the room itself.
    let state = if width < 80 { flexible(C::State, "STATE", 0, 10, 17, 17) } else { fixed(C::State, "STATE", 0, 7) };
    let columns = [
        key(fixed(C::Family, "FAMILY", 0, 6)),
        key(flexible(C::Client, "CLIENT", 0, 14, 25, 47)),
        flexible(C::Alias, "ALIAS", 80, 15, 15, 39),
        flexible(C::Process, "PROCESS", process, 10, 10, 24),
        flexible(C::Request, "LAST REQUEST", request, path, path.max(20), 60),
        state,
        figure(C::In, "IN", 80, 5),
        figure(C::Out, "OUT", 80, 5),
        figure(C::InRate, "IN/s", 120, 5),
        figure(C::OutRate, "OUT/s", 60, 5),
        figure(C::Age, "AGE", 60, 7),
        flexible(C::Listener, "LISTENER", 120, 15, 22, 47),
        flexible(C::Source, "SOURCE", 160, 15, 18, 47),
        flexible(C::TargetAddress, "TARGET ADDRESS", 160, 15, 18, 47),
    ];
    let is_there = |column: &Column<ConnectionColumn>| match column.id {
        C::Alias => beside.alias,
        C::Request => beside.requests,
        _ => true,
    };
    columns.into_iter().filter(is_there).collect()
}

fn container_columns(width: u16) -> [Column<ContainerColumn>; 10] {
    use ContainerColumn as C;
    // Once IPv6 has a column of its own, no more than an IPv4 address stands in the first.
    let address = if width < 120 {
        flexible(C::Address, "ADDRESS", 60, 15, 15, 39)
    } else {
        fixed(C::Address, "ADDRESS", 60, 15)
    };
    [
        key(fixed(C::State, "STATE", 0, 10)),
        key(flexible(C::Name, "NAME", 0, 14, 18, 40)),
        address,
        flexible(C::AddressV6, "IPv6 ADDRESS", 120, 12, 20, 39),
        flexible(C::Image, "IMAGE", 80, 12, 16, 40),
        flexible(C::Ports, "PORTS", 80, 12, 16, 30),
        flexible(C::Published, "PUBLISHED", 120, 16, 22, 48),
        flexible(C::Networks, "NETWORKS", 160, 10, 14, 30),
        flexible(C::Service, "SERVICE", 160, 10, 14, 30),
        fixed(C::Id, "ID", 160, 12),
    ]
}

/// The columns of the list of mappings, and whether there are more to scroll to.
pub fn mappings(width: u16, wanted: Wanted, skip: usize) -> (Vec<Placed<MappingColumn>>, bool) {
    place(&mapping_columns(wanted), width, MAPPING_GUTTER, skip)
}

/// The columns of a list of connections, and whether there are more to scroll to.
pub fn connections(width: u16, beside: Beside, skip: usize) -> (Vec<Placed<ConnectionColumn>>, bool) {
    place(&connection_columns(width, beside), width, CONNECTION_GUTTER, skip)
}

/// The columns of the list of containers, and whether there are more to scroll to.
pub fn containers(width: u16, skip: usize) -> (Vec<Placed<ContainerColumn>>, bool) {
    place(&container_columns(width), width, CONNECTION_GUTTER, skip)
}

fn place<C: Copy>(columns: &[Column<C>], width: u16, gutter: u16, skip: usize) -> (Vec<Placed<C>>, bool) {
    let (keys, rest): (Vec<_>, Vec<_>) = columns.iter().partition(|column| column.is_key);
    let mut chosen: Vec<Column<C>> = Vec::new();
    let mut has_more = false;
    if skip == 0 {
        chosen.extend(columns.iter().filter(|column| column.from <= width).copied());
        has_more = chosen.len() < columns.len();
    } else {
        chosen.extend(keys.iter().copied().copied());
        let room = |chosen: &[Column<C>]| gutter + chosen.iter().map(|column| column.least + 1).sum::<u16>();
        for column in rest.into_iter().skip(skip.min(columns.len() - keys.len() - 1)) {
            if room(&chosen) + column.least > width {
                has_more = true;
                break;
            }
            chosen.push(*column);
        }
    }
    let gaps = u16::try_from(chosen.len().saturating_sub(1)).unwrap_or(0);
    let mut widths: Vec<u16> = chosen.iter().map(|column| column.least).collect();
    let mut left = width.saturating_sub(gutter + gaps + widths.iter().sum::<u16>());
    // First each to a good width, one after the other; then what is left goes round.
    for (width, column) in widths.iter_mut().zip(&chosen) {
        let more = (column.good - *width).min(left);
        *width += more;
        left -= more;
    }
    while left > 0 {
        let before = left;
        for (width, column) in widths.iter_mut().zip(&chosen) {
            let more = u16::from(*width < column.most && left > 0);
            *width += more;
            left -= more;
        }
        if left == before {
            break;
        }
    }
    let mut x = gutter;
    let placed = chosen
        .iter()
        .zip(widths)
        .map(|(column, width)| {
            let at = x;
            x += width + 1;
            Placed { id: column.id, title: column.title, x: at, width, is_right: column.is_right }
        })
        .collect();
    (placed, has_more)
}

/// A text cut to the width of its column in the way that suits it.
pub fn fitted<C>(text: &str, column: &Placed<C>, is_endpoint: bool) -> String {
    let width = usize::from(column.width);
    if is_endpoint { format::elide_endpoint(text, width) } else { format::elide_end(text, width) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted { state: 6, listen: 18, target: 10, target_numbers: 0 };

    #[test]
    fn each_width_adds_columns_to_the_one_above() {
        let count = |width| {
            (
                mappings(width, WANTED, 0).0.len(),
                connections(width, Beside::default(), 0).0.len(),
                containers(width, 0).0.len(),
            )
        };
        assert_eq!(count(40), (3, 3, 2));
        assert_eq!(count(60), (5, 5, 3));
        assert_eq!(count(80), (8, 8, 5));
        assert_eq!(count(120), (12, 10, 7));
        assert_eq!(count(160), (15, 12, 10));
    }

    #[test]
    fn columns_never_overlap_nor_leave_the_screen() {
        const LONG: Wanted = Wanted { state: 6, listen: 40, target: 40, target_numbers: 21 };
        for width in 40..300 {
            for skip in 0..15 {
                for (x, columns) in [
                    mappings(width, LONG, skip).0.iter().map(|c| (c.x, c.width)).collect::<Vec<_>>(),
                    mappings(width, WANTED, skip).0.iter().map(|c| (c.x, c.width)).collect::<Vec<_>>(),
                    connections(width, Beside::default(), skip).0.iter().map(|c| (c.x, c.width)).collect(),
                    connections(width, Beside { alias: true, requests: false }, skip)
                        .0
                        .iter()
                        .map(|c| (c.x, c.width))
                        .collect(),
                    connections(width, Beside { alias: true, requests: true }, skip)
                        .0
                        .iter()
                        .map(|c| (c.x, c.width))
                        .collect(),
                    containers(width, skip).0.iter().map(|c| (c.x, c.width)).collect(),
                ]
                .into_iter()
                .enumerate()
                {
                    for pair in columns.windows(2) {
                        assert!(pair[0].0 + pair[0].1 < pair[1].0, "{x} at {width}");
                    }
                    let last = columns.last().expect("key columns stay");
                    assert!(last.0 + last.1 <= width, "{x} at {width} skipping {skip}: {columns:?}");
                }
            }
        }
    }

    #[test]
    fn names_give_way_to_numbers() {
        let wanted = Wanted { state: 5, listen: 19, target: 15, target_numbers: 15 };
        for width in 40..160 {
            let (columns, _) = mappings(width, wanted, 0);
            let target = columns.iter().find(|column| column.id == MappingColumn::Target).expect("shown");
            assert!(target.width >= 15, "127.0.0.1:18093 at {width}");
        }
    }

    #[test]
    fn at_80_columns_listen_shows_localhost_with_port_and_protocol() {
        let (columns, more) = mappings(80, WANTED, 0);
        let listen = columns.iter().find(|column| column.id == MappingColumn::Listen).expect("shown");
        assert!(usize::from(listen.width) >= "localhost:9000/tcp".len());
        assert!(more);
        assert!(!mappings(160, WANTED, 0).1);
    }
}
