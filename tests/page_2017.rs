//! What the page of 2017 relies on: the keys of a message in their order, and everything that it does itself.

mod support;

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::json;
use support::{Client, Server};

/// The keys of an object, in the order of the wire.
struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Keys;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = map.next_entry()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[test]
fn the_keys_of_2017_come_first_and_in_their_order() {
    const OLD: [&str; 4] = ["From", "Room", "Message", "Meta"];
    let server = Server::start(&[]);
    let mut ann = server.websocket("/ws?username=ann&room=tea");
    let mut next_keys = |said: Option<(&str, &str)>| {
        if let Some((room, message)) = said {
            ann.say(room, message);
        }
        let text = ann.text();
        let Keys(keys) = serde_json::from_str(&text).unwrap();
        assert_eq!(keys[..4], OLD, "{text}");
        let mut sorted = keys.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), keys.len(), "a key twice: {text}");
        keys[4..].join(" ")
    };
    for (said, new) in [
        (None, "Event Seq Epoch Ts"),
        (Some(("tea", "hello")), "Seq Epoch Ts"),
        (Some(("tea", "/list")), ""),
        (Some(("tea", "/join")), ""),
        (Some(("nowhere", "hello")), ""),
    ] {
        let found = next_keys(said);
        assert!(new.split(' ').all(|key| found.contains(key)), "{said:?}: {found}");
    }
}

/// Like the page of 2017: it builds its address from its path, leaves the encoding to the browser, and reads only
/// `From`, `Message` and `Meta`.
struct OldPage {
    client: Client,
    name: String,
}

impl OldPage {
    fn open(server: &Server, pathname: &str, name: &str) -> Self {
        // The characters that a browser encodes in a query.
        let encoded = |byte: u8| match byte {
            b' ' | b'"' | b'<' | b'>' | b'\'' | 0x80.. => format!("%{byte:02X}"),
            other => char::from(other).to_string(),
        };
        let name_in_url: String = name.bytes().map(encoded).collect();
        let client = server.websocket(&format!("{pathname}/ws?username={name_in_url}"));
        Self { client, name: name.to_owned() }
    }

    fn submit(&mut self, room: &str, message: &str) {
        let request = json!({"From": self.name, "Room": room, "Message": message, "Meta": false});
        self.client.send_text(&request.to_string());
    }

    #[track_caller]
    fn expect(&mut self, from: &str, message: &str, meta: bool) {
        let value = self.client.json();
        let line = (value["From"].as_str(), value["Message"].as_str(), value["Meta"].as_bool());
        assert_eq!(line, (Some(from), Some(message), Some(meta)));
    }
}

#[test]
fn the_page_of_2017_works_unchanged() {
    let server = Server::start(&[]);
    let mut veit = OldPage::open(&server, "/", "veit");
    veit.expect("#general", "Welcome to general, veit!", true);
    let mut zoe = OldPage::open(&server, "/some/where/", "Zoë <b> & co");
    // The browser doesn't encode `&`: what follows it is not part of the name, nor is a space at the end.
    for page in [&mut veit, &mut zoe] {
        page.expect("#general", "Welcome to general, Zoë <b>!", true);
    }
    zoe.submit("general", "hello");
    for page in [&mut veit, &mut zoe] {
        page.expect("Zoë <b>", "hello", false);
    }
    zoe.submit("general", "/join tea");
    zoe.expect("#tea", "Welcome to tea, Zoë <b>!", true);
    zoe.submit("tea", "/list");
    zoe.expect("#tea", "Zoë <b>", true);
    zoe.submit("tea", "/leave tea");
    zoe.expect("hi", "Left channel tea.", true);
    drop(zoe);
    veit.expect("#general", "User Zoë <b> left channel.", true);
}
