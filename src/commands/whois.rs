//! `whois`: turns the addresses in a container's log back into those of its clients.

use std::io::Write;
use std::net::IpAddr;

use super::{Failure, Output, Remark};
use crate::model::alias::{AliasClient, WhoIs};
use crate::model::count::count;
use crate::model::request::{Reply, Request};
use crate::service::Handle;

/// `whois`: the client behind an alias, or the alias of a client.
///
/// # Errors
/// When nobody is behind it, the engine is gone, or the answer cannot be written.
pub async fn whois(handle: &Handle, address: IpAddr, out: &mut Output<impl Write>) -> Result<Remark, Failure> {
    match handle.request(Request::Whois { address }).await? {
        Reply::Whois(found) => say_whois(&found, out),
        _ => Ok(None),
    }
}

/// The same for who knows it without an engine.
///
/// # Errors
/// When the answer cannot be written.
pub fn say_whois(found: &WhoIs, out: &mut Output<impl Write>) -> Result<Remark, Failure> {
    if out.json {
        out.value(found)?;
    } else {
        let lines: String = found.clients.iter().map(|client| line(found, client)).collect();
        out.text(&lines)?;
    }
    Ok(None)
}

fn line(WhoIs { alias, pool, .. }: &WhoIs, told: &AliasClient) -> String {
    let AliasClient { client, since, last_seen, open_connections, is_answered, until } = told;
    let seen = match (until, open_connections) {
        (Some(_), _) | (None, 0) => format!("last seen {last_seen:.0}"),
        (None, open) => format!("seen now ({} open)", count(u64::from(*open), "connection")),
    };
    let unsure = if *is_answered { "" } else { ", named by datagrams alone that had no answer" };
    match until {
        None => format!("{alias} of {pool} is {client} since {since:.0}, {seen}{unsure}\n"),
        Some(until) => format!("{alias} of {pool} was {client} from {since:.0} until {until:.0}, {seen}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::alias::time;

    #[test]
    fn each_client_of_an_alias_is_a_line() {
        let client = |client: &str, open_connections, until| AliasClient {
            client: client.parse().unwrap(),
            since: time(3_600),
            last_seen: time(86_400),
            open_connections,
            is_answered: true,
            until,
        };
        let found = WhoIs {
            alias: "198.18.3.7".parse().unwrap(),
            pool: "198.18.0.0/15".into(),
            clients: vec![client("2001:db8::41", 2, None), client("192.0.2.9", 0, Some(time(90_000)))],
        };
        let mut text = Vec::new();
        say_whois(&found, &mut Output::new(&mut text, false)).unwrap();
        let said = "198.18.3.7 of 198.18.0.0/15 is 2001:db8::41 since 1970-01-01T01:00:00Z, seen now (2 connections \
                    open)\n\
                    198.18.3.7 of 198.18.0.0/15 was 192.0.2.9 from 1970-01-01T01:00:00Z until 1970-01-02T01:00:00Z, \
                    last seen 1970-01-02T00:00:00Z\n";
        assert_eq!(String::from_utf8(text).unwrap(), said);
        let idle = line(&found, &client("2001:db8::41", 0, None));
        assert!(idle.ends_with(" since 1970-01-01T01:00:00Z, last seen 1970-01-02T00:00:00Z\n"), "{idle}");
        let named = line(&found, &AliasClient { is_answered: false, ..client("2001:db8::41", 0, None) });
        assert_eq!(named, idle.replace('\n', ", named by datagrams alone that had no answer\n"));
    }
}
