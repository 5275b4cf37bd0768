//! `hi chat`: the loop around a session. Lines come in, frames go out, and whatever ends a connection, the next one continues there.

use std::io::{self, IsTerminal};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use doctor::client::{Arrival, Site};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use crate::backoff::{Backoff, Wait};
use crate::input::{Names, Prompt, read_lines};
use crate::line::COMMANDS;
use crate::link::{ANSWER_TIME, ARRIVALS_MAX, Link, Order, PONG_TIME, Report};
use crate::output::Output;
use crate::session::Session;
use crate::show::Style;
use crate::told::Told;
use crate::wire::Frame;
use crate::{EXIT_ENDED, EXIT_REFUSED, Ended, Failure};

/// A connection older than this was good: the next wait is short again.
const STABLE_TIME: Duration = Duration::from_secs(10);
/// Close code of a server that restarts; the reason has an appointment.
const RESTART: u16 = 1012;
/// Close code of a server that refuses the user: the reason is its sentence.
const UNIDENTIFIED: u16 = 4001;
/// Close codes after which a new connection would end in the same way, and what they mean.
const FINAL: [(u16, &str); 6] = [
    (1002, "it saw a fault in the protocol"),
    (1003, "it takes no such data"),
    (1007, "it could not read what was sent"),
    (1008, "its policy forbids this"),
    (1009, "a message was too long"),
    (4003, "the same user has connected again elsewhere"),
];
/// Close codes after which to wait for a while: over capacity, too fast.
const SLOW_DOWN: [(u16, Duration); 2] = [(1013, Duration::from_secs(10)), (4102, Duration::from_secs(20))];

/// The chat of one terminal, or of one pipe.
pub(crate) struct Chat {
    site: Site,
    session: Session,
    output: Output,
    /// What became of standard output.
    written: io::Result<()>,
    lines: Option<mpsc::Receiver<String>>,
    /// Nothing more will be typed.
    input_ended: bool,
    /// Lines are typed, so they may be commands, and nobody waits for them once the connection is lost.
    is_typed: bool,
    names: Names,
    link: Option<Link>,
    links: u64,
    backoff: Backoff,
    retry_at: Option<Instant>,
    sender: mpsc::Sender<(u64, Report)>,
    reports: mpsc::Receiver<(u64, Report)>,
    failure: Option<Failure>,
}

impl Chat {
    pub(crate) fn new(site: Site, room: &str, name: &str, style: Style) -> Self {
        let (sender, reports) = mpsc::channel(ARRIVALS_MAX);
        Self {
            site,
            session: Session::new(name, room, Instant::now()),
            output: Output { style, prompt: None },
            written: Ok(()),
            lines: None,
            input_ended: false,
            is_typed: io::stdin().is_terminal(),
            names: Arc::default(),
            link: None,
            links: 0,
            backoff: Backoff::default(),
            retry_at: Some(Instant::now()),
            sender,
            reports,
            failure: None,
        }
    }

    /// Runs until the input has ended and all of it is delivered, or until the server ends it.
    pub(crate) async fn run(mut self) -> Ended {
        loop {
            let now = Instant::now();
            let wake = self.advance(now);
            self.show();
            if self.is_over() {
                break;
            }
            let wake = wake.unwrap_or(now + ANSWER_TIME);
            let takes_lines = !self.input_ended && self.session.may_take_lines();
            let typed = async {
                match &mut self.lines {
                    Some(lines) => lines.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some((number, report)) = self.reports.recv() => self.reported(number, report),
                line = typed, if takes_lines => self.typed(line),
                () = sleep_until(wake.into()) => {}
            }
        }
        if let Some(link) = self.link.take() {
            link.close().await;
        }
        match self.failure {
            Some(failure) => Err(failure),
            None if self.session.unsent() > 0 => {
                let count = self.session.unsent();
                Err(Failure {
                    code: EXIT_ENDED,
                    sentence: format!("Not connected. Lines that were not sent: {count}."),
                })
            }
            None => Ok((self.written, if self.session.refused > 0 { EXIT_ENDED } else { 0 })),
        }
    }

    fn is_over(&self) -> bool {
        let is_done = self.input_ended && self.session.was_joined() && self.session.unsent() == 0;
        // Ctrl-D while there is no connection.
        let is_given_up = self.input_ended && self.is_typed && !self.session.is_joined();
        self.failure.is_some() || is_done || is_given_up
    }

    /// Does what is due. Returns when there is more to do.
    fn advance(&mut self, now: Instant) -> Option<Instant> {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.connect();
        }
        if self.link.as_ref().is_some_and(|link| link.is_dead(now)) {
            self.lost("Nothing comes from the server any more.".to_owned(), Wait::AtLeast(Duration::ZERO), false);
        }
        let silence = self.session.silence;
        let asks = self.link.as_ref().is_some_and(|link| link.is_silent(now, silence));
        if asks {
            self.session.ping();
        }
        let next = self.session.advance(now);
        let frames = self.session.outgoing();
        let mut wake = [next, self.retry_at].into_iter().flatten().min();
        if let Some(link) = &mut self.link {
            if !frames.is_empty() {
                link.expect(now, if asks { PONG_TIME } else { ANSWER_TIME });
            }
            for frame in frames {
                link.send(Order::Text(frame));
            }
            wake = [wake, link.wake(silence)].into_iter().flatten().min();
        }
        wake
    }

