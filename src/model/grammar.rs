//! Reads mapping text (contract §1): `FromStr` of the types in [`super::mapping`].

use std::str::FromStr;

use super::mapping::{Listen, Mapping, Protocol, Target};

/// What is wrong with a mapping text, in the words of faults.md's table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GrammarError(pub String);

impl FromStr for Mapping {
    type Err = GrammarError;
    fn from_str(_text: &str) -> Result<Self, GrammarError> {
        Err(GrammarError("not written yet".into()))
    }
}
impl FromStr for Listen {
    type Err = GrammarError;
    fn from_str(_text: &str) -> Result<Self, GrammarError> {
        Err(GrammarError("not written yet".into()))
    }
}
impl FromStr for Target {
    type Err = GrammarError;
    fn from_str(_text: &str) -> Result<Self, GrammarError> {
        Err(GrammarError("not written yet".into()))
    }
}
impl FromStr for Protocol {
    type Err = GrammarError;
    fn from_str(_text: &str) -> Result<Self, GrammarError> {
        Err(GrammarError("not written yet".into()))
    }
}
impl TryFrom<String> for Mapping {
    type Error = GrammarError;
    fn try_from(text: String) -> Result<Self, GrammarError> {
        text.parse()
    }
}
impl TryFrom<String> for Listen {
    type Error = GrammarError;
    fn try_from(text: String) -> Result<Self, GrammarError> {
        text.parse()
    }
}
impl TryFrom<String> for Target {
    type Error = GrammarError;
    fn try_from(text: String) -> Result<Self, GrammarError> {
        text.parse()
    }
}
