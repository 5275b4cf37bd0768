//! Each bug in `sim/mutants` still fits the server, so that `sim/mutants/run` can put it there.

use std::path::Path;
use std::process::Command;

#[test]
fn every_mutant_applies() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let folders = ["sim/mutants", "sim/mutants/rare"].map(|folder| root.join(folder).read_dir().unwrap());
    let files = folders.into_iter().flatten().map(|entry| entry.unwrap().path());
    let patches: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "patch")).collect();
    assert!(!patches.is_empty());
    for patch in patches {
        let mut command = Command::new("patch");
        command.args(["--dry-run", "--forward", "--fuzz=0", "-p1", "--input"]).arg(&patch).current_dir(root);
        let output = command.output().expect("these tests need patch");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{} no longer applies, make it again: {said}", patch.display());
    }
}
