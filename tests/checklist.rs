//! `hi checklist` around a real move: two servers, DNS servers that disagree, and a leftover proxy.

#[path = "support/dns.rs"]
mod dns;
#[path = "support/doctor.rs"]
mod run;
mod support;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use dns::Dns;
use run::Proxy;
use serde_json::Value;
use support::{PATIENCE, Server, wait_while};

const OLD: &str = "127.0.0.2";
const NEW: &str = "127.0.0.3";

/// A folder of the test's own.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("hi-checklist-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The exit code and what was printed.
fn checklist(args: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_hi")).arg("checklist").args(args).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().unwrap(), text)
}

/// The state of each item of a list in JSON.
fn states(list: &str) -> Vec<(String, String)> {
    let list: Value = serde_json::from_str(list).unwrap();
    let text = |item: &Value, key: &str| item[key].as_str().unwrap().to_owned();
    list["items"].as_array().unwrap().iter().map(|item| (text(item, "name"), text(item, "state"))).collect()
}

fn named<'s>(states: &'s [(String, String)], state: &str) -> Vec<&'s str> {
    states.iter().filter(|(_, is)| is == state).map(|(name, _)| name.as_str()).collect()
}

/// A list as JSON: the exit code, and what is open.
fn open(args: &[&str]) -> (i32, Vec<String>) {
    let (code, list) = checklist(&[args, &["--json", "--elsewhere"]].concat());
    let states = states(&list);
    (code, named(&states, "open").into_iter().map(str::to_owned).collect())
}

fn zone(ttl: u32, address: &str) -> Dns {
    Dns::with_addresses(&[("chat", ttl, address)])
}

#[test]
fn a_move_from_the_first_list_to_the_last() {
    let folder = Folder::new("move");
    let old = Server::start_on(&format!("{OLD}:0"), &[]);
    let port = old.port();
    let url = format!("ws://chat.example.com:{port}/ws");
    let before = folder.file("before.md");

    // A day before: the TTL is a day, and nothing runs on the new server yet.
    let zone_before = zone(86_400, OLD);
    let args = ["before", &url, "--new", NEW, "--resolver", &zone_before.address()];
    assert_eq!(open(&args), (1, vec!["ttl_low".to_owned(), "new_address".to_owned()]));

    // The TTL is lowered, the new server runs.
    let new = Server::start_on(&format!("{NEW}:{port}"), &[]);
    let zone_low = zone(60, OLD);
    let args = ["before", &url, "--new", NEW, "--resolver", &zone_low.address(), "--save", &before, "--elsewhere"];
    let (code, list) = checklist(&args);
    assert_eq!(code, 0, "{list}");
    assert!(list.contains("- [x] **The TTL is low") && list.contains("- [ ] **You know how to turn back"), "{list}");

    // The record is changed; one resolver still has the old one.
    let zone_new = zone(60, NEW);
    let resolvers = [zone_new.address(), zone_low.address()];
    let during = ["during", &url, "--since", &before, "--new", NEW, "--resolver", &resolvers[0], "--resolver"];
    let (code, list) = checklist(&[&during[..], &[&resolvers[1], "--elsewhere"]].concat());
    assert_eq!(code, 1);
    assert!(list.contains(&format!("{} gives {OLD} for another 60 s", zone_low.address())), "{list}");
    assert!(list.contains("- [x] **The old address still works"), "{list}");

    // All users should have moved. The provider has put its proxy on the old address, and one resolver keeps the record.
    drop(old);
    let rewrite = |head: &str| {
        let keeps = |line: &&str| !["Upgrade:", "Connection:"].iter().any(|name| line.starts_with(name));
        head.split("\r\n").filter(keeps).collect::<Vec<_>>().join("\r\n").replace("HTTP/1.1", "HTTP/1.0")
    };
    let (at_old, at_new) = (format!("{OLD}:{port}"), format!("{NEW}:{port}"));
    let (at_old, at_new): (SocketAddr, SocketAddr) = (at_old.parse().unwrap(), at_new.parse().unwrap());
    // The kernel takes a moment to take the listeners out of a dead process's rings.
    wait_while(|| TcpListener::bind(at_old).is_err(), || "the old server's port does not become free".to_owned());
    Proxy { rewrite, ..Proxy::default() }.start(at_old, at_new);
    let after = ["after", &url, "--since", &before, "--new", NEW, "--resolver", &resolvers[0], "--resolver"];
    let (code, found) = open(&[&after[..], &[&resolvers[1]]].concat());
    assert_eq!(code, 1);
    for name in ["address_works", "old_gone", "old_silent"] {
        assert!(found.iter().any(|open| open == name), "{name} is not among {found:?}");
    }

    // The records of all resolvers are new; what is left is the proxy, and the TTL.
    let zone_steady = zone(3600, NEW);
    let (code, found) = open(&["after", &url, "--since", &before, "--resolver", &zone_steady.address()]);
    assert_eq!((code, found), (1, vec!["old_silent".to_owned()]));
    drop(new);
}

