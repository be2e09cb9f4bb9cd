//! Eight SQLite files hold 200,000 accounts; a ninth joins, and takes its share while reads and writes go on.
//!
//! `cargo run --release --example sharded_store --features sqlite`
//!
//! A [`Plan`](floodwall::shard::Plan) says which slots move, a [`Shift`] says for each key where to read and where to write
//! meanwhile. What makes it safe:
//!
//! - each access holds the [`Route`](floodwall::shard::Route) of its key until it is done, so that the shift can wait for it;
//! - rows have versions and the newest stays, in whatever order writes and copies come to a file;
//! - old copies are deleted when nobody reads them any more, which is when `switch_blocking` has returned;
//! - and if clients deleted accounts, which they do not here, they would save a version that says so: a row that is simply gone would come
//!   back when an older copy of it arrives.
//!
//! In the end every row is read from every file: none is lost, doubled, misplaced or older than what its writer was told.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use floodwall::Sharder;
use floodwall::shard::{Move, Node, Piece, Shift};
use rusqlite::{Connection, OptionalExtension, Result, params};

/// Accounts at the start.
const ROWS: u64 = 200_000;

/// How many moves, each of some slots, are under way at the same time.
const AT_ONCE: usize = 128;

/// One file. Reads do not wait for writes: they have a connection of their own.
struct Shard {
    name: String,
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
}

/// (id, slot, version, balance)
type Row = (u64, u64, u64, i64);

impl Shard {
    fn open(folder: &Path, name: &str) -> Result<Self> {
        let open = || -> Result<_> {
            let file = Connection::open(folder.join(name))?;
            file.busy_timeout(Duration::from_secs(10))?;
            file.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")?;
            Ok(Mutex::new(file))
        };
        let shard = Self { name: name.to_owned(), writer: open()?, reader: open()? };
        // The slot is stored beside each row, so that the rows of a move are found by an index.
        shard.writer().execute_batch(
            "CREATE TABLE accounts (id INTEGER PRIMARY KEY, slot INTEGER NOT NULL, version INTEGER NOT NULL,
                balance INTEGER NOT NULL);
             CREATE INDEX accounts_by_slot ON accounts (slot);",
        )?;
        Ok(shard)
    }

    fn writer(&self) -> MutexGuard<'_, Connection> {
        self.writer.lock().expect("nobody panics with it")
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        self.reader.lock().expect("nobody panics with it")
    }

    /// Writes rows that are newer than those there are.
    fn save(&self, rows: &[Row]) -> Result<()> {
        let mut file = self.writer();
        let batch = file.transaction()?;
        let mut upsert = batch.prepare_cached(
            "INSERT INTO accounts VALUES (?1, ?2, ?3, ?4) ON CONFLICT (id) DO UPDATE
             SET version = excluded.version, balance = excluded.balance WHERE excluded.version > version",
        )?;
        for row in rows {
            upsert.execute(params![row.0 as i64, row.1 as i64, row.2 as i64, row.3])?;
        }
        drop(upsert);
        batch.commit()
    }

    fn load(&self, id: u64) -> Result<Option<(u64, i64)>> {
        let file = self.reader();
        let mut select = file.prepare_cached("SELECT version, balance FROM accounts WHERE id = ?1")?;
        select.query_row([id as i64], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?))).optional()
    }

    /// The rows of slots from the first up to the last, that included.
    fn rows(&self, first: u64, last: u64) -> Result<Vec<Row>> {
        let file = self.reader();
        let mut select = file
            .prepare_cached("SELECT id, slot, version, balance FROM accounts WHERE slot BETWEEN ?1 AND ?2")?;
        let number = |row: &rusqlite::Row<'_>, at| Ok::<_, rusqlite::Error>(row.get::<_, i64>(at)? as u64);
        let rows = select.query_map([first as i64, last as i64], |row| {
            Ok((number(row, 0)?, number(row, 1)?, number(row, 2)?, row.get(3)?))
        })?;
        rows.collect()
    }

    fn delete(&self, slots: &[(u64, u64)]) -> Result<()> {
        let mut file = self.writer();
        let batch = file.transaction()?;
        for (first, last) in slots {
            let delete = "DELETE FROM accounts WHERE slot BETWEEN ?1 AND ?2";
            batch.prepare_cached(delete)?.execute([*first as i64, *last as i64])?;
        }
        batch.commit()
    }
}

