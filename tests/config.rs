//! Options from a file: which source wins, what is wrong is said with its line, and a reload changes what can be changed while
//! nobody is disconnected.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use ring::hmac;
use rustix::process::Signal;
use serde_json::json;
use support::tokens::signed;
use support::wire::{BINARY, FIN, Wire, frame, handshake_but};
use support::{Client, Server, hi, run, wait_while};

/// A configuration file, removed in the end.
struct File(PathBuf);

impl File {
    fn new(text: &str) -> Self {
        let name = format!("hi-config-{}-{:x}.toml", std::process::id(), fastrand::u64(..));
        let file = Self(std::env::temp_dir().join(name));
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        fs::write(&self.0, text).unwrap();
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn config(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command: Command = hi();
    command.arg("config").args(args).envs(variables.iter().copied());
    run(command)
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What went wrong: one line, and exit code 2.
fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_default_file_has_every_option_with_its_default() {
    let file = stdout(&config(&["default"], &[]));
    let defaults = stdout(&config(&["show"], &[]));
    assert!(
        file.contains("### Limits") && file.contains("#max-message = \"16k\"\n") && file.contains("#port = 8080\n")
    );
    assert!(file.lines().all(|line| line.len() <= 120), "{file}");
    // Without the signs in front, it says what holds anyway.
    let is_set = |name: &str| defaults.lines().any(|line| line.starts_with(&format!("{name} = ")));
    let uncommented = file.lines().map(|line| match line.strip_prefix('#') {
        // Nobody can have both.
        Some(setting) if setting.split(" = ").next().is_some_and(is_set) => setting,
        _ => line,
    });
    let uncommented = File::new(&uncommented.collect::<Vec<_>>().join("\n"));
    let shown = stdout(&config(&["show", uncommented.path()], &[("HI_INTERNAL", "127.0.0.1:8081")]));
    let values =
        |text: &str| text.lines().map(|line| line.split(" #").next().unwrap().trim().to_owned()).collect::<Vec<_>>();
    let defaults = stdout(&config(&["show"], &[("HI_INTERNAL", "127.0.0.1:8081")]));
    assert_eq!(values(&shown), values(&defaults));
    assert!(values(&defaults).len() > 30, "{defaults}");
    stdout(&config(&["check", uncommented.path()], &[]));
    // An empty file is one, too.
    stdout(&config(&["check", File::new("").path()], &[]));
}

#[test]
fn a_file_beats_the_defaults_the_environment_beats_it_and_flags_beat_both() {
    let file = File::new(
        "max-message = \"1k\"\nmax-rooms = 5\norigins = [\"any\", \"null\"]\necho = false\nlisten = \"127.0.0.1:1\"\n",
    );
    let shown = stdout(&config(&["show", file.path()], &[("HI_MAX_ROOMS", "6"), ("HI_RAW", "")]));
    let has = |value: &str, source: &str| {
        let line =
            shown.lines().find(|line| line.starts_with(value)).unwrap_or_else(|| panic!("no {value} in {shown}"));
        assert!(line.ends_with(&format!("# {source}")), "{line}");
    };
    has("max-message = \"1k\"", &format!("{}:1", file.path()));
    has("max-rooms = 6", "HI_MAX_ROOMS");
    has("origins = [\"any\", \"null\"]", &format!("{}:3", file.path()));
    has("echo = \"off\"", &format!("{}:4", file.path()));
    has("raw = \"open\"", "default");
    // A list of the command line replaces that of the file, and a port its addresses.
    let mut command = hi();
    command.args([
        "--config",
        file.path(),
        "--port",
        "0",
        "--shards",
        "1",
        "--origins",
        "https://a.example",
        "--max-rooms=7",
    ]);
    command.env("HI_MAX_ROOMS", "6");
    let server = Server::spawn(command);
    let (_, hello) = server.v1("username=ada");
    assert_eq!((&hello["Limits"]["Rooms"], &hello["Limits"]["Message"]), (&json!(7), &json!(1024)));
    assert_eq!(upgrade(&server, "https://b.example"), 403);
    assert_eq!(upgrade(&server, "https://a.example"), 101);
    assert!(server.get("/-/doctor/echo").starts_with("HTTP/1.1 404 "));
    // The file that the environment names.
    let shown = stdout(&config(&["show"], &[("HI_CONFIG", file.path())]));
    assert!(shown.contains("max-rooms = 5"), "{shown}");
}

/// The status of a handshake from a page.
fn upgrade(server: &Server, origin: &str) -> u16 {
    let mut wire: Wire = server.wire();
    wire.send(handshake_but("/raw/data", &[], &[&format!("Origin: {origin}")]));
    wire.answer().status
}

#[test]
fn what_is_wrong_is_said_with_its_line_and_nothing_starts() {
    for (text, said) in [
        ("\nmax-mesage = \"1k\"", ":2: there is no option max-mesage: did you mean max-message?"),
        ("max-message = \"many\"", ":1 (--max-message <BYTES>)"),
        ("\nraw = \"maybe\"", ":2 (--raw <MODE>)"),
        ("max-rooms = [1, 2]", ":1 (--max-rooms <COUNT>)"),
        ("port = 1\nlisten = \"127.0.0.1:1\"", "cannot be used with"),
        ("origins = \"a.example\"", "https://chat.example.com"),
        ("port = ", ":1: "),
        ("api-key-file = \"/nowhere/at/all\"", "/nowhere/at/all"),
    ] {
        let file = File::new(text);
        let error = refused(&config(&["check", file.path()], &[]));
        assert!(error.contains(said), "{text}: {error}");
        let mut command = hi();
        command.args(["--config", file.path(), "--internal=127.0.0.1:0"]);
        assert!(refused(&run(command)).contains(said), "{text}");
    }
    assert!(refused(&config(&["check", "/nowhere.toml"], &[])).contains("can't read /nowhere.toml"));
    // A mistake of the environment is not blamed on the file.
    let error = refused(&config(&["check", File::new("max-rooms = 5").path()], &[("HI_MAX_ROOMS", "x")]));
    assert!(error.contains("HI_MAX_ROOMS (--max-rooms"), "{error}");
}

#[test]
fn the_documented_file_is_one() {
    let page = include_str!("../docs/deploy.md");
    let block = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the block");
    let file = File::new(block);
    assert!(stdout(&config(&["check", file.path()], &[])).contains("https://app.example.com"));
    assert_eq!(block.lines().count(), stdout(&config(&["show", file.path()], &[])).matches(file.path()).count());
}

#[test]
fn a_check_says_who_may_do_what() {
    let file = File::new("raw = \"listen\"\ntrusted-proxies = [\"10.0.0.5\", \"10.0.0.6\"]\n");
    let said = stdout(&config(&["check", file.path()], &[]));
    for sentence in [
        "Anyone may join any room under any free name.",
        "only the internal port publishes there",
        "These proxies are believed which address a client has, from x-forwarded-for: 10.0.0.5, 10.0.0.6.",
        "One address may have 512 connections",
    ] {
        assert!(said.contains(sentence), "{sentence} in {said}");
    }
}

fn reload(server: &Server, expected: &str) {
    let before = server.log().len();
    server.signal(Signal::HUP);
    wait_while(|| !server.log()[before..].contains("reloaded"), || server.log());
    assert!(server.log()[before..].contains(expected), "{expected} in {}", &server.log()[before..]);
}

#[test]
fn a_reload_applies_what_it_can_and_names_the_rest() {
    let file = File::new("origins = \"https://a.example\"\n");
    let args = ["--internal", "127.0.0.1:0", "--config", file.path()];
    let server = Server::start(&args);
    let internal = server.internal();
    let (success, time) = ("hi_config_reload_success", "hi_config_reload_timestamp_seconds");
    assert!(internal.metric(success) == 1.0 && internal.metric(time) > 1.7e9);
    assert_eq!((upgrade(&server, "https://a.example"), upgrade(&server, "https://b.example")), (101, 403));
    let (mut speaker, _) = server.join_v1("ada", "tea");

    file.write("origins = \"https://b.example\"\nrate-limit = 1\nrate-burst = 1\nlog = \"debug\"\nraw = \"off\"\n");
    reload(&server, "a restart is needed for raw");
    let line = server.wait_for_log("the options are reloaded");
    assert!(line.contains("origins, rate-limit, rate-burst, log changed"), "{line}");
    assert_eq!((upgrade(&server, "https://a.example"), upgrade(&server, "https://b.example")), (403, 101));
    // Those who are there already are concerned, too.
    let mut errors = 0;
    for number in 0..20 {
        let message = json!({"Op": "pub", "Ref": number, "Room": "tea", "Message": "x"});
        speaker.send_text(&message.to_string());
        while {
            let answer = speaker.json();
            errors += u32::from(answer["Code"] == "too_many_requests");
            answer["Ref"] != number
        } {}
    }
    assert!(errors > 10, "{errors}");
    // No chat takes it, which is worth a line of that level.
    server.upgraded("/ws?username=bob").send(frame(FIN | BINARY, b"x"));
    server.wait_for_log("DEBUG");

    // A mistake changes nothing.
    file.write("origins = \"https://c.example\"\nrate-limit = \"fast\"\n");
    reload(&server, ":2 (--rate-limit");
    assert_eq!(internal.metric(success), 0.0);
    assert_eq!((upgrade(&server, "https://c.example"), upgrade(&server, "https://b.example")), (403, 101));
    file.write("origins = \"https://c.example\"\n");
    // raw is as it was at the start again, and no restart is needed.
    reload(&server, "changed");
    assert!(!server.log().lines().last().unwrap().contains("restart"), "{}", server.log());
    assert_eq!(internal.metric(success), 1.0);
    assert_eq!(upgrade(&server, "https://c.example"), 101);
    reload(&server, "nothing has changed");
}

#[test]
fn keys_are_read_again() {
    let keys = File::new("0123456789abcdef-first\n");
    let server = Server::start(&["--internal", "127.0.0.1:0", "--api-key-file", keys.path()]);
    let status = |key: &str| server.internal().ask("GET", "/api/rooms", &[("X-API-Key", key)], b"").status;
    assert_eq!((status("0123456789abcdef-first"), status("0123456789abcdef-second")), (200, 401));
    keys.write("0123456789abcdef-second\n");
    reload(&server, "nothing has changed");
    assert_eq!((status("0123456789abcdef-first"), status("0123456789abcdef-second")), (401, 200));
    keys.write("short\n");
    reload(&server, "the options are not reloaded");
    assert_eq!(status("0123456789abcdef-second"), 200);
}

#[test]
fn a_reload_under_load_drops_nobody_and_no_message() {
    const CLIENTS: usize = 40;
    const MESSAGES: usize = 400;
    let file = File::new("rate-limit = 0\n");
    let (server, internal) = Server::start_with_internal(&["--config", file.path()]);
    let mut clients: Vec<Client> =
        (0..CLIENTS).map(|number| server.websocket(&format!("/raw/data?x={number}"))).collect();
    internal.wait_for_metric("hi_connections{dialect=\"raw\"}", CLIENTS as f64);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..30 {
                let limit = 1000 + number;
                file.write(&format!(
                    "rate-limit = 0\nmax-per-address = {limit}\norigins = \"https://{number}.example\"\n"
                ));
                reload(&server, "max-per-address");
            }
        });
        let (publisher, readers) = clients.split_at_mut(1);
        scope.spawn(move || {
            for number in 0..MESSAGES {
                publisher[0].send_text(&number.to_string());
                assert_eq!(publisher[0].text(), number.to_string());
            }
        });
        for reader in readers {
            scope.spawn(move || (0..MESSAGES).for_each(|number| assert_eq!(reader.text(), number.to_string())));
        }
    });
    assert_eq!(internal.metric("hi_connections{dialect=\"raw\"}"), CLIENTS as f64);
    assert_eq!(internal.metric("hi_lost_messages_total"), 0.0);
}

