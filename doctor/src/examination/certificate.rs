//! What the report shows of a certificate. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use super::facts::Certificate;

/// Seconds of a day.
const DAY: i64 = 24 * 60 * 60;

/// Limit, in characters, of what is repeated of a name: the certificate may have names of any length.
const NAME_CHARS_MAX: usize = 120;

/// The fields that the report shows. A certificate that can't be parsed gets the subject `(unreadable)`.
pub(super) fn describe(der: &CertificateDer<'_>) -> Certificate {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        let subject = "(unreadable)".to_owned();
        return Certificate { subject, issuer: String::new(), names: vec![], days_left: 0, not_after: String::new() };
    };
    let not_after = certificate.validity().not_after;
    let names = certificate.subject_alternative_name().ok().flatten();
    Certificate {
        subject: cut(&certificate.subject().to_string()),
        issuer: cut(&certificate.issuer().to_string()),
        names: names.map(|names| names.value.general_names.iter().filter_map(name).collect()).unwrap_or_default(),
        days_left: (not_after.timestamp() - ASN1Time::now().timestamp()) / DAY,
        not_after: not_after.to_rfc2822().unwrap_or_else(|raw| raw),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(NAME_CHARS_MAX).collect()
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(cut(name)),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| Ipv4Addr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    }
}
