//! Numbers with their nouns, and how many of many are named.

/// Names that an error lists at most.
const MOST_NAMED: usize = 8;

/// `1 connection`, `7 connections`.
pub fn count(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// `there are: web, dns, and 3 more`: what could have been meant, in an error; `None` when there is nothing.
pub fn there_are<S: AsRef<str>>(names: &[S]) -> Option<String> {
    let said: Vec<&str> = names.iter().take(MOST_NAMED).map(AsRef::as_ref).collect();
    let more = match names.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    (!names.is_empty()).then(|| format!("there are: {}{more}", said.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alone_is_singular() {
        assert_eq!([0, 1, 2].map(|n| count(n, "mapping")), ["0 mappings", "1 mapping", "2 mappings"]);
    }

    #[test]
    fn of_many_names_eight_are_said() {
        let names: Vec<String> = (1..=11).map(|n| n.to_string()).collect();
        assert_eq!(there_are(&names[..2]).as_deref(), Some("there are: 1, 2"));
        assert_eq!(there_are(&names).as_deref(), Some("there are: 1, 2, 3, 4, 5, 6, 7, 8, and 3 more"));
        assert_eq!(there_are::<&str>(&[]), None);
    }
}