impl Node for Shard {
    fn id(&self) -> Cow<'_, str> {
        Cow::from(&self.name)
    }
}

/// The accounts, and what their writers were told: for each the version that was last saved.
struct Bank {
    shards: Sharder<Shard>,
    /// By id. Zero: not opened yet.
    told: Vec<AtomicU64>,
    next_id: AtomicU64,
    reads: AtomicU64,
    writes: AtomicU64,
    is_closed: AtomicBool,
}

/// The balance that a version of an account has: so that a reader knows a wrong one.
fn balance(id: u64, version: u64) -> i64 {
    (id.wrapping_mul(31) ^ version.wrapping_mul(1_000_003)) as i64 >> 8
}

impl Bank {
    /// Saves the next version of an account.
    fn write(&self, id: u64) -> Result<()> {
        // Held until both files have it.
        let route = self.shards.route(&id);
        let version = self.told[id as usize].load(Ordering::Relaxed) + 1;
        let row = (id, self.shards.snapshot().number(&id), version, balance(id, version));
        for shard in route.writes() {
            shard.save(&[row])?;
        }
        self.told[id as usize].store(version, Ordering::Release);
        self.writes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Reads an account, and checks that it is not older than what its writer was told.
    fn read(&self, id: u64) -> Result<()> {
        let told = self.told[id as usize].load(Ordering::Acquire);
        let route = self.shards.route(&id);
        let shard = route.read();
        match shard.load(id)? {
            Some((version, found)) => {
                assert!(version >= told, "account {id} in {}: version {version} after {told}", shard.name);
                assert_eq!(found, balance(id, version), "account {id} in {}", shard.name);
            }
            None => assert_eq!(told, 0, "account {id} is not in {}", shard.name),
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Changes accounts, the only one to do so, and opens some.
    fn keep_writing(&self) -> Result<()> {
        let mut random = 1u64;
        while !self.is_closed.load(Ordering::Relaxed) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let is_new = random >> 60 == 0;
            let id = self.next_id.load(Ordering::Relaxed);
            if is_new && (id as usize) < self.told.len() {
                self.write(id)?;
                self.next_id.store(id + 1, Ordering::Release);
            } else {
                self.write((random >> 20) % id)?;
            }
        }
        Ok(())
    }

    fn keep_reading(&self) -> Result<()> {
        let mut random = 7u64;
        while !self.is_closed.load(Ordering::Relaxed) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            self.read((random >> 20) % self.next_id.load(Ordering::Acquire))?;
        }
        Ok(())
    }

    /// Runs `work` and prints how much was read and written meanwhile.
    fn measured<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        let counts = || (self.reads.load(Ordering::Relaxed), self.writes.load(Ordering::Relaxed));
        let (before, start) = (counts(), Instant::now());
        let result = work();
        let (after, seconds) = (counts(), start.elapsed().as_secs_f64());
        let rate = |count: u64| count as f64 / seconds;
        let (reads, writes) = (rate(after.0 - before.0), rate(after.1 - before.1));
        println!("{what:16} {seconds:5.1} s  {reads:8.0} reads/s  {writes:8.0} writes/s");
        result
    }
}

