//! The specification as a table: each header whole, byte by byte, and fused with what follows.

use proptest::prelude::*;

use super::*;
use Expected::{Refused, Tells, Unfinished};
use Transport::{Datagram, Stream};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

enum Expected {
    /// A header over all the bytes, of these addresses.
    Tells(&'static str, &'static str),
    /// A header over all the bytes, which tells nothing.
    Nothing,
    Refused(Malformed),
    Unfinished,
}

/// A header of version 2: its command, its family and transport, and what is behind its length.
fn v2(command: u8, family: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = u16::try_from(body.len()).expect("a vector is short").to_be_bytes();
    [SIGNATURE, &[command, family], &length, &body].concat()
}

fn field(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("a vector is short").to_be_bytes();
    [&[kind], &length[..], value].concat()
}

/// `192.0.2.1:56324` to `198.51.100.7:443`.
const INET: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 7, 0xDC, 0x04, 0x01, 0xBB];
/// `[2001:db8::1]:56324` to `[2001:db8::7]:443`.
const INET6: &[u8] = &[
    0x20, 1, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x20, 1, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7,
    0xDC, 0x04, 0x01, 0xBB,
];
/// `::ffff:192.0.2.1` and `::ffff:198.51.100.7`.
const MAPPED: &[u8] = &[
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 198, 51, 100, 7,
    0xDC, 0x04, 0x01, 0xBB,
];
const UNIX: &[u8] = &[b'/'; 216];

const V4: Expected = Tells("192.0.2.1:56324", "198.51.100.7:443");
const V6: Expected = Tells("[2001:db8::1]:56324", "[2001:db8::7]:443");
const LONGEST_V6: &str =
    "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";

