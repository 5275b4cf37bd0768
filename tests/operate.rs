//! What an operator sees: start, log, wrong options, a kernel that refuses, and stop.

#![allow(unsafe_code, reason = "a filter is set between fork and exec")]

mod support;

use std::io::Read;
use std::net::TcpStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::CommandFactory;
use hi::config::Config;
use rustix::process::Signal;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use support::wire::{BINARY, FIN, Wire, close_frame, frame, handshake};
use support::{Server, hi, run, wait_while};

/// Time from the signal to the end of the process, as promised in docs/limits.md.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);

/// Expects exit code 2 and one sentence, which it returns.
#[track_caller]
fn expect_sentence(command: Command) -> String {
    let output = run(command);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "one sentence, not {stderr:?}");
    assert!(!stderr.contains("panicked") && !stderr.contains("Error {"), "{stderr}");
    stderr
}

/// Makes the kernel refuse a system call with this error, as a container's seccomp profile does.
fn refuse(command: &mut Command, call: libc::c_long, errno: i32) {
    act_on(command, call, SeccompAction::Errno(errno as u32));
}

/// Makes the kernel do this when the command makes a system call.
fn act_on(command: &mut Command, call: libc::c_long, action: SeccompAction) {
    let filter = SeccompFilter::new(
        [(call, Vec::new())].into(),
        SeccompAction::Allow,
        action,
        std::env::consts::ARCH.try_into().expect("an architecture that seccompiler knows"),
    );
    let filter: BpfProgram = filter.unwrap().try_into().unwrap();
    let apply = move || seccompiler::apply_filter(&filter).map_err(|_| std::io::ErrorKind::Other.into());
    // SAFETY: the closure makes two system calls with a filter that was made before the fork; it takes no lock and
    // allocates nothing.
    unsafe { command.pre_exec(apply) };
}

/// Waits until no connection is accepted any more.
fn wait_until_refused(server: &Server) {
    wait_while(|| TcpStream::connect(server.address()).is_ok(), || "connections are still accepted".to_owned());
}

fn stops_on(signal: Signal) {
    let mut server = Server::start(&[]);
    let mut ann = server.join("ann", "tea");
    let mut raw = server.websocket("/raw/r");
    // Difficult peers: one that never answers, one in the middle of a frame, one that doesn't read, one without a
    // request yet, and one in the middle of its request.
    let mut silent = server.upgraded("/raw/r");
    let mut half = server.upgraded("/raw/r");
    half.send(&frame(FIN | BINARY, &[0; 1000])[..500]);
    let mut stuck = Wire::new(server.connect_narrow());
    stuck.send(handshake("/raw/stuck?lossy=1"));
    stuck.expect_101();
    (0..400).for_each(|_| stuck.send(frame(FIN | BINARY, &[7; 16_000])));
    let mut quiet = server.wire();
    let mut begun = server.wire();
    begun.send("GET /raw/r HT");
    // A message in flight is not lost.
    ann.say("tea", "last words");
    ann.expect_message("ann", "last words");

    let began = Instant::now();
    server.signal(signal);
    wait_until_refused(&server);
    for client in [&mut ann, &mut raw] {
        let (code, reason) = client.expect_close();
        assert_eq!((code, reason.as_str()), (1001, "the server stops; come back in 1 to 30 seconds"));
    }
    for wire in [&mut silent, &mut half] {
        wire.expect_close(1001);
    }
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    assert!(began.elapsed() < STOP_TIME_MAX, "it took {:?} to stop", began.elapsed());
    for wire in [&mut silent, &mut half] {
        wire.expect_end();
    }
    // A reset is fine: its unfinished input was never read. The kernel reports the other one's end only when it sends
    // something, since it was never accepted.
    let _ = begun.stream.read_to_end(&mut Vec::new());
    quiet.send_what_is_taken(b"GET");
    begun.send_what_is_taken(b"TP/1.1");
    let log = server.log();
    assert!(log.contains("stopping") && !log.contains("panicked"), "{log}");
}

#[test]
fn sigterm_closes_all_connections_and_ends_in_time() {
    stops_on(Signal::TERM);
}

#[test]
fn sigquit_closes_all_connections_and_ends_in_time() {
    stops_on(Signal::QUIT);
}

#[test]
fn sigint_closes_all_connections_and_ends_in_time() {
    stops_on(Signal::INT);
}

