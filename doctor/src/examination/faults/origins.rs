//! Handshakes that are refused because of their `Origin`. Pure.

use super::super::facts::{Address, Facts, Handshake};
use super::super::verdict::Kind;
use super::Fault;
use super::front::product;
use super::front::shown;
use crate::proxy::{Lines, Proxy};

/// A handshake without `Origin` is accepted, and one from a page of the site is not.
pub(super) fn own_pages_refused(address: &Address, handshake: &Handshake, facts: &Facts) -> Option<Fault> {
    let other = handshake.other_origin.as_ref().filter(|other| matches!(other.status, 401 | 403))?;
    let origin = other.origin.clone().unwrap_or_else(|| facts.target.origin());
    if let Some(fault) = host_changed(address, handshake, &origin, other.status, facts) {
        return Some(fault);
    }
    // Not a fault if the pages are served elsewhere.
    let clause = format!(
        "pages of {origin} can't open a WebSocket here ({}): the server accepts other origins, and programs that send none",
        other.status
    );
    let fix = format!("if the page is served there, add {origin} to the allowed origins of the server (hi: --origins)");
    Some(Fault::new(Kind::ForbiddenOrigin, clause, fix).warning())
}

/// A handshake is refused, and the same with another `Origin`, or without, is accepted.
pub(super) fn origin_refused(address: &Address, handshake: &Handshake, who: &str, facts: &Facts) -> Option<Fault> {
    let other = handshake.other_origin.as_ref().filter(|other| other.status == 101)?;
    let status = handshake.answer.status;
    let refused = handshake.origin.as_deref();
    if let Some(fault) = refused.and_then(|origin| host_changed(address, handshake, origin, status, facts)) {
        return Some(fault);
    }
    let clause = format!(
        "{who} refuses a handshake with {} ({status}) and accepts one with {}",
        shown(refused),
        shown(other.origin.as_deref())
    );
    let fault = Fault::new(Kind::ForbiddenOrigin, clause, "");
    Some(match refused {
        // Browsers send the origin of the page: pages of the site are accepted.
        None => fault.warning(),
        Some(origin) => {
            Fault { fix: format!("add {origin} to the allowed origins of the server (hi: --origins)"), ..fault }
        }
    })
}

/// The server accepts pages of the requested host, and a proxy has changed `Host`.
fn host_changed(address: &Address, handshake: &Handshake, origin: &str, status: u16, facts: &Facts) -> Option<Fault> {
    handshake.host_origin.as_ref().filter(|host| host.status == 101)?;
    let arrived = address.changed_host()?;
    let target = &facts.target;
    if origin != target.origin() {
        return None;
    }
    let clause = format!(
        "pages of {origin} can't open a WebSocket here ({status}): a page may connect to its own host only, and a proxy \
         changes Host on the way, from {} to {arrived}",
        target.authority()
    );
    let proxy = product(address, &handshake.answer);
    let fix = format!(
        "let {} pass Host on unchanged, or start hi with --origins same-host,{origin}",
        proxy.map_or("the proxy", Proxy::name)
    );
    Some(Fault::new(Kind::ForbiddenOrigin, clause, fix).lines(Lines::for_host(proxy)))
}
