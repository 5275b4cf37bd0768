//! Server-sent events (WHATWG HTML, 9.2): bytes in, events out. Pure.

/// Bytes of one event; no message of hi is longer.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) data: String,
    pub(crate) retry_ms: Option<u64>,
}

/// A stream of events.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    /// The beginning of an event.
    begun: Vec<u8>,
}

impl Parser {
    /// The events that end in these bytes. An event that doesn't end is dropped.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Vec<Event> {
        self.begun.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.begun.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = self.begun.drain(..end + 2).collect();
            events.push(parse(&String::from_utf8_lossy(&event)));
        }
        if self.begun.len() > EVENT_BYTES_MAX {
            self.begun.clear();
        }
        events
    }
}

fn parse(text: &str) -> Event {
    let mut event = Event::default();
    for (name, value) in text.lines().filter_map(|line| line.split_once(": ")) {
        match name {
            "id" => event.id = Some(value.to_owned()),
            "data" => event.data.push_str(value),
            "retry" => event.retry_ms = value.parse().ok(),
            _ => {}
        }
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_whole_wherever_the_bytes_are_cut() {
        let text = "retry: 2000\nid: ab:1\n\n:\n\nid: ab:2\ndata: {\"a\": 1}\n\nevent: gap\nid: ab:5\ndata: {}\n\n";
        let event = |id: Option<&str>, data: &str, retry_ms| Event {
            id: id.map(str::to_owned),
            data: data.to_owned(),
            retry_ms,
        };
        let expected = [
            event(Some("ab:1"), "", Some(2000)),
            event(None, "", None),
            event(Some("ab:2"), "{\"a\": 1}", None),
            event(Some("ab:5"), "{}", None),
        ];
        for length in [1, 2, 7, text.len()] {
            let mut parser = Parser::default();
            let events: Vec<_> = text.as_bytes().chunks(length).flat_map(|part| parser.take(part)).collect();
            assert_eq!(events, expected, "{length}");
        }
    }
}
