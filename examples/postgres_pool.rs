//! Transfers between accounts: many tasks that share a few connections to a PostgreSQL server, each transfer a transaction.
//!
//! ```text
//! FLOODWALL_POSTGRES="host=localhost user=me" cargo run --example postgres_pool --features postgres,sqlite
//! ```
//!
//! Without a server it says so, and makes the transfers in an SQLite file, with threads in place of tasks. Half-way all
//! connections are [cleared](Pool::clear) as after a fail-over, while transfers go on. At the end no money may be lost, or
//! the program fails.
//!
//! [`pool`] and [`transfer`] are what you would start from.

use std::error::Error;
use std::fmt;
use std::time::{Duration, Instant};

use floodwall::pool::{BlockingManager, PoolError, PostgresManager};
use floodwall::{Exponential, Manager, Policy, Pool, Retry};
use tokio_postgres::NoTls;

type AnyError = Box<dyn Error + Send + Sync>;

const ACCOUNTS: i32 = 20;
const EACH: i64 = 1_000;
const TASKS: i32 = 64;
const TRANSFERS: i32 = 25;
const CONNECTIONS: usize = 4;

/// A pool for a service that runs for long.
fn pool(server: &str) -> Result<Pool<PostgresManager>, tokio_postgres::Error> {
    let manager = PostgresManager::new(server.parse()?, NoTls, |driver| drop(tokio::spawn(driver)));
    let pool = Pool::builder(manager).max(CONNECTIONS).min_idle(1).timeout(Duration::from_secs(5));
    let pool = pool.observe("accounts", |name: &str, event| match event {
        floodwall::Event::HeldTooLong { at, held } => eprintln!("{name}: held for {held:?} since {at}"),
        floodwall::Event::Retrying { delay, .. } => eprintln!("{name}: no connection, next try in {delay:?}"),
        _ => {}
    });
    Ok(pool.leak_after(Duration::from_secs(30)).measure_holds().build())
}

/// Moves money, or leaves all as it was: whatever ends this early drops the transaction, which rolls it back.
async fn transfer(pool: &Pool<PostgresManager>, from: i32, to: i32, amount: i64) -> Result<(), Failed> {
    let mut connection = pool.get().await?;
    let add = connection.prepare_cached("UPDATE accounts SET balance = balance + $2 WHERE id = $1").await?;
    let transaction = connection.transaction().await?;
    // In one order for all, so that no two wait for each other's rows.
    let mut moves = [(from, -amount), (to, amount)];
    moves.sort_unstable();
    for (id, amount) in moves {
        transaction.execute(&add, &[&id, &amount]).await?;
    }
    Ok(transaction.commit().await?)
}

/// Why a transfer was not made.
#[derive(Debug)]
enum Failed {
    NoConnection(PoolError<tokio_postgres::Error>),
    Query(tokio_postgres::Error),
}

/// Whether it is known that nothing was changed, so that it may be tried again.
fn is_passing(error: &floodwall::Error<Failed>) -> bool {
    matches!(error, floodwall::Error::Inner(Failed::NoConnection(_)))
}

async fn in_postgres(server: &str) -> Result<(), AnyError> {
    let pool = pool(server)?;
    // In a task of its own: who waits for a connection then only waits, and one idle connection is kept.
    let run = tokio::spawn(pool.run());
    // A server that is not there is found out here, and not by the first request.
    pool.ready().await?;
    let create = format!(
        "DROP TABLE IF EXISTS accounts; CREATE TABLE accounts (id int4 PRIMARY KEY, balance int8 NOT NULL);
         INSERT INTO accounts SELECT id, {EACH} FROM generate_series(0, {ACCOUNTS} - 1) id"
    );
    pool.get().await?.batch_execute(&create).await?;

    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let pool = pool.clone();
        tasks.spawn(async move {
            let backoff = Exponential::new(Duration::from_millis(5)).attempts(4);
            let retry = Retry::new(backoff).when(is_passing);
            for number in 0..TRANSFERS {
                let (from, to) = accounts(task, number);
                retry.call(|| transfer(&pool, from, to, i64::from(number))).await?;
            }
            Ok::<_, floodwall::Error<Failed>>(())
        });
    }
    let half = u64::from((TASKS * TRANSFERS / 2).unsigned_abs());
    while pool.stats().served < half {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    pool.clear();
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let took = start.elapsed();

    let connection = pool.get().await?;
    let sum: i64 = connection.query_one("SELECT sum(balance)::int8 FROM accounts", &[]).await?.get(0);
    connection.batch_execute("DROP TABLE accounts").await?;
    drop(connection);
    report(&pool, "tasks", took, sum);
    // What is lent has so long to come home.
    assert_eq!(pool.drain(Duration::from_secs(5)).await, 0);
    Ok(run.await?)
}