fn of_version_1() -> Vec<(&'static str, Vec<u8>, Expected)> {
    let line = |text: &str| text.as_bytes().to_vec();
    let unknown = |ignored: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(ignored)).into_bytes();
    let fields = || Refused(Malformed::Fields);
    let family = || Refused(Malformed::Family);
    vec![
        ("TCP4", line("PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"), V4),
        ("TCP6", line("PROXY TCP6 2001:db8::1 2001:db8::7 56324 443\r\n"), V6),
        ("TCP6 in full", line("PROXY TCP6 2001:0db8:0:0:0:0:0:1 2001:DB8:0000::7 56324 443\r\n"), V6),
        ("TCP6 as inet_ntop maps", line("PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.7 56324 443\r\n"), V4),
        (
            "TCP6, one of them mapped",
            line("PROXY TCP6 2001:db8::1 ::ffff:198.51.100.7 56324 443\r\n"),
            Tells("[2001:db8::1]:56324", "198.51.100.7:443"),
        ),
        (
            "the longest TCP4",
            line("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"),
            Tells("255.255.255.255:65535", "255.255.255.255:65535"),
        ),
        (
            "the longest TCP6",
            line(LONGEST_V6),
            Tells("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
        ),
        ("ports of 0", line("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n"), Tells("0.0.0.0:0", "0.0.0.0:0")),
        ("UNKNOWN", line("PROXY UNKNOWN\r\n"), Expected::Nothing),
        ("UNKNOWN with addresses", line("PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n"), Expected::Nothing),
        ("UNKNOWN with anything", line("PROXY UNKNOWN  \t\0anything\r\n"), Expected::Nothing),
        ("the longest UNKNOWN", unknown(91), Expected::Nothing),
        ("one byte longer", unknown(92), Refused(Malformed::Endless)),
        ("an UNKNOWN without end", line(&format!("PROXY UNKNOWN {}", "x".repeat(200))), Refused(Malformed::Endless)),
        ("UNKNOWN in another code", line("PROXY UNKNOWN \u{e4}\r\n"), fields()),
        ("UNKNOWNS", line("PROXY UNKNOWNS\r\n"), family()),
        ("UNKNOW", line("PROXY UNKNOW\r\n"), Refused(Malformed::Family)),
        ("unknown", line("PROXY unknown\r\n"), family()),
        ("no family", line("PROXY \r\n"), family()),
        ("the greeting alone, ended", line("PROXY\r\n"), Refused(Malformed::Absent)),
        ("UDP4", line("PROXY UDP4 192.0.2.1 198.51.100.7 56324 443\r\n"), family()),
        ("TCP5", line("PROXY TCP5 192.0.2.1 198.51.100.7 56324 443\r\n"), family()),
        ("tcp4", line("PROXY tcp4 192.0.2.1 198.51.100.7 56324 443\r\n"), family()),
        ("TCP46", line("PROXY TCP46 192.0.2.1 198.51.100.7 56324 443\r\n"), family()),
        ("TCP4 alone", line("PROXY TCP4\r\n"), family()),
        ("proxy", line("proxy TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"), Refused(Malformed::Absent)),
        ("PROXY2", line("PROXY2 TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"), Refused(Malformed::Absent)),
        ("a tab behind PROXY", line("PROXY\tTCP4 192.0.2.1 198.51.100.7 56324 443\r\n"), Refused(Malformed::Absent)),
        ("two spaces behind PROXY", line("PROXY  TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"), family()),
        ("two spaces behind the family", line("PROXY TCP4  192.0.2.1 198.51.100.7 56324 443\r\n"), fields()),
        ("two spaces between the addresses", line("PROXY TCP4 192.0.2.1  198.51.100.7 56324 443\r\n"), fields()),
        ("two spaces between the ports", line("PROXY TCP4 192.0.2.1 198.51.100.7 56324  443\r\n"), fields()),
        ("a space behind the ports", line("PROXY TCP4 192.0.2.1 198.51.100.7 56324 443 \r\n"), fields()),
        ("a tab", line("PROXY TCP4 192.0.2.1\t198.51.100.7 56324 443\r\n"), fields()),
        ("a field more", line("PROXY TCP4 192.0.2.1 198.51.100.7 56324 443 1\r\n"), fields()),
        ("no second port", line("PROXY TCP4 192.0.2.1 198.51.100.7 56324\r\n"), fields()),
        ("no ports", line("PROXY TCP4 192.0.2.1 198.51.100.7\r\n"), fields()),
        ("an empty port", line("PROXY TCP4 192.0.2.1 198.51.100.7 56324 \r\n"), fields()),
        ("a port too high", line("PROXY TCP4 192.0.2.1 198.51.100.7 65536 443\r\n"), fields()),
        ("a port of many digits", line("PROXY TCP4 192.0.2.1 198.51.100.7 56324 4430000000000000000000\r\n"), fields()),
        ("a port with a zero before it", line("PROXY TCP4 192.0.2.1 198.51.100.7 056324 443\r\n"), fields()),
        ("a port of two zeros", line("PROXY TCP4 192.0.2.1 198.51.100.7 56324 00\r\n"), fields()),
        ("a port with a plus", line("PROXY TCP4 192.0.2.1 198.51.100.7 +56324 443\r\n"), fields()),
        ("a port with a minus", line("PROXY TCP4 192.0.2.1 198.51.100.7 -1 443\r\n"), fields()),
        ("a port in hex", line("PROXY TCP4 192.0.2.1 198.51.100.7 DC04 443\r\n"), fields()),
        ("an octal address", line("PROXY TCP4 192.0.02.1 198.51.100.7 56324 443\r\n"), fields()),
        ("an address of three numbers", line("PROXY TCP4 192.0.2 198.51.100.7 56324 443\r\n"), fields()),
        ("an address of five numbers", line("PROXY TCP4 192.0.2.1.1 198.51.100.7 56324 443\r\n"), fields()),
        ("an address out of range", line("PROXY TCP4 192.0.2.256 198.51.100.7 56324 443\r\n"), fields()),
        ("a name", line("PROXY TCP4 localhost 198.51.100.7 56324 443\r\n"), fields()),
        ("IPv6 in TCP4", line("PROXY TCP4 2001:db8::1 2001:db8::7 56324 443\r\n"), fields()),
        ("IPv4 in TCP6", line("PROXY TCP6 192.0.2.1 198.51.100.7 56324 443\r\n"), fields()),
        ("one of each", line("PROXY TCP6 2001:db8::1 198.51.100.7 56324 443\r\n"), fields()),
        ("two double colons", line("PROXY TCP6 2001::db8::1 2001:db8::7 56324 443\r\n"), fields()),
        ("144 bits", line("PROXY TCP6 1:2:3:4:5:6:7:8:9 2001:db8::7 56324 443\r\n"), fields()),
        ("a group of five digits", line("PROXY TCP6 02001:db8::1 2001:db8::7 56324 443\r\n"), fields()),
        ("a zone", line("PROXY TCP6 fe80::1%1 2001:db8::7 56324 443\r\n"), fields()),
        ("brackets", line("PROXY TCP6 [2001:db8::1] 2001:db8::7 56324 443\r\n"), fields()),
        ("LF alone", line("PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\n"), Refused(Malformed::LineEnd)),
        ("CR alone", line("PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\rGET"), Refused(Malformed::LineEnd)),
        ("two CR", line("PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\r\n"), Refused(Malformed::LineEnd)),
        ("LF in an UNKNOWN", line("PROXY UNKNOWN\nx\r\n"), Refused(Malformed::LineEnd)),
        ("a NUL", line("PROXY TCP4 192.0.2.1\x00198.51.100.7 56324 443\r\n"), fields()),
        ("addresses without end", line(&format!("PROXY TCP4 {}", "1".repeat(200))), Refused(Malformed::Endless)),
        ("nothing yet", Vec::new(), Unfinished),
        ("its first byte", line("P"), Unfinished),
        ("all but the LF", line("PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r"), Unfinished),
        ("a request", line("GET / HTTP/1.1\r\n\r\n"), Refused(Malformed::Absent)),
        ("a request that begins like one", line("POST / HTTP/1.1\r\n\r\n"), Refused(Malformed::Absent)),
        ("SSH", line("SSH-2.0-x\r\n"), Refused(Malformed::Absent)),
        ("TLS", vec![0x16, 3, 1, 2, 0, 1], Refused(Malformed::Absent)),
    ]
}