#[test]
fn connections_cut_at_the_end_of_the_stop_are_counted() {
    let mut server = Server::start_on_one_shard(&[]);
    let request = handshake("/raw/r");
    let (begin, end) = request.split_at(20);
    let mut late = server.wire();
    late.send(begin);
    // This one is waited for, and ends in time. It connected later, which shows that the other one was accepted, too.
    let _silent = server.upgraded("/raw/r");
    // Between two ticks of the shard, which began with the first connection, so that the stop's deadline is not at a
    // tick.
    std::thread::sleep(Duration::from_millis(100));
    let began = Instant::now();
    server.signal(Signal::TERM);
    wait_until_refused(&server);
    // It connects so late, and never answers, that its own time limit is not over when that of the stop is.
    std::thread::sleep(Duration::from_secs(2).saturating_sub(began.elapsed()));
    late.send(end);
    late.expect_101();
    late.expect_close(1001);
    assert_eq!(server.wait().code(), Some(0));
    server.wait_for_log("ms; 1 connection had not closed in time");
    assert!(began.elapsed() < STOP_TIME_MAX, "it took {:?} to stop", began.elapsed());
}

#[test]
fn a_server_whose_clients_answer_stops_without_waiting() {
    let mut server = Server::start(&[]);
    let mut clients: Vec<_> = (0..20).map(|number| server.websocket(&format!("/raw/r{number}"))).collect();
    let wires: Vec<_> = (0..3).map(|_| server.upgraded("/raw/r")).collect();
    for mut wire in wires {
        wire.send(close_frame(1000, b""));
        wire.expect_close(1000);
        wire.expect_end();
    }
    server.signal(Signal::TERM);
    clients.iter_mut().for_each(|client| assert_eq!(client.expect_close().0, 1001));
    assert_eq!(server.wait().code(), Some(0));
    let last = server.wait_for_log(" stopped after ");
    assert!(last.ends_with(" ms"), "it waited in vain: {last}");
}

#[test]
fn an_idle_server_stops() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start(&[]);
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn a_client_that_connects_during_the_stop_is_refused() {
    let mut server = Server::start_on_one_shard(&[]);
    // Accepted before the signal, upgraded after it; and one that keeps the server waiting.
    let _silent = server.upgraded("/raw/r");
    let mut late = server.wire();
    late.send(&handshake("/raw/r")[..20]);
    server.get("/healthz");
    server.signal(Signal::TERM);
    server.wait_for_log("stopping");
    late.send(&handshake("/raw/r")[20..]);
    late.expect_101();
    late.expect_close(1001);
    late.send(close_frame(1001, b""));
    late.expect_end();
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = Server::start(&[]);
    let mut silent = server.upgraded("/raw/r");
    server.signal(Signal::TERM);
    silent.expect_close(1001);
    server.signal(Signal::INT);
    // It has not waited for the one that doesn't answer: it says so, and the exit code is that of an unclean end.
    assert_eq!(server.wait().code(), Some(1));
    assert!(server.log().contains("second signal: ended at once"), "{}", server.log());
}

#[test]
fn a_port_in_use_is_reported_in_one_sentence() {
    let server = Server::start(&[]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // By another hi, which must not share the port silently, and by anything else.
    for port in [server.port(), listener.local_addr().unwrap().port()] {
        let mut command = hi();
        command.args(["--listen", &format!("127.0.0.1:{port}")]);
        let sentence = expect_sentence(command);
        assert!(sentence.contains(&format!("127.0.0.1:{port}")) && sentence.contains("-p"), "{sentence}");
        let mut command = hi();
        command.args(["-p", &port.to_string()]);
        assert!(expect_sentence(command).contains("something listens there already"));
    }
    assert!(server.get("/healthz").starts_with("HTTP/1.1 200"), "the first one is not disturbed");
}

#[test]
fn a_foreign_address_is_reported_in_one_sentence() {
    let mut command = hi();
    command.args(["--listen", "192.0.2.1:0"]);
    let sentence = expect_sentence(command);
    assert!(sentence.contains("192.0.2.1:0") && sentence.contains("ip address"), "{sentence}");
}

#[test]
fn wrong_options_end_with_2_and_are_named() {
    for (arguments, named) in [
        (&["--no-such-option"][..], "--no-such-option"),
        (&["extra"], "extra"),
        (&["-p", "70000"], "70000"),
        (&["-p", "1", "--listen", "127.0.0.1:0"], "--listen"),
        (&["--listen", "localhost"], "--listen"),
        (&["--shards", "0"], "--shards"),
        (&["--raw", "maybe"], "--raw"),
        (&["--max-message", "12 apples"], "12 apples"),
        (&["--max-message", "1"], "at least 125 bytes"),
        (&["--backlog-bytes", "9g"], "at most 1g"),
        (&["--max-rooms", "0"], "--max-rooms"),
        (&["--rate-limit", "-1"], "-1"),
        (&["--rate-burst", "0"], "--rate-burst"),
        (&["--ping-interval", "0s"], "--ping-interval"),
        (&["--ping-timeout", "1500ms"], "whole seconds"),
        (&["--handshake-timeout", "soon"], "soon"),
        (&["--receive-buffers", "1000"], "power of two"),
        (&["--slow", "wait"], "--slow"),
        (&["--flush-interval", "11s"], "give 1ms to 10s"),
        (&["--flush-interval", "tea=20ms"], "chat=20ms,raw=50ms"),
        (&["--log", "loud"], "--log"),
    ] {
        let mut command = hi();
        command.args(arguments);
        let output = run(command);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(named) && !stderr.contains("panicked"), "{arguments:?}: {stderr}");
    }
    let mut command = hi();
    let output = run({
        command.env("HI_SHARDS", "none");
        command
    });
    assert_eq!(output.status.code(), Some(2), "the environment counts, too");
}

