//! hi as a process among others: signals, a log that nobody reads, variables of others, shared cores, several addresses, and
//! output that can't be written.

mod support;

use std::fs;
use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStringExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::CommandFactory;
use hi::config::Config;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::group::cores_of_shards;
use support::proxies::free_port;
use support::{PATIENCE, Server, hi, run, wait_while};

/// From the signal to the end of the process.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);

/// Handshakes that fail, until log lines about them are dropped; all of them are answered.
fn fill_log(server: &Server) {
    let internal = server.internal();
    let deadline = Instant::now() + 3 * PATIENCE;
    while internal.metric("hi_log_lines_dropped_total") == 0.0 {
        assert!(Instant::now() < deadline, "the log takes everything");
        for _ in 0..100 {
            assert!(server.get("/ws?username=a%00b").starts_with("HTTP/1.1 4"));
        }
    }
}

fn server_that_logs_much() -> Command {
    let mut command = hi();
    command.args(["--listen", "127.0.0.1:0", "--internal", "127.0.0.1:0", "--shards", "2"]);
    command.args(["--log", "trace", "--failure-log-interval", "1ms"]);
    command
}

#[test]
fn a_log_that_nobody_reads_stops_neither_the_server_nor_its_end() {
    let (mut server, unread) = Server::spawn_unread(server_that_logs_much(), "file limit");
    let mut ann = server.join("ann", "tea");
    fill_log(&server);
    for number in 0..20 {
        // Each in a room of its own: a storm of joins is told in one notice.
        let room = format!("room{number}");
        let (mut bob, mut raw) = (server.join("bob", &room), server.websocket("/raw/r"));
        bob.say(&room, "still here");
        bob.expect_message("bob", "still here");
        raw.send_text("raw");
        assert_eq!(raw.text(), "raw");
    }
    let began = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(ann.expect_close().0, 1001);
    assert_eq!(server.wait().code(), Some(0));
    assert!(began.elapsed() < STOP_TIME_MAX, "it took {:?} to stop", began.elapsed());
    drop(unread);
}

#[test]
fn lines_that_were_dropped_are_told_to_whoever_reads_again() {
    let (mut server, stderr) = Server::spawn_unread(server_that_logs_much(), "file limit");
    fill_log(&server);
    let reader = std::thread::spawn(move || stderr.lines().map_while(Result::ok).collect::<Vec<_>>());
    let internal = server.internal();
    // More of them until it has caught up, then the last one for sure.
    let dropped = loop {
        let before = internal.metric("hi_log_lines_dropped_total");
        server.signal(Signal::USR1);
        (0..20).for_each(|_| drop(server.get("/ws")));
        if internal.metric("hi_log_lines_dropped_total") == before {
            break before;
        }
    };
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    let lines = reader.join().unwrap();
    let told = lines.iter().filter_map(|line| {
        let line = line.split_once(" log line").filter(|(_, rest)| rest.contains("dropped: stderr was not read"))?.0;
        line.rsplit(' ').next()?.parse::<f64>().ok()
    });
    assert_eq!(told.sum::<f64>(), dropped);
    assert!(lines.last().unwrap().contains("stopped after"), "{:?}", lines.last());
    assert!(lines.iter().all(|line| line.contains("20") && line.contains('Z')), "whole lines only");
}

#[test]
fn signals_that_mean_nothing_to_hi_do_no_harm() {
    let mut server = Server::start(&[]);
    let mut ann = server.join("ann", "tea");
    for (signal, name) in [(Signal::HUP, "SIGHUP"), (Signal::USR1, "SIGUSR1"), (Signal::USR2, "SIGUSR2")] {
        server.signal(signal);
        server.wait_for_log(&format!("{name}: "));
    }
    server.signal(Signal::XFSZ);
    assert!(server.log().contains("nothing to reload"), "{}", server.log());
    ann.say("tea", "still here");
    ann.expect_message("ann", "still here");
    // They are no second signal either.
    let mut silent = server.upgraded("/raw/r");
    server.signal(Signal::TERM);
    silent.expect_close(1001);
    server.signal(Signal::HUP);
    server.signal(Signal::USR1);
    assert_eq!(ann.expect_close().0, 1001);
    silent.send(support::wire::close_frame(1001, b""));
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}

