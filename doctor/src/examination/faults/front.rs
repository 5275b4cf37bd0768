//! What is said about whatever answers: its name, its words, and the faults that any answer may show.

use super::super::facts::{Address, Answer, Echo, Facts};
use super::super::verdict::Kind;
use super::{Fault, SERVER_LOG};
use crate::proxy::{Lines, Proxy};

/// Limit, in characters, of what is repeated of a foreign text.
const SHOWN_CHARS_MAX: usize = 120;

/// A web page at the path and at the echo: hi is not there.
pub(super) fn html(address: &Address, answer: &Answer, status: u16, facts: &Facts) -> Fault {
    Fault::new(
        Kind::HtmlInsteadOfJson,
        format!(
            "a web page answers there (status {status}, {}) instead of hi, at {} and at /-/doctor/echo",
            server(address, answer),
            facts.target.path
        ),
        "let the proxy pass this host, or at least this path, on to hi: now another site or an error page answers",
    )
}

pub(super) fn ok_200(address: &Address, answer: &Answer, facts: &Facts) -> Fault {
    let product = product(address, answer);
    Fault::new(
        Kind::Ok200InsteadOf101,
        format!(
            "{} answers the handshake at {} with 200 instead of 101: it does not treat it as a WebSocket",
            server(address, answer),
            facts.target.path
        ),
        match product {
            Some(product) => format!("let {product} pass this path on to hi, with its upgrade"),
            None => "check the address; if a proxy stands before hi there, let it pass this path on, with its upgrade"
                .to_owned(),
        },
    )
    .lines(Lines::for_upgrade(product))
}

pub(super) fn unexpected(address: &Address, answer: &Answer, status: u16) -> Fault {
    let clause = format!("{} answers the handshake with {status}{}", server(address, answer), said(answer));
    Fault::new(Kind::UnexpectedStatus, clause, SERVER_LOG)
}

pub(super) fn is_web_page(address: &Address, answer: &Answer) -> bool {
    answer.is_html() && address.echo.done().is_some_and(|echo| echo.answer.is_html())
}

/// The product that the evidence names, if it names one.
pub(super) fn product(address: &Address, answer: &Answer) -> Option<Proxy> {
    let echoes = [&address.echo, &address.echo_upgrade].into_iter().filter_map(|step| step.done());
    let from_echo = echoes.filter_map(|echo: &Echo| echo.diff.as_ref()?.proxy()).next();
    from_echo.or_else(|| ["server", "via"].iter().find_map(|name| Proxy::named_in(answer.header(name)?)))
}

/// What answered, for the beginning of a clause: its own name, or else what the echo shows.
pub(super) fn server(address: &Address, answer: &Answer) -> String {
    match (answer.header("server").or(answer.header("via")), address.hops()) {
        (Some(name), _) => cut(name),
        (None, [.., hop]) => format!("hi, or the proxy before it ({}),", cut(&hop.trace)),
        (None, []) if address.received().is_some() => "hi".to_owned(),
        (None, []) => "a server that does not name itself".to_owned(),
    }
}

/// The same for an answer that can't be hi's.
pub(super) fn front(address: &Address, answer: &Answer) -> String {
    match (answer.header("server").or(answer.header("via")), address.hops()) {
        (Some(name), _) => cut(name),
        (None, [.., hop]) => format!("a proxy ({})", cut(&hop.trace)),
        (None, []) => "a proxy that does not name itself".to_owned(),
    }
}

/// The first line of a short text, in quotes.
pub(super) fn said(answer: &Answer) -> String {
    let line = answer.body.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    if line.is_empty() || answer.is_html() { String::new() } else { format!(": \"{}\"", cut(line)) }
}

pub(super) fn cut(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(SHOWN_CHARS_MAX).collect()
}

pub(super) fn shown(origin: Option<&str>) -> String {
    origin.map_or_else(|| "no Origin".to_owned(), |origin| format!("Origin {origin}"))
}