#[test]
fn help_shows_every_option_with_its_default_and_its_unit() {
    let mut command = hi();
    command.arg("--help");
    let output = run(command);
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    let words: Vec<_> = help.split_whitespace().collect();
    let help = words.join(" ");
    let command = Config::command();
    for option in command.get_arguments().filter(|option| !option.is_hide_set()) {
        let long = format!("--{}", option.get_long().expect("every option has a long name"));
        let name = option.get_value_names().and_then(|names| names.first()).map(|name| format!(" <{name}>"));
        let usage = format!("{long}{}", name.clone().unwrap_or_default());
        let start = help.find(&usage).unwrap_or_else(|| panic!("{usage} in {help}"));
        if name.is_none() {
            continue;
        }
        // Up to the next option.
        let own = &help[start + usage.len()..];
        let own = own.find(" <").map_or(own, |end| &own[..end]);
        let default = option.get_default_values().first().map(|value| value.to_string_lossy());
        let default = default.map_or("[default:".to_owned(), |value| format!("[default: {value}]"));
        assert!(own.contains(&default) || long == "--listen", "{usage} has no {default} in {own:?}");
        assert!(own.contains("[env: HI_"), "{usage} has no name in the environment in {own:?}");
        let unit = name.unwrap();
        let units = "BYTES TIME COUNT PER_SECOND PER_MINUTE PORT ADDR:PORT";
        let no_number = "MODE POLICY LEVEL FILE FILE|URL ORIGIN URL NAME RULES RANGE";
        let is_known = |unit: &str| [units, no_number].iter().any(|known| known.split(' ').any(|known| known == unit));
        assert!(is_known(unit.trim_matches([' ', '<', '>'])), "{usage} has no unit");
        if unit == " <TIME>" {
            assert!(default.ends_with("s]") || default.ends_with("m]"), "{usage}: {default}");
        }
    }
}

#[test]
fn port_0_takes_a_free_port_and_the_log_names_it() {
    let mut command = hi();
    command.args(["-p", "0", "--shards", "3", "--log", "debug"]);
    let server = Server::spawn(command);
    let line = server.wait_for_log("hi is open");
    assert!(line.contains(&format!("http://localhost:{}/", server.port())), "{line}");
    assert!(line.contains("3 shards") && line.contains("io_uring") && line.contains("Linux "), "{line}");
    assert!(line.contains("multishot receive") && line.contains("provided buffers"), "{line}");
    let line = server.wait_for_log("file limit");
    assert!(line.contains("room for ") && line.contains(" connections"), "{line}");
    assert!(line.contains("memory at most: ") && line.ends_with("iB (--memory-max)"), "{line}");
    assert!(server.get("/healthz").starts_with("HTTP/1.1 200"));
    let v6 = TcpStream::connect(("::1", server.port()));
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        v6.expect("dual stack");
    }
}

#[test]
fn several_addresses_are_served_and_named() {
    let mut command = hi();
    command.args(["--listen", "127.0.0.1:0", "--listen", "127.0.0.2:0"]);
    let server = Server::spawn(command);
    let line = server.wait_for_log("hi is open");
    let addresses = server.addresses();
    assert_eq!(
        addresses.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>(),
        ["127.0.0.1", "127.0.0.2"]
    );
    for address in addresses {
        assert!(line.contains(&format!("http://{address}/")), "{line}");
        TcpStream::connect(address).expect("it is served");
    }
}

/// Every refusal of io_uring that a container or an old kernel makes: the call, its name in what hi says, the error.
const REFUSALS: [(libc::c_long, &str, i32); 6] = [
    (libc::SYS_io_uring_setup, "io_uring_setup", libc::EPERM),
    (libc::SYS_io_uring_setup, "io_uring_setup", libc::ENOSYS),
    (libc::SYS_io_uring_register, "IORING_REGISTER", libc::EPERM),
    (libc::SYS_io_uring_register, "IORING_REGISTER", libc::ENOSYS),
    (libc::SYS_io_uring_enter, "io_uring_enter", libc::EPERM),
    (libc::SYS_io_uring_enter, "io_uring_enter", libc::ENOSYS),
];

