//! Which of a client's offers to compress messages is accepted (RFC 6455 section 9.1, RFC 7692 sections 5 and 7.1). Pure.
//!
//! Members share what was compressed once, without context and with the largest window. A client that takes only a smaller one
//! may compress what it sends, and gets everything as it is.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::super::head::{Head, is_token_byte};
use crate::counters::Compression;

/// The only extension.
const NAME: &[u8] = b"permessage-deflate";
/// Every window (RFC 7692 section 7.1.2): decimal, without leading zeroes.
const ALL_WINDOW_BITS: [&str; 8] = ["8", "9", "10", "11", "12", "13", "14", WINDOW_BITS];
/// The window that frames are compressed with (RFC 7692 section 7.1.2.1).
const WINDOW_BITS: &str = "15";

/// What becomes of a client's offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    pub(crate) outcome: Compression,
    /// The server's window, if the accepted offer names it: then the response has to (RFC 7692 section 7.1.2.1).
    window: Option<&'static str>,
}

impl Offered {
    /// The value of `Sec-WebSocket-Extensions` in the response, if compression was agreed on.
    pub(super) fn response(self) -> Option<String> {
        let window = self.window.map_or(String::new(), |bits| format!("; server_max_window_bits={bits}"));
        matches!(self.outcome, Compression::Agreed | Compression::Received)
            .then(|| format!("permessage-deflate; server_no_context_takeover; client_no_context_takeover{window}"))
    }
}

/// Chooses the first acceptable offer; one with a smaller window only if there is no other. `None`: there is none to decline
/// either. If the list can't be parsed, nothing in it is accepted.
pub(crate) fn negotiate(head: &Head<'_>) -> Option<Offered> {
    let (mut accepted, mut smaller) = (None, None);
    let mut is_offered = false;
    for value in head.header("sec-websocket-extensions") {
        let mut rest = Text(value);
        while let Some(extension) = rest.extension() {
            let Ok(Extension { name, parameters }) = extension else {
                return Some(Offered { outcome: Compression::Declined, window: None });
            };
            if name == NAME {
                is_offered = true;
                let offer = accept(&parameters);
                let kind = if offer.is_some_and(Accepted::is_small) { &mut smaller } else { &mut accepted };
                *kind = kind.or(offer);
            }
        }
    }
    let accepted = accepted.or(smaller);
    let outcome = match accepted {
        None => Compression::Declined,
        Some(_) if head.header("user-agent").any(inflates_badly) => Compression::Safari,
        Some(offer) if offer.is_small() => Compression::Received,
        Some(_) => Compression::Agreed,
    };
    is_offered.then(|| Offered { outcome, window: accepted.and_then(|accepted| accepted.window) })
}

/// An offer that can be accepted.
#[derive(Clone, Copy)]
struct Accepted {
    /// The server's window, if it is named.
    window: Option<&'static str>,
}

impl Accepted {
    /// Whether the client takes no window as large as that of the shared frames.
    fn is_small(self) -> bool {
        self.window.is_some_and(|bits| bits != WINDOW_BITS)
    }
}

/// Accepts an offer with these parameters, unless one is unknown, invalid or there twice (RFC 7692 section 7).
fn accept(parameters: &[Parameter<'_>]) -> Option<Accepted> {
    let mut accepted = Accepted { window: None };
    for (index, Parameter { name, value }) in parameters.iter().enumerate() {
        if parameters[..index].iter().any(|earlier| earlier.name == *name) {
            return None;
        }
        match (*name, value.as_deref()) {
            (b"server_no_context_takeover" | b"client_no_context_takeover" | b"client_max_window_bits", None) => {}
            (b"client_max_window_bits", Some(bits)) if window(bits).is_some() => {}
            (b"server_max_window_bits", Some(bits)) => accepted.window = Some(window(bits)?),
            _ => return None,
        }
    }
    Some(accepted)
}

/// A window as it is written.
fn window(bits: &[u8]) -> Option<&'static str> {
    ALL_WINDOW_BITS.into_iter().find(|known| known.as_bytes() == bits)
}

/// Safari 15.0 to 15.3 offers compression and breaks off at the first compressed message.
fn inflates_badly(user_agent: &[u8]) -> bool {
    const VERSION: &[u8] = b"Version/15.";
    let behind = user_agent.windows(VERSION.len()).position(|part| part == VERSION).map(|at| at + VERSION.len());
    let is_safari = user_agent.windows(7).any(|part| part == b"Safari/");
    let minor = behind.map(|at| user_agent[at..].split(|byte| !byte.is_ascii_digit()).next().unwrap_or_default());
    is_safari && matches!(minor, Some(b"0" | b"1" | b"2" | b"3"))
}

/// An element of the list.
#[derive(Debug)]
struct Extension<'v> {
    name: &'v [u8],
    parameters: SmallVec<[Parameter<'v>; 4]>,
}

#[derive(Debug)]
struct Parameter<'v> {
    name: &'v [u8],
    value: Option<Cow<'v, [u8]>>,
}

/// The value is not a list of extensions.
#[derive(Debug)]
struct Malformed;

/// What has not been parsed yet of a header's value.
struct Text<'v>(&'v [u8]);

impl<'v> Text<'v> {
    /// The next element; empty ones are skipped (RFC 9110 section 5.6.1).
    fn extension(&mut self) -> Option<Result<Extension<'v>, Malformed>> {
        while self.takes(b',') {}
        (!self.0.is_empty()).then(|| self.whole_extension())
    }

    fn whole_extension(&mut self) -> Result<Extension<'v>, Malformed> {
        let mut extension = Extension { name: self.token()?, parameters: SmallVec::new() };
        while self.takes(b';') {
            let name = self.token()?;
            let value = if self.takes(b'=') { Some(self.value()?) } else { None };
            extension.parameters.push(Parameter { name, value });
        }
        if self.0.is_empty() || self.takes(b',') { Ok(extension) } else { Err(Malformed) }
    }

    /// A token, or a quoted string that is one without its quotes.
    fn value(&mut self) -> Result<Cow<'v, [u8]>, Malformed> {
        if !self.takes(b'"') {
            return self.token().map(Cow::Borrowed);
        }
        let mut value = Vec::new();
        loop {
            let (byte, rest) = match self.0 {
                [b'\\', escaped, rest @ ..] => (Some(*escaped), rest),
                [b'"', rest @ ..] => (None, rest),
                [byte, rest @ ..] => (Some(*byte), rest),
                [] => return Err(Malformed),
            };
            self.0 = rest;
            match byte {
                Some(byte) if is_token_byte(byte) => value.push(byte),
                None if !value.is_empty() => break,
                _ => return Err(Malformed),
            }
        }
        self.skip_space();
        Ok(Cow::Owned(value))
    }

    fn token(&mut self) -> Result<&'v [u8], Malformed> {
        self.skip_space();
        let end = self.0.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        self.skip_space();
        if token.is_empty() { Err(Malformed) } else { Ok(token) }
    }

    /// Skips this byte, and the white space before and behind it, if it comes next.
    fn takes(&mut self, byte: u8) -> bool {
        self.skip_space();
        let comes = self.0.first() == Some(&byte);
        if comes {
            self.0 = &self.0[1..];
            // Behind a quote, white space is part of the value.
            if byte != b'"' {
                self.skip_space();
            }
        }
        comes
    }

    fn skip_space(&mut self) {
        while let [b' ' | b'\t', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }
}

#[cfg(test)]
mod tests;
