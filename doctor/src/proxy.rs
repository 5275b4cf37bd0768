//! Reverse proxies: how to recognize them, and the configuration lines that let WebSockets pass. Pure.
//!
//! The server's handshake diagnosis and the doctor share these tables, so they name the same products and lines.

use std::fmt;

use serde::Serialize;

/// A kind of reverse proxy or load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proxy {
    /// nginx and products built on it.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Apache httpd with mod_proxy.
    Apache,
    /// Caddy.
    Caddy,
    /// Traefik.
    Traefik,
    /// Envoy and products built on it.
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

/// Names of products in `Via` or `Server`, in lower case; the first match decides.
const NAMES: [(&str, Option<Proxy>); 20] = [
    ("cloudflare", Some(Proxy::Cloudflare)),
    ("openresty", Some(Proxy::Nginx)),
    ("tengine", Some(Proxy::Nginx)),
    ("nginx", Some(Proxy::Nginx)),
    ("haproxy", Some(Proxy::Haproxy)),
    // Other products of the same foundation.
    ("apachetrafficserver", None),
    ("apache-coyote", None),
    ("apache", Some(Proxy::Apache)),
    ("caddy", Some(Proxy::Caddy)),
    ("traefik", Some(Proxy::Traefik)),
    ("envoy", Some(Proxy::Envoy)),
    ("istio", Some(Proxy::Envoy)),
    ("varnish", Some(Proxy::Varnish)),
    ("squid", Some(Proxy::Squid)),
    ("awselb", Some(Proxy::Aws)),
    ("cloudfront", Some(Proxy::Aws)),
    ("google", Some(Proxy::Google)),
    ("microsoft-iis", Some(Proxy::Iis)),
    ("microsoft-httpapi", Some(Proxy::Iis)),
    ("arr/", Some(Proxy::Iis)),
];

/// Headers of proxies that don't name the product.
pub const FORWARDING: [&str; 7] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-real-ip",
];

/// Headers that a product adds to the requests that it forwards.
pub const HINTS: [(&str, Proxy); 12] = [
    ("x-envoy-external-address", Proxy::Envoy),
    ("x-envoy-expected-rq-timeout-ms", Proxy::Envoy),
    ("x-envoy-internal", Proxy::Envoy),
    ("x-envoy-original-path", Proxy::Envoy),
    ("x-varnish", Proxy::Varnish),
    ("x-arr-log-id", Proxy::Iis),
    ("x-arr-ssl", Proxy::Iis),
    ("cf-ray", Proxy::Cloudflare),
    ("cf-connecting-ip", Proxy::Cloudflare),
    ("x-amzn-trace-id", Proxy::Aws),
    ("x-amz-cf-id", Proxy::Aws),
    ("x-cloud-trace-context", Proxy::Google),
];

impl Proxy {
    /// The product that a value of `Via` or `Server` names.
    pub fn named_in(value: &str) -> Option<Self> {
        let value = value.to_ascii_lowercase();
        NAMES.iter().find(|(name, _)| value.contains(name)).and_then(|(_, proxy)| *proxy)
    }

    /// Its name as its users write it.
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
            Self::Haproxy => {
                "HAProxy, in the backend or listen section of this address, with mode http in its frontend too"
            }
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

