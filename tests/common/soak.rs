//! Two forms of a test: the short one, and the long one of `tests/run --soak`, which has the machine to itself.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::time::Duration;

/// Whether this is the long form.
pub fn is_soak() -> bool {
    std::env::var_os("PORTOLAN_TEST_SOAK").is_some()
}

/// How much of something: so much in the short form, so much in the long one.
pub fn amount<T>(short: T, long: T) -> T {
    if is_soak() { long } else { short }
}

/// How long something may take: as long as the figure says in the long form, and ten times as long in the short one.
pub fn within(figure: Duration) -> Duration {
    amount(10, 1) * figure
}
