//! What the service manager is told, if there is one: sd_notify(3), as systemd has it with `Type=notify`. Any program can
//! listen in its place and learn the ports.

use std::env;
use std::fmt::Write as _;
use std::io;
use std::net;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::warn;

use crate::address::ListenAddress;

/// Names the socket of the service manager: a path, or behind an `@` a name in the abstract namespace.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// Connections are accepted: at these addresses, and at `internal`.
pub(super) fn ready(addresses: &[ListenAddress], internal: Option<net::SocketAddr>) {
    let mut message = "READY=1".to_owned();
    // Names that begin with X_ are free for anyone to use.
    for address in addresses {
        let _ = write!(message, "\nX_HI_LISTEN={address}");
    }
    if let Some(address) = internal {
        let _ = write!(message, "\nX_HI_INTERNAL={address}");
    }
    tell(&message);
}

/// The server begins to stop.
pub(super) fn stopping() {
    tell("STOPPING=1");
}

fn tell(message: &str) {
    let Some(name) = env::var_os(VARIABLE).filter(|name| !name.is_empty()) else { return };
    let send = || -> io::Result<usize> {
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&name)?,
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that doesn't read must not hold up the server.
        socket.set_nonblocking(true)?;
        socket.send_to_addr(message.as_bytes(), &address)
    };
    if let Err(error) = send() {
        warn!("the service manager can't be told {message:?} at {VARIABLE}={}: {error}", name.display());
    }
}
