//! What a reload changes while the server runs.

use super::Config;

/// The options that a reload applies. All others take a restart.
pub const LIVE: [&str; 18] = [
    "client-ip-header",
    "echo",
    "handshake-timeout",
    "handshakes-per-address",
    "jwt-key",
    "log",
    "max-per-address",
    "max-rooms",
    "messages-per-address",
    "origins",
    "proxy-protocol",
    "rate-burst",
    "rate-limit",
    "raw-rate-limit",
    "slow",
    "trusted-proxies",
    "unlimited-addresses",
    "api-key-file",
];

impl Config {
    /// These options, with those of `new` that a reload applies.
    #[must_use]
    pub fn reloaded(&self, new: Self) -> Self {
        Self {
            client_ip_header: new.client_ip_header,
            echo: new.echo,
            handshake_timeout: new.handshake_timeout,
            handshakes_per_address: new.handshakes_per_address,
            jwt_key: new.jwt_key,
            log: new.log,
            max_per_address: new.max_per_address,
            max_rooms: new.max_rooms,
            messages_per_address: new.messages_per_address,
            origins: new.origins,
            proxy_protocol: new.proxy_protocol,
            rate_burst: new.rate_burst,
            rate_limit: new.rate_limit,
            raw_rate_limit: new.raw_rate_limit,
            slow: new.slow,
            trusted_proxies: new.trusted_proxies,
            unlimited_addresses: new.unlimited_addresses,
            api_key_file: new.api_key_file,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;
    use crate::environment::file::options;

    #[test]
    fn what_a_reload_applies_is_what_is_listed() {
        let of = |args: &[&str]| format!("{:?}", Config::try_parse_from([&["hi"], args].concat()).unwrap());
        let old = Config::try_parse_from(["hi"]).unwrap();
        let changes = [
            ("client-ip-header", "x-real-ip"),
            ("echo", "off"),
            ("handshake-timeout", "9s"),
            ("handshakes-per-address", "9"),
            ("jwt-key", "/k"),
            ("log", "debug"),
            ("max-per-address", "9"),
            ("max-rooms", "9"),
            ("messages-per-address", "9"),
            ("origins", "any"),
            ("proxy-protocol", "unix"),
            ("rate-burst", "9"),
            ("rate-limit", "9"),
            ("raw-rate-limit", "9"),
            ("slow", "close"),
            ("trusted-proxies", "unix"),
            ("unlimited-addresses", "unix"),
            ("api-key-file", "/k"),
            ("shards", "9"),
            ("port", "9"),
            ("raw", "off"),
            ("max-message", "9k"),
            ("replay-bytes", "9k"),
        ];
        for (name, value) in changes {
            let flag = format!("--{name}={value}");
            let reloaded = old.reloaded(Config::try_parse_from(["hi", &flag]).unwrap());
            let expected = if LIVE.contains(&name) { of(&[&flag]) } else { of(&[]) };
            assert_eq!(format!("{reloaded:?}"), expected, "{name}");
            assert_ne!(of(&[&flag]), of(&[]), "{name}");
        }
        let command = Config::command();
        assert!(LIVE.iter().all(|live| options(&command).any(|(name, _)| name == *live)));
        assert!(LIVE.iter().all(|live| changes.iter().any(|(name, _)| name == live)));
    }
}
