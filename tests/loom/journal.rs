//! Models of group commit.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use floodwall::Clock;
use floodwall::store::journal::{Disk, DiskFile, Journal, Kind};
use loom::thread;

use super::{model, model_of, poll};

/// Files that take in all that is written, and whose syncs take a while.
#[derive(Clone)]
struct Memory {
    files: Arc<Mutex<BTreeMap<String, u64>>>,
    clock: Clock,
}

impl DiskFile for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.clock.advance(Duration::from_millis(1));
        Ok(())
    }
}

impl Disk for Memory {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.files.lock().unwrap().keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.files.lock().unwrap().insert(name.to_owned(), 0);
        Ok(Box::new(self.clone()))
    }

    fn read(&self, _: &str) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        Ok(self.files.lock().unwrap()[name])
    }

    fn truncate(&self, _: &str, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files.lock().unwrap();
        let length = files.remove(from).unwrap();
        files.insert(to.to_owned(), length);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.lock().unwrap().remove(name);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }
}

fn journal() -> Arc<Journal> {
    let clock = Clock::manual();
    let disk = Memory { files: Arc::default(), clock: clock.clone() };
    Arc::new(Journal::builder().clock(clock).open_on(disk).unwrap().0)
}

fn put(journal: &Journal) {
    journal.append_blocking(Kind::Put, b"key", b"value").unwrap();
}

/// Who comes back looks out for the others, or is led by one of them.
#[test]
fn every_writer_is_led_or_leads() {
    model(|| {
        let journal = journal();
        let others = [1, 2].map(|writes| {
            let journal = journal.clone();
            thread::spawn(move || (0..writes).for_each(|_| put(&journal)))
        });
        put(&journal);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(journal.stats().live_records, 4);
    });
}

#[test]
fn a_writer_that_is_not_polled_or_leaves_holds_nobody_up() {
    model_of(2, || {
        let journal = journal();
        let others = [1, 2].map(|writes| {
            let journal = journal.clone();
            thread::spawn(move || (0..writes).for_each(|_| put(&journal)))
        });
        let mut held = Box::pin(journal.append(Kind::Put, b"held", b"value"));
        let mut accepted = poll(&mut held);
        let mut leaves = Box::pin(journal.append(Kind::Put, b"leaves", b"value"));
        let _ = poll(&mut leaves);
        drop(leaves);
        // Held here: neither polled nor dropped.
        others.into_iter().for_each(|other| other.join().unwrap());
        if accepted.is_pending() {
            accepted = Poll::Ready(floodwall::block_on(held));
        }
        assert!(matches!(accepted, Poll::Ready(Ok(_))));
    });
}
