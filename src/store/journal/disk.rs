//! What a journal asks of a file system, and the real one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use fs4::{FileExt, TryLockError};

use super::error::JournalError;

/// A folder of files, as a journal needs it.
///
/// The real one is used by [`Journal::open`](super::Journal::open). Implement it to see what your program does when a disk is
/// full, fails or loses what was not synced; the journal's own tests do.
///
/// Nobody but the journal may change its files. All verbs block.
pub trait Disk: Send + Sync {
    /// Returns the names of all files.
    ///
    /// # Errors
    ///
    /// What the file system says, here and below.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Creates a file, or empties the one of that name.
    #[expect(clippy::missing_errors_doc, reason = "said at the first verb")]
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file to be read from its first byte.
    #[expect(clippy::missing_errors_doc, reason = "said at the first verb")]
    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>>;

    /// Returns how long a file is, in bytes.
    #[expect(clippy::missing_errors_doc, reason = "said at the first verb")]
    fn length(&self, name: &str) -> io::Result<u64>;

    /// Cuts a file off, and returns when that is on disk.
    #[expect(clippy::missing_errors_doc, reason = "said at the first verb")]
    fn truncate(&self, name: &str, length: u64) -> io::Result<()>;

    /// Renames a file, atomically.
    #[expect(clippy::missing_errors_doc, reason = "said at the first verb")]
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    #[expect(clippy::missing_errors_doc, reason = "said at the first verb")]
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Returns when all names that were created, changed and removed are on disk.
    #[expect(clippy::missing_errors_doc, reason = "said at the first verb")]
    fn sync_names(&self) -> io::Result<()>;
}

/// A file that is written from its start to its end.
pub trait DiskFile: Send {
    /// Writes behind what was written before; returns how many bytes, which may be fewer than all.
    ///
    /// # Errors
    ///
    /// What the file system says. How much was written then is not known.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Returns when all that was written is on disk.
    ///
    /// # Errors
    ///
    /// What the file system says. What is on disk then is not known, and stays so: the journal does not ask again.
    fn sync(&mut self) -> io::Result<()>;
}

/// A folder of the operating system, locked against a second journal.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// The lock ends with the file.
    _lock: File,
}

const LOCK: &str = "lock";

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self, JournalError> {
        create_folders(path)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK))?;
        match FileExt::try_lock(&lock) {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(JournalError::Locked),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }
}

/// Creates a folder and those above it, each of which is on disk before the next one.
fn create_folders(path: &Path) -> io::Result<()> {
    let missing = path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
    for folder in missing.collect::<Vec<_>>().into_iter().rev() {
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let above = folder.parent().filter(|above| !above.as_os_str().is_empty());
        sync_folder(above.unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Elsewhere a folder cannot be opened as a file; its journal of metadata has to do.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

impl Disk for Folder {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // Names of the journal are ASCII; others are not its files.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::create(self.path.join(name))?))
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(self.path.join(name))?))
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.path.join(name))?.len())
    }

    fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path.join(name))?;
        file.set_len(length)?;
        file.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        sync_folder(&self.path)
    }
}

impl DiskFile for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Write::write(self, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        // Length included, as far as it is needed to read what was written; times are not.
        self.sync_data()
    }
}
