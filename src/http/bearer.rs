//! Where a request has its token, and how a request is shown without it. Pure.

use std::borrow::Cow;

use super::head::Head;
use super::target;

/// What a subprotocol begins with that is a token: browsers can't set `Authorization` for a WebSocket. It is never chosen, and so
/// never sent back.
pub(crate) const SUBPROTOCOL_PREFIX: &str = "hi.bearer.";
/// The key of a token in a query.
const QUERY_KEY: &str = "token";

/// Where tokens are looked for beside `Authorization` and the subprotocols.
#[derive(Clone, Debug, Default)]
pub struct TokenPlaces {
    /// The cookie with this name.
    pub cookie: Option<String>,
    /// The query, under `token`.
    pub query: bool,
    /// Whether there are keys that a token could be checked with.
    pub has_keys: bool,
    /// The header in which a trusted proxy names the user.
    pub user_header: Option<String>,
}

/// What a request has of the header in which a trusted proxy names the user.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NamedUser<'h> {
    /// It is not there, or not asked for.
    No,
    /// This one.
    Yes(Cow<'h, str>),
    /// Two or more: somebody has added one.
    Ambiguous,
}

impl TokenPlaces {
    /// Whom a proxy names.
    pub(crate) fn named_user<'h>(&self, head: &Head<'h>) -> NamedUser<'h> {
        let Some(name) = &self.user_header else { return NamedUser::No };
        let mut values = head.header(name).map(<[u8]>::trim_ascii).filter(|value| !value.is_empty());
        match (values.next(), values.next()) {
            (None, _) => NamedUser::No,
            (Some(value), None) => NamedUser::Yes(String::from_utf8_lossy(value)),
            (Some(_), Some(_)) => NamedUser::Ambiguous,
        }
    }

    /// The token of a request, from the first place that has one.
    pub(crate) fn find<'h>(&self, head: &Head<'h>, query: &'h str) -> Option<Cow<'h, str>> {
        if !self.has_keys {
            return None;
        }
        let found = authorization(head).or_else(|| subprotocol(head)).or_else(|| self.cookie(head));
        // What is not UTF-8 is no token, and will be refused as one.
        found.map(String::from_utf8_lossy).or_else(|| self.query.then(|| target::first(query, QUERY_KEY)).flatten())
    }

    fn cookie<'h>(&self, head: &Head<'h>) -> Option<&'h [u8]> {
        let name = self.cookie.as_deref()?;
        let value = |pair: &'h [u8]| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=");
        head.header("cookie").flat_map(|cookies| cookies.split(|byte| *byte == b';')).find_map(value)
    }

    /// Where a client may put a token, for the middle of a sentence.
    pub(crate) fn describe(&self) -> String {
        let mut text = format!("as Authorization: Bearer TOKEN or as the subprotocol {SUBPROTOCOL_PREFIX}TOKEN");
        if let Some(name) = &self.cookie {
            text.push_str(&format!(", in the cookie {name}"));
        }
        if self.query {
            text.push_str(&format!(", as {QUERY_KEY}=TOKEN in the address"));
        }
        text
    }
}

fn authorization<'h>(head: &Head<'h>) -> Option<&'h [u8]> {
    let (scheme, token) = head.header("authorization").next()?.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

fn subprotocol<'h>(head: &Head<'h>) -> Option<&'h [u8]> {
    head.tokens("sec-websocket-protocol").find_map(|offered| offered.strip_prefix(SUBPROTOCOL_PREFIX.as_bytes()))
}

/// The value of `Sec-WebSocket-Protocol` as it may be shown.
pub(super) fn mask_subprotocols(value: &str) -> Cow<'_, str> {
    if !value.contains(SUBPROTOCOL_PREFIX) {
        return value.into();
    }
    let mask = |offered: &str| match offered.trim().strip_prefix(SUBPROTOCOL_PREFIX) {
        Some(token) => format!("{SUBPROTOCOL_PREFIX}(masked, {} bytes)", token.len()),
        None => offered.trim().to_owned(),
    };
    value.split(',').map(mask).collect::<Vec<_>>().join(", ").into()
}

/// A request target as it may be shown.
pub(super) fn mask_query(target: &str) -> Cow<'_, str> {
    let Some((path, query)) = target.split_once('?') else { return target.into() };
    let mask = |pair: &str| match pair.split_once('=') {
        Some((key, token)) if target::is_key(key, QUERY_KEY) => format!("{key}=(masked, {} bytes)", token.len()),
        _ => pair.to_owned(),
    };
    let masked = query.split('&').map(mask).collect::<Vec<_>>().join("&");
    if masked == query { target.into() } else { format!("{path}?{masked}").into() }
}

#[cfg(test)]
mod tests {
    use super::super::head::parse;
    use super::*;

    fn find(places: &TokenPlaces, headers: &str, query: &str) -> Option<String> {
        let text = format!("GET / HTTP/1.0\r\n{headers}\r\n");
        let (head, _) = parse(text.as_bytes()).expect("well-formed").expect("whole");
        places.find(&head, query).map(Cow::into_owned)
    }

    #[test]
    fn the_first_place_that_has_a_token_wins() {
        let all = TokenPlaces { cookie: Some("session".into()), query: true, has_keys: true, user_header: None };
        let (bearer, protocol) =
            ("Authorization: bearer  a.b.c\r\n", "Sec-WebSocket-Protocol: hi.v1, hi.bearer.d.e.f\r\n");
        let cookie = "Cookie: sessions=x; session=g.h.i; session=y\r\n";
        let query = "x=1&t%6fken=j.k%2El&token=z";
        for (headers, query, token) in [
            (format!("{cookie}{protocol}{bearer}"), query, Some("a.b.c")),
            (format!("{cookie}{protocol}"), query, Some("d.e.f")),
            (cookie.to_owned(), query, Some("g.h.i")),
            ("Authorization: Basic eDp5\r\n".to_owned(), query, Some("j.k.l")),
            ("Authorization: Bearer\r\nCookie: other=x\r\n".to_owned(), "tokens=1", None),
        ] {
            assert_eq!(find(&all, &headers, query).as_deref(), token, "{headers}");
        }
        let few = TokenPlaces { has_keys: true, ..TokenPlaces::default() };
        assert_eq!(find(&few, cookie, query), None);
        assert_eq!(few.describe(), "as Authorization: Bearer TOKEN or as the subprotocol hi.bearer.TOKEN");
    }

    #[test]
    fn a_request_is_shown_without_its_token() {
        assert_eq!(mask_subprotocols("hi.v1,hi.bearer.a.b.c , x"), "hi.v1, hi.bearer.(masked, 5 bytes), x");
        assert_eq!(mask_subprotocols("hi.v1 ,x"), "hi.v1 ,x");
        assert_eq!(
            mask_query("/ws?token=a.b.c&x=1&t%6Fken=d&TOKEN=e"),
            "/ws?token=(masked, 5 bytes)&x=1&t%6Fken=(masked, 1 bytes)&TOKEN=e"
        );
        assert_eq!(mask_query("/ws?x=1"), "/ws?x=1");
    }
}
