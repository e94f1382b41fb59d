//! Why a message is not let through.

/// What is wrong with a message. Its text is for who has sent it, and for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Longer than [`super::MAX_HEAD`].
    #[error("the head or trailer section is longer than 64 KiB")]
    TooLong,
    /// More than [`super::MAX_FIELDS`].
    #[error("there are more than 100 fields")]
    TooManyFields,
    /// A line that does not end in CRLF, a CR or LF elsewhere, or empty lines where none belong.
    #[error("a line does not end in CRLF, or is empty")]
    LineEnd,
    /// What `httparse` does not take: a control character, an empty name, a blank before the colon, a folded line, a
    /// version other than 1.0 and 1.1.
    #[error("the head is malformed ({0})")]
    Malformed(httparse::Error),
    /// Another form than `/path`, `http://host/path` or `OPTIONS *`.
    #[error("the request's target is malformed")]
    Target,
    /// The request asks for a tunnel.
    #[error("CONNECT is not served")]
    Connect,
    /// HTTP/1.1 without, or anything with several.
    #[error("there is not exactly one Host field")]
    Hosts,
    /// Not a host, or another than the target names.
    #[error("the Host field is malformed or contradicts the request's target")]
    Host,
    /// Not one number, in digits alone.
    #[error("Content-Length is malformed or repeated")]
    Length,
    /// A transfer coding that is not `chunked` alone, or is in HTTP/1.0.
    #[error("Transfer-Encoding is not exactly chunked, or is repeated, or is in HTTP/1.0")]
    Coding,
    /// Both kinds of framing.
    #[error("there are Content-Length and Transfer-Encoding")]
    LengthAndCoding,
    /// `Content_Length` and the like, which some servers take for the real field.
    #[error("a field's name can be mistaken for one that delimits messages")]
    LookAlike,
    /// The size of a chunk, or what stands around it.
    #[error("a chunk is malformed")]
    Chunk,
    /// A field that has no place behind the body.
    #[error("a trailer field is malformed or belongs into the head")]
    Trailer,
    /// A response to no request.
    #[error("a response came that nobody had asked for")]
    Unasked,
    /// Status 101 to a request that did not ask for it.
    #[error("another protocol was chosen that nobody had asked for")]
    UnaskedUpgrade,
    /// The stream has ended amid a message.
    #[error("the message is not whole")]
    Truncated,
}

impl Refusal {
    /// The status that says so to a client.
    pub fn status(self) -> u16 {
        match self {
            Self::TooLong | Self::TooManyFields => 431,
            // The method is known, and allowed nowhere.
            Self::Connect => 405,
            _ => 400,
        }
    }
}

impl From<httparse::Error> for Refusal {
    fn from(error: httparse::Error) -> Self {
        if error == httparse::Error::TooManyHeaders { Self::TooManyFields } else { Self::Malformed(error) }
    }
}