/// Whether a process holds back or listens to a signal (proc_pid_status(5)).
fn attends_to(pid: u32, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
    };
    (mask("SigBlk:") | mask("SigCgt:")) >> (signal.as_raw() - 1) & 1 == 1
}

/// Sends SIGTERM as soon as the process would not miss it, which has to be while it starts. It ends with 0, soon.
fn expect_end_during_start(mut child: Child, hi: impl Fn() -> Option<u32>) {
    let began = Instant::now();
    let pid = loop {
        if let Some(pid) = hi().filter(|pid| attends_to(*pid, Signal::TERM)) {
            break pid;
        }
        assert!(began.elapsed() < PATIENCE, "it doesn't listen to signals");
        std::thread::sleep(Duration::from_millis(1));
    };
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::TERM).unwrap();
    wait_while(|| child.try_wait().unwrap().is_none(), || "it runs on".to_owned());
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(log.contains("stopping") && !log.contains("hi is open"), "{log}");
}

/// A start that takes two seconds: something listens at the address.
fn slow_start(mut command: Command) -> (Command, TcpListener) {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    command.args(["--listen", &other.local_addr().unwrap().to_string()]).env("HI_INTERNAL", "off");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    (command, other)
}

#[test]
fn a_signal_during_the_start_ends_it_in_order() {
    let (mut command, _other) = slow_start(hi());
    let child = command.spawn().unwrap();
    let pid = child.id();
    expect_end_during_start(child, || Some(pid));
}

#[test]
fn the_first_process_of_a_container_misses_no_signal() {
    let own_namespace = ["--pid", "--fork", "--kill-child=KILL"];
    if !Command::new("unshare").args(own_namespace).arg("true").status().is_ok_and(|status| status.success()) {
        return println!("skipped: this needs unshare, and the right to use it");
    }
    for _ in 0..5 {
        let mut command = Command::new("unshare");
        command.args(own_namespace).arg(env!("CARGO_BIN_EXE_hi"));
        let (mut command, _other) = slow_start(command);
        let child = command.spawn().unwrap();
        let unshare = child.id();
        expect_end_during_start(child, || {
            let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).ok()?;
            let pid = children.split_whitespace().next()?.parse().ok()?;
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            (name.trim() == "hi").then_some(pid)
        });
    }
}

#[test]
fn what_kubernetes_sets_for_a_service_named_hi_is_ignored() {
    let mut command = hi();
    command.args(["--listen", "127.0.0.1:0", "--shards", "1"]);
    for (name, value) in [
        ("HI_PORT", "tcp://10.96.12.7:8080"),
        ("HI_PORT_8080_TCP", "tcp://10.96.12.7:8080"),
        ("HI_PORT_8080_TCP_ADDR", "10.96.12.7"),
        ("HI_PORT_8080_TCP_PORT", "8080"),
        ("HI_PORT_8080_TCP_PROTO", "tcp"),
        ("HI_SERVICE_HOST", "10.96.12.7"),
        ("HI_SERVICE_PORT", "8080"),
        ("HI_SERVICE_PORT_HTTP", "8080"),
        ("HI_INTERNAL_PORT", "tcp://10.96.12.8:8081"),
        ("HI_INTERNAL_SERVICE_HOST", "10.96.12.8"),
        ("HI_NAME", "/web/hi"),
        ("HI_ENV_PATH", "/bin"),
    ] {
        command.env(name, value);
    }
    let server = Server::spawn(command);
    assert!(server.get("/healthz").starts_with("HTTP/1.1 200"));
    server.wait_for_log("is ignored");
    let log = server.log();
    assert!(log.contains("HI_PORT=\"tcp://10.96.12.7:8080\" is ignored: Kubernetes"), "{log}");
    assert_eq!(log.matches("is ignored").count(), 1, "the others are no options: {log}");
}

