//! The files that a run writes. They are opened before it, so that an unwritable one fails early, and none is left
//! empty.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::plan::Outputs;

/// Files that we created and that hold no result yet. Locked while one is written.
static UNWRITTEN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Before the process quits, it waits this many times this long for a write in progress.
const QUIT_TRIES: usize = 100;
const QUIT_PAUSE: Duration = Duration::from_millis(10);

/// The output files, opened.
#[derive(Debug, Default)]
pub struct Files {
    /// `--json`.
    pub json: Option<Output>,
    /// `--hgrm`.
    pub hgrm: Option<Output>,
    /// `--html`.
    pub html: Option<Output>,
    /// `--svg`.
    pub svg: Option<Output>,
}

impl Files {
    /// Opens every file. Existing contents stay until there is a result.
    ///
    /// # Errors
    /// One sentence: which file can't be written and why, or which two are the same.
    pub fn create(outputs: &Outputs) -> Result<Self, String> {
        let files = Self {
            json: Output::create(outputs.json.as_ref())?,
            hgrm: Output::create(outputs.hgrm.as_ref())?,
            html: Output::create(outputs.html.as_ref())?,
            svg: Output::create(outputs.svg.as_ref())?,
        };
        let created = [&files.json, &files.hgrm, &files.html, &files.svg];
        each_its_own(&created.into_iter().flatten().map(|output| output.path.as_path()).collect::<Vec<_>>())?;
        Ok(files)
    }
}

/// A file for a result. If we created it and it never got one, dropping this removes it.
#[derive(Debug)]
pub struct Output {
    /// As given on the command line.
    pub path: PathBuf,
    file: File,
    /// Its path, if we created it and it is still empty.
    made: Option<PathBuf>,
}

impl Output {
    /// Opens this file, if one is given.
    ///
    /// # Errors
    /// One sentence: which file can't be written, and why.
    pub fn create(path: Option<&PathBuf>) -> Result<Option<Self>, String> {
        let Some(path) = path else { return Ok(None) };
        let is_new = !path.exists();
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|error| format!("{} can't be written: {error}.", path.display()))?;
        let made = is_new.then(|| path.canonicalize().unwrap_or_else(|_| path.clone()));
        unwritten().extend(made.clone());
        Ok(Some(Self { path: path.clone(), file, made }))
    }

    /// Writes the result, replacing the contents.
    ///
    /// # Errors
    /// One sentence: which file can't be written, and why.
    pub fn write(mut self, bytes: &[u8]) -> Result<(), String> {
        // `remove_unwritten` waits for the end of this.
        let mut unwritten = unwritten();
        // Pipes and devices have no length to set.
        let _ = self.file.set_len(0);
        let written = self.file.write_all(bytes);
        if written.is_ok() {
            let made = self.made.take();
            unwritten.retain(|path| Some(path) != made.as_ref());
        }
        drop(unwritten);
        written.map_err(|error| format!("{} can't be written: {error}.", self.path.display()))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(made) = self.made.take() {
            unwritten().retain(|path| *path != made);
            let _ = std::fs::remove_file(made);
        }
    }
}

/// Removes files created for results that will never come, because the process quits. Waits a moment for a write in
/// progress.
pub fn remove_unwritten() {
    for _ in 0..QUIT_TRIES {
        if let Ok(mut unwritten) = UNWRITTEN.try_lock() {
            return unwritten.drain(..).for_each(|path| drop(std::fs::remove_file(path)));
        }
        std::thread::sleep(QUIT_PAUSE);
    }
}

fn unwritten() -> MutexGuard<'static, Vec<PathBuf>> {
    UNWRITTEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Checks that no two of these paths lead to the same file: one would overwrite the other. Devices and pipes may appear
/// twice.
///
/// # Errors
/// One sentence: which two do.
pub fn each_its_own(paths: &[&Path]) -> Result<(), String> {
    let identity = |path: &Path| {
        let metadata = path.metadata().ok().filter(|metadata| metadata.is_file());
        metadata.map(|metadata| (metadata.dev(), metadata.ino()))
    };
    for (index, path) in paths.iter().enumerate() {
        let same =
            |before: &&&Path| identity(path).is_some_and(|identity_of_it| identity(before) == Some(identity_of_it));
        if let Some(before) = paths[..index].iter().find(same) {
            let (before, path) = (before.display(), path.display());
            return Err(format!("{before} and {path} are the same file: give each output its own."));
        }
    }
    Ok(())
}
