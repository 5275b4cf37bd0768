//! Real reverse proxies in front of the tested server: nginx, HAProxy, Apache httpd and Caddy, each with a
//! configuration written by the test, on a free port, in its own folder. [`cases`] has a configuration for everything
//! that can go wrong on the way to a WebSocket.

pub mod cases;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::PATIENCE;

/// A product that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    Haproxy,
    Apache,
    Caddy,
}

impl Kind {
    /// The name under which hi suggests lines for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Apache => "Apache httpd",
            Self::Caddy => "Caddy",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Apache => "apache2",
            Self::Caddy => "caddy",
        }
    }
}

/// A port on which nothing listens: none of those that the kernel gives to whoever asks for any, as the tests beside this one do.
pub fn free_port() -> u16 {
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| fastrand::u16(11_000..32_000)).find(is_free).unwrap()
}

/// The configuration of a proxy before it is started.
#[derive(Clone, Debug)]
pub struct Setup {
    pub kind: Kind,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    /// Lines before those for the site, in nginx within `http`.
    pub before: String,
    /// The lines for the site, which an operator changes: in nginx those of the location, in HAProxy of a `listen`, in
    /// Apache of the virtual host, in Caddy of the site's block.
    pub site: Vec<String>,
}

impl Setup {
    /// On a free port, with these lines for the site.
    pub fn new(kind: Kind, site: &[&str]) -> Self {
        let site = site.iter().map(|line| (*line).to_owned()).collect();
        Self { kind, port: free_port(), before: String::new(), site }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Starts it, and returns when it accepts connections.
    pub fn start(&self) -> Proxy {
        Proxy::start(self.kind, self.port, |path| self.config(path))
    }

    /// The same after an operator has applied hi's suggestion: `lines` replace those of the same name, and those in
    /// `without` are removed.
    pub fn fixed(&self, fix: &Value) -> Self {
        let texts = |key: &str| -> Vec<String> {
            let list = fix[key].as_array().unwrap_or_else(|| panic!("no {key} in {fix}"));
            list.iter().map(|line| line.as_str().expect("a line").to_owned()).collect()
        };
        let (lines, without) = (texts("lines"), texts("without"));
        let mut site = self.site.clone();
        site.retain(|line| !without.contains(&line.trim().to_owned()));
        for line in lines {
            // The first line of an existing block.
            if site.iter().any(|there| there.trim() == format!("{line} {{")) {
                continue;
            }
            site.retain(|there| directive(there) != directive(&line));
            site.insert(0, line);
        }
        Self { site, ..self.clone() }
    }

    fn config(&self, path: &str) -> String {
        let Self { port, before, .. } = self;
        let site = self.site.join("\n");
        match self.kind {
            Kind::Nginx => nginx_config(
                path,
                &format!("{before}\nserver {{ listen 127.0.0.1:{port}; location / {{\n{site}\n}} }}"),
            ),
            Kind::Haproxy => format!(
                "global\n maxconn 256\ndefaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
                 {before}\nlisten site\n bind 127.0.0.1:{port}\n{site}\n"
            ),
            Kind::Apache => format!(
                "{APACHE_MODULES}ServerName test\nPidFile {path}/pid\nDefaultRuntimeDir {path}\nErrorLog {path}/error.log\n\
                 User #65534\nGroup #65534\nStartServers 1\nThreadsPerChild 16\nMaxRequestWorkers 16\n\
                 Listen 127.0.0.1:{port}\n{before}\n<VirtualHost 127.0.0.1:{port}>\n{site}\n</VirtualHost>\n"
            ),
            Kind::Caddy => format!(
                "{{\n admin off\n auto_https off\n storage file_system {path}\n log {{\n level ERROR\n }}\n\
                 }}\n{before}\nhttp://:{port} {{\n bind 127.0.0.1\n{site}\n}}\n"
            ),
        }
    }
}

const APACHE_MODULES: &str = "\
    LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so\n\
    LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so\n\
    LoadModule headers_module /usr/lib/apache2/modules/mod_headers.so\n\
    LoadModule env_module /usr/lib/apache2/modules/mod_env.so\n\
    LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so\n\
    LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so\n";

/// The one or two words that identify the line to replace.
fn directive(line: &str) -> Vec<&str> {
    let words: Vec<_> = line.split_whitespace().collect();
    let of_two = matches!(words.first(), Some(&("proxy_set_header" | "option" | "timeout" | "ProxyPass")));
    words.into_iter().take(if of_two { 2 } else { 1 }).collect()
}

/// A configuration of nginx with `block` within its `http`.
fn nginx_config(path: &str, block: &str) -> String {
    // One worker, started by the master, with all files in the test's own folder.
    format!(
        "daemon off; worker_processes 1; pid {path}/pid; error_log {path}/error.log;\n\
         events {{ worker_connections 256; }}\n\
         http {{\n\
         access_log off; client_body_temp_path {path}/body; proxy_temp_path {path}/proxy;\n\
         fastcgi_temp_path {path}/fastcgi; uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;\n\
         {block}\n}}\n"
    )
}

/// A running proxy with its own files; it ends with the test.
pub struct Proxy {
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl Proxy {
    /// nginx with `block` within its `http`, which listens on `port`.
    pub fn nginx(port: u16, block: &str) -> Self {
        Self::start(Kind::Nginx, port, |path| nginx_config(path, block))
    }

    fn start(kind: Kind, port: u16, config: impl FnOnce(&str) -> String) -> Self {
        let program = kind.program();
        let folder = std::env::temp_dir().join(format!("hi-{program}-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.to_string_lossy().into_owned();
        let file = format!("{path}/config");
        std::fs::write(&file, config(&path)).unwrap();
        let args: &[&str] = match kind {
            Kind::Nginx => &["-p", &path, "-e", "stderr", "-c", &file],
            Kind::Haproxy => &["-db", "-q", "-f", &file],
            Kind::Apache => &["-d", &path, "-f", &file, "-DFOREGROUND"],
            Kind::Caddy => &["run", "--adapter", "caddyfile", "--config", &file],
        };
        // It also ends if the test is killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--", program])
            .args(args)
            .env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()))
            .env("HOME", &path)
            .stdin(Stdio::null())
            .spawn()
            .expect("setpriv is installed: it is part of util-linux");
        let mut proxy = Self { child, folder, port };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(proxy.address()).is_err() {
            let ended = proxy.child.try_wait().unwrap();
            assert!(ended.is_none(), "{program} ended with {ended:?}: is it installed? ./check installs it");
            assert!(Instant::now() < deadline, "{program} does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        proxy
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// A connection to it, whose reads and writes are bounded by [`PATIENCE`].
    pub fn connect(&self) -> TcpStream {
        super::bounded(TcpStream::connect(self.address()).expect("the proxy accepts"))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Masters stop their workers on SIGTERM; a SIGKILL would leave the workers running.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
