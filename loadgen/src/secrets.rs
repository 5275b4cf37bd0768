//! URLs and command lines as they may be shown: without passwords, tokens and other secrets. Pure.

/// Parameters whose values may be shown: hi's own, those of our templates, and those that only name a protocol.
const SHOWN: [&str; 12] =
    ["username", "room", "client", "echo", "lossy", "latest", "interval", "EIO", "transport", "v", "vsn", "version"];
/// Values that are ours to fill in.
const TEMPLATES: [&str; 2] = ["{room}", "{client}"];
/// Replaces a secret.
const MASK: &str = "***";
/// A word of the command line as it may be shown: without the secrets of a URL in it.
pub fn without_secrets_of_urls(word: &str) -> String {
    if !word.contains("://") {
        return without_password(word);
    }
    split_urls(word).iter().map(|url| without_secrets(url)).collect::<Vec<_>>().join(",")
}

/// The URLs of a list. A comma in a password or a path is none of the list: no scheme follows.
pub fn split_urls(list: &str) -> Vec<String> {
    let begins = |part: &str| {
        let scheme = part.split_once("://").map(|(scheme, _)| scheme);
        scheme.is_some_and(|scheme| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()))
    };
    let mut urls: Vec<String> = Vec::new();
    for part in list.split(',') {
        match urls.last_mut() {
            Some(url) if !begins(part) => *url += &format!(",{part}"),
            _ => urls.push(part.to_owned()),
        }
    }
    urls
}

/// A URL as it may be shown: without its password, the values of its parameters, and its fragment.
pub fn without_secrets(url: &str) -> String {
    let url = without_password(url);
    let url = url.split('#').next().unwrap_or_default();
    let (before, query) = url.split_once('?').map_or((url, None), |(before, query)| (before, Some(query)));
    let masked = |pair: &str| match pair.split_once('=') {
        Some((key, value)) if value.is_empty() || SHOWN.contains(&key) || TEMPLATES.contains(&value) => pair.to_owned(),
        Some((key, _)) => format!("{key}={MASK}"),
        None if pair.is_empty() => String::new(),
        None => MASK.to_owned(),
    };
    // A path segment may have parameters too (RFC 3986 3.3): /x;jsessionid=1/y.
    let in_segment = |segment: &str| match segment.split_once(';') {
        Some((name, parameters)) => {
            format!("{name};{}", parameters.split(';').map(masked).collect::<Vec<_>>().join(";"))
        }
        None => segment.to_owned(),
    };
    let mut shown = before.split('/').map(in_segment).collect::<Vec<_>>().join("/");
    if let Some(query) = query {
        shown.push('?');
        shown.push_str(&query.split('&').map(masked).collect::<Vec<_>>().join("&"));
    }
    shown
}

/// Without the password of a URL. Text after `://` and before an `@` counts as credentials wherever it could be some.
fn without_password(word: &str) -> String {
    let (begin, rest) = word.find("://").map_or(("", word), |index| word.split_at(index + 3));
    let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // Beyond the authority, an `@` belongs to the path, unless an unescaped `/` in the password ended the authority early.
    let port = rest[..authority].rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
    let cut_off = || port.is_some_and(|port| port.parse::<u16>().is_err());
    let end = match rest[..authority].rfind('@') {
        None if cut_off() => rest.rfind('@'),
        end => end,
    };
    match end.and_then(|end| rest[..end].split_once(':').map(|(user, _)| (user, &rest[end..]))) {
        Some((user, host)) => format!("{begin}{user}:{MASK}{host}"),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_show_no_secret() {
        let word = without_secrets_of_urls("--url=ws://ada:secret@host/x?room={room}&id={client}&token=secret#secret");
        assert_eq!(word, "--url=ws://ada:***@host/x?room={room}&id={client}&token=***");
        let list = without_secrets_of_urls("--url=ws://ada:sec,ret@a/?token=secret,ws://bob:secret@b:80");
        assert_eq!(list, "--url=ws://ada:***@a/?token=***,ws://bob:***@b:80");
        for word in [
            "ws://a,ws://b",
            "ws://host:80/@x:y",
            "ws://ada@host/",
            "ws://host/a@b",
            "--name",
            "ws://[::1]/@",
            "a=b?c=d;e=f#g",
        ] {
            assert_eq!(without_secrets_of_urls(word), word);
        }
    }
}
