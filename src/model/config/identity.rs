//! The fields by which a target learns who its client is, checked together: most of them mean something only beside
//! another.

use ipnet::IpNet;

use crate::model::alias::Pool;
use crate::model::cidr::parse_cidr;
use crate::model::identity::Identity;
use crate::model::mapping::Protocol;
use crate::model::problem::Problem;
use crate::model::profile::{MAX_TRUSTED, Problems, WrittenMapping};

/// The networks among these fields, as far as they can be used.
#[derive(Debug, Default)]
pub(super) struct Networks {
    pub(super) pool: Option<IpNet>,
    pub(super) trusted: Vec<IpNet>,
}

/// Checks them. A field that is not `usable` has a problem already, and says nothing of the others.
pub(super) fn check(
    written: &WrittenMapping,
    protocol: Protocol,
    usable: &dyn Fn(&str) -> bool,
    problems: &mut Problems,
) -> Networks {
    let mut networks = Networks::default();
    let identity = written.identity.unwrap_or_default();
    let are_usable = |fields: &[&str]| fields.iter().all(|field| usable(field));
    let mut report = |field: &str, text: &str, hint: &str| problems.push(Problem::new(field, text).with_hint(hint));

    if are_usable(&["identity", "protocol"]) && !identity.goes_with(protocol) {
        let text = format!("\"{}\" does not go with {protocol}", identity.word());
        let hint = match (identity, protocol) {
            (Identity::ProxyV1, Protocol::Udp) => "proxy-v2 and alias do",
            (Identity::Http, Protocol::Udp) => "it is for HTTP over tcp; proxy-v2 and alias go with udp",
            _ => "leave the field out",
        };
        report("identity", &text, hint);
    }
    if written.inspect.is_some() && protocol != Protocol::Tcp && usable("protocol") {
        report("inspect", &format!("HTTP does not come over {protocol}"), "leave the field out");
    }
    let accepts = written.accept_proxy == Some(true);
    if accepts && protocol == Protocol::Sctp && usable("protocol") {
        report("accept_proxy", "a PROXY header does not come over sctp", "leave the field out");
    }
    if accepts && written.trusted_cidrs.is_none() && usable("trusted_cidrs") {
        let hint = "list the proxies in front: \"trusted_cidrs\": [\"10.0.0.0/8\"]";
        report("accept_proxy", "whose header is to be believed is not said", hint);
    }
    let is_read = accepts || identity == Identity::Http;
    if written.trusted_cidrs.is_some() && !is_read && are_usable(&["trusted_cidrs", "accept_proxy", "identity"]) {
        let hint = "add \"accept_proxy\": true or \"identity\": \"http\", or remove the field";
        report("trusted_cidrs", "nothing reads it here", hint);
    }
    if let Some(texts) = &written.trusted_cidrs {
        if texts.is_empty() {
            report("trusted_cidrs", "the list is empty: nobody could connect", "name a network, or remove the field");
        }
        if texts.len() > MAX_TRUSTED {
            let text =
                format!("{} networks are {} over the limit of {MAX_TRUSTED}", texts.len(), texts.len() - MAX_TRUSTED);
            report("trusted_cidrs", &text, "join neighbours into larger ones");
        }
        for (index, text) in texts.iter().enumerate().take(MAX_TRUSTED) {
            match parse_cidr(text) {
                Ok(network) => networks.trusted.push(network),
                Err(said) => problems.push(Problem::new(format!("trusted_cidrs[{index}]"), said)),
            }
        }
    }
    let Some(text) = &written.alias_pool else { return networks };
    match parse_cidr(text) {
        Err(said) => problems.push(Problem::new("alias_pool", said)),
        Ok(network) => match Pool::new(network) {
            Err(unfit) => problems.push(Problem::new("alias_pool", unfit.to_string()).with_hint(unfit.hint)),
            Ok(_) if identity != Identity::Alias && are_usable(&["alias_pool", "identity"]) => {
                let hint = "add \"identity\": \"alias\", or remove the field";
                problems.push(Problem::new("alias_pool", "nothing reads it here").with_hint(hint));
            }
            Ok(pool) => networks.pool = Some(pool.network()),
        },
    }
    networks
}

