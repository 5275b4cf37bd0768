//! The image of the Dockerfile without a container engine: its root directory, entered as its user, under a seccomp profile
//! of Docker.

#![allow(dead_code, reason = "each test file uses its own part of it")]
#![allow(unreachable_pub, reason = "a test has no outside")]
#![allow(unsafe_code, reason = "a process enters its container between fork and exec")]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use seccompiler::{BpfProgram, TargetArch, compile_from_json};
use serde_json::{Value, json};

/// The devices that every engine puts into a container.
const DEVICES: [&str; 5] = ["dev/null", "dev/zero", "dev/full", "dev/random", "dev/urandom"];

/// The final stage of the Dockerfile: each instruction with its arguments.
pub struct Image {
    instructions: Vec<(String, String)>,
}

impl Image {
    pub fn read() -> Self {
        let text = fs::read_to_string("Dockerfile").unwrap().replace("\\\n", " ");
        let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        let words = lines.map(|line| line.split_once(' ').expect("an instruction and its arguments"));
        let all: Vec<_> = words.map(|(name, rest)| (name.to_owned(), rest.trim().to_owned())).collect();
        let from = all.iter().rposition(|(name, _)| name == "FROM").expect("a stage");
        let known = ["FROM", "COPY", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT"];
        for (name, rest) in &all[from..] {
            assert!(known.contains(&name.as_str()), "this test doesn't know what {name} {rest} does");
        }
        Self { instructions: all[from..].to_vec() }
    }

    /// The arguments of an instruction that is there once.
    pub fn only(&self, name: &str) -> &str {
        let mut found = self.instructions.iter().filter(|(instruction, _)| instruction == name);
        let (_, rest) = found.next().unwrap_or_else(|| panic!("no {name}"));
        assert!(found.next().is_none(), "{name} twice");
        rest
    }

    /// The command of ENTRYPOINT or HEALTHCHECK.
    pub fn command(&self, name: &str) -> Vec<String> {
        let rest = self.only(name);
        serde_json::from_str(&rest[rest.find('[').expect("a list: there is no shell")..]).unwrap()
    }

    /// The user and the group that it runs as.
    pub fn user(&self) -> (u32, u32) {
        let (user, group) = self.only("USER").split_once(':').expect("a group");
        (user.parse().expect("a number: there is no passwd"), group.parse().expect("a number"))
    }

    /// Makes the root directory: what COPY puts there, and what every engine mounts.
    pub fn unpack(&self) -> Root {
        assert_eq!(self.only("FROM"), "scratch");
        let name = format!("hi-test-root-{}-{:x}", std::process::id(), fastrand::u64(..));
        let root = Root(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        for (_, rest) in self.instructions.iter().filter(|(name, _)| name == "COPY") {
            let words: Vec<_> = rest.split(' ').collect();
            let ["--from=build", source, target] = words[..] else { panic!("COPY {rest}") };
            let target = root.0.join(target.trim_start_matches('/'));
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            match source {
                "/build/target/shipped/hi" => fs::hard_link(static_binary(), &target).unwrap(),
                // Of the distribution; a machine that runs tests may have none.
                "/etc/ssl/certs/ca-certificates.crt" => drop(fs::copy(source, &target)),
                _ => panic!("this test has no {source}"),
            }
        }
        ["proc", "dev", "etc"].iter().for_each(|folder| fs::create_dir_all(root.0.join(folder)).unwrap());
        DEVICES.iter().for_each(|device| fs::write(root.0.join(device), "").unwrap());
        fs::write(root.0.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
        fs::write(root.0.join("etc/resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
        fs::set_permissions(&root.0, fs::Permissions::from_mode(0o755)).unwrap();
        root
    }
}

/// A root directory that is removed with the test.
pub struct Root(PathBuf);

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// hi as `./release --static` builds it, but for development: the same code, in a tenth of the time.
fn static_binary() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let flags = std::env::var("RUSTFLAGS").unwrap_or_default() + " -C target-feature=+crt-static";
        // Cargo as the tests are run with: the one that they were built with doesn't tell its compilers which toolchain it is of.
        let built = Command::new(std::env::var_os("CARGO").expect("tests are run by cargo or by ./check"))
            .args(["build", "--quiet", "--package", "hi", "--target", &target, "--target-dir"])
            .arg(folder)
            .env("RUSTFLAGS", flags)
            .status();
        assert!(built.unwrap().success(), "the static binary can be built");
        folder.join(target).join("debug/hi")
    })
}

/// What the container has of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proc {
    Mounted,
    Missing,
}

/// A command in the container, under a seccomp profile: chroot, the image's user, no capabilities, no new privileges.
pub fn inside(root: &Root, image: &Image, command: &[String], profile: &Value, proc: Proc) -> Command {
    let filters = filters(profile);
    let path = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap();
    let folder = path(&root.0);
    let mounts = DEVICES.into_iter().chain((proc == Proc::Mounted).then_some("proc"));
    let mounts: Vec<_> = mounts.map(|mount| (path(&Path::new("/").join(mount)), path(&root.0.join(mount)))).collect();
    let (user, group) = image.user();
    let is_root = rustix::process::geteuid().is_root();
    let (outer_user, outer_group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    // One that may not become another user is that user in a namespace of its own.
    let (users, groups) = (format!("{user} {outer_user} 1"), format!("{group} {outer_group} 1"));
    let enter = move || {
        // SAFETY: system calls with numbers, and with strings that were made before the fork and end with a zero.
        unsafe {
            if is_root {
                check(libc::unshare(libc::CLONE_NEWNS))?;
            } else {
                check(libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWUSER))?;
                for (file, text) in
                    [("/proc/self/setgroups", "deny"), ("/proc/self/uid_map", &users), ("/proc/self/gid_map", &groups)]
                {
                    fs::write(file, text)?;
                }
            }
            let none = std::ptr::null();
            check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()))?;
            for (source, target) in &mounts {
                let flags = libc::MS_BIND | libc::MS_REC;
                check(libc::mount(source.as_ptr(), target.as_ptr(), none, flags, none.cast()))?;
            }
            check(libc::chroot(folder.as_ptr()))?;
            check(libc::chdir(c"/".as_ptr()))?;
            if is_root {
                check(libc::setgroups(0, std::ptr::null()))?;
            }
            check(libc::setgid(group))?;
            check(libc::setuid(user))?;
        }
        filters.iter().try_for_each(|filter| seccompiler::apply_filter(filter).map_err(io::Error::other))
    };
    let mut command_inside = Command::new(&command[0]);
    command_inside.args(&command[1..]).env_clear();
    // SAFETY: the closure makes system calls; what it needs was made before the fork, except for the error of a call that
    // fails, and for the paths of three files, which fit on the stack.
    unsafe { command_inside.pre_exec(enter) };
    command_inside
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A profile in Docker's format as filters of a container without capabilities. The kernel takes the strictest answer of
/// all filters, so an error of its own, such as the ENOSYS of clone3, is a filter before the others.
fn filters(profile: &Value) -> Vec<BpfProgram> {
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let (mut allowed, mut refused) = (BTreeMap::<&str, Vec<Value>>::new(), BTreeMap::<u64, Vec<Value>>::new());
    for rule in profile["syscalls"].as_array().unwrap().iter().filter(|rule| applies(rule)) {
        let conditions: Vec<_> = rule["args"].as_array().into_iter().flatten().map(condition).collect();
        let names = rule["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
        for name in names.filter(|name| is_known(name)) {
            match rule["action"].as_str().unwrap() {
                "SCMP_ACT_ALLOW" => allowed.entry(name).or_default().push(json!(conditions)),
                "SCMP_ACT_ERRNO" => {
                    assert!(conditions.is_empty());
                    allowed.entry(name).or_default().push(json!([]));
                    let errno = rule["errnoRet"].as_u64().unwrap();
                    refused.entry(errno).or_default().push(json!({"syscall": name}));
                }
                other => panic!("this test doesn't know {other}"),
            }
        }
    }
    let rules = allowed.iter().flat_map(|(name, alternatives)| {
        let always = alternatives.contains(&json!([]));
        let rule = move |conditions: &Value| json!({"syscall": name, "args": conditions});
        if always { vec![json!({"syscall": name})] } else { alternatives.iter().map(rule).collect() }
    });
    let refusals = refused.into_iter().map(|(errno, rules)| program("allow".into(), json!({"errno": errno}), &rules));
    let errno = json!({"errno": profile["defaultErrnoRet"]});
    refusals.chain([program(errno, "allow".into(), &rules.collect::<Vec<_>>())]).collect()
}

/// Whether a rule is there for a container without capabilities, on this architecture and kernel.
fn applies(rule: &Value) -> bool {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let names = |list: &Value| list.as_array().is_some_and(|list| list.iter().any(|name| name == arch));
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let version = |text: &str| -> Vec<u32> {
        text.split(['.', '-']).take(2).map(|number| number.parse().expect("a number")).collect()
    };
    let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
    includes["caps"].is_null()
        && (includes["arches"].is_null() || names(&includes["arches"]))
        && includes["minKernel"].as_str().is_none_or(|least| version(&release) >= version(least))
        && !names(&excludes["arches"])
}

fn condition(argument: &Value) -> Value {
    let (op, value) = match argument["op"].as_str().unwrap() {
        "SCMP_CMP_EQ" => (json!("eq"), argument["value"].clone()),
        "SCMP_CMP_LT" => (json!("lt"), argument["value"].clone()),
        "SCMP_CMP_GT" => (json!("gt"), argument["value"].clone()),
        "SCMP_CMP_MASKED_EQ" => {
            (json!({"masked_eq": argument["value"]}), json!(argument["valueTwo"].as_u64().unwrap_or(0)))
        }
        other => panic!("this test doesn't know {other}"),
    };
    json!({"index": argument["index"], "type": "qword", "op": op, "val": value})
}

/// Whether a system call is one of this architecture: profiles name those of all.
fn is_known(name: &str) -> bool {
    compile("allow".into(), json!({"errno": 1}), &[json!({"syscall": name})]).is_ok()
}

fn program(mismatch: Value, matching: Value, rules: &[Value]) -> BpfProgram {
    compile(mismatch, matching, rules).expect("a filter")
}

fn compile(mismatch: Value, matching: Value, rules: &[Value]) -> Result<BpfProgram, seccompiler::Error> {
    let filter = json!({"all": {"mismatch_action": mismatch, "match_action": matching, "filter": rules}});
    let arch: TargetArch = std::env::consts::ARCH.try_into().expect("an architecture that seccompiler knows");
    Ok(compile_from_json(filter.to_string().as_bytes(), arch)?.remove("all").expect("the filter that was given"))
}
