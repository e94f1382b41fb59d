//! Networks in CIDR notation, checked as strictly as addresses are.

use std::net::IpAddr;

use super::untrusted::SafeText;

/// Checks `ADDRESS/PREFIX`; the error says what to write.
pub fn check_cidr(text: &str) -> Result<(), String> {
    let shape = || format!("\"{}\" is no network: write it as 10.0.0.0/8 or fd00::/8", SafeText::quoted(text));
    let (address, prefix) = text.split_once('/').ok_or_else(shape)?;
    let ip: IpAddr = address.parse().map_err(|_| shape())?;
    let (bits, width) = match ip {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    };
    let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
    let prefix = match prefix.parse::<u32>() {
        Ok(length) if digits && length <= width => length,
        _ => return Err(format!("the prefix must be 0-{width}")),
    };
    let host_bits = width - prefix;
    let network = bits.checked_shr(host_bits).and_then(|kept| kept.checked_shl(host_bits)).unwrap_or(0);
    if network == bits {
        return Ok(());
    }
    let network = match ip {
        IpAddr::V4(_) => IpAddr::V4(u32::try_from(network).unwrap_or(0).into()),
        IpAddr::V6(_) => IpAddr::V6(network.into()),
    };
    Err(format!("host bits are set: did you mean {network}/{prefix}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_no_host_bits() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.7/32", "::/0", "fd00::/8", "2001:db8::1/128"] {
            assert_eq!(check_cidr(text), Ok(()), "{text}");
        }
        let said = |text: &str| check_cidr(text).unwrap_err();
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
