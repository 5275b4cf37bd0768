//! The structure of the source: which file may import which, so that it stays a house that a newcomer can walk through.
//!
//! - No files import each other in a circle. (A file and the folder of its parts count as one: `ring/mod.rs` and `ring/uring.rs`.)
//! - Modules import only from modules further down in [`FLOORS`].
//! - Only `ring/` names the kernel's rings, and a shard's hub knows neither ring nor clock.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of the library, from the top floor down. Those on one floor don't import each other.
const FLOORS: [&[&str]; 19] = [
    &["server"],
    &["config"],
    &["canary", "keys"],
    &["api", "control"],
    &["shard"],
    &["admission", "connection", "metrics"],
    &["http"],
    &["ring"],
    &["cores"],
    &["descriptors", "os"],
    &["cluster"],
    &["room"],
    &["counters", "failures", "identity"],
    &["protocol"],
    &["frame"],
    &["memory"],
    &["environment", "log", "number", "stop", "throttle"],
    &["address", "output", "slice", "wheel"],
    &["clock", "limits", "rate", "words"],
];

/// The files of a library by their module path, such as `room::log`; `lib` for the root.
fn files(package: &str) -> BTreeMap<String, PathBuf> {
    fn visit(folder: &Path, module: &str, files: &mut BTreeMap<String, PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let inside = if module.is_empty() { stem.to_owned() } else { format!("{module}::{stem}") };
            if path.is_dir() {
                visit(&path, &inside, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !stem.ends_with("tests") {
                let module = if stem == "mod" { module.to_owned() } else { inside };
                files.insert(module, path);
            }
        }
    }
    let mut files = BTreeMap::new();
    visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join(package).join("src"), "", &mut files);
    files.remove("main");
    files
}

/// The code of a file without comments and without its unit tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// All paths that begin with `crate::` or `super::` in a file, with braces resolved.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let is_word = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
            if !code[..at].ends_with(is_word) {
                expand(&code[at..], &mut Vec::new(), &mut paths);
            }
        }
    }
    paths
}

/// Reads one path, or a group of them in braces; returns what follows.
fn expand<'c>(mut code: &'c str, prefix: &mut Vec<String>, paths: &mut Vec<Vec<String>>) -> &'c str {
    let depth = prefix.len();
    loop {
        let end = code.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(code.len());
        if end > 0 {
            prefix.push(code[..end].to_owned());
        }
        code = &code[end..];
        let Some(rest) = code.strip_prefix("::") else { break };
        code = rest;
        if let Some(group) = code.strip_prefix('{') {
            code = group;
            loop {
                code = expand(code.trim_start(), prefix, paths).trim_start();
                let Some(rest) = code.strip_prefix(',') else { break };
                code = rest.trim_start();
                if code.starts_with('}') {
                    break;
                }
            }
            prefix.truncate(depth);
            return code.strip_prefix('}').unwrap_or(code);
        }
    }
    paths.push(prefix.clone());
    prefix.truncate(depth);
    code
}

/// The file that defines what a path names.
fn target(from: &str, path: &[String], files: &BTreeMap<String, PathBuf>) -> Option<String> {
    let mut module: Vec<&str> = from.split("::").filter(|part| !part.is_empty()).collect();
    let mut parts = path.iter().map(String::as_str).peekable();
    match parts.next()? {
        "crate" => module.clear(),
        _super => drop(module.pop()),
    }
    while parts.next_if_eq(&"super").is_some() {
        module.pop();
    }
    for part in parts {
        module.push(part);
        if !files.contains_key(&module.join("::")) {
            module.pop();
            break;
        }
    }
    Some(module.join("::")).filter(|module| files.contains_key(module))
}

fn is_part_of(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Which file imports which, without those of one branch of the tree: a folder's face and its parts are one.
fn imports(package: &str) -> BTreeMap<String, BTreeSet<String>> {
    let files = files(package);
    let imports = files.iter().map(|(module, path)| {
        let targets = paths(&code(path)).into_iter().filter_map(|path| target(module, &path, &files));
        let targets = targets.filter(|target| !is_part_of(target, module) && !is_part_of(module, target));
        (module.clone(), targets.collect())
    });
    imports.collect()
}

fn top(module: &str) -> &str {
    module.split("::").next().unwrap()
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    for (package, least) in [(".", 200), ("doctor", 50), ("loadgen", 50), ("sim", 20), ("terminal", 15)] {
        let imports = imports(package);
        assert!(imports.values().map(BTreeSet::len).sum::<usize>() >= least, "imports of {package} are found");
        let circles = in_circles(&imports);
        assert!(circles.is_empty(), "circles in {package}: {circles:#?}");
    }
}

/// The files that import each other, and what of each other they import.
fn in_circles(imports: &BTreeMap<String, BTreeSet<String>>) -> BTreeMap<&String, BTreeSet<String>> {
    let mut left: BTreeMap<_, _> = imports.iter().map(|(module, targets)| (module, targets.clone())).collect();
    // Whatever imports nothing that is left is in no circle.
    while let Some(module) = left.iter().find(|(_, targets)| targets.is_empty()).map(|(module, _)| *module) {
        left.remove(module);
        for targets in left.values_mut() {
            targets.remove(module);
        }
    }
    // What nothing imports that is left is in none either.
    loop {
        let imported: BTreeSet<_> = left.values().flatten().cloned().collect();
        let before = left.len();
        left.retain(|module, _| imported.contains(*module));
        if left.len() == before {
            break;
        }
    }
    left
}

#[test]
fn imports_lead_down() {
    let floor = |module: &str| {
        let found = FLOORS.iter().position(|floor| floor.contains(&top(module)));
        found.unwrap_or_else(|| panic!("{module} stands on no floor: add it to FLOORS"))
    };
    let mut upward = Vec::new();
    for (module, targets) in imports(".").iter().filter(|(module, _)| *module != "lib") {
        let others = targets.iter().filter(|target| top(target) != top(module));
        upward.extend(
            others.filter(|target| floor(target) <= floor(module)).map(|target| format!("{module} -> {target}")),
        );
    }
    assert!(upward.is_empty(), "these imports don't lead to a lower floor: {upward:#?}");
}

#[test]
fn only_the_ring_knows_the_kernel_s_rings_and_the_hub_knows_neither_ring_nor_clock() {
    for (module, path) in files(".") {
        let code = code(&path);
        for kernel in ["io_uring::", "tokio_uring"] {
            assert!(!code.contains(kernel) || top(&module) == "ring", "{module} names {kernel}");
        }
        if is_part_of(&module, "shard::hub") {
            for name in ["DataRing", "self.ring.", "Instant::now", "SystemTime", "Now::read", "Socket"] {
                assert!(!code.contains(name), "{module} names {name}");
            }
        }
    }
}
