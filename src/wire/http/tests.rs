use super::*;

/// How much of `bytes` is let through, or why not all of it is.
fn gate(bytes: &str) -> Result<usize, Refusal> {
    let mut follower = Follower::requests(Strictness::Gate);
    let passed = follower.follow(bytes.as_bytes(), |_| {})?;
    follower.follow(&bytes.as_bytes()[passed..], |_| {}).map(|more| passed + more)
}

#[test]
fn messages_are_told_apart_however_they_are_cut() {
    let stream = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nPOST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\r\n\
        PUT /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=\"y\"\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n\
        HEAD /d HTTP/1.0\r\n\r\n";
    for size in 1..stream.len() {
        let mut follower = Follower::requests(Strictness::Gate);
        let (mut kept, mut seen) = (Vec::new(), Vec::new());
        for piece in stream.chunks(size) {
            kept.extend_from_slice(piece);
            let passed = follower
                .follow(&kept, |what| {
                    seen.push(match what {
                        Seen::Request { method, target, .. } => format!("{method} {target}"),
                        Seen::Response(status) | Seen::Interim(status, _) => status.to_string(),
                        Seen::End => ".".to_owned(),
                    });
                })
                .unwrap_or_else(|refusal| panic!("in pieces of {size}: {refusal}"));
            kept.drain(..passed);
        }
        assert!(kept.is_empty() && follower.is_between());
        assert_eq!(seen, ["GET /a", ".", "POST /b", ".", "PUT /c", ".", "HEAD /d", "."], "in pieces of {size}");
    }
}

#[test]
fn an_end_of_a_body_in_two_pieces_hides_nothing_of_what_follows() {
    let mut follower = Follower::requests(Strictness::Gate);
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r";
    let passed = follower.follow(head, |_| {}).unwrap();
    assert_eq!(passed, head.len() - 1);
    assert_eq!(follower.follow(b"\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", |_| {}), Ok(2));
    let next = b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(follower.follow(next, |_| {}), Err(Refusal::LineEnd));
}

#[test]
fn what_servers_understand_differently_is_refused() {
    let head = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let table = [
        (head("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), Refusal::LengthAndCoding),
        (head("Content-Length: 5\r\nContent-Length: 5\r\n"), Refusal::Length),
        (head("Content-Length: +5\r\n"), Refusal::Length),
        (head("Content-Length: 5,5\r\n"), Refusal::Length),
        (head("Content-Length: 05\r\n"), Refusal::Length),
        (head("Content-Length:\r\n"), Refusal::Length),
        (head("Content-Length: 9999999999999999999999\r\n"), Refusal::Length),
        (head("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), Refusal::Coding),
        (head("Transfer-Encoding: gzip, chunked\r\n"), Refusal::Coding),
        (head("Transfer-Encoding: chunked, identity\r\n"), Refusal::Coding),
        (head("Transfer_Encoding: chunked\r\n"), Refusal::LookAlike),
        (head("Content_Length: 5\r\n"), Refusal::LookAlike),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(), Refusal::Coding),
        ("GET / HTTP/1.1\r\n\r\n".into(), Refusal::Hosts),
        (head("Host: b\r\n"), Refusal::Hosts),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(), Refusal::Host),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".into(), Refusal::Host),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refusal::Host),
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refusal::Target),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refusal::Target),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n".into(), Refusal::Connect),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n".into(), Refusal::LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n".into(), Refusal::LineEnd),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refusal::LineEnd),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refusal::LineEnd),
        (head("A: b\rc\r\n"), Refusal::Malformed(httparse::Error::HeaderValue)),
        (head("A: b\r\n c\r\n"), Refusal::Malformed(httparse::Error::HeaderName)),
        (head("A : b\r\n"), Refusal::Malformed(httparse::Error::HeaderName)),
        (head(": b\r\n"), Refusal::Malformed(httparse::Error::HeaderName)),
        (head("A: \0\r\n"), Refusal::Malformed(httparse::Error::HeaderValue)),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refusal::Malformed(httparse::Error::Token)),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n".into(), Refusal::Malformed(httparse::Error::Version)),
        (head(&"A: b\r\n".repeat(100)), Refusal::TooManyFields),
        (head(&format!("A: {}\r\n", "b".repeat(MAX_HEAD))), Refusal::TooLong),
    ];
    for (text, refusal) in table {
        assert_eq!(gate(&text), Err(refusal), "{text:?}");
    }
    assert!(gate(&head(&"A: b\r\n".repeat(99))).is_ok(), "a hundred fields are");
}

