//! The chat page and the client for programs that it is built on: a few files inside the binary, with the headers that keep
//! them harmless.

use std::fmt;
use std::io::Write as _;
use std::sync::LazyLock;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha1::{Digest as _, Sha1};

use super::head::Head;
use super::response::Response;
use crate::os;

/// Allows nothing but the page's own files and its own WebSocket; no inline script or style, no frame around it (CSP Level 3). `connect-src 'self'` covers ws: and wss: of the same host and port.
pub(crate) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The files, each with its path relative to the page.
static ASSETS: LazyLock<[(&str, Asset); 17]> = LazyLock::new(|| {
    let script = |bytes: &'static [u8]| Asset::new("text/javascript; charset=utf-8", bytes);
    let assets = [
        ("", Asset::new("text/html; charset=utf-8", include_bytes!("../web/index.html"))),
        ("hi.js", script(include_bytes!("../../clients/js/hi.js")).shared()),
        ("app.js", script(include_bytes!("../web/app.js"))),
        ("attention.js", script(include_bytes!("../web/attention.js"))),
        ("commands.js", script(include_bytes!("../web/commands.js"))),
        ("connection.js", script(include_bytes!("../web/connection.js"))),
        ("diagnosis.js", script(include_bytes!("../web/diagnosis.js"))),
        ("keys.js", script(include_bytes!("../web/keys.js"))),
        ("log.js", script(include_bytes!("../web/log.js"))),
        ("messages.js", script(include_bytes!("../web/messages.js"))),
        ("people.js", script(include_bytes!("../web/people.js"))),
        ("rooms.js", script(include_bytes!("../web/rooms.js"))),
        ("session.js", script(include_bytes!("../web/session.js"))),
        ("text.js", script(include_bytes!("../web/text.js"))),
        ("v0.js", script(include_bytes!("../web/v0.js"))),
        ("words.js", script(include_bytes!("../web/words.js"))),
        ("style.css", Asset::new("text/css; charset=utf-8", include_bytes!("../web/style.css"))),
    ];
    // Of the compressors: two MiB, which this thread would keep.
    os::return_free_memory();
    assets
});

/// A file of the page.
#[derive(PartialEq, Eq)]
pub struct Asset {
    /// The media type, with charset.
    content_type: &'static str,
    /// The file as it is served.
    bytes: &'static [u8],
    /// A strong entity tag made from the content (RFC 9110 8.8.3): 16 hexadecimal digits of its SHA-1, in quotes.
    etag: String,
    /// The file compressed (RFC 1952), for clients that take it: a third of its bytes.
    gzip: Bytes,
    /// Whether scripts of other sites may load it.
    is_shared: bool,
}

impl Asset {
    fn new(content_type: &'static str, bytes: &'static [u8]) -> Self {
        let hash = Sha1::digest(bytes).into_iter().take(8).fold(0, |hash: u64, byte| hash << 8 | u64::from(byte));
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(bytes).expect("writing to memory");
        let gzip = gzip.finish().expect("writing to memory").into();
        Self { content_type, bytes, etag: format!("\"{hash:016x}\""), gzip, is_shared: false }
    }

    fn shared(self) -> Self {
        Self { is_shared: true, ..self }
    }

    /// The file, or 304 if the client has it already.
    pub(crate) fn response(&self, head: &Head<'_>) -> Response {
        let status = if self.is_known(head) { 304 } else { 200 };
        // A weight makes it another token, and the file is sent as it is: no browser sends one.
        let response = if head.has_token("accept-encoding", "gzip") {
            Response::new(status, self.content_type, self.gzip.clone())
                .header("Content-Encoding", "gzip")
                .header("ETag", format!("W/{}", self.etag))
        } else {
            Response::new(status, self.content_type, Bytes::from_static(self.bytes)).header("ETag", &*self.etag)
        };
        let response = response
            .header("Vary", "Accept-Encoding")
            .header("Cache-Control", "no-cache")
            .header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
            .header("Referrer-Policy", "no-referrer");
        if self.is_shared { response.header("Access-Control-Allow-Origin", "*") } else { response }
    }

    /// Whether `If-None-Match` names this content (RFC 9110 13.1.2). Compared weakly, as the RFC says: a proxy that
    /// compresses makes the tag weak.
    fn is_known(&self, head: &Head<'_>) -> bool {
        head.tokens("if-none-match").any(|tag| {
            let tag = tag.strip_prefix(b"W/").unwrap_or(tag);
            tag == b"*" || tag == self.etag.as_bytes()
        })
    }
}

impl fmt::Debug for Asset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Asset({}, {} bytes)", self.content_type, self.bytes.len())
    }
}

/// The file of the page at this path, decoded and without query. Leading slashes don't count: a proxy that maps `/chat` to `/`
/// turns `/chat/app.js` into `//app.js`.
pub(crate) fn asset(path: &str) -> Option<&'static Asset> {
    let name = match path.trim_start_matches('/') {
        "index.html" => "",
        name => name,
    };
    ASSETS.iter().find(|(known, _)| *known == name).map(|(_, asset)| asset)
}

#[cfg(test)]
mod tests {
    use super::super::head::parse;
    use super::super::response::{Body, Connection};
    use super::*;