fn of_version_2() -> Vec<(&'static str, Transport, Vec<u8>, Expected)> {
    let id = field(0x05, &[b'i'; 128]);
    let noop = field(0x04, b"");
    let ssl = |value: &[u8]| v2(0x21, 0x11, &[INET, &field(0x20, value)]);
    let broken = |kind| Refused(Malformed::Field(kind));
    // Of the header of each, with zeros in its place.
    let summed = |behind: &[u8], sum: Option<u32>| {
        let mut header = v2(0x21, 0x21, &[INET6, &id, &field(0x03, &[0; 4]), behind]);
        let place = 16 + INET6.len() + id.len() + 3;
        let sum = sum.unwrap_or_else(|| crc32c::crc32c(&header));
        header[place..place + 4].copy_from_slice(&sum.to_be_bytes());
        header
    };
    let mut odd_signature = v2(0x21, 0x11, &[INET]);
    odd_signature[11] = b'\r';
    let long = |size: usize| v2(0x21, 0x11, &[INET, &field(0x04, &vec![0; size - 16 - 12 - 3])]);
    vec![
        ("TCP over IPv4", Stream, v2(0x21, 0x11, &[INET]), V4),
        ("TCP over IPv6", Stream, v2(0x21, 0x21, &[INET6]), V6),
        ("UDP over IPv4", Datagram, v2(0x21, 0x12, &[INET]), V4),
        ("UDP over IPv6", Datagram, v2(0x21, 0x22, &[INET6]), V6),
        ("mapped addresses", Stream, v2(0x21, 0x21, &[MAPPED]), V4),
        ("a Unix stream", Stream, v2(0x21, 0x31, &[UNIX]), Expected::Nothing),
        ("Unix datagrams", Datagram, v2(0x21, 0x32, &[UNIX, &noop]), Expected::Nothing),
        ("UNSPEC", Stream, v2(0x21, 0x00, &[]), Expected::Nothing),
        ("UNSPEC with something", Datagram, v2(0x21, 0x00, &[b"\x01\xFF\xFF?"]), Expected::Nothing),
        ("LOCAL", Stream, v2(0x20, 0x00, &[]), Expected::Nothing),
        ("LOCAL as datagram", Datagram, v2(0x20, 0x00, &[]), Expected::Nothing),
        ("LOCAL with addresses", Stream, v2(0x20, 0x11, &[INET]), Expected::Nothing),
        ("LOCAL with a family and no addresses", Stream, v2(0x20, 0x21, &[]), Expected::Nothing),
        ("LOCAL of another transport", Stream, v2(0x20, 0x12, &[INET]), Expected::Nothing),
        ("LOCAL with what is no field", Stream, v2(0x20, 0x00, &[b"?"]), Expected::Nothing),
        ("fields", Stream, v2(0x21, 0x11, &[INET, &field(0x01, b"h2"), &field(0x02, b"example.org"), &id, &noop]), V4),
        ("a field of ours", Stream, v2(0x21, 0x11, &[INET, &field(TYPE_MAPPING, b"web")]), V4),
        ("a field of a type to come", Stream, v2(0x21, 0x11, &[INET, &field(0xFF, b"\xFF\0")]), V4),
        ("an id that is no text", Stream, v2(0x21, 0x11, &[INET, &field(0x05, b"\xFF\0")]), V4),
        ("TLS", Stream, ssl(&[&[1, 0, 0, 0, 0][..], &field(0x21, b"TLSv1.3")].concat()), V4),
        ("TLS with nothing more", Stream, ssl(&[1, 0, 0, 0, 0]), V4),
        ("a checksum", Stream, summed(&[], None), V6),
        ("a checksum before other fields", Stream, summed(&noop, None), V6),
        ("the longest", Stream, long(MOST), V4),
        ("one byte longer", Stream, long(MOST + 1), Refused(Malformed::Long(MOST + 1))),
        ("LOCAL too long", Stream, v2(0x20, 0x00, &[&[0; 0xFFFF]]), Refused(Malformed::Long(16 + 0xFFFF))),
        ("a wrong checksum", Stream, summed(&[], Some(1)), Refused(Malformed::Checksum)),
        ("a checksum of three bytes", Stream, v2(0x21, 0x11, &[INET, &field(0x03, &[0; 3])]), broken(0x03)),
        ("two checksums", Stream, summed(&field(0x03, &[0; 4]), None), broken(0x03)),
        ("version 1 in version 2", Stream, v2(0x11, 0x11, &[INET]), Refused(Malformed::Version(1))),
        ("version 3", Stream, v2(0x31, 0x11, &[INET]), Refused(Malformed::Version(3))),
        ("version 0", Stream, v2(0x01, 0x11, &[INET]), Refused(Malformed::Version(0))),
        ("command 2", Stream, v2(0x22, 0x11, &[INET]), Refused(Malformed::Command(2))),
        ("command 15", Stream, v2(0x2F, 0x11, &[INET]), Refused(Malformed::Command(15))),
        ("UDP on a stream", Stream, v2(0x21, 0x12, &[INET]), Refused(Malformed::Transport(0x12))),
        ("UDP over IPv6 on a stream", Stream, v2(0x21, 0x22, &[INET6]), Refused(Malformed::Transport(0x22))),
        ("Unix datagrams on a stream", Stream, v2(0x21, 0x32, &[UNIX]), Refused(Malformed::Transport(0x32))),
        ("TCP in a datagram", Datagram, v2(0x21, 0x11, &[INET]), Refused(Malformed::Transport(0x11))),
        ("TCP over IPv6 in a datagram", Datagram, v2(0x21, 0x21, &[INET6]), Refused(Malformed::Transport(0x21))),
        ("a family without a transport", Stream, v2(0x21, 0x10, &[INET]), Refused(Malformed::Transport(0x10))),
        ("a transport without a family", Stream, v2(0x21, 0x01, &[INET]), Refused(Malformed::Transport(0x01))),
        ("family 4", Stream, v2(0x21, 0x41, &[INET]), Refused(Malformed::Transport(0x41))),
        ("transport 3", Stream, v2(0x21, 0x13, &[INET]), Refused(Malformed::Transport(0x13))),
        ("no addresses", Stream, v2(0x21, 0x11, &[]), Refused(Malformed::Short(16))),
        ("IPv4, one byte short", Stream, v2(0x21, 0x11, &[&INET[1..]]), Refused(Malformed::Short(27))),
        ("IPv6, one byte short", Stream, v2(0x21, 0x21, &[&INET6[1..]]), Refused(Malformed::Short(51))),
        ("IPv6 with addresses of IPv4", Stream, v2(0x21, 0x21, &[INET]), Refused(Malformed::Short(28))),
        ("Unix, one byte short", Stream, v2(0x21, 0x31, &[&UNIX[1..]]), Refused(Malformed::Short(231))),
        ("a type alone", Stream, v2(0x21, 0x11, &[INET, &[0x04]]), broken(0x04)),
        ("half a length", Stream, v2(0x21, 0x11, &[INET, &[0x04, 0]]), broken(0x04)),
        ("a value cut off", Stream, v2(0x21, 0x11, &[INET, &[0x04, 0, 2, 0]]), broken(0x04)),
        ("a value far beyond", Stream, v2(0x21, 0x11, &[INET, &noop, &[0xEA, 0xFF, 0xFF]]), broken(0xEA)),
        ("an id of 129 bytes", Stream, v2(0x21, 0x11, &[INET, &field(0x05, &[0; 129])]), broken(0x05)),
        ("an authority that is no text", Stream, v2(0x21, 0x11, &[INET, &field(0x02, b"\xFF")]), broken(0x02)),
        ("a namespace that is no text", Stream, v2(0x21, 0x11, &[INET, &field(0x30, b"\xFF")]), broken(0x30)),
        ("TLS cut off", Stream, ssl(&[1, 0, 0, 0]), broken(0x20)),
        ("TLS with a field cut off", Stream, ssl(&[1, 0, 0, 0, 0, 0x21, 0, 9, b'T']), broken(0x20)),
        ("another signature", Stream, odd_signature, Refused(Malformed::Absent)),
        ("line ends", Stream, b"\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n".to_vec(), Refused(Malformed::Absent)),
        ("line ends in a datagram", Datagram, b"\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n".to_vec(), Refused(Malformed::Absent)),
        ("the signature", Stream, SIGNATURE.to_vec(), Unfinished),
        ("an empty datagram", Datagram, Vec::new(), Unfinished),
        ("a datagram with part of a header", Datagram, v2(0x21, 0x12, &[INET])[..20].to_vec(), Unfinished),
    ]
}

