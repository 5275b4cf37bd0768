//! Reverse proxies: known by what they write about themselves, and the lines that let WebSockets through them. Pure.
//!
//! The server's handshake diagnosis and the doctor name the same hops and hand out the same lines.

use std::fmt;

/// A kind of reverse proxy or load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proxy {
    /// nginx, and what is built on it.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Apache httpd with mod_proxy.
    Apache,
    /// Caddy.
    Caddy,
    /// Traefik.
    Traefik,
    /// Envoy, and what is built on it.
    Envoy,
    /// Varnish.
    Varnish,
    /// Squid.
    Squid,
    /// Cloudflare.
    Cloudflare,
    /// A load balancer of AWS.
    Aws,
    /// A load balancer of Google Cloud.
    Google,
    /// IIS with Application Request Routing.
    Iis,
}

/// What a product calls itself in `Via` or `Server`, in lower case; the first that fits decides.
const NAMES: [(&str, Proxy); 16] = [
    ("cloudflare", Proxy::Cloudflare),
    ("openresty", Proxy::Nginx),
    ("nginx", Proxy::Nginx),
    ("haproxy", Proxy::Haproxy),
    ("apache", Proxy::Apache),
    ("caddy", Proxy::Caddy),
    ("traefik", Proxy::Traefik),
    ("envoy", Proxy::Envoy),
    ("istio", Proxy::Envoy),
    ("varnish", Proxy::Varnish),
    ("squid", Proxy::Squid),
    ("awselb", Proxy::Aws),
    ("cloudfront", Proxy::Aws),
    ("google", Proxy::Google),
    ("microsoft-iis", Proxy::Iis),
    ("arr/", Proxy::Iis),
];

impl Proxy {
    /// The product that a value of `Via` or `Server` names.
    pub fn named_in(value: &str) -> Option<Self> {
        let value = value.to_ascii_lowercase();
        NAMES.iter().find(|(name, _)| value.contains(name)).map(|(_, proxy)| *proxy)
    }

    /// Its name, as its users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Apache => "Apache httpd",
            Self::Caddy => "Caddy",
            Self::Traefik => "Traefik",
            Self::Envoy => "Envoy",
            Self::Varnish => "Varnish",
            Self::Squid => "Squid",
            Self::Cloudflare => "Cloudflare",
            Self::Aws => "AWS load balancer",
            Self::Google => "Google Cloud load balancer",
            Self::Iis => "IIS",
        }
    }

    /// Where [`Proxy::upgrade_lines`] belong: the end of a sentence that begins with "In ...".
    pub fn place(self) -> &'static str {
        match self {
            Self::Nginx => "nginx, in the location of this address",
            Self::Haproxy => "HAProxy, in the frontend and the backend of this address",
            Self::Apache => "Apache httpd 2.4.47 or later, in the virtual host (modules proxy and proxy_http)",
            Self::Caddy => "Caddy, in the site's block",
            Self::Traefik => "Traefik, in the router's middlewares",
            Self::Envoy => "Envoy, in the http_connection_manager",
            Self::Varnish => "Varnish, in the VCL",
            Self::Squid => "Squid 5 or later, in squid.conf",
            Self::Cloudflare => "the Cloudflare dashboard of the zone",
            Self::Aws => "the AWS console",
            Self::Google => "the Google Cloud console",
            Self::Iis => "IIS, on the machine of the proxy",
        }
    }

    /// The lines that make it pass a WebSocket handshake on.
    pub fn upgrade_lines(self) -> &'static [&'static str] {
        match self {
            Self::Nginx => &[
                "proxy_http_version 1.1;",
                "proxy_set_header Upgrade $http_upgrade;",
                "proxy_set_header Connection \"upgrade\";",
            ],
            Self::Haproxy => &[
                "mode http",
                "option http-server-close",
                "timeout tunnel 1h",
                "# and without: http-request del-header Upgrade, http-request del-header Connection, option httpclose",
            ],
            Self::Apache => &["ProxyPass \"/\" \"http://127.0.0.1:8080/\" upgrade=websocket", "ProxyTimeout 3600"],
            Self::Caddy => {
                &["reverse_proxy 127.0.0.1:8080", "# and without: header_up -Upgrade, header_up -Connection"]
            }
            Self::Traefik => {
                &["# without customRequestHeaders that set Upgrade or Connection: Traefik passes them by itself"]
            }
            Self::Envoy => &["upgrade_configs:", "- upgrade_type: websocket"],
            Self::Varnish => &[
                "sub vcl_recv { if (req.http.Upgrade ~ \"(?i)websocket\") { return (pipe); } }",
                "sub vcl_pipe {",
                "  if (req.http.Upgrade) {",
                "    set bereq.http.Upgrade = req.http.Upgrade;",
                "    set bereq.http.Connection = req.http.Connection;",
                "  }",
                "}",
            ],
            Self::Squid => &["http_upgrade_request_protocols websocket allow all"],
            Self::Cloudflare => &["Network: WebSockets: On"],
            Self::Aws => &["use an Application Load Balancer (or a TCP listener): classic HTTP listeners drop Upgrade"],
            Self::Google => &["use an external Application Load Balancer with an HTTP backend service"],
            Self::Iis => &["Install-WindowsFeature Web-WebSockets", "iisreset"],
        }
    }

    /// The lines that make it leave a connection alone on which nothing moves for `seconds`.
    pub fn idle_lines(self, seconds: u64) -> Vec<String> {
        match self {
            Self::Nginx => vec![format!("proxy_read_timeout {seconds}s;"), format!("proxy_send_timeout {seconds}s;")],
            Self::Haproxy => vec![format!("timeout tunnel {seconds}s")],
            Self::Apache => vec![format!("ProxyTimeout {seconds}")],
            Self::Caddy => vec![format!("stream_timeout {seconds}s")],
            Self::Traefik => vec![format!("respondingTimeouts.idleTimeout = \"{seconds}s\"")],
            Self::Envoy => vec![format!("stream_idle_timeout: {seconds}s")],
            Self::Varnish => vec![format!("varnishd -p pipe_timeout={seconds}")],
            Self::Squid => vec![format!("read_timeout {seconds} seconds")],
            Self::Cloudflare => Vec::new(),
            Self::Aws => vec![format!("idle_timeout.timeout_seconds = {seconds}")],
            Self::Google => vec![format!("timeoutSec: {seconds}")],
            Self::Iis => vec![format!("proxy timeout: {seconds} seconds")],
        }
    }

    /// Those whose lines are shown where nothing names the hop: what most sites run.
    pub const COMMON: [Self; 4] = [Self::Nginx, Self::Haproxy, Self::Apache, Self::Caddy];
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_known_by_what_they_say() {
        for (value, proxy) in [
            ("nginx/1.22.1", Some(Proxy::Nginx)),
            ("1.1 varnish (Varnish/7.1)", Some(Proxy::Varnish)),
            ("1.1 www.example.com (Apache/2.4.57)", Some(Proxy::Apache)),
            ("1.1 google", Some(Proxy::Google)),
            ("1.1 Caddy", Some(Proxy::Caddy)),
            ("awselb/2.0", Some(Proxy::Aws)),
            ("1.0 old-host", None),
        ] {
            assert_eq!(Proxy::named_in(value), proxy, "{value}");
        }
    }

    #[test]
    fn every_product_has_lines() {
        for (_, proxy) in NAMES {
            assert!(!proxy.upgrade_lines().is_empty() && !proxy.place().is_empty() && !proxy.name().is_empty());
        }
    }
}