#[test]
fn after_a_move_nothing_is_open_when_the_old_address_is_silent_and_its_server_empty() {
    let folder = Folder::new("after");
    let old = Server::start_on(&format!("{OLD}:0"), &["--internal", "127.0.0.1:0"]);
    let url = format!("ws://chat.example.com:{}/ws", old.port());
    let internal = old.internal().address.to_string();
    let new = Server::start_on(&format!("{NEW}:{}", old.port()), &[]);
    let zone = zone(3600, NEW);
    let user = old.join("ada", "general");
    let after = [
        "after",
        &url,
        "--old",
        OLD,
        "--new",
        NEW,
        "--resolver",
        &zone.address(),
        "--old-internal",
        &internal,
        "--json",
        "--elsewhere",
        "--save",
        &folder.file("list.json"),
    ];
    let (code, list) = checklist(&after);
    assert_eq!((code, named(&states(&list), "open")), (1, vec!["old_idle"]), "ada is still there");
    drop(user);
    // Until the server has noticed the end.
    let deadline = Instant::now() + PATIENCE;
    let mut list = checklist(&after);
    while list.0 != 0 && Instant::now() < deadline {
        list = checklist(&after);
    }
    let states = states(&list.1);
    assert_eq!((list.0, named(&states, "open")), (0, vec![]), "{}", list.1);
    assert!(named(&states, "done").contains(&"old_silent"), "the old server still serves the chat");
    drop(new);
}

#[test]
fn the_changes_between_two_lists() {
    let folder = Folder::new("diff");
    let server = Server::start_on(&format!("{NEW}:0"), &[]);
    let url = format!("ws://chat.example.com:{}/ws", server.port());
    let (a, b) = (folder.file("a.md"), folder.file("b.json"));
    for (ttl, file) in [(86_400, &a), (60, &b)] {
        let zone = zone(ttl, NEW);
        checklist(&["before", &url, "--resolver", &zone.address(), "--save", file, "--elsewhere"]);
    }
    let (code, changes) = checklist(&["diff", &a, &b]);
    assert_eq!(code, 0);
    assert!(changes.contains("**Longest TTL:** 60 s, was 86400 s."), "{changes}");
    assert!(changes.contains("users move within minutes:** done, was open"), "{changes}");
    assert!(checklist(&["diff", &a, &a]).1.contains("Nothing."));
}

#[test]
fn an_invalid_list_and_an_unwritable_file_are_reported_before_any_check() {
    let folder = Folder::new("usage");
    let other = folder.file("other.md");
    std::fs::write(&other, "# notes").unwrap();
    let unwritable = folder.file("missing/list.md");
    for (args, part) in [
        (vec!["after", "wss://chat.example.com/ws", "--since", &other], "not a list"),
        (vec!["before", "wss://chat.example.com/ws", "--save", &unwritable], "can't be written"),
        (vec!["before", "chat.example.com"], "wss://chat.example.com"),
        (vec!["diff", &other, &other], "not a list"),
    ] {
        let (code, text) = checklist(&args);
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(part) && text.lines().count() <= 6, "{text}");
    }
    assert!(!Path::new(&unwritable).exists());
}
