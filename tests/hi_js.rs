//! hi.js, the client for programs: its own tests in Node, Bun and Deno against this server, and its package and its README as a
//! newcomer meets them.

#[path = "support/node.rs"]
mod node;
mod support;

use std::process::Command;

use node::{Folder, client, tool, wait_for_line};
use support::Server;

/// Runs the client's own tests, which start servers themselves.
fn own_tests(program: &mut Command) {
    let output =
        program.arg("test/client.js").env("HI_BIN", env!("CARGO_BIN_EXE_hi")).output().expect("it is installed");
    let log = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && log.matches("ok ").count() >= 18,
        "{log}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn its_own_tests_pass_in_node() {
    own_tests(Command::new("node").current_dir(client()));
}

#[test]
fn its_own_tests_pass_in_bun() {
    own_tests(&mut tool("bun"));
}

#[test]
fn its_own_tests_pass_in_deno() {
    own_tests(tool("deno").args(["run", "--allow-all", "--no-config"]));
}

#[test]
fn its_types_fit_a_program_that_uses_everything() {
    let output = tool("tsc").args(["--project", "test/tsconfig.json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// The JavaScript of the README, the snippets in their order, for a server on this port.
fn snippets(port: u16) -> Vec<String> {
    let readme = std::fs::read_to_string(client().join("README.md")).unwrap();
    let blocks = readme.split("```js\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.map(|code| code.replace("localhost:8080", &format!("127.0.0.1:{port}"))).collect()
}

#[test]
fn its_readme_works_when_pasted_into_deno() {
    let server = Server::start(&[]);
    let folder = Folder::new();
    folder.write("first.js", &snippets(server.port())[0]);
    let mut deno = tool("deno");
    deno.args(["run", "--allow-net", "--allow-import", "--no-lock", "--no-config"]).arg(folder.path("first.js"));
    deno.env("DENO_DIR", folder.path("cache")).current_dir(folder.path(""));
    wait_for_line(&mut deno, "ada: Hello!");
}

#[test]
fn its_package_works_when_installed_into_node() {
    let server = Server::start(&[]);
    let folder = Folder::new();
    let npm = |arguments: &[&str], place: std::path::PathBuf| {
        let output = Command::new("npm").args(arguments).current_dir(place).output().expect("npm is installed");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let packed = npm(&["pack", "--silent", "--pack-destination", folder.path("").to_str().unwrap()], client());
    folder.write("package.json", r#"{"type": "module", "private": true}"#);
    let offline = ["install", "--silent", "--offline", "--no-audit", packed.trim()];
    npm(&offline, folder.path(""));
    std::os::unix::fs::symlink(client().join("node_modules/ws"), folder.path("node_modules/ws")).unwrap();
    let [first, second] = &snippets(server.port())[..] else { panic!("two snippets") };
    let (_, rest) = first.split_once("});\n").unwrap();
    folder.write("both.js", &format!("{second}{rest}"));
    wait_for_line(Command::new("node").arg("both.js").current_dir(folder.path("")), "ada: Hello!");
    // A program ends once it has closed its connection.
    let (opened, _) = second.split_once("\n\n").unwrap();
    let last =
        "const bob = connect(chat_url, { name: 'bob', WebSocket }); await bob.join('tea').publish('bye'); bob.close();";
    let chat_url = format!("'http://127.0.0.1:{}/'", server.port());
    folder.write("end.js", &format!("{opened}\n{}", last.replace("chat_url", &chat_url)));
    let output = Command::new("timeout").args(["20", "node", "end.js"]).current_dir(folder.path("")).output().unwrap();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
}