    /// The lines with which it forwards WebSocket handshakes; they replace lines of the same name. [`Proxy::without`] lists
    /// lines to remove, and [`EXAMPLE_UPSTREAM`] stands for the server's address.
    pub fn upgrade_lines(self) -> &'static [&'static str] {
        match self {
            Self::Nginx => &[
                "proxy_http_version 1.1;",
                "proxy_set_header Upgrade $http_upgrade;",
                "proxy_set_header Connection \"upgrade\";",
                NGINX_HOST,
            ],
            Self::Haproxy => &["mode http", "option http-server-close", "timeout tunnel 1h"],
            Self::Apache => {
                &["ProxyPass \"/\" \"http://127.0.0.1:8080/\" upgrade=websocket", "ProxyTimeout 3600", APACHE_HOST]
            }
            Self::Caddy => &["reverse_proxy 127.0.0.1:8080"],
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

    /// The lines with which it forwards `Host` unchanged, so that pages may open WebSockets to their own host. Empty where
    /// that is the default.
    pub fn host_lines(self) -> &'static [&'static str] {
        match self {
            // Not $host, which has no port.
            Self::Nginx => &[NGINX_HOST],
            Self::Apache => &[APACHE_HOST],
            Self::Aws => &["routing.http.preserve_host_header.enabled = true"],
            Self::Iis => {
                &["appcmd set config -section:system.webServer/proxy /preserveHostHeader:\"True\" /commit:apphost"]
            }
            _ => &[],
        }
    }

    /// The settings that change `Host`, where unchanged is the default.
    pub fn without_for_host(self) -> &'static [&'static str] {
        match self {
            Self::Haproxy => &["http-request set-header Host ..."],
            Self::Caddy => &["header_up Host ..."],
            Self::Traefik => &["passHostHeader = false"],
            Self::Envoy => &["host_rewrite_literal", "auto_host_rewrite"],
            Self::Varnish => &["set bereq.http.host = ..."],
            Self::Cloudflare => &["a Host Header override in the zone's origin rules"],
            _ => &[],
        }
    }

    /// The setting of the server behind it, as its users call it.
    pub fn upstream_setting(self) -> &'static str {
        match self {
            Self::Nginx => "proxy_pass",
            Self::Haproxy => "the server lines of the backend, and their checks",
            Self::Apache => "ProxyPass",
            Self::Caddy => "reverse_proxy",
            Self::Traefik => "the servers of the service",
            Self::Envoy => "the cluster of the route, and its health checks",
            Self::Varnish => "backend, and its probe",
            Self::Squid => "cache_peer",
            Self::Cloudflare => "the DNS record of the zone, and the firewall of the server",
            Self::Aws => "the targets of the target group, and their health check: GET /healthz",
            Self::Google => "the backend service, and its health check: GET /healthz",
            Self::Iis => "the URL of the rewrite rule",
        }
    }

    /// The lines to remove: with them, [`Proxy::upgrade_lines`] are not enough.
    pub fn without(self) -> &'static [&'static str] {
        match self {
            Self::Haproxy => &["http-request del-header Upgrade", "http-request del-header Connection"],
            Self::Apache => &["RequestHeader unset Upgrade", "SetEnv force-proxy-request-1.0 1"],
            Self::Caddy => &["header_up -Upgrade", "header_up -Connection"],
            _ => &[],
        }
    }

    /// The lines with which it speaks plain HTTP/1.1 to the server.
    pub fn plain_lines(self) -> &'static [&'static str] {
        match self {
            Self::Nginx => &["proxy_pass http://127.0.0.1:8080;"],
            Self::Haproxy => &["server hi 127.0.0.1:8080"],
            Self::Apache => &["ProxyPass \"/\" \"http://127.0.0.1:8080/\" upgrade=websocket"],
            Self::Caddy => &["reverse_proxy http://127.0.0.1:8080"],
            _ => &[],
        }
    }

    /// The change with which it forwards handshakes to the server at `upstream` (`HOST:PORT`).
    pub fn upgrade_fix(self, upstream: &str) -> Lines {
        Lines::to_upstream(self, self.upgrade_lines(), self.without(), upstream)
    }

    /// The change with which it speaks plain HTTP/1.1 to the server at `upstream`.
    pub fn plain_fix(self, upstream: &str) -> Lines {
        Lines::to_upstream(self, self.plain_lines(), &[], upstream)
    }

    /// The lines with which it keeps a connection that is idle for `seconds`.
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

    /// The most common ones: their lines are shown if the hop is unknown.
    pub const COMMON: [Self; 4] = [Self::Nginx, Self::Haproxy, Self::Apache, Self::Caddy];
}

const NGINX_HOST: &str = "proxy_set_header Host $http_host;";
const APACHE_HOST: &str = "ProxyPreserveHost On";

/// The server's address in the lines of this file.
pub const EXAMPLE_UPSTREAM: &str = "127.0.0.1:8080";