#[test]
fn a_chunk_is_taken_in_its_plain_form_alone() {
    let chunked = |body: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    for body in ["x", "5 \r\n", "0x5\r\n", "+5\r\n", "-1\r\n", "\r\n", ";a\r\n", "1111111111111111\r\n", "g\r\n"] {
        assert_eq!(gate(&chunked(body)), Err(Refusal::Chunk), "{body:?}");
    }
    for body in ["5\r\nhelloX", "5\r\nhello\n", "5;a\0b\r\n", &format!("5;{}\r\n", "a".repeat(300))] {
        assert_eq!(gate(&chunked(body)), Err(Refusal::Chunk), "{body:?}");
    }
    for body in ["5\n", "5;a\n", "0\r\nA: b\n\r\n", "0\r\n\n"] {
        assert_eq!(gate(&chunked(body)), Err(Refusal::LineEnd), "{body:?}");
    }
    for body in ["0\r\nContent-Length: 5\r\n\r\n", "0\r\nHost: b\r\n\r\n", "0\r\n: b\r\n\r\n", "0\r\nA\r\n\r\n"] {
        assert_eq!(gate(&chunked(body)), Err(Refusal::Trailer), "{body:?}");
    }
    for body in ["5;a=b\r\nhello\r\n0\r\n\r\n", "A\r\n0123456789\r\n000\r\nA: b\r\n\r\n"] {
        let whole = chunked(body);
        assert_eq!(gate(&whole), Ok(whole.len()), "{body:?}");
    }
}

#[test]
fn a_response_is_read_by_what_was_asked() {
    let respond = |asked: &[Asked], text: &str| -> Result<(String, usize), Refusal> {
        let mut follower = Follower::responses(Strictness::Gate);
        for asked in asked {
            follower.ask(*asked);
        }
        let mut seen = Vec::new();
        let passed = follower.follow(text.as_bytes(), |what| {
            seen.push(match what {
                Seen::Interim(status, head) => {
                    assert!(head.ends_with(b"\r\n\r\n"));
                    format!("Interim({status})")
                }
                other => format!("{other:?}"),
            });
        })?;
        follower.follow(&text.as_bytes()[passed..], |_| {})?;
        assert_eq!(passed, text.len());
        Ok((seen.join(" "), follower.unanswered()))
    };
    let [get, head] = [false, true].map(|is_head| Asked { is_head, is_upgrade: false });
    let upgrade = Asked { is_head: false, is_upgrade: true };
    let long = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
    assert_eq!(respond(&[head, get], &format!("{long}{long}ok")).unwrap().0, "Response(200) End Response(200) End");
    let interim = format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{long}ok");
    assert_eq!(respond(&[get], &interim).unwrap(), ("Interim(103) Response(200) End".into(), 0));
    assert_eq!(respond(&[get], "HTTP/1.0 200 OK\r\n\r\nuntil the end").unwrap(), ("Response(200)".into(), 1));
    assert_eq!(respond(&[upgrade], "HTTP/1.1 101 Switching\r\n\r\n\0\n").unwrap().0, "Response(101)");
    assert_eq!(respond(&[get], "HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n").unwrap().0, "Response(204) End");
    assert_eq!(respond(&[get], "HTTP/1.1 101 Switching\r\n\r\n"), Err(Refusal::UnaskedUpgrade));
    assert_eq!(respond(&[], long), Err(Refusal::Unasked));
    assert_eq!(respond(&[get], &format!("{long}ok{long}")), Err(Refusal::Unasked));
    let both = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(respond(&[get], both), Err(Refusal::LengthAndCoding));
    assert_eq!(respond(&[get], "\r\nHTTP/1.1 200 OK\r\n\r\n"), Err(Refusal::Malformed(httparse::Error::Version)));
    assert_eq!(respond(&[get], "HTTP/1.1 200 OK\nA: b\r\n\r\n"), Err(Refusal::LineEnd));
}

#[test]
fn what_follows_a_request_for_another_protocol_waits_for_the_answer() {
    let asks = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let next = b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n";
    let both = [asks.as_slice(), next].concat();
    let mut follower = Follower::requests(Strictness::Gate);
    assert_eq!(follower.follow(&both, |_| {}), Ok(asks.len()));
    assert!(follower.is_held());
    assert_eq!(follower.follow(next, |_| {}), Ok(0));
    follower.stay();
    assert_eq!(follower.follow(next, |_| {}), Ok(next.len()));
}

#[test]
fn a_request_for_another_protocol_that_is_answered_amid_its_body_holds_nothing_up_behind_it() {
    let fields = "Host: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n";
    let next = "GET /b HTTP/1.1\r\nHost: a\r\n\r\n";
    for body in ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n"]
    {
        let request = format!("POST / HTTP/1.1\r\n{fields}{body}");
        let head = request.find("\r\n\r\n").unwrap() + 4;
        // Answered wherever its body has got to, its end included.
        for answered in head..=request.len() {
            let mut follower = Follower::requests(Strictness::Gate);
            let passed = follower.follow(&request.as_bytes()[..answered], |_| {}).unwrap();
            follower.stay();
            let rest = format!("{}{next}", &request[passed..]);
            assert_eq!(follower.follow(rest.as_bytes(), |_| {}), Ok(rest.len()), "{body:?} at {answered}");
            assert!(!follower.is_held());
        }
    }
}
