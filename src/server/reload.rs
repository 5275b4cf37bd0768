//! A reload: the options are read again, and what can change while the server runs does. A file with a mistake changes nothing.

use prometheus_client::metrics::gauge::Gauge;
use tracing::{error, info};

use super::Server;
use crate::api::key::Keys;
use crate::clock::unix_time;
use crate::config::Config;
use crate::config::live::LIVE;
use crate::environment::OptionValue;
use crate::log;

/// Reads the command line, the environment and the file; the error is one sentence, or several lines of clap's.
pub type ReadOptions = Box<dyn FnMut() -> Result<(Config, Vec<OptionValue>), String>>;

/// The options of a server, and how to read them again.
pub struct Options {
    /// What they say now.
    pub config: Config,
    /// Each of them, as it was written.
    pub values: Vec<OptionValue>,
    /// Reads them again.
    pub read: ReadOptions,
}

/// What a reload needs, and what it counts.
pub(super) struct Reload {
    options: Options,
    success: Gauge,
    time: Gauge,
}

impl Reload {
    /// The options with which the server has started.
    pub(super) fn new(options: Options, server: &Server) -> Self {
        let (success, time) = (Gauge::default(), Gauge::default());
        let mut registry = server.shared.metrics.registry();
        let help = "Whether the last time that the options were read succeeded";
        registry.register("hi_config_reload_success", help, success.clone());
        let help = "When the options in use were read, in Unix time";
        registry.register("hi_config_reload_timestamp_seconds", help, time.clone());
        drop(registry);
        let reload = Self { options, success, time };
        reload.note_success();
        reload
    }

    /// Reads the options, applies them, and says what has become of them.
    pub(super) fn run(&mut self, server: &Server) {
        let Config { file, api_key_file, .. } = &self.options.config;
        if file.is_none() && api_key_file.is_none() && !self.options.config.has_key_files() {
            info!("there is nothing to reload: neither --config nor --api-key-file nor --jwt-key names a file");
            return;
        }
        match self.read(server) {
            Ok(said) => {
                self.note_success();
                info!("the options are reloaded: {said}");
            }
            Err(why) => {
                self.success.set(0);
                error!("the options are not reloaded, and nothing has changed: {why}");
            }
        }
    }

    fn read(&mut self, server: &Server) -> Result<String, String> {
        let (config, mut values) = (self.options.read)()?;
        let config = self.options.config.reloaded(config);
        let keys = config.api_key_file.as_deref().map_or(Ok(Keys::default()), Keys::load)?;
        let token_keys = config.token_keys()?;
        server.apply(&config, keys, token_keys);
        log::set_level(config.log);
        let before = |name: &str| self.options.values.iter().find(|value| value.name == name);
        let is_changed = |value: &&OptionValue| before(&value.name).is_none_or(|old| old.values != value.values);
        let changed = values.iter().filter(is_changed).map(|value| value.name.clone());
        let (applied, waiting): (Vec<_>, Vec<_>) = changed.partition(|name| LIVE.contains(&name.as_str()));
        // What waits for a restart is named again next time.
        for value in values.iter_mut().filter(|value| waiting.contains(&value.name)) {
            if let Some(old) = self.options.values.iter().find(|old| old.name == value.name) {
                *value = old.clone();
            }
        }
        (self.options.config, self.options.values) = (config, values);
        let applied = if applied.is_empty() {
            "nothing has changed".to_owned()
        } else {
            format!("{} changed", applied.join(", "))
        };
        match waiting.is_empty() {
            true => Ok(applied),
            false => Ok(format!("{applied}; a restart is needed for {}", waiting.join(", "))),
        }
    }

    fn note_success(&self) {
        let now = unix_time();
        self.success.set(1);
        self.time.set(now.as_secs() as i64);
    }
}