/// Whose money goes where.
fn accounts(task: i32, number: i32) -> (i32, i32) {
    let from = (task * 7 + number * 3) % ACCOUNTS;
    (from, (from + 1 + number % (ACCOUNTS - 1)) % ACCOUNTS)
}

fn report<M: Manager>(pool: &Pool<M>, who: &str, took: Duration, sum: i64) {
    assert_eq!(sum, i64::from(ACCOUNTS) * EACH, "money was lost");
    let (status, stats) = (pool.status(), pool.stats());
    assert!(status.total <= CONNECTIONS && status.in_use == 0, "{status:?}");
    println!("{} transfers by {TASKS} {who} in {took:.0?}, and no money was lost", TASKS * TRANSFERS);
    println!("{} connections were made, at most {} at a time", stats.connected, status.max);
    for (what, times) in [("who waited for a connection did so", &stats.waits), ("it was held", &stats.holds)]
    {
        if let (Some(half), Some(most)) = (times.quantile(0.5), times.quantile(0.99)) {
            println!("{what} for {half:.1?} half of the time, for at most {most:.1?} 99 times of 100");
        }
    }
}

/// Opens connections to one file.
struct Sqlite(std::path::PathBuf);

impl BlockingManager for Sqlite {
    type Connection = rusqlite::Connection;
    type Error = rusqlite::Error;

    fn connect(&self) -> rusqlite::Result<rusqlite::Connection> {
        let connection = rusqlite::Connection::open(&self.0)?;
        connection.busy_timeout(Duration::from_secs(20))?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "normal")?;
        Ok(connection)
    }

    fn check(&self, connection: &mut rusqlite::Connection) -> rusqlite::Result<()> {
        connection.query_row("SELECT 1", [], |_| Ok(()))
    }
}

fn in_sqlite() -> Result<(), AnyError> {
    let folder = std::env::temp_dir().join(format!("floodwall-transfers-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let pool = Pool::builder(Sqlite(folder.join("accounts.db")).in_place());
    let pool = pool.max(CONNECTIONS).measure_holds().build();
    pool.ready_blocking()?;
    let connection = pool.get_blocking()?;
    connection.execute_batch("CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)")?;
    for id in 0..ACCOUNTS {
        connection.execute("INSERT INTO accounts VALUES (?1, ?2)", (id, EACH))?;
    }
    drop(connection);

    let start = Instant::now();
    let transfers = |task| -> Result<(), AnyError> {
        for number in 0..TRANSFERS {
            let (from, to) = accounts(task, number);
            let mut connection = pool.get_blocking()?;
            let transaction =
                connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let add = "UPDATE accounts SET balance = balance + ?2 WHERE id = ?1";
            transaction.execute(add, (from, -number))?;
            transaction.execute(add, (to, number))?;
            transaction.commit()?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..TASKS).map(|task| scope.spawn(move || transfers(task))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no transfer panics"))
    })?;
    let took = start.elapsed();
    let sum = pool.get_blocking()?.query_row("SELECT sum(balance) FROM accounts", [], |row| row.get(0))?;
    report(&pool, "threads", took, sum);
    assert_eq!(pool.drain_blocking(Duration::from_secs(5)), 0);
    Ok(std::fs::remove_dir_all(&folder)?)
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    match std::env::var("FLOODWALL_POSTGRES") {
        Ok(server) => in_postgres(&server).await,
        Err(_) => {
            println!("FLOODWALL_POSTGRES names no server (\"host=localhost user=me\"): this is SQLite");
            tokio::task::spawn_blocking(in_sqlite).await?
        }
    }
}

impl From<PoolError<tokio_postgres::Error>> for Failed {
    fn from(error: PoolError<tokio_postgres::Error>) -> Self {
        Failed::NoConnection(error)
    }
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        Failed::Query(error)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failed::NoConnection(error) => error.fmt(f),
            Failed::Query(error) => error.fmt(f),
        }
    }
}

impl Error for Failed {}