#[cfg(test)]
mod tests {
    use super::super::MappingConfig;
    use super::*;
    use crate::model::identity::{DEFAULT_ALIAS_POOL, Inspect};

    fn written() -> WrittenMapping {
        WrittenMapping { listen: "8080".into(), target: "web:80".into(), ..WrittenMapping::default() }
    }

    fn said(written: &WrittenMapping) -> Vec<String> {
        MappingConfig::from_written(written).err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_field_has_its_meaning_or_is_refused() {
        let list = |texts: &[&str]| Some(texts.iter().map(ToString::to_string).collect::<Vec<_>>());
        let table = [
            (
                WrittenMapping { identity: Some(Identity::ProxyV1), protocol: Some(Protocol::Udp), ..written() },
                "identity: \"proxy-v1\" does not go with udp (proxy-v2 and alias do)",
            ),
            (
                WrittenMapping { identity: Some(Identity::Http), protocol: Some(Protocol::Udp), ..written() },
                "identity: \"http\" does not go with udp (it is for HTTP over tcp; proxy-v2 and alias go with udp)",
            ),
            (
                WrittenMapping { identity: Some(Identity::Alias), protocol: Some(Protocol::Sctp), ..written() },
                "identity: \"alias\" does not go with sctp (leave the field out)",
            ),
            (
                WrittenMapping { inspect: Some(Inspect::Http), protocol: Some(Protocol::Udp), ..written() },
                "inspect: HTTP does not come over udp (leave the field out)",
            ),
            (
                WrittenMapping { accept_proxy: Some(true), ..written() },
                "accept_proxy: whose header is to be believed is not said (list the proxies in front: \"trusted_cidrs\": [\"10.0.0.0/8\"])",
            ),
            (
                WrittenMapping { trusted_cidrs: list(&["10.0.0.0/8"]), ..written() },
                "trusted_cidrs: nothing reads it here (add \"accept_proxy\": true or \"identity\": \"http\", or remove the field)",
            ),
            (
                WrittenMapping { trusted_cidrs: list(&[]), accept_proxy: Some(true), ..written() },
                "trusted_cidrs: the list is empty: nobody could connect (name a network, or remove the field)",
            ),
            (
                WrittenMapping {
                    trusted_cidrs: list(&["::1/128", "10.0.0.1/8"]),
                    accept_proxy: Some(true),
                    ..written()
                },
                "trusted_cidrs[1]: host bits are set: did you mean 10.0.0.0/8?",
            ),
            (
                WrittenMapping { alias_pool: Some("198.19.0.0/16".into()), ..written() },
                "alias_pool: nothing reads it here (add \"identity\": \"alias\", or remove the field)",
            ),
            (
                WrittenMapping { alias_pool: Some("10.0.0.0/31".into()), identity: Some(Identity::Alias), ..written() },
                "alias_pool: 10.0.0.0/31 has too few addresses (198.18.0.0/15 has 131,072)",
            ),
            (
                WrittenMapping {
                    alias_pool: Some("127.0.0.0/16".into()),
                    identity: Some(Identity::Alias),
                    ..written()
                },
                "alias_pool: 127.0.0.0/16 reaches into 127.0.0.0/8, which is not for clients (use one of your own, such as 198.18.0.0/15, 10.200.0.0/16 or fd00:a1a5::/64)",
            ),
        ];
        for (written, expected) in table {
            assert_eq!(said(&written), [expected]);
        }
    }

    #[test]
    fn what_is_written_comes_back_and_defaults_do_not() {
        let full = WrittenMapping {
            listen: "any:8080".into(),
            identity: Some(Identity::Alias),
            alias_pool: Some("10.200.0.0/16".into()),
            accept_proxy: Some(true),
            trusted_cidrs: Some(vec!["10.0.0.0/8".into(), "fd00::/8".into()]),
            inspect: Some(Inspect::Http),
            ..written()
        };
        assert_eq!(MappingConfig::from_written(&full).unwrap().to_written(), full);
        let default = WrittenMapping {
            identity: Some(Identity::Alias),
            alias_pool: Some(DEFAULT_ALIAS_POOL.to_string()),
            accept_proxy: Some(false),
            ..written()
        };
        let back = MappingConfig::from_written(&default).unwrap().to_written();
        assert_eq!((back.alias_pool, back.accept_proxy), (None, None));
    }
}
