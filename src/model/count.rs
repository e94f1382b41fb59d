//! Numbers with their nouns.

/// `1 connection`, `7 connections`.
pub fn count(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alone_is_singular() {
        assert_eq!([0, 1, 2].map(|n| count(n, "mapping")), ["0 mappings", "1 mapping", "2 mappings"]);
    }
}
