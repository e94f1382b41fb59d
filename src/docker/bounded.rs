//! Words and lists of the daemon as they are read: each word safe, each list with an end.
//!
//! Only what is used is kept, field by field as it is parsed, so that 16 MiB of the most ill-meant JSON do not become
//! gigabytes (bollard's own types would: an empty object of three bytes takes hundreds).

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};

use crate::model::untrusted::SafeText;

/// A string of the daemon, made safe before it is kept.
pub(super) struct SafeWord(pub(super) SafeText);

impl<'de> Deserialize<'de> for SafeWord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;
        impl Visitor<'_> for Word {
            type Value = SafeWord;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E>(self, raw: &str) -> Result<SafeWord, E> {
                Ok(SafeWord(SafeText::new(raw)))
            }
        }
        deserializer.deserialize_str(Word)
    }
}

/// The first `N` elements of an array, and how many more there were.
pub(super) struct Few<T, const N: usize> {
    pub(super) kept: Vec<T>,
    pub(super) dropped: usize,
}

impl<T, const N: usize> Default for Few<T, N> {
    fn default() -> Self {
        Self { kept: Vec::new(), dropped: 0 }
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for Few<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Array<T, const N: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Array<T, N> {
            type Value = Few<T, N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Few<T, N>, A::Error> {
                let mut few = Few::default();
                while few.kept.len() < N {
                    match array.next_element()? {
                        Some(element) => few.kept.push(element),
                        None => return Ok(few),
                    }
                }
                while array.next_element::<IgnoredAny>()?.is_some() {
                    few.dropped += 1;
                }
                Ok(few)
            }
        }
        deserializer.deserialize_seq(Array(PhantomData))
    }
}

/// The text, empty where there is none.
pub(super) fn text(word: Option<SafeWord>) -> SafeText {
    word.map(|word| word.0).unwrap_or_default()
}

/// The words that are addresses.
pub(super) fn ips(words: impl IntoIterator<Item = Option<SafeWord>>) -> Vec<IpAddr> {
    words.into_iter().flatten().filter_map(|word| word.0.as_str().parse().ok()).collect()
}
