//! Moves what the receivers' side of loopback costs from the sender's core to the reader's, as a network card would:
//! receive packet steering (Documentation/networking/scaling.rst in the kernel's source).

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The cores that handle packets of loopback, as a mask in hexadecimal; 0: that of the sender.
pub(crate) const FILE: &str = "/sys/class/net/lo/queues/rx-0/rps_cpus";
/// Waits until its standard input ends, which it does however we end, and puts the mask back.
const PUT_BACK: &str = r#"trap '' HUP INT TERM; cat >/dev/null; printf '%s\n' "$1" >"$2""#;

/// Steering is on as long as this lives; the mask is put back even if this process is killed.
#[derive(Debug)]
pub(crate) struct Steering {
    putting_back: Child,
}

impl Steering {
    /// Steers to this core.
    ///
    /// # Errors
    /// One sentence: what is missing, and what to do.
    pub(crate) fn to_core(core: usize, file: &Path) -> Result<Self, String> {
        let explain = |error: io::Error| {
            let why = match error.kind() {
                ErrorKind::NotFound => "this kernel has no receive packet steering, or /sys is not mounted".to_owned(),
                ErrorKind::PermissionDenied => "only root may".to_owned(),
                _ => error.to_string(),
            };
            format!("--steer can't change {}: {why}. Run it as root on the host, or without --steer.", file.display())
        };
        let before = fs::read_to_string(file).map_err(explain)?;
        let mut command = Command::new("sh");
        // A group of its own: Ctrl-C in a terminal must not end it.
        command.args(["-c", PUT_BACK, "put-back", before.trim()]).arg(file).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let steering = Self { putting_back: command.spawn().map_err(explain)? };
        fs::write(file, mask(core)).map_err(explain)?;
        Ok(steering)
    }
}

impl Drop for Steering {
    fn drop(&mut self) {
        drop(self.putting_back.stdin.take());
        let _ = self.putting_back.wait();
    }
}

/// One bit for the core, in groups of 32 bits, the highest first.
pub(crate) fn mask(core: usize) -> String {
    format!("{:x}{}", 1_u32 << (core % 32), ",00000000".repeat(core / 32))
}
