//! Which hi, and which room of it, an address names. Pure.

use percent_encoding::percent_decode_str;

/// The room where nothing names one, as on the chat page.
const ROOM_DEFAULT: &str = "general";
/// What `hi tail ROOM` listens to.
const URL_DEFAULT: &str = "http://localhost:8080/";

/// The address of a hi, and a room.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) room: String,
}

/// Splits an address from the room that it may end with: `#ROOM`, as the page shows it, or `/stream/ROOM`. `room` is the one that was
/// given beside it.
pub(crate) fn place(address: &str, room: Option<&str>) -> Place {
    let (url, fragment) = address.split_once('#').unwrap_or((address, ""));
    let (url, streamed) = url.rsplit_once("/stream/").map_or((url.to_owned(), ""), |(base, room)| {
        let (room, query) = room.split_once('?').unwrap_or((room, ""));
        let joint = if query.is_empty() { "" } else { "?" };
        (format!("{base}/{joint}{query}"), room)
    });
    let named = [fragment, streamed].into_iter().find(|name| !name.is_empty());
    let named = named.map(|name| percent_decode_str(name).decode_utf8_lossy().into_owned());
    let room = room.map(str::to_owned).or(named).unwrap_or_else(|| ROOM_DEFAULT.to_owned());
    Place { url, room }
}

/// The same for `hi tail`, whose only argument may be a room of the hi on this machine.
pub(crate) fn place_or_room(first: &str, room: Option<&str>) -> Place {
    match (first.contains("://"), room) {
        (false, None) => Place { url: URL_DEFAULT.to_owned(), room: first.to_owned() },
        _ => place(first, room),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_name_a_room() {
        for (address, room, url, expected) in [
            ("http://h/", None, "http://h/", "general"),
            ("http://h/#tea", None, "http://h/", "tea"),
            ("http://h/#gr%C3%BCn", None, "http://h/", "grün"),
            ("http://h/#tea", Some("milk"), "http://h/", "milk"),
            ("ws://h/a/ws", Some("milk"), "ws://h/a/ws", "milk"),
            ("https://h/stream/tea", None, "https://h/", "tea"),
            ("https://h/a/stream/tea?token=x", None, "https://h/a/?token=x", "tea"),
        ] {
            let expected = Place { url: url.to_owned(), room: expected.to_owned() };
            assert_eq!(place(address, room), expected, "{address}");
            assert_eq!(place_or_room(address, room), expected, "{address}");
        }
        assert_eq!(place_or_room("tea", None), Place { url: URL_DEFAULT.to_owned(), room: "tea".to_owned() });
    }
}
