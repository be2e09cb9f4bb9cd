//! A pool over a real PostgreSQL server. `FLOODWALL_POSTGRES` names it (`host=localhost user=me`), and
//! `FLOODWALL_POSTGRES_RESTART` a script that restarts it. Run it with `--features postgres`.
#![cfg(all(feature = "postgres", not(floodwall_loom)))]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use floodwall::pool::PostgresManager;
use floodwall::{Constant, Error, Policy, Pool, PoolBuilder, Retry};
use support::{millis, secs};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tokio_postgres::NoTls;

/// One test at a time: one of them stops the server, and all count what it has.
static SERVER: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Where the server is, or that it is skipped.
fn server() -> Option<String> {
    let server = std::env::var("FLOODWALL_POSTGRES").ok();
    if server.is_none() {
        println!("skipped: FLOODWALL_POSTGRES names no server");
    }
    server
}

fn manager(server: &str, name: &str) -> PostgresManager {
    let config = format!("{server} application_name={name}").parse().unwrap();
    PostgresManager::new(config, NoTls, |driver| drop(tokio::spawn(driver)))
}

fn pool(server: &str, name: &str) -> PoolBuilder<PostgresManager> {
    Pool::builder(manager(server, name)).max(4).timeout(secs(20))
}

/// How many connections the server has of that name.
async fn count(watch: &Pool<PostgresManager>, name: &str) -> i64 {
    let watch = watch.get().await.unwrap();
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
    watch.query_one(&watch.prepare_cached(count).await.unwrap(), &[&name]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_transaction_that_is_dropped_is_rolled_back_and_a_statement_is_prepared_once() {
    let Some(server) = server() else { return };
    let _turn = SERVER.lock().await;
    let pool = pool(&server, "prepared").max(1).build();
    let mut connection = pool.get().await.unwrap();
    connection.batch_execute("CREATE TEMP TABLE t (id int4)").await.unwrap();
    let transaction = connection.transaction().await.unwrap();
    transaction.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    drop(transaction);
    drop(connection);
    for number in 0..300 {
        let connection = pool.get().await.unwrap();
        let rows = connection.prepare_cached("SELECT id FROM t").await.unwrap();
        assert!(connection.query(&rows, &[]).await.unwrap().is_empty());
        if number == 0 {
            assert!(connection.prepare_cached("SELECT no FROM t").await.is_err());
        }
        if number >= 20 {
            // Others come and go.
            connection.prepare_cached(&format!("SELECT {number}")).await.unwrap();
        }
    }
    let connection = pool.get().await.unwrap();
    let prepared = "SELECT count(*) FROM pg_prepared_statements";
    let prepared: i64 = connection.query_one(prepared, &[]).await.unwrap().get(0);
    // 281 texts in all, and the query itself; after 256 it began anew.
    assert!((20..=30).contains(&prepared), "{prepared} are prepared");
    assert_eq!(pool.stats().connected, 1);
}

#[tokio::test]
async fn what_a_user_leaves_in_a_session_is_cleared_away_if_that_is_wanted() {
    let Some(server) = server() else { return };
    let _turn = SERVER.lock().await;
    for is_clean in [false, true] {
        let manager = manager(&server, "left");
        let manager = if is_clean { manager.reset_by(PostgresManager::CLEAN) } else { manager };
        let pool = Pool::new(manager, 1);
        let connection = pool.get().await.unwrap();
        let one = connection.prepare_cached("SELECT 1").await.unwrap();
        let leave = "SET work_mem = '77MB'; CREATE TEMP TABLE mine (id int4); SELECT pg_advisory_lock(7)";
        connection.batch_execute(leave).await.unwrap();
        connection.batch_execute("BEGIN").await.unwrap();
        drop(connection);
        let connection = pool.get().await.unwrap();
        let work_mem: String = connection.query_one("SHOW work_mem", &[]).await.unwrap().get(0);
        assert_eq!(work_mem != "77MB", is_clean);
        assert_eq!(connection.query("SELECT * FROM mine", &[]).await.is_err(), is_clean);
        let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
        assert_eq!(connection.query_one(locks, &[]).await.unwrap().get::<_, i64>(0) == 0, is_clean);
        // What is prepared stays, in any case.
        connection.query_one(&one, &[]).await.unwrap();
        drop(connection);
        assert_eq!(pool.stats().connected, 1, "no connection was lost");
    }
}

#[tokio::test]
async fn a_place_is_free_only_when_the_driver_has_said_goodbye() {
    let Some(server) = server() else { return };
    let _turn = SERVER.lock().await;
    let (send, mut drivers) = tokio::sync::mpsc::unbounded_channel();
    let manager = PostgresManager::new(server.parse().unwrap(), NoTls, move |driver| drop(send.send(driver)));
    let pool = Pool::new(manager, 1);
    pool.get().await.unwrap().discard();
    assert!(timeout(millis(50), pool.get()).await.is_err(), "the first one is not closed yet");
    assert_eq!((pool.status().total, pool.stats().connected), (1, 1));
    tokio::spawn(drivers.recv().await.unwrap());
    pool.get().await.unwrap().discard();
    assert_eq!(pool.stats().connected, 2);
    // Also if it is dropped, with its runtime.
    drop(drivers.recv().await.unwrap());
    drop(pool.get().await.unwrap());
    assert_eq!(pool.stats().connected, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_never_has_more_of_them_than_the_pool_may_have() {
    let Some(server) = server() else { return };
    let _turn = SERVER.lock().await;
    let (watch, pool) = (pool(&server, "watch").max(1).build(), pool(&server, "few").max(3).build());
    let is_over = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for number in 0..12 {
        let pool = pool.clone();
        tasks.spawn(async move {
            for round in 0..30 {
                let connection = pool.get().await.unwrap();
                connection.batch_execute("SELECT 1").await.unwrap();
                if (number + round) % 3 == 0 {
                    connection.discard();
                }
            }
        });
    }
    let watching = tokio::spawn({
        let (watch, is_over) = (watch.clone(), is_over.clone());
        async move {
            let mut most = 0;
            while !is_over.load(Ordering::Relaxed) {
                most = most.max(count(&watch, "few").await);
            }
            most
        }
    });
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    let most = watching.await.unwrap();
    // What has said goodbye the server may still be tidying up: one process for each place at most.
    assert!((1..=6).contains(&most), "{most} at once");
    assert!(pool.stats().connected > 100);
    assert_eq!(pool.drain(secs(10)).await, 0);
    let gone = timeout(secs(10), async { while count(&watch, "few").await > 0 {} });
    gone.await.expect("all are closed");
}

#[test]
fn plain_threads_use_what_a_runtime_connects() {
    let Some(server) = server() else { return };
    let _turn = SERVER.blocking_lock();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let pool = pool(&server, "threads").max(2).build();
    runtime.spawn(pool.run());
    std::thread::scope(|scope| {
        for number in 0..8_i32 {
            let pool = &pool;
            scope.spawn(move || {
                for _ in 0..20 {
                    let connection = pool.get_blocking().unwrap();
                    let row = floodwall::block_on(connection.query_one("SELECT $1::int4", &[&number]));
                    assert_eq!(row.unwrap().get::<_, i32>(0), number);
                }
            });
        }
    });
    assert!(pool.stats().connected <= 2);
    // After its runtime has ended, one may be dropped anywhere.
    let connection = pool.get_blocking().unwrap();
    drop(runtime);
    drop(connection);
    drop(pool);
}

/// A restart in the middle: everybody is served again, nobody waits for longer than it takes, and few connections are
/// tried meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_comes_back_with_its_server() {
    let Some(server) = server() else { return };
    let Ok(restart) = std::env::var("FLOODWALL_POSTGRES_RESTART") else {
        println!("skipped: FLOODWALL_POSTGRES_RESTART names no script");
        return;
    };
    let _turn = SERVER.lock().await;
    for is_run in [false, true] {
        let pool = pool(&server, "restarted").max(6).build();
        if is_run {
            tokio::spawn(pool.run());
        }
        let (is_back, failures) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        for number in 0..60_i32 {
            let (pool, is_back, failures) = (pool.clone(), is_back.clone(), failures.clone());
            tasks.spawn(async move {
                let mut more = 10;
                while more > 0 {
                    let connection = pool.get().await.expect("everybody gets one in time");
                    match connection.query_one("SELECT $1::int4", &[&number]).await {
                        Ok(row) => assert_eq!(row.get::<_, i32>(0), number),
                        Err(_) => drop(failures.fetch_add(1, Ordering::Relaxed)),
                    }
                    more -= i32::from(is_back.load(Ordering::Relaxed));
                }
            });
        }
        let warm = async {
            while pool.stats().connected < 6 || pool.stats().served < 200 {
                tokio::time::sleep(millis(5)).await;
            }
        };
        timeout(secs(20), warm).await.expect("six connections are made for sixty callers");
        let before = pool.stats();
        assert!(before.connected == 6 && before.failed == 0, "{before:?}");
        let script = restart.clone();
        let restart = || std::process::Command::new("sh").arg(script).status();
        assert!(spawn_blocking(restart).await.unwrap().unwrap().success());
        is_back.store(true, Ordering::Relaxed);
        let all = timeout(secs(30), async {
            while let Some(task) = tasks.join_next().await {
                task.unwrap();
            }
        });
        all.await.expect("nobody hangs");
        let (failures, stats, status) = (failures.load(Ordering::Relaxed), pool.stats(), pool.status());
        println!("{failures} queries and {} attempts to connect failed; {status:?}", stats.failed);
        // Each connection fails those it was in use by, or was given to before it was known.
        assert!((1..=24).contains(&failures), "{failures} queries failed");
        let again = stats.connected - before.connected;
        assert!((1..=24).contains(&again), "{again} connections were made for six");
        assert!(stats.failed < 60, "{} attempts to connect failed", stats.failed);
        assert!(status.total <= 6 && status.in_use == 0, "{status:?}");
        pool.close_now();
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_with_its_reason() {
    let manager = manager("host=/nowhere user=me connect_timeout=2", "nowhere");
    let pool = Pool::builder(manager).max(2).timeout(millis(200)).build();
    let error = pool.ready().await.unwrap_err();
    assert!(error.to_string().starts_with("cannot connect: "), "{error}");
    let retry = Retry::new(Constant::new(Duration::from_millis(1)).attempts(2));
    let error = retry.call(|| async { pool.get().await.map(drop) }).await.unwrap_err();
    let Error::Inner(error) = error else { panic!("{error}") };
    assert!(error.cause().is_some(), "{error}");
}
