//! What a token says: who it is for, until when, and what that user may do (RFC 7519, 4.1). Pure: the time comes as an argument.

use std::sync::Arc;

use doctor::reason::Reason;
use serde_json::{Map, Value};

use super::refused::{Refused, shown, time};
use super::rights::Rights;
use super::{GUEST_MARK, Principal, Rules};
use crate::protocol::name::Name;

/// Seconds by which an issuer's clock may be ahead before the token is rather meant for later.
const SKEW_SECONDS_MAX: i64 = 600;

/// Reads the claims of a token whose signature has been checked, at this time in seconds since 1970.
///
/// # Errors
/// The token is not valid now, is not for this server, or lacks what it needs.
pub(super) fn principal(payload: &[u8], rules: &Rules, now: u64) -> Result<Principal, Refused> {
    let claims: Map<String, Value> =
        serde_json::from_slice(payload).map_err(|_| Refused::malformed("its payload is not a JSON object"))?;
    let now = now as i64;
    let leeway = rules.leeway.as_secs() as i64;
    let starts = number(&claims, "nbf")?;
    check_start(starts, number(&claims, "iat")?, now, leeway)?;
    let expires = number(&claims, "exp")?;
    if let Some(expires) = expires
        && now >= expires.saturating_add(leeway)
    {
        let ago = time(now.abs_diff(expires));
        let text = format!("The token expired {ago} ago: get a new one.");
        return Err(Refused::new(Reason::TokenExpired, text).with(format!(
            "exp {expires}, and this server's clock says {now}; if clients get new tokens in time, one of the clocks is wrong"
        )));
    }
    check_named(&claims, "iss", &rules.issuers, Reason::TokenIssuer, "--jwt-issuer")?;
    check_named(&claims, "aud", &rules.audiences, Reason::TokenAudience, "--jwt-audience")?;
    let subject = match text(&claims, "sub")? {
        Some("") | None => return Err(Refused::claims("it has no sub, which says who the user is")),
        Some(subject) => subject,
    };
    let name = text(&claims, "name")?;
    let claim = if name.is_some() { "name" } else { "sub" };
    let user = user(name.unwrap_or(subject)).map_err(|why| Refused::claims(format!("its {claim} {why}")))?;
    let rights = match claims.get("rooms") {
        None | Some(Value::Null) => Arc::clone(&rules.rights),
        Some(claim) => Arc::new(Rights::of_claim(claim).map_err(|why| Refused::claims(format!("its rooms: {why}")))?),
    };
    Ok(Principal {
        subject: Some(subject.into()),
        user,
        rights,
        starts: starts.unwrap_or(0).saturating_sub(leeway).max(0) as u64,
        expires: expires.map(|expires| expires.max(0) as u64),
        ends: expires.map_or(u64::MAX, |expires| expires.saturating_add(leeway).max(0) as u64),
    })
}

/// Whom a trusted proxy names, for as long as the connection lives.
///
/// # Errors
/// The name is none for the chat.
pub(super) fn named_by_proxy(name: &str, rules: &Rules) -> Result<Principal, Refused> {
    let user = user(name).map_err(|why| {
        Refused::new(Reason::UserHeaderInvalid, format!("The proxy in front says who you are, and that {why}."))
    })?;
    let rights = Arc::clone(&rules.rights);
    Ok(Principal { subject: Some(name.into()), user, rights, starts: 0, expires: None, ends: u64::MAX })
}

/// The name of a user in the chat; the error is the end of a sentence.
fn user(name: &str) -> Result<Name, String> {
    match Name::user(name) {
        Ok(user) if user.key().starts_with(GUEST_MARK) => Err(format!("begins with {GUEST_MARK}, which marks guests")),
        Ok(user) => Ok(user),
        Err(why) => Err(format!("is no name for the chat ({why})")),
    }
}

/// Whether the token is valid already.
fn check_start(starts: Option<i64>, issued: Option<i64>, now: i64, leeway: i64) -> Result<(), Refused> {
    let ahead = |at: Option<i64>| at.map(|at| at.saturating_sub(now)).filter(|ahead| *ahead > leeway);
    let Some(wait) = ahead(starts) else { return Ok(()) };
    let detail = format!("nbf is {} after this server's clock, which says {now}", time(wait.unsigned_abs()));
    // What was issued in the future, or is valid a moment after it was issued, shows a wrong clock.
    if ahead(issued).is_some() || issued.is_none() && wait <= SKEW_SECONDS_MAX {
        let text = format!(
            "The token comes from the future by {}: the clock of its issuer or of this server is wrong.",
            time(wait.unsigned_abs())
        );
        return Err(Refused::new(Reason::ClockSkew, text).with(format!("{detail}; compare both clocks with NTP")));
    }
    let text = format!("The token is valid in {} only.", time(wait.unsigned_abs()));
    Err(Refused::new(Reason::TokenNotYetValid, text).with(detail))
}

/// Whether a claim names one of those that are wanted, if any are.
fn check_named(
    claims: &Map<String, Value>,
    claim: &str,
    wanted: &[String],
    reason: Reason,
    option: &str,
) -> Result<(), Refused> {
    if wanted.is_empty() {
        return Ok(());
    }
    let value = claims.get(claim).unwrap_or(&Value::Null);
    let is_wanted = |value: &Value| value.as_str().is_some_and(|value| wanted.iter().any(|wanted| wanted == value));
    let fits = match value {
        Value::Array(values) => values.iter().any(is_wanted),
        value => is_wanted(value),
    };
    if fits {
        return Ok(());
    }
    let found = match value {
        Value::Null => format!("it has no {claim}"),
        Value::String(value) => format!("its {claim} is {}", shown(value)),
        Value::Array(values) if values.iter().all(Value::is_string) => {
            let listed: Vec<_> = values.iter().take(3).filter_map(Value::as_str).map(shown).collect();
            format!("its {claim} is {}", listed.join(", "))
        }
        _ => format!("its {claim} is no string"),
    };
    let text = format!("The token is not for this server: {found}.");
    Err(Refused::new(reason, text).with(format!("{option} {}", wanted.join(", "))))
}

/// A time (`NumericDate`, RFC 7519, 2): seconds, also with a fraction.
fn number(claims: &Map<String, Value>, claim: &str) -> Result<Option<i64>, Refused> {
    match claims.get(claim) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => {
            // Times beyond what a float can count exactly are further away than anybody lives.
            Ok(Some(number.as_i64().unwrap_or_else(|| number.as_f64().unwrap_or(f64::MAX).floor() as i64)))
        }
        Some(_) => Err(Refused::claims(format!("its {claim} has to be a number: seconds since 1970"))),
    }
}

fn text<'c>(claims: &'c Map<String, Value>, claim: &str) -> Result<Option<&'c str>, Refused> {
    match claims.get(claim) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Refused::claims(format!("its {claim} has to be a string"))),
    }
}

#[cfg(test)]
mod tests;