/// Every vector.
fn vectors() -> Vec<(&'static str, Transport, Vec<u8>, Expected)> {
    let lines = of_version_1().into_iter().map(|(name, bytes, expected)| (name, Stream, bytes, expected));
    lines.chain(of_version_2()).collect()
}

#[test]
fn every_header_is_read_whole_byte_by_byte_and_fused_with_what_follows() {
    let vectors = vectors();
    assert!(vectors.len() >= 120, "{} vectors", vectors.len());
    for (name, transport, bytes, expected) in vectors {
        let address = |text: &str| text.parse().expect("an address of the table");
        let header = |told| Ok(Parsed::Header { length: bytes.len(), told });
        let (expected, is_over) = match expected {
            Tells(client, listener) => {
                (header(Some(Told { client: address(client), listener: address(listener) })), true)
            }
            Expected::Nothing => (header(None), true),
            Refused(malformed) => (Err(malformed), true),
            Unfinished => (Ok(Parsed::Incomplete), false),
        };
        assert_eq!(parse(&bytes, transport), expected, "{name}");
        let mut refused = None;
        for length in 0..bytes.len() {
            let result = parse(&bytes[..length], transport);
            match result {
                Ok(Parsed::Incomplete) => assert_eq!(refused, None, "{name}: taken back after {length} bytes"),
                Err(_) => {
                    assert_eq!(result, expected, "{name}: after {length} bytes");
                    refused = Some(length);
                }
                Ok(Parsed::Header { .. }) => panic!("{name}: whole after {length} bytes"),
            }
        }
        for payload in [&b"\r\n"[..], b"PROXY UNKNOWN\r\n", &[0xFF; 300], SIGNATURE] {
            if is_over {
                assert_eq!(parse(&[&bytes, payload].concat(), transport), expected, "{name}: before {payload:?}");
            }
        }
    }
}

