//! `hi tail`: a room as server-sent events, continued wherever a stream ends.

use std::io;
use std::time::Duration;

use doctor::client::{Events, Site};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::{sleep, timeout};

use crate::backoff::{Backoff, Wait};
use crate::output::Output;
use crate::show::Style;
use crate::sse::{Event, Parser};
use crate::told::{Feed, Told};
use crate::wire::{Frame, Position};
use crate::{EXIT_ENDED, EXIT_REFUSED, Ended, Failure};

/// A listener of one room.
pub(crate) struct Tail {
    site: Site,
    room: String,
    output: Output,
    /// After this long without a byte, a stream is dead.
    silence: Duration,
    feed: Feed,
    was_open: bool,
    is_open: bool,
    retry: Option<Duration>,
}

impl Tail {
    pub(crate) fn new(site: Site, room: String, style: Style, silence: Duration) -> Self {
        let output = Output { style, prompt: None };
        Self { site, room, output, silence, feed: Feed::default(), was_open: false, is_open: false, retry: None }
    }

    /// Listens until nobody reads any more.
    pub(crate) async fn run(mut self) -> Ended {
        let mut backoff = Backoff::default();
        loop {
            let reason = match self.site.events(&self.path()).await {
                Ok(events) => match self.listen(events).await {
                    Ok(reason) => reason.to_owned(),
                    Err(error) => return Ok((Err(error), 0)),
                },
                Err(problem) if problem.is_refusal || !self.was_open => {
                    let code = if problem.is_refusal { EXIT_REFUSED } else { EXIT_ENDED };
                    return Err(Failure { code, sentence: problem.sentence });
                }
                Err(problem) => problem.sentence,
            };
            if std::mem::take(&mut self.is_open) {
                backoff.reset();
            }
            let wait = self.retry.take().map_or(Wait::AtLeast(Duration::ZERO), Wait::Exactly);
            let retry = backoff.next(wait);
            if let Err(error) = self.output.show(&Told::Lost { reason, retry }, &self.room) {
                return Ok((Err(error), 0));
            }
            sleep(retry).await;
        }
    }

    fn path(&self) -> String {
        let since = self.feed.position.as_ref();
        let since = since.map_or(String::new(), |Position { epoch, seq }| format!("?lastEventId={epoch}:{seq}"));
        format!("stream/{}{since}", utf8_percent_encode(&self.room, NON_ALPHANUMERIC))
    }

    /// Reads a stream to its end. Returns why it ended.
    async fn listen(&mut self, mut events: Events) -> io::Result<&'static str> {
        let mut parser = Parser::default();
        loop {
            match timeout(self.silence, events.next()).await {
                Err(_) => return Ok("Nothing comes from the server any more."),
                Ok(None) => return Ok("The stream ended."),
                Ok(Some(bytes)) => {
                    for event in parser.take(&bytes) {
                        self.take(event)?;
                    }
                }
            }
        }
    }

    fn take(&mut self, event: Event) -> io::Result<()> {
        let position = event.id.as_deref().and_then(Position::parse);
        if position.is_some() && !std::mem::replace(&mut self.is_open, true) {
            let is_again = std::mem::replace(&mut self.was_open, true);
            self.output.show(&Told::Connected { is_again }, &self.room)?;
        }
        if event.retry_ms.is_some() {
            self.retry = event.retry_ms.map(Duration::from_millis);
        }
        if let Some(frame) = Frame::parse(&event.data) {
            for told in self.feed.take(frame, "") {
                self.output.show(&told, &self.room)?;
            }
        }
        if position.is_some() {
            self.feed.position = position;
        }
        Ok(())
    }
}
