//! What a client prefers: `Accept` with its weights (RFC 9110 12.5.1). Pure.

use crate::limits::MEDIA_RANGES_MAX;

/// A media type that can be sent, with its parameters, all in lower case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Media<'m> {
    /// `text`
    pub(crate) kind: &'m str,
    /// `plain`
    pub(crate) subtype: &'m str,
    /// The parameter that distinguishes it from others of the same type: `version`, `0.0.4`.
    pub(crate) parameter: Option<(&'m str, &'m str)>,
}

/// How much a client wants a media type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Wanted {
    /// From 0 (not at all) to 1.
    pub(crate) quality: f32,
    /// Whether the range names the type itself, not `text/*` or `*/*`.
    pub(crate) named: bool,
}

/// How much the client wants `media`: the weight of the closest range, and the higher weight of two equally close ones.
/// `elements` is the list that all `Accept` headers form together. `None`: no range fits, or there is none.
pub(crate) fn wanted<'h>(elements: impl Iterator<Item = &'h [u8]>, media: Media<'_>) -> Option<Wanted> {
    let fitting = elements.take(MEDIA_RANGES_MAX).filter_map(|element| fit(element, media));
    let closest = fitting.max_by(|one, other| one.0.cmp(&other.0).then(one.1.total_cmp(&other.1)));
    closest.map(|(closeness, quality)| Wanted { quality, named: closeness >= NAMED })
}

/// From this closeness on, the range names type and subtype.
const NAMED: u8 = 2;

/// How closely a range fits, if it does, and its weight.
fn fit(element: &[u8], media: Media<'_>) -> Option<(u8, f32)> {
    let element = String::from_utf8_lossy(element).to_ascii_lowercase();
    let mut parts = element.split(';').map(str::trim);
    let (kind, subtype) = parts.next()?.split_once('/')?;
    let mut closeness = match (kind, subtype) {
        ("*", "*") => 0,
        (kind, "*") if kind == media.kind => 1,
        (kind, subtype) if (kind, subtype) == (media.kind, media.subtype) => NAMED,
        _ => return None,
    };
    let mut quality = 1.0;
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        let (name, value) = (name.trim(), value.trim().trim_matches('"'));
        if name == "q" {
            quality = value.parse::<f32>().ok().filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0);
        } else if let Some((ours, our_value)) = media.parameter
            && name == ours
        {
            if value != our_value {
                return None;
            }
            closeness += 1;
        }
    }
    Some((closeness, quality))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Media<'_> = Media { kind: "text", subtype: "plain", parameter: Some(("version", "0.0.4")) };

    fn quality(accept: &str) -> Option<f32> {
        wanted(accept.split(',').map(|element| element.trim().as_bytes()), PLAIN).map(|wanted| wanted.quality)
    }

    #[test]
    fn the_closest_range_decides_and_of_equals_the_highest() {
        for (accept, expected) in [
            ("", None),
            ("application/json", None),
            ("*/*", Some(1.0)),
            ("text/*;q=0.3, */*;q=0.9", Some(0.3)),
            ("TEXT/Plain ; Q=0.25, text/*", Some(0.25)),
            ("text/plain;version=0.0.4;q=0.1, text/plain;q=0.9", Some(0.1)),
            ("text/plain;version=1.0.0, */*;q=0.2", Some(0.2)),
            ("text/plain; version=\"0.0.4\"", Some(1.0)),
            ("text/plain;q=0.2, text/plain;q=0.4", Some(0.4)),
            ("text/plain;q=0", Some(0.0)),
            ("text/plain;q=x, text", Some(0.0)),
            ("text/plain;q=2", Some(0.0)),
            ("text/plain;q=nan", Some(0.0)),
        ] {
            assert_eq!(quality(accept), expected, "{accept}");
        }
    }

    #[test]
    fn a_range_may_name_the_type_or_not() {
        let named = |accept: &str| wanted([accept.as_bytes()].into_iter(), PLAIN).expect("it fits").named;
        assert!(named("text/plain") && named("text/plain;version=0.0.4") && !named("text/*") && !named("*/*"));
    }
}
