//! Threads that share a few connections to an SQLite database: what a web server of plain threads does.
//!
//! cargo run --example sqlite_pool --features sqlite

use std::time::{Duration, Instant};

use floodwall::Pool;
use floodwall::pool::BlockingManager;
use rusqlite::Connection;

/// Opens connections to one file.
struct Sqlite {
    path: std::path::PathBuf,
}

impl BlockingManager for Sqlite {
    type Connection = Connection;
    type Error = rusqlite::Error;

    fn connect(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open(&self.path)?;
        // Writers wait for each other inside SQLite, readers for nobody.
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "normal")?;
        Ok(connection)
    }

    fn check(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        connection.query_row("select 1", [], |_| Ok(()))
    }

    /// A transaction that somebody left open must not be the next one's.
    fn needs_reset(&self, connection: &mut Connection) -> bool {
        !connection.is_autocommit()
    }

    fn reset(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        connection.execute_batch("rollback")
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("floodwall-pool-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let pool = Pool::builder(Sqlite { path: folder.join("hits.db") }.in_place())
        .max(4)
        .timeout(Duration::from_secs(10))
        .measure_holds()
        .build();
    // A file that cannot be opened is found out here, and not by the first request.
    pool.ready_blocking()?;
    pool.get_blocking()?.execute_batch("create table hits (thread integer, number integer)")?;

    const THREADS: u32 = 16;
    const REQUESTS: u32 = 50;
    let start = Instant::now();
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let pool = pool.clone();
            std::thread::spawn(move || -> Result<(), String> {
                for number in 0..REQUESTS {
                    let connection = pool.get_blocking().map_err(|error| error.to_string())?;
                    connection
                        .execute("insert into hits values (?1, ?2)", [thread, number])
                        .map_err(|error| error.to_string())?;
                }
                Ok(())
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no request panics")?;
    }
    let took = start.elapsed();

    // Whoever leaves a transaction open leaves nothing to the next one.
    pool.get_blocking()?.execute_batch("begin; delete from hits")?;
    let hits: u32 = pool.get_blocking()?.query_row("select count(*) from hits", [], |row| row.get(0))?;
    assert_eq!(hits, THREADS * REQUESTS);

    let (status, stats) = (pool.status(), pool.stats());
    assert!(status.total <= 4 && status.in_use == 0, "{status:?}");
    println!("{hits} rows by {THREADS} threads over {} connections in {took:.0?}", status.total);
    if let (Some(half), Some(most)) = (stats.waits.quantile(0.5), stats.waits.quantile(0.99)) {
        println!("of those that waited in line, half waited {half:.0?}, 99 of 100 at most {most:.0?}");
    }
    if let Some(hold) = stats.holds.quantile(0.5) {
        println!("a connection was held for {hold:.0?} in the middle");
    }
    assert_eq!(pool.drain_blocking(Duration::from_secs(5)), 0);
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
