//! The outputs of a run: text, HdrHistogram's percentile format, a chart, an HTML page.
//!
//! Every output is a function of [`Run`]s alone, so `loadgen report` writes from `--json` files exactly what the run
//! itself would have written.

pub mod chart;
pub mod hgrm;
pub mod html;
pub mod text;

mod axis;
mod facts;
#[cfg(test)]
mod samples;
mod table;
mod units;

use std::path::Path;

use crate::results::Run;

/// Reads a file written by `--json`.
///
/// # Errors
/// One sentence: which file, and what is wrong with it.
pub fn load(path: impl AsRef<Path>) -> Result<Run, String> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|error| format!("{} can't be read: {error}.", path.display()))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| format!("{} is not a result written by loadgen --json: {error}.", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_survives_a_round_trip_through_json() {
        let directory = std::env::temp_dir().join(format!("loadgen-report-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("run.json");
        std::fs::write(&path, serde_json::to_string(&samples::limit()).unwrap()).unwrap();
        let run = load(&path).unwrap();
        assert_eq!(
            text::render(&run, text::Screen::default()),
            text::render(&samples::limit(), text::Screen::default())
        );

        std::fs::write(&path, "{\"name\":\"x\"}").unwrap();
        let wrong = load(&path).unwrap_err();
        assert!(wrong.contains("run.json is not a result written by loadgen --json: missing field"), "{wrong}");
        std::fs::remove_dir_all(&directory).unwrap();
        let missing = load(&path).unwrap_err();
        assert!(missing.contains("run.json can't be read: No such file"), "{missing}");
    }
}
