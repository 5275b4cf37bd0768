//! Who may do what with a server that runs with these options, in sentences: what `hi config check` prints.

use std::fmt::Write as _;

use super::{Config, Internal};
use crate::address::networks::Networks;
use crate::admission::RawMode;
use crate::environment::OptionValue;
use crate::http::origin::Allowed;
use crate::identity::Mode;

impl Config {
    /// One sentence for each kind of client; `values` are the options as they were written.
    pub fn rights(&self, values: &[OptionValue]) -> Vec<String> {
        let written = |name: &str| {
            let value = values.iter().find(|value| value.name == name);
            value.map_or_else(String::new, |value| value.values.join(", "))
        };
        vec![
            self.identity_rights(),
            self.raw_rights(),
            self.page_rights(&written("origins")),
            self.proxies_believed(&written),
            self.address_rights(&written("unlimited-addresses")),
            self.internal_rights(),
        ]
    }

    fn raw_rights(&self) -> String {
        if self.auth != Mode::Off && self.raw != RawMode::Off {
            return "In raw rooms (raw:...), everyone may do what these rules say of them.".to_owned();
        }
        match (self.raw, self.raw_rate_limit) {
            (RawMode::Off, _) => "There are no raw rooms.".to_owned(),
            (RawMode::Listen, _) => {
                "Anyone may listen in any raw room; only the internal port publishes there.".to_owned()
            }
            (RawMode::Open, 0) => "Anyone may listen and publish in any raw room, without a rate limit.".to_owned(),
            (RawMode::Open, rate) => {
                format!("Anyone may listen and publish in any raw room, {rate} messages a second each.")
            }
        }
    }

    fn page_rights(&self, origins: &str) -> String {
        if self.origins.contains(&Allowed::Any) {
            return "Pages of every site may connect, and programs.".to_owned();
        }
        if self.origins == [Allowed::SameHost] {
            return "Only pages of the host that they connect to may connect, and programs.".to_owned();
        }
        format!("Only pages of these origins may connect ({origins}), and programs.")
    }

    fn proxies_believed(&self, written: &dyn Fn(&str) -> String) -> String {
        let settings = self.trust();
        let mut text = if settings.proxies.is_empty() {
            "No proxy is believed: all users behind one count as its address.".to_owned()
        } else {
            let (proxies, header) = (written("trusted-proxies"), settings.header.as_str());
            format!("These proxies are believed which address a client has, from {header}: {proxies}.")
        };
        if !Networks::all(&self.proxy_protocol).is_empty() {
            let _ = write!(text, " These have to send a PROXY header: {}.", written("proxy-protocol"));
        }
        text
    }

    fn address_rights(&self, unlimited: &str) -> String {
        let or_any = |limit: u32| if limit == 0 { "any number of".to_owned() } else { limit.to_string() };
        format!(
            "One address may have {} connections, make {} handshakes a minute and send {} chat messages a second; without \
             limits: {unlimited}.",
            or_any(self.max_per_address),
            or_any(self.handshakes_per_address),
            or_any(self.messages_per_address),
        )
    }

    fn internal_rights(&self) -> String {
        match (self.internal, &self.api_key_file) {
            (Internal::Off, _) => "There is no internal port.".to_owned(),
            (Internal::At(address), Some(file)) => {
                format!("With a key of {}, programs may publish to any room at {address}.", file.display())
            }
            (Internal::At(address), None) => {
                format!("Without a key, every program that reaches {address} may publish to any room.")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn the_sentences_are_those_of_the_options() {
        let rights = |args: &[&str]| Config::try_parse_from([&["hi"], args].concat()).unwrap().rights(&[]).join("\n");
        let open = rights(&[]);
        for sentence in [
            "Anyone may join any room under any free name.",
            "publish in any raw room, without a rate limit",
            "Only pages of the host that they connect to",
            "No proxy is believed",
            "may have 512 connections, make 1200 handshakes a minute and send 200 chat",
            "Without a key, every program that reaches 127.0.0.1:8081",
        ] {
            assert!(open.contains(sentence), "{sentence} in {open}");
        }
        let known = rights(&["--auth=optional", "--jwt-key=/k", "--guest-rooms=*=listen"]);
        for sentence in [
            "Users are who a token says",
            "may: *=join,pub.",
            "a guest, with a name that begins with ~, and may: *=listen.",
        ] {
            assert!(known.contains(sentence), "{sentence} in {known}");
        }
        assert!(rights(&["--auth=required", "--jwt-key=/k"]).contains("Nobody else gets in."));
        let closed = rights(&[
            "--raw=listen",
            "--origins=https://a.example",
            "--trusted-proxies=10.0.0.5",
            "--proxy-protocol=10.0.0.6",
            "--max-per-address=0",
            "--api-key-file=/k",
        ]);
        for sentence in [
            "only the internal port publishes",
            "Only pages of these origins",
            "from x-forwarded-for",
            "have to send a PROXY header",
            "may have any number of connections",
            "With a key of /k",
        ] {
            assert!(closed.contains(sentence), "{sentence} in {closed}");
        }
    }
}
