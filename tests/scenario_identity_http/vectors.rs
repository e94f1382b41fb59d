//! The table: bytes that a client sends, and what becomes of them.

/// One of them.
pub(crate) struct Vector {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// The status that refuses the last request; none where nothing is refused.
    pub(crate) status: Option<&'static str>,
    /// What is passed on before.
    pub(crate) passed: Vec<Passed>,
    /// The head of what is refused was in order, so that it has reached the target before the body went wrong.
    pub(crate) is_begun: bool,
}

/// A request that is passed on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passed {
    method: &'static str,
    path: &'static str,
    body: Body,
}

#[derive(Clone, Copy, Debug)]
enum Body {
    Length(usize),
    Chunked(usize),
}

impl Passed {
    /// As a server logs it: nginx says how the body was delimited, Python how much it was.
    pub(crate) fn as_read(&self, server: u16) -> String {
        let Self { method, path, body } = self;
        match (server, body) {
            (8001, Body::Chunked(_)) => format!("{method} {path} chunked"),
            (_, Body::Length(length) | Body::Chunked(length)) => format!("{method} {path} {length}"),
        }
    }
}

/// Heads that are refused whole: the head as it is, its empty line included.
#[rustfmt::skip]
const REFUSED: &[(&str, &str)] = &[
    // How long is it?
    ("length and coding", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("coding and length", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    ("coding and length 0", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("two lengths", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
    ("one length twice", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    ("one length twice, far apart", "POST /v HTTP/1.1\r\nContent-Length: 5\r\nHost: a\r\nA: b\r\ncontent-length: 5\r\n\r\nhello"),
    ("a list of lengths", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: 5,5\r\n\r\nhello"),
    ("a list of lengths with blanks", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello"),
    ("a signed length", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello"),
    ("a negative length", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\nhello"),
    ("length minus zero", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: -0\r\n\r\n"),
    ("a hexadecimal length", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello"),
    ("a length of two words", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\nhello"),
    ("a length with a point", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: 5.0\r\n\r\nhello"),
    ("a length with an exponent", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: 5e0\r\n\r\nhello"),
    ("a length with an underscore", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\nhellohello"),
    ("a length that begins with zero", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: 005\r\n\r\nhello"),
    ("an empty length", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n"),
    ("a blank length", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length:  \r\n\r\n"),
    ("a quoted length", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: \"5\"\r\n\r\nhello"),
    ("a length with a semicolon", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: 5;\r\n\r\nhello"),
    ("a word for a length", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: five\r\n\r\nhello"),
    ("a length beyond 64 bits", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\nhello"),
    ("a length of 63 bits and more", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\nhello"),
    ("digits of another script", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: \u{665}\r\n\r\nhello"),
    ("a length with an underscore in its name", "POST /v HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\nhello"),
    ("a length with a point in its name", "POST /v HTTP/1.1\r\nHost: a\r\nContent.Length: 5\r\n\r\nhello"),
    ("two spellings of a length", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent_Length: 0\r\n\r\nhello"),
    // Is it chunked?
    ("two codings", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("chunked and then another", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    ("chunked twice", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    ("chunked in two fields", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("chunked and identity in two fields", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("identity", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n"),
    ("an unknown coding", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("an empty coding", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n"),
    ("chunked with a parameter", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n"),
    ("chunked in quotes", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
    ("chunked and a comma", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n0\r\n\r\n"),
    ("a comma and chunked", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n"),
    ("chunked behind a vertical tab", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n"),
    ("chunked and a NUL", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n"),
    ("a coding of HTTP/1.0", "POST /v HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a coding of HTTP/1.0 that stays", "POST /v HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a coding with an underscore in its name", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a coding with a point in its name", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer.Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a coding with a blank before the colon", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("a coding with a tab before the colon", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n"),
    ("a coding with a blank before its name", "POST /v HTTP/1.1\r\nHost: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a coding on a folded line", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    // Where does a line end?
    ("a request line that ends in LF", "GET /v HTTP/1.1\nHost: a\r\n\r\n"),
    ("a field that ends in LF", "GET /v HTTP/1.1\r\nHost: a\nA: b\r\n\r\n"),
    ("LF throughout", "GET /v HTTP/1.1\nHost: a\n\n"),
    ("a head that ends in CRLF LF", "GET /v HTTP/1.1\r\nHost: a\r\n\n"),
    ("a head that ends in LF CRLF", "GET /v HTTP/1.1\r\nHost: a\n\r\n"),
    ("a CR in a value", "GET /v HTTP/1.1\r\nHost: a\r\nA: b\rc\r\n\r\n"),
    ("a CR for a line end", "GET /v HTTP/1.1\r\nHost: a\rA: b\r\n\r\n"),
    ("a CR before CRLF", "GET /v HTTP/1.1\r\nHost: a\r\r\n\r\n"),
    ("a CR in a name", "GET /v HTTP/1.1\r\nHost: a\r\nA\rB: c\r\n\r\n"),
    ("a CR in the target", "GET /v\r HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("CR alone throughout", "GET /v HTTP/1.1\rHost: a\r\r\n\r\n"),
    ("an LF before the request", "\nGET /v HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("several empty lines before the request", "\r\n\r\nGET /v HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a folded line", "GET /v HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n"),
    ("a line folded by a tab", "GET /v HTTP/1.1\r\nHost: a\r\nA: b\r\n\tc\r\n\r\n"),
    ("a folded line ahead of all", "GET /v HTTP/1.1\r\n Host: a\r\nHost: a\r\n\r\n"),
    ("a folded empty line", "GET /v HTTP/1.1\r\nHost: a\r\n \r\n\r\n"),
    ("a length on a folded line", "POST /v HTTP/1.1\r\nHost: a\r\nA: b\r\n Content-Length: 5\r\n\r\nhello"),
    // What is a field?
    ("a field without a name", "GET /v HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n"),
    ("a field without a colon", "GET /v HTTP/1.1\r\nHost: a\r\nA\r\n\r\n"),
    ("a blank before the colon", "GET /v HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n"),
    ("a blank in a name", "GET /v HTTP/1.1\r\nHost: a\r\nA B: c\r\n\r\n"),
    ("a NUL in a name", "GET /v HTTP/1.1\r\nHost: a\r\nA\0: b\r\n\r\n"),
    ("a NUL in a value", "GET /v HTTP/1.1\r\nHost: a\r\nA: b\0c\r\n\r\n"),
    ("a control character in a value", "GET /v HTTP/1.1\r\nHost: a\r\nA: \u{1b}[2J\r\n\r\n"),
    ("a DEL in a value", "GET /v HTTP/1.1\r\nHost: a\r\nA: \u{7f}\r\n\r\n"),
    ("a letter beyond ASCII in a name", "GET /v HTTP/1.1\r\nHost: a\r\nK\u{f6}ln: b\r\n\r\n"),
    ("a bracket in a name", "GET /v HTTP/1.1\r\nHost: a\r\n[A]: b\r\n\r\n"),
    // Whose is it?
    ("no host", "GET /v HTTP/1.1\r\n\r\n"),
    ("two hosts", "GET /v HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("one host twice", "GET /v HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    ("two hosts in HTTP/1.0", "GET /v HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("a host with a path", "GET /v HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    ("a host with a user", "GET /v HTTP/1.1\r\nHost: x@a\r\n\r\n"),
    ("a host of two words", "GET /v HTTP/1.1\r\nHost: a b\r\n\r\n"),
    ("a host with a quote", "GET /v HTTP/1.1\r\nHost: a\"b\r\n\r\n"),
    ("a host with a backslash", "GET /v HTTP/1.1\r\nHost: a\\b\r\n\r\n"),
    ("a host beside another in the target", "GET http://b/v HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a host beside another port in the target", "GET http://a:81/v HTTP/1.1\r\nHost: a\r\n\r\n"),
    // What is asked for?
    ("a path without a slash", "GET v HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("an empty target", "GET  HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("an asterisk that is not OPTIONS", "GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a target of another scheme", "GET ftp://a/v HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a target with a blank", "GET /v w HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("two blanks before the target", "GET  /v HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("two blanks behind the target", "GET /v  HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a tab before the target", "GET\t/v HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a blank before the method", " GET /v HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a blank behind the version", "GET /v HTTP/1.1 \r\nHost: a\r\n\r\n"),
    ("a NUL in the target", "GET /v\0w HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a method that is no token", "G(ET /v HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("no method", "/v HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("HTTP/0.9", "GET /v\r\n\r\n"),
    ("HTTP/1.2", "GET /v HTTP/1.2\r\nHost: a\r\n\r\n"),
    ("HTTP/2.0 in words", "GET /v HTTP/2.0\r\nHost: a\r\n\r\n"),
    ("HTTP/1.10", "GET /v HTTP/1.10\r\nHost: a\r\n\r\n"),
    ("http in small letters", "GET /v http/1.1\r\nHost: a\r\n\r\n"),
    ("a version with a comma", "GET /v HTTP/1,1\r\nHost: a\r\n\r\n"),
    ("TLS", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\r\n"),
    ("half of HTTP/2", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"),
];

/// Bodies in chunks that go wrong behind a head that is fine.
const CHUNKS: &[(&str, &str)] = &[
    ("a chunk without a size", "\r\nhello\r\n0\r\n\r\n"),
    ("a chunk's size with a blank behind", "5 \r\nhello\r\n0\r\n\r\n"),
    ("a chunk's size with a blank before", " 5\r\nhello\r\n0\r\n\r\n"),
    ("a chunk's size with a sign", "+5\r\nhello\r\n0\r\n\r\n"),
    ("a negative chunk", "-5\r\nhello\r\n0\r\n\r\n"),
    ("a chunk's size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
    ("a chunk's size with an underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
    ("a chunk's size beyond 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("a chunk's size with many zeros", "0000000000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("a word for a chunk's size", "five\r\nhello\r\n0\r\n\r\n"),
    ("a chunk's size that ends in LF", "5\nhello\r\n0\r\n\r\n"),
    ("a chunk's size that ends in CR", "5\rhello\r\n0\r\n\r\n"),
    ("a chunk's extension with an LF", "5;a\nhello\r\n0\r\n\r\n"),
    ("a chunk's extension with a CR", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
    ("a chunk's extension with a NUL", "5;a\0\r\nhello\r\n0\r\n\r\n"),
    ("a chunk that is too long", "5\r\nhello!\r\n0\r\n\r\n"),
    ("a chunk that is too short", "5\r\nhell\r\n0\r\n\r\n"),
    ("a chunk that ends in LF", "5\r\nhello\n0\r\n\r\n"),
    ("a trailer without a name", "0\r\n: b\r\n\r\n"),
    ("a trailer that folds", "0\r\nA: b\r\n c\r\n\r\n"),
    ("a trailer that ends in LF", "0\r\nA: b\n\r\n"),
    ("a trailer that says a length", "0\r\nContent-Length: 5\r\n\r\n"),
    ("a trailer that says a coding", "0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("a trailer that says a host", "0\r\nHost: evil\r\n\r\n"),
];

/// What is odd, and understood alike by all: the request, and what it is.
#[rustfmt::skip]
const PASSED: &[(&str, &str, Passed)] = &[
    ("plain", "GET /v HTTP/1.1\r\nHost: a\r\n\r\n", get("/v")),
    ("an empty line before the request", "\r\nGET /v HTTP/1.1\r\nHost: a\r\n\r\n", get("/v")),
    ("no blank behind a colon", "GET /v HTTP/1.1\r\nHost:a\r\n\r\n", get("/v")),
    ("blanks and tabs around a value", "GET /v HTTP/1.1\r\nHost: \t a \t\r\n\r\n", get("/v")),
    ("an empty value", "GET /v HTTP/1.1\r\nHost: a\r\nA:\r\n\r\n", get("/v")),
    ("letters beyond ASCII in a value", "GET /v HTTP/1.1\r\nHost: a\r\nA: K\u{f6}ln\r\n\r\n", get("/v")),
    ("a host with a port", "GET /v HTTP/1.1\r\nHost: a:8080\r\n\r\n", get("/v")),
    ("a host by address", "GET /v HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n\r\n", get("/v")),
    ("a target with a host, which is the host", "GET http://a/v HTTP/1.1\r\nHost: A\r\n\r\n", get("/v")),
    ("a query", "GET /v?a=b&c=%00 HTTP/1.1\r\nHost: a\r\n\r\n", get("/v?a=b&c=%00")),
    ("a field's name in capitals", "GET /v HTTP/1.1\r\nHOST: a\r\n\r\n", get("/v")),
    ("length 0", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", Passed { method: "POST", path: "/v", body: Body::Length(0) }),
    ("a length", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", Passed { method: "POST", path: "/v", body: Body::Length(5) }),
    ("a length on a GET", "GET /v HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", Passed { method: "GET", path: "/v", body: Body::Length(5) }),
    ("a request in a body", "POST /v HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n", Passed { method: "POST", path: "/v", body: Body::Length(30) }),
    ("Connection that names the length", "POST /v HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\nhello", Passed { method: "POST", path: "/v", body: Body::Length(5) }),
    ("Connection that names the coding", "POST /v HTTP/1.1\r\nHost: a\r\nConnection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Passed { method: "POST", path: "/v", body: Body::Chunked(0) }),
    ("Connection that names the host", "GET /v HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n", get("/v")),
    ("chunks", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Passed { method: "POST", path: "/v", body: Body::Chunked(5) }),
    ("chunked in capitals", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Passed { method: "POST", path: "/v", body: Body::Chunked(5) }),
    ("chunks with extensions", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n0;c\r\n\r\n", Passed { method: "POST", path: "/v", body: Body::Chunked(5) }),
    ("chunks with a trailer", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n", Passed { method: "POST", path: "/v", body: Body::Chunked(5) }),
    ("chunk sizes in both cases", "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\nA\r\n0123456789\r\n00\r\n\r\n", Passed { method: "POST", path: "/v", body: Body::Chunked(20) }),
    ("an upgrade to HTTP/2, which is not asked for", "GET /v HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", get("/v")),
];

const fn get(path: &'static str) -> Passed {
    Passed { method: "GET", path, body: Body::Length(0) }
}

/// All of them.
pub(crate) fn vectors() -> Vec<Vector> {
    let evil = "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n";
    let first = "GET /first HTTP/1.1\r\nHost: a\r\n\r\n";
    let end = "GET /end HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let chunked = "POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let vector = |name, text: String, status, passed: &[Passed]| Vector {
        name,
        bytes: text.into_bytes(),
        status,
        passed: passed.to_vec(),
        is_begun: false,
    };
    let mut vectors = Vec::new();
    for (name, text) in REFUSED {
        vectors.push(vector(name, format!("{text}{evil}"), Some("400"), &[]));
        // Behind a request that is none of its business. The preface is one only at the very beginning.
        vectors.push(vector(name, format!("{first}{text}{evil}"), Some("400"), &[get("/first")]));
    }
    for (name, text) in CHUNKS {
        let text = format!("{chunked}{text}{evil}");
        vectors.push(Vector { is_begun: true, ..vector(name, text, Some("400"), &[]) });
    }
    let many = "A: b\r\n".repeat(100);
    let long = "b".repeat(65 * 1024);
    for (name, text) in [
        ("a hundred and one fields", format!("GET /v HTTP/1.1\r\nHost: a\r\n{many}\r\n")),
        ("a long field", format!("GET /v HTTP/1.1\r\nHost: a\r\nA: {long}\r\n\r\n")),
        ("a long name", format!("GET /v HTTP/1.1\r\nHost: a\r\n{long}: a\r\n\r\n")),
        ("a long target", format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")),
    ] {
        vectors.push(vector(name, text + evil, Some("431"), &[]));
    }
    let text = format!("{chunked}5;{}\r\nhello\r\n0\r\n\r\n{evil}", "a".repeat(300));
    vectors.push(Vector { is_begun: true, ..vector("a chunk's long extension", text, Some("400"), &[]) });
    for host in ["a", "evil:443"] {
        let text = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n{evil}");
        vectors.push(vector("a tunnel", text, Some("405"), &[]));
    }
    for (name, text, passed) in PASSED {
        vectors.push(vector(name, format!("{text}{end}"), None, &[*passed, get("/end")]));
    }
    vectors
}
