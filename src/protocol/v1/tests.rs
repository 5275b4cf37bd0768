use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn command(payload: &str) -> Command<'_> {
    parse(payload.as_bytes()).command.unwrap_or_else(|fault| panic!("{payload}: {fault:?}"))
}

fn unreadable(payload: &str) -> String {
    match parse(payload.as_bytes()).command {
        Err(RequestFault::Unreadable(why)) => why,
        other => panic!("{payload}: {other:?}"),
    }
}

fn meaningless(payload: &str) -> String {
    match parse(payload.as_bytes()).command {
        Err(RequestFault::Meaningless(why)) => why,
        other => panic!("{payload}: {other:?}"),
    }
}

fn json(frame: &Bytes) -> Value {
    let header = if frame[1] < 126 { 2 } else { 4 };
    serde_json::from_slice(&frame[header..]).unwrap()
}

#[test]
fn each_op_is_a_command() {
    let (room, message) = (Cow::from("tea"), Cow::from("/list"));
    for payload in
        [r#"{"Room":"tea","Message":"/list"}"#, r#"{"Op":"pub","From":"x","Room":"tea","Message":"/list","Meta":true}"#]
    {
        assert_eq!(command(payload), Command::Publish { room: room.clone(), message: message.clone() });
    }
    assert_eq!(command(r#"{"Op":"join","Room":"tea"}"#), Command::Join { room: room.clone(), since: None });
    assert_eq!(
        command(r#"{"Op":"join","Room":"tea","Since":{"Epoch":"00000000000000ab","Seq":7}}"#),
        Command::Join { room: room.clone(), since: Some(Since { epoch: Some(0xab), seq: 7 }) }
    );
    assert_eq!(
        command(r#"{"op":"join","room":"tea","since":{"seq":0,"epoch":"other","more":[]}}"#),
        Command::Join { room: room.clone(), since: Some(Since { epoch: None, seq: 0 }) }
    );
    assert_eq!(command(r#"{"Op":"leave","Room":"tea"}"#), Command::Leave(room.clone()));
    assert_eq!(command(r#"{"Op":"who","Room":"tea","room":"no"}"#), Command::Who(room));
    assert_eq!(command(r#"{"Op":"rooms"}"#), Command::Rooms("".into()));
    assert_eq!(command(r#"{"Op":"rooms","Prefix":"t"}"#), Command::Rooms("t".into()));
    assert_eq!(command(r#"{"Op":"ping","Since":null}"#), Command::Ping);
}

#[test]
fn what_is_wrong_is_named() {
    for (payload, part) in [
        ("hello", "not JSON"),
        (r#"{"Op":"#, "not JSON"),
        ("{} x", "not JSON"),
        (r#"{"Message":"\ud800"}"#, "not JSON"),
        ("[1]", "an object with the key Op"),
        ("\"pub\"", "an object with the key Op"),
        (r#"{"Op":3}"#, "Op has to be a string, not a number"),
        (r#"{"Room":{"a":1}}"#, "Room has to be a string, not an object"),
        (r#"{"message":["a"]}"#, "message has to be a string, not an array"),
        (r#"{"Prefix":true}"#, "Prefix has to be a string, not a boolean"),
        (r#"{"From":1.5}"#, "From has to be a string, not a number"),
        (r#"{"Meta":"yes"}"#, "Meta has to be true or false, not a string"),
        (r#"{"Ref":{}}"#, "Ref has to be a string or an integer, not an object"),
        (r#"{"Ref":1.5}"#, "Ref has to be a string or an integer of at most 64 bits"),
        (r#"{"Ref":123456789012345678901234567890}"#, "Ref has to be a string or an integer of at most 64 bits"),
        (r#"{"Since":7}"#, "Since has to be an object with Epoch and Seq, not a number"),
        (r#"{"Since":{"Epoch":7,"Seq":7}}"#, "Since.Epoch has to be a string, not a number"),
        (r#"{"Since":{"Epoch":"a","Seq":"7"}}"#, "Since.Seq has to be a number, not a string"),
        (r#"{"Since":{"Epoch":"a","Seq":-1}}"#, "Since.Seq has to be a whole number from 0"),
        (r#"{"Since":{"Epoch":"a","Seq":0.5}}"#, "Since.Seq has to be a whole number from 0"),
        (r#"{"Since":{"Seq":7}}"#, "Since.Epoch is missing"),
        (r#"{"Since":{"Epoch":"a"}}"#, "Since.Seq is missing"),
    ] {
        let why = unreadable(payload);
        assert!(why.contains(part), "{payload}: {why}");
    }
    for (payload, part) in [
        ("{}", "Room is missing"),
        (r#"{"Room":"tea"}"#, "Message is missing"),
        (r#"{"Op":"join"}"#, "Room is missing"),
        (r#"{"Op":"who","Room":null}"#, "Room is missing"),
        (r#"{"Op":"dance"}"#, "Op is none of those known here"),
        (r#"{"Op":""}"#, "Op is none of those known here"),
    ] {
        let why = meaningless(payload);
        assert!(why.contains(part), "{payload}: {why}");
    }
}

#[test]
fn a_ref_is_repeated_as_it_came_even_if_the_rest_is_wrong() {
    for reference in ["\"a\"", "\"\"", "0", "-7", "18446744073709551615", "-9223372036854775808", "\"\\u00e9\\n\""] {
        for payload in [
            format!(r#"{{"Ref":{reference},"Op":"ping"}}"#),
            format!(r#"{{"Op":7,"Ref":{reference}}}"#),
            format!(r#"{{"Op":"dance","ref":{reference}}}"#),
        ] {
            let request = parse(payload.as_bytes());
            let due: Value = serde_json::from_str(reference).unwrap();
            let refusal = Refusal::new(Code::BadRequest, "no");
            for frame in [pong(request.reference.as_ref(), 7), refusal.frame(request.reference.as_ref())] {
                assert_eq!(json(&frame)["Ref"], due, "{payload}");
            }
        }
    }
    assert!(json(&pong(None, 7)).get("Ref").is_none());
}

#[test]
fn answers_have_the_keys_of_the_wire() {
    let reference = Ref::Integer(1);
    let reference = Some(&reference);
    assert_eq!(
        json(&Answer::published("tea", 0xab, 7).frame(reference)),
        json!({"Op": "ok", "Ref": 1, "Room": "tea", "Epoch": "00000000000000ab", "Seq": 7})
    );
    assert_eq!(
        json(&Answer::joined("tea", 0xab, 7, Some(true), 3).frame(None)),
        json!({"Op": "ok", "Room": "tea", "Epoch": "00000000000000ab", "Seq": 7, "Recovered": true, "Users": 3})
    );
    assert!(json(&Answer::joined("tea", 0xab, 7, None, 3).frame(None)).get("Recovered").is_none());
    assert_eq!(json(&Answer::left("tea").frame(reference)), json!({"Op": "ok", "Ref": 1, "Room": "tea"}));
    assert_eq!(
        json(&Answer::who("tea", vec!["ann"], 3, false).frame(reference)),
        json!({"Op": "ok", "Ref": 1, "Room": "tea", "Users": ["ann"], "Count": 3})
    );
    let rooms = vec![RoomEntry { room: "tea", users: 2 }];
    assert_eq!(
        json(&Answer::rooms(rooms, 1).frame(reference)),
        json!({"Op": "ok", "Ref": 1, "Rooms": [{"Room": "tea", "Users": 2}], "Count": 1})
    );
    assert_eq!(
        json(&Refusal::new(Code::TooManyRequests, "slow down").frame(reference)),
        json!({"Op": "err", "Ref": 1, "Code": "too_many_requests", "Message": "slow down", "Temporary": true})
    );
    assert_eq!(json(&pong(reference, 12)), json!({"Op": "pong", "Ref": 1, "Ts": 12}));
}

#[test]
fn deep_nesting_is_refused_without_harm() {
    for key in ["x", "Since", "Room"] {
        let payload = format!("{{\"{key}\":{}", "[".repeat(16_000));
        unreadable(&payload);
        let payload = format!("{{\"{key}\":{}1", "{\"a\":".repeat(4_000));
        unreadable(&payload);
    }
}

/// Any JSON value, now and then one that means something here.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof!["pub|join|leave|who|rooms|ping", "[0-9a-f]{16}", ".{0,8}"].prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("Epoch|Seq|epoch|seq|.{0,3}", inner, 0..4)
                .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

const KEYS: &str = "Op|op|Ref|ref|Room|room|Message|message|Since|since|Prefix|prefix|From|Meta|meta|.{0,3}";

proptest! {
    #[test]
    fn no_object_panics_and_each_error_names_a_key_that_was_there(
        members in prop::collection::hash_map(KEYS, value(), 0..6)
    ) {
        let payload = Value::from(members.iter().map(|(key, value)| (key.clone(), value.clone())).collect::<serde_json::Map<_, _>>());
        let payload = payload.to_string();
        match parse(payload.as_bytes()).command {
            Ok(_) => {}
            Err(RequestFault::Unreadable(why)) => {
                let rest = why.strip_prefix("Can't read that message: ").unwrap();
                let key = rest.split([' ', '.']).next().unwrap();
                prop_assert!(members.contains_key(key), "{}: {}", payload, why);
            }
            Err(RequestFault::Meaningless(why)) => {
                let key = why.split(' ').next().unwrap();
                prop_assert!(["Op", "Room", "Message"].contains(&key), "{}: {}", payload, why);
            }
        }
    }

    #[test]
    fn no_bytes_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let request = parse(&payload);
        let _ = Refusal::new(Code::BadRequest, format!("{:?}", request.command)).frame(request.reference.as_ref());
    }

    #[test]
    fn nearly_good_messages_do_not_panic_either(
        cut in 0..110usize, at in 0..110usize, byte in any::<u8>(),
    ) {
        let mut payload =
            br#"{"Op":"join","Ref":"a\u00e9","Room":"t\"ea","Since":{"Epoch":"00000000000000ab","Seq":18446744073709551615}}"#.to_vec();
        let at = at % payload.len();
        payload[at] = byte;
        payload.truncate(payload.len().saturating_sub(cut % 4));
        let _ = parse(&payload);
    }
}
