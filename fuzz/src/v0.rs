//! Messages of 2017's clients.

use hi::protocol::broadcast::Unnumbered;
use hi::protocol::surrogates::without_lone_surrogates;
use hi::protocol::v0::{self, Command};

use super::tree::Tree;
use super::{assert_sentence, json_of};

/// The known keys, and whether a value is allowed for them.
fn is_right(key: &str, value: &Tree) -> bool {
    match key {
        "Message" | "message" | "Room" | "room" | "From" | "from" => value.is_text_or_null(),
        "Meta" | "meta" => value.is_boolean_or_null(),
        _ => true,
    }
}

/// One message of a client.
pub fn check(payload: &[u8]) {
    let payload = &*without_lone_surrogates(payload);
    let members = Tree::members(payload);
    let wrong = members.as_ref().map(|members| members.iter().find(|(key, value)| !is_right(key, value)));
    match v0::parse(payload) {
        Ok(said) => {
            assert!(!matches!(wrong, Some(Some(_))), "{wrong:?} was taken");
            match v0::command(&said.message) {
                Command::Join(word) | Command::Leave(word) => {
                    assert!(!word.is_empty() && !word.contains(' ') && said.message.ends_with(word), "{said:?}");
                }
                Command::Say | Command::List | Command::Channels | Command::Malformed => {}
            }
            let told = json_of(&Unnumbered::message("ann", "tea", &said.message).number(1, 2, 3));
            assert_eq!(told["Message"], *said.message);
        }
        Err(sentence) => {
            assert_sentence(&sentence);
            if let Some(wrong) = wrong {
                let (key, _) = wrong.expect("nothing is wrong with it");
                assert!(sentence.contains(&format!(": {key} has to be ")), "{sentence} does not name {key}");
            }
        }
    }
}
