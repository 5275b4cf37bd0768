//! Tests of `target.rs`, beside it.

use super::*;
use proptest::prelude::*;

fn chat(query: &str) -> Result<(String, String), TargetError> {
    let params = chat_params(query)?;
    Ok((params.named()?.to_string(), params.room.to_string()))
}

fn raw(room: &str, query: &str) -> Result<(bool, bool), TargetError> {
    raw_params(room, query).map(|params| (params.echo, params.lossy))
}

fn raw_room<'t>(room: &str, query: &'t str) -> Result<Route<'t>, TargetError> {
    Ok(Route::Upgrade(UpgradeTarget::Raw { room: room.to_owned(), query }))
}

#[test]
fn every_address_is_found() {
    for target in ["/ws?a=b", "//ws?a=b", "/chat/ws?a=b", "/deep/er//ws?a=b", "http://host:80/ws?a=b", "/%77s?a=b"] {
        assert_eq!(route(target), Ok(Route::Upgrade(UpgradeTarget::Chat { query: "a=b" })), "{target}");
    }
    assert_eq!(route("/ws"), Ok(Route::Upgrade(UpgradeTarget::Chat { query: "" })));
    assert_eq!(route("/raw/a%20b?echo=0"), raw_room("a b", "echo=0"));
    assert_eq!(route("/healthz?x"), Ok(Route::Healthz));
    assert_eq!(route("/-/doctor/echo?x=1"), Ok(Route::DoctorEcho));
    assert_eq!(route("/stream/Zo%C3%AB"), Ok(Route::Stream { room: "Zoë".to_owned(), query: "" }));
    for target in ["/", "/?x", "http://host", "HTTP://host?x", "/index.html", "/app.js", "/style.css"] {
        assert!(matches!(route(target), Ok(Route::Page(_))), "{target}");
    }
    for target in ["/raw", "/stream", "/wss", "/ws/", "/x", "/favicon.ico", "host:443", "", "ws", "?ws"] {
        assert_eq!(route(target), Ok(Route::NotFound), "{target}");
    }
}

#[test]
fn our_own_folders_win_over_what_ends_in_ws() {
    assert_eq!(route("/raw/ws"), raw_room("ws", ""));
    assert_eq!(route("/raw/a/ws"), raw_room("a/ws", ""));
    assert_eq!(route("/stream/ws?a=b"), Ok(Route::Stream { room: "ws".to_owned(), query: "a=b" }));
    assert_eq!((route("*"), route("**")), (Ok(Route::Server), Ok(Route::NotFound)));
    assert_eq!(route("/-/ws"), Ok(Route::NotFound));
    assert_eq!(route("/raw/"), raw_room("", ""));
}

#[test]
fn paths_that_are_no_text_are_refused() {
    for target in ["/%ff/ws", "/raw/%c3", "/a%00b/ws", "/raw/%0a", "/%zz", "/x%4"] {
        let error = route(target).expect_err(target);
        assert_eq!(error.reason.status(), 400);
        assert!(!error.text.contains(char::is_control), "{target}");
    }
}

#[test]
fn the_user_is_decoded_and_the_room_defaults() {
    for (query, user, room) in [
        ("username=a", "a", "general"),
        ("room=b&username=a", "a", "b"),
        ("username=a+b%2Bc%20d", "a b+c d", "general"),
        ("username=%E6%97%A5%E6%9C%AC&room=%23x", "日本", "#x"),
        ("username=日本", "日本", "general"),
        ("username=+a%C2%A0b&room=%EF%BD%94ea", "a b", "tea"),
        ("user%6Eame=a=b", "a=b", "general"),
        ("&&x=%ff&%ff=%&resume=y&username=a&Username=b", "a", "general"),
    ] {
        assert_eq!(chat(query), Ok((user.to_owned(), room.to_owned())), "{query}");
    }
    assert!(chat_params("username=a&room=general").is_ok_and(|params| params.room_named));
    assert!(chat_params("username=a").is_ok_and(|params| !params.room_named));
}

#[test]
fn every_bad_user_name_has_the_same_body_and_its_own_reason() {
    let long = format!("username={}", "u".repeat(80));
    for (query, detail) in [
        ("", "no `username`"),
        ("user=a", "no `username`"),
        ("username", "empty"),
        ("username=&room=b", "empty"),
        ("username=a&username=b", "more than once"),
        ("username=%23a", "hash"),
        ("username=#a", "hash"),
        (&long, "80 bytes long"),
        ("username=a%0ab", "U+000A"),
        ("username=a%E2%80%8Bb", "U+200B"),
        ("username=%EF%BC%83a", "hash"),
        ("username=Hi", "a name of the server"),
        ("username=%ff", "UTF-8"),
        ("username=%f", "percent sign"),
        ("username=#&room=", "hash"),
    ] {
        let error = chat(query).expect_err(query);
        assert_eq!((error.reason.status(), error.text.as_str()), (400, USERNAME_TEXT));
        assert!(error.detail.contains(detail) && !error.detail.contains(char::is_control), "{query}: {error}");
    }
}

#[test]
fn a_bad_room_has_a_sentence_of_its_own() {
    let long = "r".repeat(65);
    for (room, said) in [
        ("", "empty"),
        ("a&room=a", "more than once"),
        ("a%20b", "U+0020"),
        ("a+b", "U+0020"),
        ("%00", "U+0000"),
        ("%ff", "UTF-8"),
        (&long, "65 bytes long"),
    ] {
        let error = chat(&format!("username=a&room={room}")).expect_err(room);
        assert_eq!((error.reason.status(), &error.text), (400, &error.detail));
        assert!(error.text.contains(said) && error.text.contains("room"), "{room}: {error}");
    }
}

#[test]
fn raw_rooms_have_two_switches() {
    for (query, expected) in [
        ("", (true, false)),
        ("echo=0", (false, false)),
        ("echo=1&lossy=1&x=y", (true, true)),
        ("lossy=0", (true, false)),
    ] {
        assert_eq!(raw("r", query), Ok(expected), "{query}");
    }
    for query in ["echo", "echo=", "echo=no", "echo=0&echo=0", "lossy=2", "lossy=%31%", "echo=00"] {
        let error = raw("r", query).expect_err(query);
        assert!(error.reason.status() == 400 && error.text.contains("may be 0 or 1"), "{query}: {error}");
    }
    assert!(raw("", "").is_err_and(|error| error.text.contains("empty")));
    assert!(raw("a b", "").is_err_and(|error| error.text.contains("U+0020")));
}

proptest! {
    #[test]
    fn any_target_gets_an_answer(target in "(/|/raw/|http://h/|)([a-z/?&=+%#\u{e9}]|%[0-9a-f]{2}){0,40}(/ws)?(\\?username=.{0,9})?") {
        match route(&target) {
            Ok(Route::Upgrade(target)) => drop(target.params()),
            Ok(_) => {}
            Err(error) => prop_assert!(error.reason.status() == 400 && !error.detail.contains(char::is_control)),
        }
    }

    #[test]
    fn names_survive_their_encoding(user in "[a-zA-Zéд日🦀%&=+/?;:@~][a-zéд日🦀%&=+/?;:@~#]{0,15}", room in "[a-zéд日%&=+/?;:@#]{1,16}") {
        prop_assume!(Name::user(&user).is_ok());
        let encode = |text: &str| text.bytes().map(|b| format!("%{b:02X}")).collect::<String>();
        let query = format!("room={}&username={}", encode(&room), encode(&user));
        prop_assert_eq!(chat(&query), Ok((user, room)));
    }
}
