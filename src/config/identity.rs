//! The options of `--auth`, put together and checked.

use std::path::Path;
use std::sync::Arc;

use super::Config;
use crate::admission::Gate;
use crate::http::bearer::TokenPlaces;
use crate::http::origin::Allowed;
use crate::identity::{Authority, Mode, Rules, tool};

impl Config {
    /// Who decides about tokens; `None` with `--auth off`.
    ///
    /// # Errors
    /// One sentence: a key can't be read, or the options don't go together.
    pub(crate) fn gate(&self) -> Result<Option<Gate>, String> {
        let has_keys = !self.jwt_key.is_empty() || self.jwks.is_some();
        match (self.auth, has_keys) {
            (Mode::Off, false) => return Ok(None),
            (Mode::Off, true) => {
                return Err("There are keys for tokens (--jwt-key, --jwks), and nobody is asked for one: add --auth required, or \
                            --auth optional for guests."
                    .to_owned());
            }
            (_, false) => {
                return Err(
                    "--auth asks for tokens, and there is no key to check them with: add --jwt-key FILE or --jwks."
                        .into(),
                );
            }
            (_, true) => {}
        }
        if self.auth_cookie.is_some() && self.origins.contains(&Allowed::Any) {
            return Err("--auth-cookie with --origins any lets every site use your users' cookies: name the origins."
                .to_owned());
        }
        let keys = tool::load(&self.jwt_key, self.jwks.as_deref().map(Path::new))?;
        let rules = Rules {
            issuers: self.jwt_issuer.clone(),
            audiences: self.jwt_audience.clone(),
            leeway: self.jwt_leeway,
            rights: Arc::new(self.auth_rooms.clone()),
        };
        let guests = (self.auth == Mode::Optional).then(|| Arc::new(self.guest_rooms.clone()));
        Ok(Some(Gate {
            authority: Arc::new(Authority::new(keys, rules, guests)),
            places: TokenPlaces { cookie: self.auth_cookie.clone(), query: self.auth_query },
        }))
    }

    /// Who gets in, for the start's log line.
    pub(crate) fn describe_identity(&self, authority: &Authority) -> String {
        let guests = match authority.guests() {
            Some(rights) if rights.to_string().is_empty() => "guests may do nothing".to_owned(),
            Some(rights) => format!("without one, guests (~) may {rights}"),
            None => "without one, nobody gets in".to_owned(),
        };
        format!("tokens are checked with {}; {guests} (--auth)", authority.keys().describe())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn why(args: &[&str]) -> String {
        Config::parse_from([&["hi"], args].concat()).gate().map(drop).unwrap_err()
    }

    #[test]
    fn what_does_not_go_together_is_said() {
        assert!(Config::parse_from(["hi"]).gate().unwrap().is_none());
        assert!(why(&["--jwt-key", "x"]).contains("--auth required"));
        assert!(why(&["--jwks", "x"]).contains("--auth required"));
        assert!(why(&["--auth", "required"]).contains("--jwt-key"));
        assert!(why(&["--auth", "optional", "--jwt-key", "/nowhere"]).contains("/nowhere"));
        let any = ["--auth", "required", "--jwt-key", "/nowhere", "--auth-cookie", "s", "--origins", "any"];
        assert!(why(&any).contains("--origins any"));
        assert!(Config::try_parse_from(["hi", "--guest-rooms", "a*b"]).unwrap_err().to_string().contains("at its end"));
    }
}
