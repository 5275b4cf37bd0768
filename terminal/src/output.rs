//! Where lines go: to standard output, with a word about the connection on standard error, or above the prompt of a terminal.

use std::io::{self, IsTerminal, Write};

use crate::input::Prompt;
use crate::show::{About, Style, lines};
use crate::told::Told;

/// Colors for a terminal whose user has not asked for none (no-color.org), JSON for programs.
pub(crate) fn style(json: bool) -> Style {
    match (json, doctor::examination::is_colorful(&io::stdout())) {
        (true, _) => Style::Json,
        (false, true) => Style::Colored,
        (false, false) => Style::Plain,
    }
}

/// Writes what a room tells.
pub(crate) struct Output {
    pub(crate) style: Style,
    pub(crate) prompt: Option<Prompt>,
}

impl Output {
    /// Shows something.
    ///
    /// # Errors
    /// Standard output can't be written.
    pub(crate) fn show(&mut self, told: &Told, room: &str) -> io::Result<()> {
        let (about, lines) = lines(told, room, self.style);
        if let Some(prompt) = &mut self.prompt {
            // What the user has typed stands there already.
            let is_typed = matches!(told, Told::Message { is_own: true, .. });
            return if is_typed { Ok(()) } else { prompt.print(&lines) };
        }
        if about == About::Connection {
            let is_news = io::stdout().is_terminal() || !matches!(told, Told::Connected { is_again: false });
            if is_news {
                // The lines are the same if nobody reads this.
                let _ = io::stderr().write_all(lines.as_bytes());
            }
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(lines.as_bytes())?;
        stdout.flush()
    }
}