/// Lines for the configuration of one proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lines {
    /// The name of the product: [`Proxy::name`].
    pub proxy: &'static str,
    /// Where they belong: the end of a sentence that begins with "In ...".
    pub place: &'static str,
    /// The lines to add; they replace lines of the same name.
    pub lines: Vec<String>,
    /// The lines to remove.
    pub without: &'static [&'static str],
}

impl Lines {
    /// The change with which a proxy forwards WebSocket handshakes to a server at [`EXAMPLE_UPSTREAM`]; one for each common
    /// product if it is unknown.
    pub fn for_upgrade(proxy: Option<Proxy>) -> Vec<Self> {
        or_common(proxy).map(|proxy| proxy.upgrade_fix(EXAMPLE_UPSTREAM)).collect()
    }

    /// The change with which a proxy forwards `Host` unchanged.
    pub fn for_host(proxy: Option<Proxy>) -> Vec<Self> {
        let each = or_common(proxy).map(|proxy| {
            let lines = proxy.host_lines().iter().map(|line| (*line).to_owned()).collect();
            Self::of(proxy, lines, proxy.without_for_host())
        });
        each.filter(|lines| !lines.lines.is_empty() || !lines.without.is_empty()).collect()
    }

    /// The change with which a proxy keeps connections that are idle for `seconds`, if it has such a setting.
    pub fn for_idle(proxy: Option<Proxy>, seconds: u64) -> Vec<Self> {
        let each = or_common(proxy).map(|proxy| Self::of(proxy, proxy.idle_lines(seconds), &[]));
        each.filter(|lines| !lines.lines.is_empty()).collect()
    }

    fn to_upstream(proxy: Proxy, lines: &[&str], without: &'static [&'static str], upstream: &str) -> Self {
        Self::of(proxy, lines.iter().map(|line| line.replace(EXAMPLE_UPSTREAM, upstream)).collect(), without)
    }

    fn of(proxy: Proxy, lines: Vec<String>, without: &'static [&'static str]) -> Self {
        Self { proxy: proxy.name(), place: proxy.place(), lines, without }
    }
}

fn or_common(proxy: Option<Proxy>) -> impl Iterator<Item = Proxy> {
    proxy.map_or(Proxy::COMMON.to_vec(), |proxy| vec![proxy]).into_iter()
}

impl fmt::Display for Lines {
    /// In one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in {}: {}", self.place, self.lines.join(" / "))?;
        match (self.lines.is_empty(), self.without.is_empty()) {
            (_, true) => Ok(()),
            (true, false) => write!(f, "without: {}", self.without.join(", ")),
            (false, false) => write!(f, " / and without: {}", self.without.join(", ")),
        }
    }
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
            ("Microsoft-HTTPAPI/2.0", Some(Proxy::Iis)),
            ("http/1.1 edge (ApacheTrafficServer/9.2.0 [uScMsSf pSeN:t c:])", None),
            ("Apache-Coyote/1.1", None),
            ("1.0 old-host", None),
        ] {
            assert_eq!(Proxy::named_in(value), proxy, "{value}");
        }
    }

    #[test]
    fn a_fix_names_the_server_and_fits_one_line() {
        let fix = Proxy::Apache.upgrade_fix("[::1]:9000");
        assert_eq!(fix.lines[0], "ProxyPass \"/\" \"http://[::1]:9000/\" upgrade=websocket");
        assert!(fix.to_string().starts_with("in Apache httpd 2.4.47") && !fix.to_string().contains('\n'));
        assert!(Proxy::Haproxy.upgrade_fix("x:1").to_string().ends_with("http-request del-header Connection"));
        for proxy in Proxy::COMMON {
            assert!(proxy.plain_fix("x:1").lines[0].contains("x:1"), "{proxy}");
        }
    }

    #[test]
    fn every_product_has_lines() {
        for proxy in NAMES.into_iter().filter_map(|(_, proxy)| proxy) {
            assert!(!proxy.upgrade_lines().is_empty() && !proxy.place().is_empty() && !proxy.name().is_empty());
        }
    }
}