#[test]
fn empty_variables_are_not_set() {
    let mut command = hi();
    command.args(["--listen", "127.0.0.1:0", "--shards", "1"]);
    for argument in Config::command().get_arguments() {
        command.env(argument.get_env().expect("each has a variable"), "");
    }
    let server = Server::spawn(command);
    assert!(server.get("/healthz").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_refused_value_is_named_by_its_variable() {
    for (variables, named) in [
        (&[("HI_SHARDS", "none")][..], &["HI_SHARDS", "--shards", "none"][..]),
        (&[("HI_PORT", "70000")], &["HI_PORT", "70000"]),
        (&[("HI_LISTEN", "127.0.0.1:0,localhost")], &["HI_LISTEN", "localhost"]),
        (&[("HI_RAW", "maybe")], &["HI_RAW", "maybe"]),
        (&[("HI_PUBLIC_URL", "tcp://10.96.12.7:8080")], &["HI_PUBLIC_URL"]),
        (&[("HI_PORT", "1"), ("HI_LISTEN", "127.0.0.1:0")], &["HI_PORT", "HI_LISTEN"]),
    ] {
        let mut command = hi();
        command.envs(variables.iter().copied());
        let output = run(command);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{variables:?}: {stderr}");
        assert!(named.iter().all(|part| stderr.contains(part)), "{variables:?}: {stderr}");
    }
    let mut command = hi();
    command.env("HI_SHARDS", std::ffi::OsString::from_vec(vec![0xff]));
    let output = run(command);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("HI_SHARDS"), "{output:?}");
    // What was typed is named as it was typed, whatever the environment says.
    let mut command = hi();
    command.args(["--shards", "none"]).env("HI_SHARDS", "1");
    let stderr = String::from_utf8(run(command).stderr).unwrap();
    assert!(stderr.contains("'--shards <COUNT>'") && !stderr.contains("HI_SHARDS"), "{stderr}");
}

#[test]
fn the_command_line_wins_over_variables() {
    for (arguments, variable, value) in [
        (["--listen", "127.0.0.1:0"], "HI_PORT", "1"),
        (["-p", "0"], "HI_LISTEN", "192.0.2.1:1"),
        (["--listen", "127.0.0.1:0"], "HI_LISTEN", "192.0.2.1:1"),
    ] {
        let mut command = hi();
        command.args(arguments).env(variable, value);
        Server::spawn(command);
    }
    // What is wrong with the server's options is nothing to another command.
    let mut command = hi();
    command.args(["rooms"]).env("HI_SHARDS", "none");
    let stderr = String::from_utf8(run(command).stderr).unwrap();
    let own = if cfg!(feature = "doctor") { "internal port is off" } else { "built without its doctor" };
    assert!(stderr.contains(own), "{stderr}");
}

#[test]
fn a_service_manager_is_told_when_hi_is_ready_and_when_it_stops() {
    let mut command = hi();
    command.args(["--listen", "127.0.0.1:0", "--listen", "127.0.0.2:0", "--internal", "127.0.0.1:0"]);
    // This reads the first message: it has all addresses.
    let mut server = Server::spawn(command);
    for address in server.addresses().iter().chain([&server.internal().address]) {
        assert_ne!(address.port(), 0);
        TcpStream::connect(address).expect("it accepts");
    }
    assert_eq!(server.addresses().len(), 2);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert_eq!(server.notification().as_deref(), Some("STOPPING=1"));
}

#[test]
fn a_service_manager_that_is_gone_is_logged() {
    let mut command = hi();
    command.args(["--listen", "127.0.0.1:0", "--shards", "1"]).env("NOTIFY_SOCKET", "/nowhere/notify");
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.into_iter().find(|line| line.contains("service manager")).expect("a line about it");
    assert!(line.contains("NOTIFY_SOCKET=/nowhere/notify"), "{line}");
    assert!(child.try_wait().unwrap().is_none(), "hi runs all the same");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The peer of a connection to this address, as the server sees it, and as we do.
fn seen_and_known(address: SocketAddr) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /-/doctor/echo HTTP/1.1\r\nHost: hi\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let body: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    (body["peer"].as_str().unwrap().to_owned(), stream.local_addr().unwrap().to_string())
}

#[test]
fn all_of_ipv4_and_all_of_ipv6_can_be_listened_on_together() {
    if TcpListener::bind("[::1]:0").is_err() {
        return println!("skipped: there is no IPv6 here");
    }
    for addresses in [["0.0.0.0", "[::]"], ["[::]", "0.0.0.0"], ["127.0.0.1", "[::]"]] {
        let port = free_port();
        let mut command = hi();
        for address in addresses {
            command.args(["--listen", &format!("{address}:{port}")]);
        }
        // Addresses that the others cover.
        command.args(["--listen", &format!("[::1]:{port}"), "--listen", &format!("127.0.0.1:{port}")]);
        let server = Server::spawn(command);
        for address in [SocketAddr::from(([127, 0, 0, 1], port)), format!("[::1]:{port}").parse().unwrap()] {
            let (seen, known) = seen_and_known(address);
            assert_eq!(seen, known);
        }
        assert!(!server.log().contains("::ffff:"), "{}", server.log());
    }
}

#[test]
fn peers_of_a_dual_stack_socket_have_the_addresses_that_they_have() {
    if TcpListener::bind("[::1]:0").is_err() {
        return println!("skipped: there is no IPv6 here");
    }
    let mut command = hi();
    command.args(["-p", "0"]);
    let server = Server::spawn(command);
    for ip in ["127.0.0.1", "[::1]"] {
        let (seen, known) = seen_and_known(format!("{ip}:{}", server.port()).parse().unwrap());
        assert_eq!(seen, known);
    }
    server.get("/ws");
    let line = server.wait_for_log("handshake from");
    assert!(line.contains("handshake from 127.0.0.1:"), "{line}");
}

#[test]
fn two_servers_are_not_pinned_to_the_same_core() {
    let allowed = hi::os::allowed_cores().unwrap();
    if allowed.len() < 2 {
        return println!("skipped: there is one core");
    }
    let pinned = Server::start_on_one_shard(&["--pin", "on"]);
    assert_eq!(cores_of_shards(&pinned), [allowed[0].to_string()]);
    // Started together, they see each other nevertheless.
    let others: Vec<_> = std::thread::scope(|scope| {
        let start = || Server::start_on_one_shard(&[]);
        let starts: Vec<_> = (0..allowed.len()).map(|_| scope.spawn(start)).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    let mut taken = vec![allowed[0].to_string()];
    for server in &others {
        for cores in cores_of_shards(server).into_iter().filter(|cores| cores.parse::<usize>().is_ok()) {
            assert!(!taken.contains(&cores), "core {cores} has two servers");
            taken.push(cores);
        }
    }
    let unpinned = Server::start(&["--pin", "off"]);
    assert!(cores_of_shards(&unpinned).iter().all(|cores| cores.parse::<usize>().is_err()), "all cores");
}

#[test]
fn output_that_cannot_be_written_is_said_and_fails() {
    for arguments in [&["--help"][..], &["-h"], &["--version"], &["pub", "--help"], &["help", "rooms"]] {
        let mut command = hi();
        command.args(arguments).stdout(fs::File::create("/dev/full").unwrap());
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(74), "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("can't write to standard output") && stderr.lines().count() == 1, "{stderr}");
        // A reader that has left is no fault.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = hi();
        let output = command.args(arguments).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{arguments:?}");
    }
    // The code of a wrong option stays the same where nobody can read why.
    let mut command = hi();
    let output = command.arg("--no-such-option").stderr(fs::File::create("/dev/full").unwrap()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