    fn text(path: &str) -> &'static str {
        std::str::from_utf8(asset(path).expect(path).bytes).expect("UTF-8")
    }

    fn answer(headers: &str) -> String {
        let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        let (head, _) = parse(request.as_bytes()).expect("well-formed").expect("whole");
        let bytes = asset("/").expect("the page").response(&head).encode(Connection::KeepAlive, Body::Sent);
        String::from_utf8(bytes.to_vec()).expect("UTF-8")
    }

    /// The tags of the page, lower case, without comments.
    fn tags() -> Vec<String> {
        let mut html = text("/").to_lowercase();
        while let Some(start) = html.find("<!--") {
            let end = html[start..].find("-->").map_or(html.len(), |at| start + at + 3);
            html.replace_range(start..end, "");
        }
        let tags = html.split('<').skip(1);
        tags.map(|tag| tag.split('>').next().unwrap_or(tag).replace(['\n', '\t', '/'], " ")).collect()
    }

    #[test]
    fn the_page_is_served_with_its_policy() {
        let answer = answer("");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"));
        assert!(
            answer.contains(
                "\r\nContent-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src"
            )
        );
        assert!(
            answer.contains("\r\nReferrer-Policy: no-referrer\r\n")
                && answer.contains("\r\nCache-Control: no-cache\r\n")
        );
        assert!(answer.ends_with(text("/")));
        assert_eq!(asset("/index.html"), asset("/"));
        assert_eq!(asset("//app.js"), asset("/app.js"), "a proxy may leave a slash too much");
        assert_eq!(asset("/app.js/"), None);
    }

    #[test]
    fn a_browser_that_has_the_page_is_not_sent_it_again() {
        let etag = &*asset("/").expect("the page").etag;
        assert!(etag.len() == 18 && etag.starts_with('"') && etag.ends_with('"'));
        for known in [etag.to_owned(), format!("\"x\", W/{etag}"), "*".to_owned()] {
            let answer = answer(&format!("If-None-Match: {known}\r\n"));
            assert!(answer.starts_with("HTTP/1.1 304 ") && answer.ends_with("\r\n\r\n"), "{known}");
            assert!(answer.contains(&format!("\r\nETag: {etag}\r\n")));
        }
        let script = &asset("/app.js").expect("the script").etag;
        assert!(answer(&format!("If-None-Match: {script}\r\n")).starts_with("HTTP/1.1 200 "));
    }

    #[test]
    fn the_files_together_are_small() {
        let bytes: usize = ASSETS.iter().map(|(_, asset)| asset.gzip.len()).sum();
        assert!(bytes < 45 * 1024, "{bytes} bytes as browsers load them");
    }

    #[test]
    fn browsers_get_the_files_compressed() {
        let page = asset("/").expect("the page");
        let (head, _) =
            parse(b"GET / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: deflate, gzip, br\r\n\r\n").unwrap().unwrap();
        let response = page.response(&head).encode(Connection::KeepAlive, Body::Sent);
        let at = response.windows(4).position(|part| part == b"\r\n\r\n").unwrap() + 4;
        let lines = std::str::from_utf8(&response[..at]).unwrap();
        assert!(lines.contains("\r\nContent-Encoding: gzip\r\n") && lines.contains("\r\nVary: Accept-Encoding\r\n"));
        assert!(lines.contains(&format!("\r\nETag: W/{}\r\n", page.etag)), "{lines}");
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&response[at..]), &mut text).unwrap();
        assert_eq!(text, self::text("/"));
        let plain = answer("Accept-Encoding: gzip;q=0\r\n");
        assert!(!plain.contains("Content-Encoding") && plain.ends_with(&text));
    }

    #[test]
    fn only_the_client_for_programs_is_shared_with_other_sites() {
        let shared: Vec<_> = ASSETS.iter().filter(|(_, asset)| asset.is_shared).map(|(path, _)| *path).collect();
        assert_eq!(shared, ["hi.js"]);
        assert!(!answer("").contains("Access-Control"));
        let (head, _) = parse(b"GET /hi.js HTTP/1.1\r\nHost: x\r\n\r\n").unwrap().unwrap();
        let response = asset("/hi.js").unwrap().response(&head).encode(Connection::Close, Body::HeadersOnly);
        assert!(String::from_utf8_lossy(&response).contains("\r\nAccess-Control-Allow-Origin: *\r\n"));
    }

    #[test]
    fn nothing_is_fetched_from_elsewhere() {
        for (path, asset) in &*ASSETS {
            // The names of XML namespaces look like addresses and are never fetched.
            let text = String::from_utf8_lossy(asset.bytes).to_lowercase().replace("http://www.w3.org/", "");
            for far in ["http://", "https://", "src=\"//", "href=\"//", "src='//", "href='//", "url(//", "@import"] {
                assert!(!text.contains(far), "{path} contains {far}");
            }
        }
    }

    #[test]
    fn the_page_has_no_code_or_style_inside() {
        let tags = tags();
        assert!(tags.iter().any(|tag| tag.starts_with("script ") && tag.contains("app.js")));
        for tag in tags {
            let mut words = tag.split(' ');
            let name = words.next().unwrap_or_default();
            assert!(name != "style", "inline style");
            assert!(name != "script" || tag.contains(" src="), "inline script: {tag}");
            assert!(!tag.contains("javascript:"), "{tag}");
            for word in words {
                let handler = word.starts_with("on") && word.contains('=');
                assert!(!handler && !word.starts_with("style="), "{word} in <{tag}>");
            }
        }
    }
}
