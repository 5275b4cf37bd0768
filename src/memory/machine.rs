//! How much memory the process may use (the machine's, or less if a control group limits it) and how much it has.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Assumed if the system doesn't say, in bytes.
const MACHINE_BYTES_UNKNOWN: usize = 1 << 30;

/// Reads the resident memory of the process.
#[derive(Debug)]
pub(crate) struct Resident {
    file: Option<File>,
    page_bytes: usize,
}

impl Resident {
    /// Opens the file from which the numbers are read.
    pub(crate) fn open() -> Self {
        Self { file: File::open("/proc/self/statm").ok(), page_bytes: rustix::param::page_size() }
    }

    /// Behaves as on a system that doesn't report it: always 0.
    pub(crate) fn unknown() -> Self {
        Self { file: None, page_bytes: 0 }
    }

    /// Resident bytes; 0 if the system doesn't say.
    pub(crate) fn bytes(&self) -> usize {
        let mut text = [0; 128];
        let len = self.file.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
        statm_pages(&text[..len]).unwrap_or(0) * self.page_bytes
    }
}

/// The second number of `/proc/self/statm`.
fn statm_pages(statm: &[u8]) -> Option<usize> {
    std::str::from_utf8(statm).ok()?.split_whitespace().nth(1)?.parse().ok()
}

/// Bytes of memory that this process may use: the machine's, or the lowest limit of the control groups around it.
pub(crate) fn allowed_bytes() -> usize {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| machine_bytes(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = least_limit(&groups, Path::new("/sys/fs/cgroup"));
    group.into_iter().chain(machine).min().unwrap_or(MACHINE_BYTES_UNKNOWN)
}

/// The lowest limit of the control groups around the process, in bytes.
fn least_limit(proc_self_cgroup: &str, root: &Path) -> Option<usize> {
    let files = limit_files(proc_self_cgroup, root);
    files.iter().filter_map(|file| limit_bytes(&fs::read_to_string(file).ok()?)).min()
}

/// `MemTotal` in `/proc/meminfo`, in bytes.
fn machine_bytes(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

/// The limit in a control group's file. `max`, and a number larger than any machine's memory, are no limit.
fn limit_bytes(text: &str) -> Option<usize> {
    text.trim().parse().ok().filter(|bytes| *bytes < 1 << 60)
}

/// The files that may limit this process: those of its control group and of all groups around that, of cgroup v2 and v1. A
/// container that sees only its own group finds it at the root.
fn limit_files(proc_self_cgroup: &str, root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in proc_self_cgroup.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (mount, names) = match controllers {
            "" => (root.to_owned(), &["memory.max", "memory.high"][..]),
            v1 if v1.split(',').any(|name| name == "memory") => {
                (root.join("memory"), &["memory.limit_in_bytes", "memory.soft_limit_in_bytes"][..])
            }
            _ => continue,
        };
        let own = mount.join(path.trim_start_matches('/'));
        let groups = own.ancestors().take_while(|group| group.starts_with(&mount));
        files.extend(groups.flat_map(|group| names.iter().map(|name| group.join(name))));
        if controllers.is_empty() {
            // With both versions in use, version 2 is mounted beside the others.
            let own = root.join("unified").join(path.trim_start_matches('/'));
            files.extend(names.iter().map(|name| own.join(name)));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_around_the_process_limit_it() {
        let files = limit_files("0::/user.slice/hi.service\n", Path::new("/cg"));
        for file in ["/cg/user.slice/hi.service/memory.max", "/cg/user.slice/memory.high", "/cg/memory.max"] {
            assert!(files.contains(&file.into()), "{file} in {files:?}");
        }
        assert!(files.iter().all(|file| file.starts_with("/cg")));
        let files = limit_files("9:name=systemd:/x\n4:cpu,memory:/docker/1\n0::/\n", Path::new("/cg"));
        for file in ["/cg/memory/docker/1/memory.limit_in_bytes", "/cg/memory/memory.limit_in_bytes", "/cg/memory.max"]
        {
            assert!(files.contains(&file.into()), "{file} in {files:?}");
        }
        assert!(!files.iter().any(|file| file.ends_with("x/memory.limit_in_bytes")));
    }

    #[test]
    fn the_lowest_limit_around_the_process_counts() {
        let root = std::env::temp_dir().join(format!("hi-test-groups-{}", std::process::id()));
        let write = |file: &str, text: &str| {
            let file = root.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        // Version 2, as Kubernetes nests them: the pod's limit is lower than the container's.
        write("kubepods/pod1/memory.max", "134217728\n");
        write("kubepods/pod1/hi/memory.max", "268435456\n");
        write("kubepods/pod1/hi/memory.high", "max\n");
        // Version 1.
        write("memory/docker/1/memory.limit_in_bytes", "67108864\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        let found = ["0::/kubepods/pod1/hi\n", "4:memory:/docker/1\n0::/\n", "4:memory:/\n0::/\n"]
            .map(|groups| least_limit(groups, &root));
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(found, [Some(128 << 20), Some(64 << 20), None]);
    }

    #[test]
    fn no_limit_is_written_in_two_ways() {
        assert_eq!(limit_bytes("536870912\n"), Some(512 << 20));
        assert_eq!(limit_bytes("max\n"), None);
        assert_eq!(limit_bytes("9223372036854771712\n"), None, "cgroup v1 without a limit");
    }

    #[test]
    fn the_process_has_something_resident() {
        assert_eq!(statm_pages(b"1000 250 100 10 0 200 0\n"), Some(250));
        assert!((1 << 20..1 << 40).contains(&Resident::open().bytes()));
    }

    #[test]
    fn the_machine_says_how_much_it_has() {
        assert_eq!(machine_bytes("MemTotal:        8000 kB\nMemFree: 1 kB\n"), Some(8000 * 1024));
        assert_eq!(machine_bytes(""), None);
        assert!(allowed_bytes() > 1 << 20);
    }
}
