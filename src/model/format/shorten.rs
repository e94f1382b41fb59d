//! Text cut or broken to the columns that there are, so that what matters stays: ports, numbers of processes,
//! whole numbers of addresses.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns that a text takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// Cut at the end: `refused by the …`.
pub fn elide_end(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let Some(room) = columns.checked_sub(1) else { return String::new() };
    let mut out = head(text, room).to_owned();
    out.push('…');
    out
}

/// Cut in the middle: `[2001:…::41]`.
pub fn elide_middle(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let Some(room) = columns.checked_sub(1) else { return String::new() };
    let front = head(text, room.div_ceil(2));
    let back = tail(text, room - front.width());
    format!("{front}…{back}")
}

/// An `ADDRESS:PORT` (or `NAME:PORT`, with whatever follows the port) cut in the address, never in the port.
pub fn elide_endpoint(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let at = text.rfind(':').unwrap_or(text.len());
    let (address, port) = text.split_at(at);
    let room = columns.saturating_sub(port.width());
    if room < 2 {
        // Too narrow even for a shortened address: the port alone is still true.
        return tail(text, columns).to_owned();
    }
    format!("{}{port}", elide_address(address, room))
}

/// Cut in the middle; of an IPv4 address only whole numbers are left out, so that what stays can be trusted:
/// `172.17…2`, not `172.…0.2`.
pub fn elide_address(address: &str, columns: usize) -> String {
    if address.width() <= columns || address.parse::<std::net::Ipv4Addr>().is_err() {
        return elide_middle(address, columns);
    }
    let numbers: Vec<_> = address.split('.').collect();
    let short = [2, 1, 0].map(|front| format!("{}…{}", numbers[..front].join("."), numbers[3]));
    short.into_iter().find(|short| short.width() <= columns).unwrap_or_else(|| elide_middle(address, columns))
}

/// A sentence whose long IPv6 addresses (in brackets or alone) are cut in the middle, so that the rest of it is
/// read: `[2001:…6666]:48443 is in use`.
pub fn elide_addresses(text: &str) -> String {
    const LONG: usize = 12;
    let mut out = String::new();
    let is_part = |c: char| c.is_ascii_hexdigit() || matches!(c, ':' | '[' | ']' | '.' | '%');
    let mut rest = text;
    while let Some(start) = rest.find(is_part) {
        let (before, from) = rest.split_at(start);
        let (piece, after) = from.split_at(from.find(|c| !is_part(c)).unwrap_or(from.len()));
        out.push_str(before);
        let (address, port) = match piece.rfind(']') {
            Some(at) => piece.split_at(at + 1),
            None => (piece, ""),
        };
        let bare = address.trim_start_matches('[').trim_end_matches(']');
        let is_long = bare.parse::<std::net::Ipv6Addr>().is_ok() && address.width() > LONG;
        out.push_str(&if is_long { elide_middle(address, LONG) } else { address.to_owned() });
        out.push_str(port);
        rest = after;
    }
    out + rest
}

/// `a process with a long na… 4242`: of a process the name is cut, its number never. What ends in no number is cut
/// at its end.
pub fn elide_process(text: &str, columns: usize) -> String {
    match text.rsplit_once(' ').filter(|(_, pid)| pid.bytes().all(|byte| byte.is_ascii_digit())) {
        Some((name, pid)) if text.width() > columns && pid.width() + 3 <= columns => {
            format!("{} {pid}", elide_end(name, columns - pid.width() - 1))
        }
        _ => elide_end(text, columns),
    }
}

/// Lines of at most so many columns, broken between words where that is possible.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(2);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let gap = usize::from(!line.is_empty());
        if line.width() + gap + word.width() > columns && !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        let mut rest = word;
        while rest.width() > columns {
            let piece = head(rest, columns);
            lines.push(piece.to_owned());
            rest = &rest[piece.len()..];
        }
        line.push_str(rest);
    }
    lines.push(line);
    lines
}

fn head(text: &str, columns: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used > columns {
            return &text[..at];
        }
    }
    text
}

fn tail(text: &str, columns: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices().rev() {
        used += c.width().unwrap_or(0);
        if used > columns {
            return &text[at + c.len_utf8()..];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_cut_in_the_middle_and_ports_never() {
        let long = "[2001:db8:1234:5678:9abc:def0:1234:5678]:51520";
        for columns in 6..=long.len() {
            let short = elide_endpoint(long, columns);
            assert!(short.ends_with(":51520"), "{short}");
            assert!(width(&short) <= columns, "{short} in {columns}");
        }
        assert_eq!(elide_endpoint(long, 20), "[2001:d…:5678]:51520");
        assert_eq!(elide_endpoint("any:8080/tcp", 12), "any:8080/tcp");
        assert_eq!(elide_endpoint("localhost:9000/tcp", 15), "loc…st:9000/tcp");
    }

    #[test]
    fn of_an_ipv4_address_whole_numbers_are_left_out() {
        let table = [(15, "127.0.0.1:18093"), (14, "127.0…1:18093"), (12, "127…1:18093"), (8, "…1:18093")];
        for (columns, shown) in table {
            assert_eq!(elide_endpoint("127.0.0.1:18093", columns), shown, "in {columns}");
        }
        assert_eq!(elide_endpoint("198.51.100.7:60112", 16), "198.51…7:60112");
    }

    #[test]
    fn a_sentence_keeps_its_words_and_ports_where_addresses_are_long() {
        let long = "2001:db8:1111:2222:3333:4444:5555:6666";
        let table = [
            (
                format!("[{long}]:48443/tcp is in use by node (pid 812)"),
                "[2001:…6666]:48443/tcp is in use by node (pid 812)",
            ),
            (format!("{long} is not an address of this host"), "2001:d…:6666 is not an address of this host"),
            ("any:8080 -> web_1:80 failed: [::1]:8080".to_owned(), "any:8080 -> web_1:80 failed: [::1]:8080"),
            ("face: dead beef: 172.17.0.2:80".to_owned(), "face: dead beef: 172.17.0.2:80"),
        ];
        for (text, short) in table {
            assert_eq!(elide_addresses(&text), short);
        }
    }

    #[test]
    fn of_a_process_the_number_stays() {
        assert_eq!(elide_process("python3 21828", 10), "pyt… 21828");
        assert_eq!(elide_process("curl 4242", 10), "curl 4242");
        assert_eq!(elide_process("Web Content 4194304", 10), "W… 4194304");
        assert_eq!(elide_process("permission denied", 14), "permission de…");
    }

    #[test]
    fn text_is_broken_between_words() {
        assert_eq!(wrap("in use by python3 (pid 4824)", 12), ["in use by", "python3 (pid", "4824)"]);
        assert_eq!(wrap("", 5), [""]);
        assert_eq!(wrap("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrap("コンテナ", 5), ["コン", "テナ"]);
    }

    #[test]
    fn wide_letters_are_measured_in_columns() {
        assert_eq!(elide_end("コンテナ", 5), "コン…");
        assert_eq!(elide_end("コンテナ", 4), "コ…");
        assert_eq!(width(&elide_middle("コンテナコンテナ", 7)), 7);
    }
}
