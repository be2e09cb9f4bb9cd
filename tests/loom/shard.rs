//! Sets of nodes that change while they are read, and rows that move while they are read and written.

use std::borrow::Cow;

use floodwall::Sharder;
use floodwall::shard::{Modulo, Node, Ranges};
use loom::sync::Mutex;

use super::*;

/// A node that holds one row. Under a lock, as loom does not know that the counts of an `Arc` order what comes before its drop.
struct File(&'static str, Mutex<u64>);

impl Node for File {
    fn id(&self) -> Cow<'_, str> {
        self.0.into()
    }
}

const NOTHING: u64 = 0;
const OLD: u64 = 1;
const NEW: u64 = 2;
const DELETED: u64 = 3;

/// Whoever reads during a move finds the row, and what is written is not lost.
#[test]
fn a_row_that_moves_is_read_and_written() {
    model(|| {
        let files = [File("from", Mutex::new(OLD)), File("to", Mutex::new(NOTHING))];
        let shards = Sharder::with(Ranges::all("from"), files).unwrap();
        let writes = {
            let shards = shards.clone();
            thread::spawn(move || {
                let route = shards.route("row");
                for file in route.writes() {
                    *file.1.lock().unwrap() = NEW;
                }
            })
        };
        let reads = {
            let shards = shards.clone();
            thread::spawn(move || {
                let route = shards.route("row");
                let row = *route.read().1.lock().unwrap();
                assert!(row == OLD || row == NEW, "{row}");
            })
        };
        let before = shards.snapshot();
        let shift = shards.shift(before.draft().strategy(Ranges::all("to")).build().unwrap()).unwrap();
        shift.copy_blocking([0]);
        let [from, to] = ["from", "to"].map(|id| &before.node(id).unwrap().1);
        let row = *from.lock().unwrap();
        let mut copy = to.lock().unwrap();
        if *copy == NOTHING {
            *copy = row;
        }
        drop(copy);
        shift.switch_blocking([0]);
        *from.lock().unwrap() = DELETED;
        writes.join().unwrap();
        reads.join().unwrap();
        shift.finish().unwrap();
        let route = shards.route("row");
        assert_eq!((route.read().0, *route.read().1.lock().unwrap()), ("to", NEW));
    });
}

/// Two changes at once are both made, and a reader sees each set whole, the newest one last.
#[test]
fn changes_that_meet_are_all_made() {
    model(|| {
        let shards = Sharder::with(Modulo::new(), ["a", "b"]).unwrap();
        let marks: Vec<_> = ["a", "b"]
            .map(|id| {
                let shards = shards.clone();
                thread::spawn(move || shards.mark_down(id).unwrap())
            })
            .into();
        let mut reader = shards.reader();
        let downs = |reader: &mut floodwall::shard::Reader<&str>| {
            let snapshot = reader.snapshot();
            let downs = u64::from(snapshot.is_down("a")) + u64::from(snapshot.is_down("b"));
            assert_eq!(downs, snapshot.version());
            assert_eq!(snapshot.get("row").is_none(), downs == 2);
            downs
        };
        let first = downs(&mut reader);
        assert!(downs(&mut reader) >= first);
        marks.into_iter().for_each(|mark| mark.join().unwrap());
        assert_eq!(downs(&mut reader), 2);
    });
}