/// Carries a shift out, wave by wave, and returns how many rows were moved.
fn carry_out(shift: &Shift<Shard>) -> Result<usize> {
    let plan = shift.plan();
    let shard = |id: &str| shift.next().node(id).expect("no node leaves by this shift");
    let mut moved = 0;
    for wave in plan.waves(AT_ONCE) {
        // One transaction for each file: to whom the rows go, and from whom the slots.
        let mut copies: BTreeMap<&str, Vec<Row>> = BTreeMap::new();
        let mut leftovers: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
        // From here on nobody writes to the old file alone.
        shift.copy_blocking(wave.iter().copied());
        for Move { piece, from, to, .. } in wave.iter().map(|at| &plan.moves()[*at]) {
            let Piece::Slots(first, last) = *piece else { unreachable!("the default has slots") };
            copies.entry(to).or_default().extend(shard(from).rows(first, last)?);
            leftovers.entry(from).or_default().push((first, last));
        }
        for (to, rows) in copies {
            shard(to).save(&rows)?;
            moved += rows.len();
        }
        // From here on nobody reads the old file.
        shift.switch_blocking(wave);
        for (from, slots) in leftovers {
            shard(from).delete(&slots)?;
        }
    }
    Ok(moved)
}

/// Reads all files and compares them with what writers were told.
fn verify(bank: &Bank) -> Result<()> {
    let snapshot = bank.shards.snapshot();
    let mut found = vec![0u64; bank.told.len()];
    for (name, shard) in snapshot.nodes() {
        let rows = shard.rows(0, u64::MAX >> 1)?;
        println!("  {name}: {} rows", rows.len());
        for (id, slot, version, amount) in rows {
            assert_eq!(snapshot.home(&id), name, "account {id} is misplaced");
            assert_eq!(snapshot.number(&id), slot, "account {id} has a wrong slot");
            assert_eq!(found[id as usize], 0, "account {id} is there twice");
            assert_eq!(amount, balance(id, version), "account {id} is damaged");
            found[id as usize] = version;
        }
    }
    for (id, (found, told)) in found.iter().zip(&bank.told).enumerate() {
        assert_eq!(*found, told.load(Ordering::Relaxed), "account {id} is lost, or was set back");
    }
    Ok(())
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("sharded_store-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let files = (1..=8).map(|at| Shard::open(&folder, &format!("shard{at}.db")));
    let bank = Bank {
        shards: Sharder::new(files.collect::<Result<Vec<_>>>()?)?,
        told: (0..ROWS * 2).map(|_| AtomicU64::new(0)).collect(),
        next_id: AtomicU64::new(ROWS),
        reads: AtomicU64::new(0),
        writes: AtomicU64::new(0),
        is_closed: AtomicBool::new(false),
    };

    let snapshot = bank.shards.snapshot();
    for (name, shard) in snapshot.nodes() {
        let here = (0..ROWS).filter(|id| snapshot.home(id) == name);
        let rows: Vec<Row> = here.map(|id| (id, snapshot.number(&id), 1, balance(id, 1))).collect();
        shard.save(&rows)?;
    }
    bank.told[..ROWS as usize].iter().for_each(|told| told.store(1, Ordering::Relaxed));
    println!("{}\n", snapshot.spread(0..ROWS));

    let next = snapshot.draft().add(Shard::open(&folder, "shard9.db")?)?.build()?;
    let shift = bank.shards.shift(next)?;
    let (least, share) = (shift.plan().minimum(), shift.plan().share());
    println!("{}\n", shift.plan());

    let moved = std::thread::scope(|scope| {
        let clients = [scope.spawn(|| bank.keep_writing()), scope.spawn(|| bank.keep_reading())];
        bank.measured("before the move", || std::thread::sleep(Duration::from_secs(1)));
        let moved = bank.measured("during the move", || carry_out(&shift))?;
        shift.finish().expect("all moves are switched");
        bank.measured("after the move", || std::thread::sleep(Duration::from_secs(1)));
        bank.is_closed.store(true, Ordering::Relaxed);
        clients.into_iter().try_for_each(|client| client.join().expect("what a client read was right"))?;
        Ok::<_, rusqlite::Error>(moved)
    })?;

    let rows = bank.next_id.load(Ordering::Relaxed);
    println!(
        "\nmoved {moved} rows of {rows}, {:.2} %; the least possible is {:.2} %, planned were {:.2} %; by hash modulo nodes it were 89 %",
        moved as f64 / rows as f64 * 100.0,
        least * 100.0,
        share * 100.0,
    );
    verify(&bank)?;
    println!("every row is there once, where it belongs, and as new as its writer was told");
    drop(bank);
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
