//! Requests of `hi.v1` clients.

use hi::protocol::surrogates::without_lone_surrogates;
use hi::protocol::v1::{self, Code, Refusal, RequestFault};
use serde::de::IgnoredAny;
use serde_json::Value;

use super::tree::Tree;
use super::{assert_sentence, json_of};

/// The known keys, and whether a value is allowed for them.
fn is_right(key: &str, value: &Tree) -> bool {
    match key {
        "Op" | "op" | "Room" | "room" | "Message" | "message" | "Prefix" | "prefix" | "From" | "from" | "Token"
        | "token" => value.is_text_or_null(),
        "Ref" | "ref" => value.is_text_or_null() || matches!(value, Tree::Signed(_) | Tree::Unsigned(_)),
        "Meta" | "meta" => value.is_boolean_or_null(),
        "Since" | "since" => is_since(value),
        _ => true,
    }
}

fn is_since(value: &Tree) -> bool {
    let members = match value {
        Tree::Null => return true,
        Tree::Object(members) => members,
        _ => return false,
    };
    let is_epoch = |key: &str| matches!(key, "Epoch" | "epoch");
    let is_seq = |key: &str| matches!(key, "Seq" | "seq");
    let right = members.iter().all(|(key, value)| match &**key {
        key if is_epoch(key) => matches!(value, Tree::Text(_)),
        key if is_seq(key) => matches!(value, Tree::Unsigned(_)),
        _ => true,
    });
    right && members.iter().any(|(key, _)| is_epoch(key)) && members.iter().any(|(key, _)| is_seq(key))
}

/// `Ref` as the answer has to repeat it: the last one spelled exactly, otherwise the last one in the other spelling.
fn expected_ref(members: &[(String, Tree)]) -> Option<Value> {
    let last = |spelling: &str| {
        let value = members.iter().rfind(|(key, _)| key == spelling)?;
        match &value.1 {
            Tree::Text(text) => Some(Value::from(&**text)),
            Tree::Signed(number) => Some(Value::from(*number)),
            Tree::Unsigned(number) => Some(Value::from(*number)),
            _ => None,
        }
    };
    last("Ref").or_else(|| last("ref"))
}

/// One message of a client.
pub fn check(payload: &[u8]) {
    let payload = &*without_lone_surrogates(payload);
    let request = v1::parse(payload);
    if std::str::from_utf8(payload).is_err() {
        // The frame decoder rejects such text earlier, so here it only must not panic.
        return;
    }
    let answer = json_of(&Refusal::new(Code::BadRequest, "x").frame(request.reference.as_ref()));
    assert_eq!((&answer["Op"], &answer["Code"]), (&Value::from("err"), &Value::from("bad_request")));
    let fault = request.command.err();
    if let Some(RequestFault::Unreadable(sentence) | RequestFault::Meaningless(sentence)) = &fault {
        assert_sentence(sentence);
    }
    let Some(members) = Tree::members(payload) else {
        // Unused values need not fit a number type to be JSON.
        let is_json = serde_json::from_slice::<IgnoredAny>(payload).is_ok();
        return assert!(is_json || request.reference.is_none(), "a Ref of what can't be read");
    };
    assert_eq!(answer.get("Ref"), expected_ref(&members).as_ref());
    let wrong = members.iter().find(|(key, value)| !is_right(key, value));
    match (fault, wrong) {
        (None, None) => {}
        (Some(RequestFault::Unreadable(sentence)), Some((key, _))) => {
            let names = [" has to be ", "."].iter().any(|after| sentence.contains(&format!(": {key}{after}")));
            assert!(names, "{sentence} does not name {key}");
        }
        (Some(RequestFault::Meaningless(sentence)), None) => {
            assert!(["Op ", "Room ", "Message ", "Token "].iter().any(|key| sentence.starts_with(key)), "{sentence}");
        }
        (fault, wrong) => panic!("{fault:?}, but wrong is {wrong:?}"),
    }
}
