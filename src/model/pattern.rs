//! The grammar of [`super::grammar`] as regular expressions, for the JSON Schema and so for editors.
//!
//! A pattern refuses most of what the grammar refuses and nothing that it accepts. What a regular expression
//! cannot say (a range's direction, multicast) is left to the reader. The dialect is ECMA 262's.

/// 1-65535, without leading zeros.
macro_rules! port {
    () => {
        "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
    };
}
macro_rules! ports {
    () => {
        concat!(port!(), "(-", port!(), ")?")
    };
}
macro_rules! ip {
    () => {
        concat!(
            r"((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\.(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])){3}",
            r"|\[[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*(%[^\s/:%\[\]]{1,15})?\])"
        )
    };
}
macro_rules! name {
    () => {
        "[A-Za-z0-9][A-Za-z0-9_.-]{0,254}"
    };
}

macro_rules! listen {
    () => {
        concat!(r"((localhost|any|\*|", ip!(), "):)?(auto|", ports!(), ")")
    };
}
macro_rules! target {
    () => {
        concat!(
            "(",
            ip!(),
            "|container/",
            name!(),
            "|compose/",
            name!(),
            "/",
            name!(),
            "|host/[A-Za-z0-9_.-]{1,254}|([0-9][0-9.]*[A-Za-z_-]|[A-Za-z])[A-Za-z0-9_.-]*):",
            ports!()
        )
    };
}

/// `[ADDRESS:]PORT[-PORT]` or `[ADDRESS:]auto`.
pub const LISTEN: &str = concat!("^", listen!(), "$");

/// `TARGET:PORT[-PORT]`. A bare name has something else than digits and dots in it.
pub const TARGET: &str = concat!("^", target!(), "$");

/// Both with a colon between, and `/udp` or `/sctp` where it is not tcp.
pub const MAPPING: &str = concat!("^", listen!(), ":", target!(), "(/(tcp|udp|sctp))?$");
