//! What is known of each room's one order, from all who have seen a part of it: members, publishers that were answered, the
//! internal port. Whoever says something else about the same place is a fault of the server.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use bytes::Bytes;
use serde_json::Value;

use crate::server::Kind;
use crate::wire::epoch_number;

/// A place in a room's order: whether the room is raw, its name, its epoch (0 in raw rooms, where clients don't see it), `Seq`.
pub type Place = (bool, &'static str, u64, u64);

/// A message of a room in JSON, read once for all who get it.
#[derive(Debug)]
pub struct Said {
    /// The JSON.
    pub json: Value,
    /// `Seq`, if it has one.
    pub seq: Option<u64>,
    /// `Epoch`, if it has one.
    pub epoch: Option<u64>,
}

impl Said {
    fn read(payload: &[u8]) -> Self {
        let json: Value = serde_json::from_slice(payload).expect("the server sends JSON");
        let seq = json["Seq"].as_u64();
        let epoch = json["Epoch"].as_str().map(epoch_number);
        Self { json, seq, epoch }
    }

    /// A text in it; empty if there is none.
    pub fn text(&self, key: &str) -> &str {
        self.json[key].as_str().unwrap_or_default()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Truth {
    /// What stands at a place, byte by byte.
    places: BTreeMap<Place, Bytes>,
    /// What a publisher was told about a place: who said what there.
    acknowledged: BTreeMap<Place, (String, String)>,
    /// Where a text stands: each is said once.
    texts: HashMap<Vec<u8>, Place>,
    /// What clients have said, and where they meant to.
    sent: HashMap<Vec<u8>, &'static str>,
    read: HashMap<Bytes, Rc<Said>>,
}

impl Truth {
    /// A client, or the internal port, is about to say this in a room.
    pub fn sends(&mut self, room: &'static str, text: &[u8]) {
        self.sent.insert(text.to_owned(), room);
    }

    /// Reads JSON that has come.
    pub fn read(&mut self, payload: &Bytes) -> Rc<Said> {
        if let Some(known) = self.read.get(payload) {
            return Rc::clone(known);
        }
        let said = Rc::new(Said::read(payload));
        if said.seq.is_some() && said.text("Op").is_empty() {
            self.read.insert(payload.clone(), Rc::clone(&said));
        }
        said
    }

    /// Somebody has seen this at a place.
    pub fn sees(&mut self, place: Place, payload: &Bytes, kind: Kind) {
        if let Some(known) = self.places.get(&place) {
            assert!(known == payload, "{place:?}: two members see two things: {known:?} and {payload:?}");
            return;
        }
        self.places.insert(place, payload.clone());
        if matches!(kind, Kind::Raw { .. }) {
            return self.stands(place, payload);
        }
        let said = self.read(payload);
        if let Some((from, text)) = self.acknowledged.get(&place) {
            assert!(
                said.text("From") == from && said.text("Message") == text,
                "{place:?}: {from} was told that its message stands here, but {payload:?} does"
            );
        }
        if said.json["Meta"] == false {
            self.stands(place, said.text("Message").as_bytes());
        }
    }

    /// A text stands at a place: one that somebody has said there, once.
    fn stands(&mut self, place: Place, text: &[u8]) {
        let shown = String::from_utf8_lossy(&text[..text.len().min(60)]);
        assert!(self.sent.get(text) == Some(&place.1), "{place:?}: nobody has said this here: {shown}");
        let before = self.texts.insert(text.to_owned(), place);
        assert!(before.is_none_or(|before| before == place), "{shown} stands at {before:?} and at {place:?}");
    }

    /// A publisher was told that its message stands at a place.
    pub fn acknowledges(&mut self, place: Place, from: &str, text: &str) {
        if let Some(known) = self.places.get(&place).cloned() {
            let said = self.read(&known);
            assert!(
                said.text("From") == from && said.text("Message") == text,
                "{place:?}: {from} is told that its message stands here, but {known:?} does"
            );
        }
        let before = self.acknowledged.insert(place, (from.to_owned(), text.to_owned()));
        assert!(before.is_none(), "{place:?} was given to {before:?} and to {from}");
    }

    /// What stands at a place, if anybody has seen it.
    pub fn at(&self, place: Place) -> Option<&Bytes> {
        self.places.get(&place)
    }

    /// Bytes of the JSON of the messages from `first` to `last` of a chat room's life; `None` if not all of it is known.
    pub fn bytes(&self, room: &'static str, epoch: u64, first: u64, last: u64) -> Option<usize> {
        (first..=last).map(|seq| self.at((false, room, epoch, seq)).map(Bytes::len)).sum()
    }

    /// How many places are known.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Each connection's messages have to stand in the order in which it said them: a text begins with the connection and a
    /// number.
    pub fn check_senders(&mut self) {
        let mut last: BTreeMap<(bool, &str, u64, String), u64> = BTreeMap::new();
        let places: Vec<(Place, Bytes)> =
            self.places.iter().map(|(place, payload)| (*place, payload.clone())).collect();
        for (place, payload) in places {
            let text = if place.0 {
                String::from_utf8_lossy(&payload).into_owned()
            } else {
                let said = self.read(&payload);
                if said.json["Meta"] == true {
                    continue;
                }
                said.text("Message").to_owned()
            };
            let (sender, number) = sender(&text).expect("as sent");
            let key = (place.0, place.1, place.2, sender.to_owned());
            let before = last.insert(key, number);
            assert!(before.is_none_or(|before| before < number), "{place:?}: {number} of {sender} after {before:?}");
        }
    }
}

/// The connection that has said a text, and its number there.
pub fn sender(text: &str) -> Option<(&str, u64)> {
    let (sender, rest) = text.split_once(':')?;
    let (number, _) = rest.split_once(':')?;
    Some((sender, number.parse().ok()?))
}