    fn connect(&mut self) {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let (name, resume) = (encoded(&self.session.name), encoded(&self.session.resume));
        let resume = if resume.is_empty() { resume } else { format!("&resume={resume}") };
        self.retry_at = None;
        self.links += 1;
        let path = format!("ws?username={name}{resume}");
        self.link = Some(Link::start(self.links, self.site.clone(), path, self.sender.clone()));
    }

    fn reported(&mut self, number: u64, report: Report) {
        let now = Instant::now();
        // An earlier link has no say.
        let Some(link) = self.link.as_mut().filter(|link| link.number == number) else { return };
        link.hear(now);
        let soon = Wait::AtLeast(Duration::ZERO);
        match report {
            Report::Opened => {
                link.is_open = true;
                link.expect(now, ANSWER_TIME);
            }
            Report::Failed(problem) if problem.is_refusal => self.end(EXIT_REFUSED, problem.sentence),
            Report::Failed(problem) => self.lost(problem.sentence, soon, false),
            Report::Came(Arrival::Sign) => {}
            Report::Came(Arrival::Ping(payload)) => link.send(Order::Pong(payload)),
            Report::Came(Arrival::Text(text)) => self.frame(&text, now),
            Report::Came(Arrival::Lost(why)) => self.lost(format!("The connection is lost ({why})."), soon, false),
            Report::Came(Arrival::Close(code, reason)) => self.closed(code, &reason),
        }
    }

    fn frame(&mut self, text: &str, now: Instant) {
        let was_joined = self.session.was_joined();
        self.session.frame(text, now);
        if let Some(refusal) = self.session.refusal.take() {
            return self.end(EXIT_REFUSED, format!("Can't join {}: {refusal}", self.session.room));
        }
        if !was_joined && self.session.was_joined() {
            self.open_input();
        }
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if *names != self.session.names {
            names.clone_from(&self.session.names);
        }
    }

    fn closed(&mut self, code: u16, reason: &str) {
        if code == UNIDENTIFIED {
            return self.end(EXIT_REFUSED, format!("The server refuses you: {reason}"));
        }
        if let Some((_, why)) = FINAL.iter().find(|(number, _)| *number == code) {
            return self.end(EXIT_ENDED, format!("The server closed the connection: {why} ({code})."));
        }
        let appointment = Frame::parse(reason).filter(|_| code == RESTART);
        let appointment = appointment.and_then(|appointment| appointment.number("retry_ms"));
        let least = SLOW_DOWN.iter().find(|(number, _)| *number == code).map_or(Duration::ZERO, |(_, time)| *time);
        match appointment {
            Some(retry_ms) => {
                self.lost("The server restarts.".to_owned(), Wait::Exactly(Duration::from_millis(retry_ms)), true);
            }
            None => {
                let reason = if reason.is_empty() { code.to_string() } else { reason.to_owned() };
                self.lost(format!("The server closed the connection ({reason})."), Wait::AtLeast(least), true);
            }
        }
    }

    fn lost(&mut self, reason: String, wait: Wait, was_closed: bool) {
        let now = Instant::now();
        if self.link.take().is_some_and(|link| link.is_open && link.born + STABLE_TIME < now) {
            self.backoff.reset();
        }
        self.session.lost(was_closed);
        if !self.session.was_joined() {
            let hint = format!("What is wrong on the way: hi doctor {}", self.site.websocket_address());
            return self.end(EXIT_ENDED, format!("{reason}\n{hint}"));
        }
        let retry = self.backoff.next(wait);
        self.retry_at = Some(now + retry);
        self.tell(Told::Lost { reason, retry });
    }

    fn end(&mut self, code: u8, sentence: String) {
        self.failure = Some(Failure { code, sentence });
    }

    fn open_input(&mut self) {
        let style = self.output.style;
        let has_prompt = self.is_typed && io::stdout().is_terminal() && style != Style::Json;
        let prompt = has_prompt.then(|| Prompt::open(&self.session.name, style, Arc::clone(&self.names))).flatten();
        match prompt {
            Some((lines, prompt)) => (self.lines, self.output.prompt) = (Some(lines), Some(prompt)),
            None => self.lines = Some(read_lines()),
        }
    }

    /// A line, or the end of the input.
    fn typed(&mut self, line: Option<String>) {
        let Some(line) = line else { return self.input_ended = true };
        match line.strip_prefix('/').filter(|_| self.is_typed) {
            None => self.session.line(line),
            Some(text) if text.starts_with('/') => self.session.line(text.to_owned()),
            Some("who") if self.session.is_joined() => self.session.ask_who(),
            Some("who") => self.tell(Told::Hint("Not connected.".to_owned())),
            Some("quit") => self.input_ended = true,
            Some("help") => {
                self.tell(Told::Hint(format!("{}; // sends a line that begins with a slash.", COMMANDS.join(", "))));
            }
            Some(other) => {
                let command = other.split_whitespace().next().unwrap_or_default();
                self.tell(Told::Hint(format!("There is no command /{command}. Begin with // to send it as text.")));
            }
        }
    }

    fn tell(&mut self, told: Told) {
        self.print(&told);
    }

    fn show(&mut self) {
        for told in self.session.told() {
            self.print(&told);
        }
    }

    fn print(&mut self, told: &Told) {
        if self.written.is_err() {
            return;
        }
        self.written = self.output.show(told, &self.session.room);
        // Nobody reads any more: what was taken is still delivered.
        self.input_ended |= self.written.is_err();
    }
}
