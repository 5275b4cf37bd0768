//! Answers of a proxy whose server doesn't answer: 502 to 504, and the statuses of Cloudflare and AWS. Pure.

use super::super::facts::{Address, Answer, Facts};
use super::super::verdict::Kind;
use super::Fault;
use super::front::{front, product, said};
use crate::proxy::Proxy;

/// Statuses of Cloudflare about the server behind it: what happened, and what to do.
const CLOUDFLARE: [(u16, &str, &str); 9] = [
    (520, "gives an invalid answer", "check the log of hi, and of what is between, at the time of the request"),
    (
        521,
        "refuses its connections",
        "start hi, or its proxy, on the port that Cloudflare dials, and let its addresses in",
    ),
    (
        522,
        "takes no connection in time",
        "let the addresses of Cloudflare through the firewall; check the record's address",
    ),
    (523, "can't be reached", "check the address in the DNS record of the zone"),
    (524, "takes the connection and does not answer in time", "check that hi is alive, and what is between"),
    (525, "can't agree with it on TLS", "give the server a certificate, or set the zone's TLS mode to what it speaks"),
    (
        526,
        "has a certificate that it refuses",
        "renew the certificate of the server, or use one of Cloudflare's for origins",
    ),
    (527, "does not speak to it", "check the log of what is between"),
    (530, "has no address, or its tunnel is down", "check the record of the zone, or start the tunnel (cloudflared)"),
];

/// A proxy is up, and the server behind it does not answer.
pub(super) fn bad_gateway(address: &Address, answer: &Answer, facts: &Facts) -> Fault {
    let (who, status, path) = (front(address, answer), answer.status, &facts.target.path);
    let setting = match product(address, answer) {
        Some(proxy) => format!("{proxy}: {}", proxy.upstream_setting()),
        None => "nginx: proxy_pass, HAProxy: server".to_owned(),
    };
    if address.received().is_some() {
        return Fault::new(
            Kind::BadGateway,
            format!(
                "{who} is up, but what it passes {path} on to does not answer ({status}), while /-/doctor/echo \
                 reaches hi"
            ),
            format!(
                "let it pass {path} on to the same address as the rest ({setting}); start hi there if it is another one"
            ),
        );
    }
    Fault::new(
        Kind::BadGateway,
        format!("{who} is up, but what is behind it does not answer ({status}){}", said(answer)),
        format!("start hi, or correct the address that the proxy passes on to ({setting})"),
    )
}

/// The meaning of a status that only Cloudflare or an AWS load balancer uses.
pub(super) fn load_balancer(address: &Address, answer: &Answer) -> Option<Fault> {
    let status = answer.status;
    let proxy = product(address, answer);
    let cloudflare = proxy == Some(Proxy::Cloudflare) || answer.header("cf-ray").is_some();
    if let Some((_, what, fix)) = CLOUDFLARE.iter().find(|(code, _, _)| cloudflare && *code == status) {
        let clause = format!("Cloudflare answers, and the server behind it {what} ({status}){}", said(answer));
        return Some(Fault::new(Kind::BadGateway, clause, *fix));
    }
    let aws = proxy.is_none_or(|proxy| proxy == Proxy::Aws);
    Some(match status {
        464 if aws => Fault::new(
            Kind::Http2Only,
            "an AWS load balancer answers, whose target group takes only HTTP/2 or gRPC (464), and WebSocket clients ask \
             in HTTP/1.1",
            "set the protocol version of the target group to HTTP1",
        ),
        463 if aws => Fault::new(
            Kind::UnexpectedStatus,
            "an AWS load balancer answers that X-Forwarded-For has more than 30 addresses (463)",
            "check whether requests run in a circle between proxies, or what fills X-Forwarded-For",
        ),
        460 if aws => Fault::new(
            Kind::UnexpectedStatus,
            "an AWS load balancer answers that the client has left too early (460)",
            "find what gives up too early in front of the load balancer; its time limit has to be the longer one",
        ),
        561 if aws => Fault::new(
            Kind::Forbidden,
            "an AWS load balancer asks for a login, and its identity provider fails (561)",
            "check the authenticate action of the listener's rule; let this path pass without it",
        ),
        _ => return None,
    })
}