#[test]
fn a_line_is_no_header_of_a_datagram() {
    for (name, bytes, _) in of_version_1() {
        if !bytes.is_empty() {
            assert_eq!(parse(&bytes, Datagram), Err(Malformed::Absent), "{name}");
        }
    }
}

#[test]
fn what_is_written_is_read_as_the_same() {
    let addresses = ["192.0.2.1:1", "198.51.100.7:65535", "[2001:db8::1]:0", "[fe80::1]:443", "[::1]:9", "0.0.0.0:0"];
    let addresses = addresses.map(|text| text.parse::<SocketAddr>().expect("an address"));
    for client in addresses {
        for listener in addresses {
            let told = Told { client, listener };
            let line = version_1(told);
            let header = |bytes: &[u8]| Ok(Parsed::Header { length: bytes.len(), told: Some(told) });
            assert_eq!(parse(&line, Stream), header(&line));
            for transport in [Stream, Datagram] {
                for mapping in [None, Some("web")] {
                    let binary = version_2(told, transport, "portolan-1-2", mapping);
                    assert_eq!(parse(&binary, transport), header(&binary));
                }
            }
        }
    }
}

#[test]
fn a_header_of_ours_is_written_as_others_write_it() {
    let told = |client: &str, listener: &str| Told {
        client: client.parse().expect("an address"),
        listener: listener.parse().expect("an address"),
    };
    let v4 = told("192.0.2.1:56324", "198.51.100.7:443");
    let v6 = told("[2001:db8::1]:56324", "[2001:db8::7]:443");
    assert_eq!(version_1(v4), b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n");
    assert_eq!(version_1(v6), b"PROXY TCP6 2001:db8::1 2001:db8::7 56324 443\r\n");
    let mixed = told("[2001:db8::1]:56324", "198.51.100.7:443");
    assert_eq!(version_1(mixed), b"PROXY TCP6 2001:db8::1 ::ffff:198.51.100.7 56324 443\r\n");
    assert_eq!(version_1(told("[::ffff:192.0.2.1]:56324", "198.51.100.7:443")), version_1(v4));
    let id = field(0x05, b"id");
    assert_eq!(version_2(v4, Stream, "id", None), v2(0x21, 0x11, &[INET, &id]));
    assert_eq!(version_2(v6, Datagram, "id", None), v2(0x21, 0x22, &[INET6, &id]));
    let named = version_2(v6, Stream, "id", Some("web"));
    assert_eq!(named, v2(0x21, 0x21, &[INET6, &id, &field(0xE0, b"web")]));
    // What the specification promises its readers: it comes in one segment, whatever the path.
    assert!(version_2(v6, Stream, &"i".repeat(128), Some(&"n".repeat(64))).len() <= 536);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]
    #[test]
    fn what_resembles_a_header_holds_what_holds_for_all_bytes(
        vector in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        length in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        thread_local!(static VECTORS: Vec<Vec<u8>> = vectors().into_iter().map(|(_, _, bytes, _)| bytes).collect());
        // The longest ones take long, byte by byte, and are like others.
        let mut bytes = VECTORS.with(|all| vector.get(all).iter().copied().take(1_000).collect::<Vec<u8>>());
        for (place, byte) in changes {
            if !bytes.is_empty() {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
        }
        if is_cut {
            bytes.truncate(length.index(bytes.len() + 1));
        }
        crate::wire::fuzzing::proxy_headers(&bytes);
    }
}
