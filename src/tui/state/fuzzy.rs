//! How well a text matches what was typed of it: the typed characters must all be there, in order.
//!
//! It ranks short lists of names, so it is a small comparison and no index.

/// How well a text matches; the smaller, the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    kind: Kind,
    /// Characters that lie between those that match, and before the first of them.
    gaps: usize,
    start: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Whole,
    Prefix,
    /// At the beginning of a word, as `api` in `shop-api-1`.
    Word,
    Inside,
    Scattered,
}

/// Matches `typed` in `text`, whatever their case; `None` when a character is missing. Nothing typed matches all.
pub fn rank(typed: &str, text: &str) -> Option<Rank> {
    let typed: Vec<char> = typed.to_lowercase().chars().collect();
    let text: Vec<char> = text.to_lowercase().chars().collect();
    if typed.is_empty() {
        return Some(Rank { kind: Kind::Prefix, gaps: 0, start: 0 });
    }
    let starts: Vec<usize> =
        text.windows(typed.len()).enumerate().filter(|(_, w)| *w == typed).map(|(at, _)| at).collect();
    if let Some(first) = starts.first() {
        let begins_word = |at: &usize| *at == 0 || !text[at - 1].is_alphanumeric();
        let (kind, start) = match starts.iter().find(|at| begins_word(at)) {
            Some(0) if text.len() == typed.len() => (Kind::Whole, 0),
            Some(0) => (Kind::Prefix, 0),
            Some(at) => (Kind::Word, *at),
            None => (Kind::Inside, *first),
        };
        return Some(Rank { kind, gaps: 0, start });
    }
    // Of all places where it could begin, the one after which the fewest characters are passed over.
    (0..text.len())
        .filter(|start| text[*start] == typed[0])
        .filter_map(|start| {
            let mut at = start;
            for c in &typed {
                at += text[at..].iter().position(|other| other == c)? + 1;
            }
            Some(Rank { kind: Kind::Scattered, gaps: at - start - typed.len(), start })
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best<'a>(typed: &str, texts: &[&'a str]) -> Vec<&'a str> {
        let mut found: Vec<_> = texts.iter().filter_map(|text| Some((rank(typed, text)?, *text))).collect();
        found.sort_by_key(|(rank, _)| *rank);
        found.into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn characters_match_in_their_order_and_the_closest_comes_first() {
        assert_eq!(best("sapi", &["shop-api-1", "sleepy-app-in", "api-s"]), ["shop-api-1", "sleepy-app-in"]);
        assert_eq!(best("wb1", &["web_2", "web_1", "wandering-bear-1"]), ["web_1", "wandering-bear-1"]);
    }

    #[test]
    fn an_exact_name_comes_before_a_prefix_a_word_and_an_inside() {
        let texts = ["my-kapi", "shop-api-1", "api_2", "api", "a-pi"];
        assert_eq!(best("api", &texts), ["api", "api_2", "shop-api-1", "my-kapi", "a-pi"]);
    }

    #[test]
    fn case_does_not_matter_and_nothing_typed_matches_all() {
        assert!(rank("WEB", "web_1").is_some() && rank("web", "Web_1").is_some());
        assert_eq!(best("", &["b", "a"]), ["b", "a"], "in the order that they had");
        assert!(rank("x", "").is_none());
        assert!(rank("ß", "STRASSE").is_none());
    }
}
