//! A disk in memory that fails when it is told to, and can be looked at as a crash would leave it.
#![allow(dead_code, reason = "not every test file uses all of it")]

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::sync::{Arc, Mutex};

use floodwall::store::journal::{Disk, DiskFile, Journal, JournalBuilder, Kind, Recovery};

pub(crate) const SECTOR: usize = 512;

/// Clones are the same disk.
#[derive(Clone, Default)]
pub(crate) struct FaultyDisk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// What the system would answer now, and what it has been told and not yet put on disk.
    names: BTreeMap<String, usize>,
    names_on_disk: BTreeMap<String, usize>,
    unsynced: Vec<NameChange>,
    files: Vec<FileState>,
    /// How many verbs have changed something, or have been refused.
    verbs: usize,
    syncs: usize,
    fault: Option<(usize, Fault)>,
    is_down: bool,
    room: Option<usize>,
    seed: u64,
}

#[derive(Clone, Default)]
struct FileState {
    cached: Vec<u8>,
    on_disk: Vec<u8>,
    /// So much of `cached` the system will not write to disk any more, rightly or not.
    clean: usize,
}

#[derive(Clone)]
enum NameChange {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

/// What goes wrong at a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The machine stops in the middle of it.
    Crash,
    /// It fails once. A sync that fails writes nothing, and the system believes that there is nothing left to write.
    Eio,
    /// A write takes only a part; anything else does nothing.
    Short,
}

/// What of the changes that were not synced is on disk after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsynced {
    Lost,
    Kept,
    /// Each sector, and each change of a name, by the toss of a coin.
    Any(u64),
    /// Files end somewhere in the middle.
    Prefix(u64),
}

