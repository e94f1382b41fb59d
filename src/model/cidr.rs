//! Networks in CIDR notation, checked as strictly as addresses are.

use std::net::IpAddr;

use ipnet::IpNet;

use super::untrusted::SafeText;

/// What the text of a network looks like, for the JSON Schema; [`parse_cidr`] decides.
pub const PATTERN: &str = r"^[0-9A-Fa-f:.]+/[0-9]{1,3}$";

/// Reads `ADDRESS/PREFIX`; the error says what to write.
pub fn parse_cidr(text: &str) -> Result<IpNet, String> {
    let shape = || format!("\"{}\" is no network: write it as 10.0.0.0/8 or fd00::/8", SafeText::quoted(text));
    let (address, prefix) = text.split_once('/').ok_or_else(shape)?;
    let ip: IpAddr = address.parse().map_err(|_| shape())?;
    let width = if ip.is_ipv4() { 32 } else { 128 };
    let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
    let network = prefix.parse().ok().filter(|_| digits).and_then(|prefix| IpNet::new(ip, prefix).ok());
    let network = network.ok_or_else(|| format!("the prefix must be 0-{width}"))?;
    let whole = network.trunc();
    if whole == network { Ok(network) } else { Err(format!("host bits are set: did you mean {whole}?")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_no_host_bits() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.7/32", "::/0", "fd00::/8", "2001:db8::1/128"] {
            assert_eq!(parse_cidr(text).map(|network| network.to_string()), Ok(text.to_owned()));
        }
        let said = |text: &str| parse_cidr(text).unwrap_err();
        assert_eq!(said("10.0.0.1/8"), "host bits are set: did you mean 10.0.0.0/8?");
        assert_eq!(said("1.0.0.0/0"), "host bits are set: did you mean 0.0.0.0/0?");
        assert_eq!(said("2001:db8::1/32"), "host bits are set: did you mean 2001:db8::/32?");
        assert_eq!(said("10.0.0.0/33"), "the prefix must be 0-32");
        assert_eq!(said("10.0.0.0/+8"), "the prefix must be 0-32");
        assert_eq!(said("fd00::/129"), "the prefix must be 0-128");
        for text in ["", "10.0.0.0", "10.0.0/8", "a/8", "\x1b/8"] {
            assert!(said(text).ends_with("is no network: write it as 10.0.0.0/8 or fd00::/8"), "{text}");
        }
    }
}
