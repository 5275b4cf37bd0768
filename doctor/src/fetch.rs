//! One document over HTTPS: the keys that a server checks tokens with. Certificates are checked, unlike in an examination.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::examination::Target;
use crate::examination::facts::Failure;
use crate::examination::http::{Request, exchange};
use crate::examination::net::{Route, Trust};

/// Where a document is.
#[derive(Clone, Debug)]
pub struct Document {
    target: Target,
    trust: Option<Trust>,
}

impl Document {
    /// Reads a URL, and loads the certificates to trust: those of the system.
    ///
    /// # Errors
    /// A sentence: it is no URL, or one without TLS to another machine, or there is nothing to trust.
    pub fn at(url: &str, ca: Option<&Path>) -> Result<Self, String> {
        let target = Target::parse(url)?;
        let is_local = target.host == "localhost" || target.ip().is_some_and(|ip| ip.is_loopback());
        if !target.tls && !is_local {
            return Err(format!("{}: anybody on the way could replace the keys: give an https:// address", target.url));
        }
        let trust = target.tls.then(|| Trust::load(ca)).transpose()?;
        Ok(Self { target, trust })
    }

    /// The address, without its secrets.
    pub fn url(&self) -> &str {
        &self.target.url
    }

    /// Fetches it, `bytes_max` at most, within this time.
    ///
    /// # Errors
    /// Why not, for the end of a sentence.
    pub async fn fetch(&self, bytes_max: usize, time: Duration) -> Result<String, String> {
        let fetched = timeout(time, self.try_fetch(bytes_max, time)).await;
        fetched.unwrap_or_else(|_| Err(format!("it took longer than {time:?}")))
    }

    async fn try_fetch(&self, bytes_max: usize, time: Duration) -> Result<String, String> {
        let Target { host, port, path, query, .. } = &self.target;
        let query = query.as_sent();
        let path = if query.is_empty() { path.clone() } else { format!("{path}?{query}") };
        let headers = [
            ("Host", self.target.authority()),
            ("Accept", "application/json".to_owned()),
            ("User-Agent", "hi".to_owned()),
            ("Connection", "close".to_owned()),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value)).into();
        let request = Request { answer_bytes_max: bytes_max + 1, ..Request::get(path, headers) };
        let mut last = "its name has no address".to_owned();
        for address in lookup_host((host.as_str(), *port)).await.map_err(|error| error.to_string())? {
            match self.ask(address, &request, time).await {
                Ok((200, body)) if body.len() > bytes_max => {
                    return Err(format!("it is longer than {bytes_max} bytes"));
                }
                Ok((200, body)) => return Ok(body),
                Ok((status, _)) => return Err(format!("the answer is {status}")),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    async fn ask(&self, address: SocketAddr, request: &Request, step_time: Duration) -> Result<(u16, String), String> {
        let name = ServerName::try_from(self.target.host.clone()).map_err(|error| error.to_string())?;
        let tls = self.trust.clone().map(|trust| (name, trust));
        let route = Route { address, tls, step_time };
        let why = |failure: Failure| failure.detail;
        let (stream, _) = route.tcp().await.map_err(why)?;
        let (mut stream, tls) = route.tls(stream).await.map_err(why)?;
        if let Some(fault) = tls.and_then(|tls| tls.fault) {
            return Err(format!("its certificate is refused: {}", fault.detail));
        }
        let answer = exchange(&mut stream, request, step_time).await.map_err(why)?.answer;
        Ok((answer.status, answer.body))
    }
}