pub(crate) fn toss(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let mut mixed = *seed ^ (*seed >> 33);
    mixed = mixed.wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

impl FaultyDisk {
    /// Has something go wrong at the verb of this number, counted from 0.
    pub(crate) fn fail_at(&self, verb: usize, fault: Fault) {
        self.0.lock().unwrap().fault = Some((verb, fault));
    }

    /// Limits how many bytes all files together may take.
    pub(crate) fn limit(&self, room: Option<usize>) {
        self.0.lock().unwrap().room = room;
    }

    pub(crate) fn verbs(&self) -> usize {
        self.0.lock().unwrap().verbs
    }

    pub(crate) fn syncs(&self) -> usize {
        self.0.lock().unwrap().syncs
    }

    /// Says whether it has crashed.
    pub(crate) fn is_down(&self) -> bool {
        self.0.lock().unwrap().is_down
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().names.keys().cloned().collect()
    }

    pub(crate) fn bytes(&self) -> usize {
        let state = self.0.lock().unwrap();
        state.names.values().map(|file| state.files[*file].cached.len()).sum()
    }

    pub(crate) fn contents(&self, name: &str) -> Vec<u8> {
        let state = self.0.lock().unwrap();
        state.files[state.names[name]].cached.clone()
    }

    /// Makes a file what it would be if somebody had written over it.
    pub(crate) fn put(&self, name: &str, contents: Vec<u8>) {
        let mut state = self.0.lock().unwrap();
        let file = FileState { clean: contents.len(), on_disk: contents.clone(), cached: contents };
        state.files.push(file);
        let number = state.files.len() - 1;
        state.names.insert(name.to_owned(), number);
        state.names_on_disk.insert(name.to_owned(), number);
    }

    pub(crate) fn delete(&self, name: &str) {
        let mut state = self.0.lock().unwrap();
        state.names.remove(name);
        state.names_on_disk.remove(name);
    }

    /// The same disk for the next process: the machine goes on.
    pub(crate) fn after_kill(&self) -> Self {
        let state = self.0.lock().unwrap();
        let copy = State {
            names: state.names.clone(),
            names_on_disk: state.names_on_disk.clone(),
            unsynced: state.unsynced.clone(),
            files: state.files.clone(),
            ..State::default()
        };
        Self(Arc::new(Mutex::new(copy)))
    }

    /// What the machine finds when it starts again.
    pub(crate) fn after_crash(&self, unsynced: Unsynced) -> Self {
        let state = self.0.lock().unwrap();
        let mut seed = match unsynced {
            Unsynced::Any(seed) | Unsynced::Prefix(seed) => seed,
            _ => 0,
        };
        let keep = |seed: &mut u64| match unsynced {
            Unsynced::Lost => false,
            Unsynced::Kept => true,
            Unsynced::Any(_) | Unsynced::Prefix(_) => toss(seed) % 2 == 0,
        };
        let mut names = state.names_on_disk.clone();
        for change in state.unsynced.iter().filter(|_| keep(&mut seed)) {
            change.apply(&mut names);
        }
        let mut files = Vec::new();
        for file in &state.files {
            let mut found = file.on_disk.clone();
            let dirty = &file.cached[file.clean..];
            let mut place = file.clean;
            if let Unsynced::Prefix(_) = unsynced {
                let length = toss(&mut seed) as usize % (dirty.len() + 1);
                found.extend_from_slice(&dirty[..length]);
            } else {
                while place < file.cached.len() {
                    let end = ((place / SECTOR + 1) * SECTOR).min(file.cached.len());
                    if keep(&mut seed) {
                        found.resize(found.len().max(end), 0);
                        found[place..end].copy_from_slice(&file.cached[place..end]);
                    }
                    place = end;
                }
                if keep(&mut seed) {
                    found.resize(file.cached.len(), 0);
                }
            }
            files.push(FileState { clean: found.len(), on_disk: found.clone(), cached: found });
        }
        let state = State { names: names.clone(), names_on_disk: names, files, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            NameChange::Create(name, file) => drop(names.insert(name.clone(), *file)),
            NameChange::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            NameChange::Remove(name) => drop(names.remove(name)),
        }
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl State {
    /// Counts a verb; returns what goes wrong at it.
    fn verb(&mut self) -> io::Result<Option<Fault>> {
        if self.is_down {
            return Err(eio());
        }
        let verb = self.verbs;
        self.verbs += 1;
        match self.fault {
            Some((at, Fault::Crash)) if at == verb => {
                self.is_down = true;
                Ok(Some(Fault::Crash))
            }
            Some((at, fault)) if at == verb => Ok(Some(fault)),
            _ => Ok(None),
        }
    }

    /// Counts a verb that happens or does not.
    fn whole_verb(&mut self) -> io::Result<()> {
        match self.verb()? {
            Some(Fault::Crash | Fault::Eio) => Err(eio()),
            _ => Ok(()),
        }
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced.push(change);
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        if self.is_down {
            return Err(eio());
        }
        self.names.get(name).copied().ok_or(io::ErrorKind::NotFound.into())
    }
}

impl Disk for FaultyDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.0.lock().unwrap();
        state.whole_verb()?;
        let file = match state.names.get(name).copied() {
            Some(file) => {
                // Emptied, though after a crash the old contents may be there again.
                state.files[file].cached.clear();
                state.files[file].clean = 0;
                file
            }
            None => {
                state.files.push(FileState::default());
                let file = state.files.len() - 1;
                state.change(NameChange::Create(name.to_owned(), file));
                file
            }
        };
        Ok(Box::new(OpenFile { disk: self.clone(), file }))
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        let state = self.0.lock().unwrap();
        let file = state.find(name)?;
        Ok(Box::new(Cursor::new(state.files[file].cached.clone())))
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        let state = self.0.lock().unwrap();
        let file = state.find(name)?;
        Ok(state.files[file].cached.len() as u64)
    }

    fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.whole_verb()?;
        let file = state.find(name)?;
        let file = &mut state.files[file];
        file.cached.truncate(length as usize);
        file.on_disk.truncate(length as usize);
        file.clean = file.clean.min(length as usize);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.whole_verb()?;
        state.find(from)?;
        state.change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.whole_verb()?;
        state.find(name)?;
        state.change(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.whole_verb()?;
        state.syncs += 1;
        let names = state.names.clone();
        state.names_on_disk = names;
        state.unsynced.clear();
        Ok(())
    }
}

struct OpenFile {
    disk: FaultyDisk,
    file: usize,
}

impl DiskFile for OpenFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.disk.0.lock().unwrap();
        let fault = state.verb()?;
        if fault == Some(Fault::Eio) {
            return Err(eio());
        }
        let used: usize = state.names.values().map(|file| state.files[*file].cached.len()).sum();
        let room = state.room.map_or(usize::MAX, |room| room.saturating_sub(used));
        if room == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut length = bytes.len().min(room);
        if fault.is_some() && length > 1 {
            length = 1 + toss(&mut state.seed) as usize % (length - 1);
        }
        state.files[self.file].cached.extend_from_slice(&bytes[..length]);
        if fault == Some(Fault::Crash) { Err(eio()) } else { Ok(length) }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        let fault = state.verb()?;
        if fault == Some(Fault::Crash) {
            return Err(eio());
        }
        state.syncs += 1;
        let file = &mut state.files[self.file];
        let clean = std::mem::replace(&mut file.clean, file.cached.len());
        if fault == Some(Fault::Eio) {
            return Err(eio());
        }
        file.on_disk.resize(file.cached.len(), 0);
        file.on_disk[clean..].copy_from_slice(&file.cached[clean..]);
        Ok(())
    }
}

pub(crate) fn small() -> JournalBuilder {
    Journal::builder().segment_bytes(4096)
}

pub(crate) fn open(disk: &FaultyDisk) -> (Journal, Recovery) {
    small().open_on(disk.clone()).unwrap()
}

pub(crate) fn put(journal: &Journal, key: &str, value: &str) -> u64 {
    journal.append_blocking(Kind::Put, key.as_bytes(), value.as_bytes()).unwrap()
}

pub(crate) fn values(recovery: &Recovery) -> Vec<String> {
    recovery.records.iter().map(|record| String::from_utf8(record.value.clone()).unwrap()).collect()
}
