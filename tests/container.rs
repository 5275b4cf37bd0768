//! The image of the Dockerfile, without a container engine: its files and nothing else, its user, and Docker's own seccomp
//! profile.

#[path = "support/container.rs"]
mod container;
#[cfg(feature = "doctor")]
#[path = "support/dns.rs"]
mod dns;
mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser};
use container::{Image, Proc, Root, inside};
use hi::config::{Config, Internal};
use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Server, run};

/// What a container engine leaves a container, at most, between SIGTERM and SIGKILL: Docker's 10 seconds, halved.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);

fn docker_default() -> Value {
    serde_json::from_str(include_str!("support/seccomp/default.json")).unwrap()
}

fn with_io_uring() -> Value {
    serde_json::from_str(include_str!("../docs/deploy/seccomp-hi.json")).unwrap()
}

/// A container: the image's files, and the profile that it runs under.
struct Container {
    image: Image,
    root: Root,
    profile: Value,
    proc: Proc,
}

impl Container {
    fn new(profile: Value, proc: Proc) -> Self {
        let image = Image::read();
        Self { root: image.unpack(), image, profile, proc }
    }

    /// The image's command with further arguments.
    fn hi(&self, args: &[&str]) -> Command {
        let mut command = self.image.command("ENTRYPOINT");
        command.extend(args.iter().copied().map(String::from));
        inside(&self.root, &self.image, &command, &self.profile, self.proc)
    }

    /// Starts the server on free ports.
    fn serve(&self) -> Server {
        Server::spawn(self.hi(&["--listen", "127.0.0.1:0", "--internal", "127.0.0.1:0"]))
    }

    /// The image's health check, for a server whose internal port is not the default one.
    fn health(&self, server: &Server) -> (Option<i32>, String) {
        let command = self.image.command("HEALTHCHECK");
        let mut command = inside(&self.root, &self.image, &command, &self.profile, self.proc);
        let output = run({
            command.env("HI_INTERNAL", server.internal().address.to_string());
            command
        });
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }

    /// Two clients talk, the health check is content, the doctor too, and SIGTERM ends it.
    fn works(&self) -> Server {
        let mut server = self.serve();
        let mut ann = server.join("ann", "tea");
        let mut bob = server.join_quietly("bob", "tea");
        bob.say("tea", "hello");
        bob.expect_message("bob", "hello");
        ann.expect_message("#tea", "Welcome to tea, bob!");
        ann.expect_message("bob", "hello");
        assert_eq!(self.health(&server), (Some(0), "ready\n".to_owned()));
        self.doctor_agrees(&server);
        drop(bob);
        ann.expect_message("#tea", "User bob left channel.");
        let began = Instant::now();
        server.signal(Signal::TERM);
        assert_eq!(ann.expect_close().0, 1001);
        assert_eq!(server.wait().code(), Some(0), "{}", server.log());
        assert!(began.elapsed() < STOP_TIME_MAX, "it took {:?} to stop", began.elapsed());
        assert!(!server.log().contains("panicked"), "{}", server.log());
        server
    }

    /// Names are looked up without the libraries that do it elsewhere: by DNS, and in /etc/hosts.
    #[cfg(feature = "doctor")]
    fn doctor_agrees(&self, server: &Server) {
        let dns = dns::Dns::with_addresses(&[("chat", 60, "127.0.0.1")]);
        let url = format!("ws://chat.example.com:{}/ws", server.port());
        let internal = format!("localhost:{}", server.internal().address.port());
        for args in [&["doctor", &url, "--resolver", &dns.address()][..], &["rooms", "--internal", &internal]] {
            let output = run(self.hi(args));
            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
        }
    }

    #[cfg(not(feature = "doctor"))]
    fn doctor_agrees(&self, _server: &Server) {}
}

#[test]
fn the_image_says_what_its_engine_has_to_know() {
    let (image, config) = (Image::read(), Config::try_parse_from(["hi"]).unwrap());
    assert_eq!(image.only("STOPSIGNAL"), "SIGTERM");
    let (user, group) = image.user();
    assert!(user != 0 && group != 0);
    let Internal::At(internal) = config.internal else { panic!("it is on by default") };
    assert_eq!(image.only("EXPOSE"), format!("{} {}", config.port, internal.port()));
    assert!(internal.ip().is_loopback(), "whoever reaches the container must not be able to publish");
    let seconds = |option: &str| -> f64 {
        let (_, value) = image.only("HEALTHCHECK").split_once(option).expect("it has that option");
        value.split('s').next().unwrap().parse().expect("seconds")
    };
    assert!(seconds("--timeout=") > 2.0, "hi health takes up to two seconds, and says why");
    assert!(seconds("--interval=") > seconds("--timeout="));
}

#[test]
fn the_examples_name_options_that_exist() {
    let command = Config::command();
    let options: Vec<_> = command.get_arguments().filter_map(|option| option.get_env()?.to_str()).collect();
    for file in ["docs/deploy/compose.yaml", "docs/deploy/kubernetes.yaml", "docs/deploy/cluster/compose.yaml"] {
        let text = std::fs::read_to_string(file).unwrap();
        let set = text.match_indices("HI_").map(|(at, _)| {
            let is_end = |letter: char| !letter.is_ascii_uppercase() && letter != '_';
            text[at..].split(is_end).next().unwrap()
        });
        let set: Vec<_> = set.collect();
        assert!(set.contains(&"HI_INTERNAL") && set.contains(&"HI_API_KEY_FILE"), "{file}: {set:?}");
        assert!(set.iter().all(|name| options.contains(name)), "{file}: {set:?}");
    }
}

#[test]
fn the_profile_of_hi_is_docker_s_with_the_three_calls_of_io_uring() {
    let (mut ours, default) = (with_io_uring(), docker_default());
    let ours_before = ours["syscalls"].as_array().unwrap().len();
    let added = ours["syscalls"].as_array_mut().unwrap().remove(0);
    assert_eq!(added["names"], json!(["io_uring_enter", "io_uring_register", "io_uring_setup"]));
    assert_eq!(added["action"], "SCMP_ACT_ALLOW");
    assert!(["args", "includes", "excludes"].iter().all(|condition| added[condition].is_null()), "{added}");
    assert_eq!(ours, default);
    assert_eq!(ours_before, default["syscalls"].as_array().unwrap().len() + 1);
}

#[test]
fn under_the_profile_of_hi_it_uses_io_uring() {
    for proc in [Proc::Mounted, Proc::Missing] {
        let server = Container::new(with_io_uring(), proc).works();
        let line = server.wait_for_log("hi is open");
        assert!(line.contains("io_uring"), "{line}");
    }
}

#[test]
fn under_docker_s_own_profile_it_uses_epoll_and_says_so_once() {
    for proc in [Proc::Mounted, Proc::Missing] {
        let server = Container::new(docker_default(), proc).works();
        let line = server.wait_for_log("hi is open");
        assert!(line.contains("epoll"), "{line}");
        let log = server.log();
        let warnings: Vec<_> = log.lines().filter(|line| line.contains(" WARN ")).collect();
        assert_eq!(warnings.len(), 1, "{log}");
        for part in ["epoll", "io_uring_setup", "docs/deploy/seccomp-hi.json"] {
            assert!(warnings[0].contains(part), "{part} in {}", warnings[0]);
        }
    }
}