/// The command with a choice of its own, whatever the tests are run with.
fn hi_with_backend(backend: &str) -> Command {
    let mut command = hi();
    command.args(["--listen", "127.0.0.1:0", "--shards", "2", "--backend", backend]);
    command
}

#[test]
fn where_io_uring_is_refused_epoll_serves_and_one_warning_says_why() {
    for (call, name, errno) in REFUSALS {
        let mut command = hi_with_backend("auto");
        command.args(["--internal", "127.0.0.1:0"]);
        refuse(&mut command, call, errno);
        let server = Server::spawn(command);
        let warning = server.wait_for_log("io_uring is not available");
        assert!(warning.contains("WARN") && warning.contains(name), "the operation: {warning}");
        assert!(warning.contains("25 % more CPU"), "the cost: {warning}");
        assert!(warning.contains("seccomp profile"), "the cause: {warning}");
        assert!(warning.contains("--security-opt seccomp=docs/deploy/seccomp-hi.json"), "the fix: {warning}");
        assert!(server.wait_for_log("hi is open").contains("with epoll"));
        let mut ann = server.join("ann", "tea");
        ann.say("tea", "all works the same");
        ann.expect_message("ann", "all works the same");
        expect_backend(&server, "epoll");
        assert_eq!(server.log().matches("WARN").count(), 1, "{}", server.log());
    }
}

#[test]
fn the_backend_is_told_wherever_a_program_looks() {
    for backend in ["io_uring", "epoll"] {
        let mut command = hi_with_backend(backend);
        command.args(["--internal", "127.0.0.1:0"]);
        let server = Server::spawn(command);
        expect_backend(&server, backend);
        assert!(!server.log().contains("WARN"), "{}", server.log());
    }
}

fn expect_backend(server: &Server, backend: &str) {
    assert!(server.get("/-/doctor/echo").contains(&format!("\"backend\":\"{backend}\"")));
    let internal = server.internal();
    assert_eq!(internal.metric(&format!("hi_backend{{backend=\"{backend}\"}}")), 1.0);
    let (_, ready) = internal.get("/readyz");
    assert!(ready.to_string().contains(&format!("Connections are served with {backend}.")), "{ready}");
}

#[test]
fn epoll_makes_no_call_of_io_uring() {
    for backend in ["epoll", "auto"] {
        let mut command = hi_with_backend(backend);
        let calls = [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
        calls.into_iter().for_each(|call| act_on(&mut command, call, SeccompAction::KillProcess));
        if backend == "auto" {
            assert_eq!(
                command.stderr(Stdio::null()).status().unwrap().signal(),
                Some(libc::SIGSYS),
                "the filter works"
            );
        } else {
            let server = Server::spawn(command);
            let mut ann = server.join("ann", "tea");
            ann.say("tea", "hello");
            ann.expect_message("ann", "hello");
        }
    }
}

#[test]
fn a_backend_that_was_asked_for_and_is_refused_is_one_sentence() {
    for (call, name, errno) in REFUSALS {
        let mut command = hi_with_backend("io_uring");
        refuse(&mut command, call, errno);
        let sentence = expect_sentence(command);
        assert!(sentence.contains(name), "the operation: {sentence}");
        assert!(sentence.contains("seccomp"), "the cause: {sentence}");
        assert!(sentence.contains("--security-opt") && sentence.contains("--backend auto"), "the fix: {sentence}");
    }
    for backend in ["epoll", "auto"] {
        let mut command = hi_with_backend(backend);
        refuse(&mut command, libc::SYS_io_uring_setup, libc::EPERM);
        refuse(&mut command, libc::SYS_epoll_ctl, libc::EPERM);
        // Its own handling of signals needs epoll as well.
        let sentence = expect_sentence(command);
        assert!(sentence.contains("can't"), "{backend}: {sentence}");
    }
}

#[test]
fn too_little_memory_for_rings_is_explained() {
    let mut command = hi_with_backend("io_uring");
    refuse(&mut command, libc::SYS_io_uring_setup, libc::ENOMEM);
    let sentence = expect_sentence(command);
    assert!(sentence.contains("ulimit -l") && sentence.contains("memlock"), "{sentence}");
    let mut command = hi_with_backend("auto");
    refuse(&mut command, libc::SYS_io_uring_setup, libc::ENOMEM);
    let warning = Server::spawn(command).wait_for_log("io_uring is not available");
    assert!(warning.contains("ulimit -l"), "{warning}");
}

#[test]
fn a_closed_log_harms_no_one() {
    let mut command = hi();
    command.args(["--listen", "127.0.0.1:0", "--shards", "1"]);
    let (server, lines) = Server::spawn_unread(command, "file limit");
    drop(lines);
    // Refusals are logged.
    for _ in 0..3 {
        assert!(server.get("/ws").starts_with("HTTP/1.1 4"));
    }
    assert!(server.get("/healthz").ends_with("ok"), "hi keeps running");
}