/// Says that a thread has ended, also if it panics: the others would go on for ever.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn new_keys_for_tokens_drop_nobody_and_no_message() {
    const CLIENTS: usize = 20;
    const ROTATIONS: usize = 20;
    let secret = |number: usize| format!("{number:032}");
    let token = |number: usize, user: &str| {
        signed(&json!({"alg": "HS256"}), &json!({"sub": user, "rooms": {"raw:data": ["listen", "pub"]}}), |message| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret(number).as_bytes());
            hmac::sign(&key, message).as_ref().to_vec()
        })
    };
    let keys = File::new(&secret(0));
    let (server, internal) = Server::start_with_internal(&[
        "--auth=required",
        "--auth-query=on",
        "--rate-limit=0",
        "--jwt-key",
        keys.path(),
    ]);
    let path = |number: usize, user: &str| format!("/raw/data?token={}", token(number, user));
    let mut clients: Vec<Client> =
        (0..CLIENTS).map(|number| server.websocket(&path(0, &format!("user-{number}")))).collect();
    let status = |number: usize| {
        let mut wire: Wire = server.wire();
        wire.send(handshake_but(&path(number, "guest"), &[], &[]));
        wire.answer().status
    };
    internal.wait_for_metric("hi_connections{dialect=\"raw\"}", CLIENTS as f64);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _over = OnDrop(&is_over);
            for number in 1..=ROTATIONS {
                assert_eq!(status(number), 401, "the next key is not known yet");
                keys.write(&secret(number));
                reload(&server, "nothing has changed");
                // Nor does anybody remember a token of the last one.
                assert_eq!((status(number - 1), status(number)), (401, 101));
            }
            // A mistake changes nothing.
            keys.write("short");
            reload(&server, "the options are not reloaded");
            assert_eq!(status(ROTATIONS), 101);
        });
        let (publisher, readers) = clients.split_at_mut(1);
        scope.spawn(|| {
            for number in 0.. {
                let text = if is_over.load(Ordering::Relaxed) { "end".to_owned() } else { number.to_string() };
                publisher[0].send_text(&text);
                assert_eq!(publisher[0].text(), text);
                if text == "end" {
                    break;
                }
            }
        });
        for reader in readers {
            scope.spawn(move || {
                let texts = std::iter::repeat_with(|| reader.text()).take_while(|text| text != "end");
                let count = texts.enumerate().inspect(|(at, text)| assert_eq!(*text, at.to_string())).count();
                assert!(count > ROTATIONS, "{count} messages are no load");
            });
        }
    });
    internal.wait_for_metric("hi_connections{dialect=\"raw\"}", CLIENTS as f64);
    assert_eq!(internal.metric("hi_lost_messages_total"), 0.0);
}
