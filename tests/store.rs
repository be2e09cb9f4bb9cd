//! Stores: in memory, on other threads, in SQLite, in PostgreSQL. Run it with `--features sqlite,postgres,serde`; for PostgreSQL,
//! `FLOODWALL_POSTGRES` names a server (`host=localhost user=me`), and `FLOODWALL_POSTGRES_RESTART` a script that restarts it.
#![cfg(not(floodwall_loom))]

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use floodwall::store::{BlockingStore, Job, MemoryStore, Offload, Store, Write};
use floodwall::{Error, Reason, block_on};

/// What every store must do, with keys of its own.
async fn behaves<S: Store<u64, String>>(store: &S)
where
    S::Error: std::fmt::Debug,
{
    let text = |text: &str| Some(text.to_string());
    let (a, b, c) = ("a".to_string(), "b".to_string(), "c".to_string());
    assert_eq!(store.load(&1).await.unwrap(), None);
    store.remove(&1).await.unwrap();
    store.save(&1, &a).await.unwrap();
    store.save(&1, &b).await.unwrap();
    assert_eq!(store.load(&1).await.unwrap(), text("b"));
    let writes =
        [Write::remove(&1), Write::save(&2, &c).sequence(7), Write::remove(&3), Write::save(&u64::MAX, &a)];
    let results = store.write_many(&writes).await.unwrap();
    assert!(results.len() == 4 && results.iter().all(Result::is_ok));
    let loaded = store.load_many(&[&1, &2, &u64::MAX, &2]).await.unwrap();
    let loaded: Vec<_> = loaded.into_iter().map(Result::unwrap).collect();
    assert_eq!(loaded, [None, text("c"), text("a"), text("c")]);
    assert!(store.write_many(&[]).await.unwrap().is_empty());
    assert!(store.load_many(&[]).await.unwrap().is_empty());
    store.save(&2, &String::new()).await.unwrap();
    assert_eq!(store.load(&2).await.unwrap(), text(""));
}

/// Blocks, and is asked to fail by the value.
#[derive(Default)]
struct Slow {
    running: AtomicUsize,
    written: Mutex<Vec<u64>>,
}

impl BlockingStore<u64, u64> for Slow {
    type Error = &'static str;

    fn load(&self, _: &u64) -> Result<Option<u64>, &'static str> {
        Ok(self.written.lock().unwrap().last().copied())
    }

    fn save(&self, _: &u64, value: &u64) -> Result<(), &'static str> {
        assert_eq!(self.running.fetch_add(1, Ordering::Relaxed), 0, "two writes at a time");
        std::thread::yield_now();
        self.written.lock().unwrap().push(*value);
        self.running.fetch_sub(1, Ordering::Relaxed);
        match value {
            13 => Err("unlucky"),
            14 => panic!("as the test wants it"),
            _ => Ok(()),
        }
    }

    fn remove(&self, _: &u64) -> Result<(), &'static str> {
        Ok(())
    }
}

#[test]
fn a_store_in_memory_behaves() {
    let store = MemoryStore::new();
    block_on(behaves(&store));
    assert_eq!(store.len(), 2);
}

#[test]
fn a_blocking_store_works_where_it_is_called() {
    let store = Slow::default().in_place();
    store.save_blocking(&1, &5).unwrap();
    assert_eq!(store.load_blocking(&1), Ok(Some(5)));
    let results = store.write_many_blocking(&[Write::save(&1, &13), Write::save(&2, &6)]).unwrap();
    assert_eq!(results, [Err("unlucky"), Ok(())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_on_other_threads_keep_their_order_also_when_nobody_waits_for_them() {
    let store = Slow::default().offload(|job| drop(tokio::task::spawn_blocking(job)));
    let mut order = Vec::new();
    for value in 100..300 {
        let mut save = Box::pin(store.save(&1, &value));
        // Begun, and for every second one that is all.
        let begun = save.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if value % 2 == 0 && begun.is_pending() {
            save.await.unwrap();
        }
        order.push(value);
    }
    store.save(&1, &300).await.unwrap();
    order.push(300);
    assert_eq!(*store.store().written.lock().unwrap(), order);
    assert_eq!(store.load(&1).await, Ok(Some(300)));
    let written = store.load_many(&[&1, &1]).await.unwrap();
    assert_eq!(written, [Ok(Some(300)), Ok(Some(300))]);
}

#[tokio::test]
async fn an_error_and_a_panic_on_another_thread_reach_their_caller_only() {
    let store = Slow::default().offload(|job| drop(tokio::task::spawn_blocking(job)));
    assert_eq!(store.save(&1, &13).await, Err(Error::Inner("unlucky")));
    let lost = store.save(&1, &14).await.unwrap_err();
    assert!(matches!(lost, Error::Rejected(rejected) if rejected.reason() == Reason::Closed));
}

#[test]
fn jobs_that_nobody_runs_leave_nobody_waiting() {
    let kept: Arc<Mutex<Vec<Job>>> = Arc::default();
    let keep = kept.clone();
    let store = Offload::new(InMemory::default(), move |job| keep.lock().unwrap().push(job));
    let mut context = Context::from_waker(Waker::noop());
    let mut first = Box::pin(store.save(&1, &1));
    let mut second = Box::pin(store.save(&1, &2));
    let mut load = Box::pin(store.load(&1));
    assert!(first.as_mut().poll(&mut context).is_pending());
    assert!(second.as_mut().poll(&mut context).is_pending());
    assert!(load.as_mut().poll(&mut context).is_pending());
    // The second visit is made first: it makes both writes, in their order.
    let mut jobs: Vec<Job> = kept.lock().unwrap().drain(..).collect();
    jobs.remove(1)();
    assert!(first.as_mut().poll(&mut context).is_ready());
    assert!(second.as_mut().poll(&mut context).is_ready());
    drop(jobs);
    assert!(block_on(load).is_err());
    let mut third = Box::pin(store.save(&1, &3));
    assert!(third.as_mut().poll(&mut context).is_pending());
    kept.lock().unwrap().clear();
    assert!(block_on(third).is_err());
}

#[derive(Default)]
struct InMemory(MemoryStore<u64, u64>);

impl BlockingStore<u64, u64> for InMemory {
    type Error = Infallible;

    fn load(&self, key: &u64) -> Result<Option<u64>, Infallible> {
        self.0.load_blocking(key)
    }

    fn save(&self, key: &u64, value: &u64) -> Result<(), Infallible> {
        self.0.save_blocking(key, value)
    }

    fn remove(&self, key: &u64) -> Result<(), Infallible> {
        self.0.remove_blocking(key)
    }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use std::time::Duration;

    use floodwall::store::InPlace;
    use floodwall::store::{CodecError, Sqlite, SqliteError};

    use super::*;

    /// A directory of the test's own, removed at its end.
    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("floodwall-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn it_behaves_in_memory_and_in_a_file_on_this_thread_and_on_others() {
        block_on(behaves(&InPlace(Sqlite::open_in_memory("t").unwrap())));
        let folder = Folder::new("behaves");
        // A name that needs its quotes.
        let open = || Sqlite::<u64, String>::open(folder.0.join("db"), r#"sel"ect"#).unwrap();
        block_on(behaves(&InPlace(open())));
        assert_eq!(open().load(&u64::MAX).unwrap(), Some("a".to_string()));
        open().remove(&u64::MAX).unwrap();
        open().remove(&2).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(behaves(&open().offload(|job| drop(tokio::task::spawn_blocking(job)))));
    }

    #[test]
    fn a_write_that_the_table_refuses_leaves_the_others_of_its_batch() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        let table =
            "CREATE TABLE t (key BLOB PRIMARY KEY NOT NULL, value BLOB NOT NULL CHECK (length(value) < 4))";
        connection.execute(table, []).unwrap();
        let store = Sqlite::<u64, String>::new(connection, "t").unwrap();
        let (short, long) = ("abc".to_string(), "abcd".to_string());
        let writes = [Write::save(&1, &short), Write::save(&2, &long), Write::save(&3, &short)];
        let results = store.write_many(&writes).unwrap();
        assert!(results[0].is_ok() && results[2].is_ok());
        let error = results[1].as_ref().unwrap_err();
        assert!(error.is_permanent() && matches!(error, SqliteError::Database(_)), "{error}");
        assert_eq!(store.load(&3).unwrap(), Some(short));
        assert_eq!(store.load(&2).unwrap(), None);
    }

    #[test]
    fn a_database_that_another_one_locks_is_a_passing_error_of_the_whole_batch() {
        let folder = Folder::new("locked");
        let store = Sqlite::<u64, u64>::open(folder.0.join("db"), "t").unwrap();
        let other = rusqlite::Connection::open(folder.0.join("db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let impatient = rusqlite::Connection::open(folder.0.join("db")).unwrap();
        impatient.busy_timeout(Duration::ZERO).unwrap();
        let impatient = Sqlite::<u64, u64>::new(impatient, "t");
        // The table is there already, so that nothing is written to find that out.
        let impatient = impatient.unwrap();
        let error = impatient.write_many(&[Write::save(&1, &1), Write::save(&2, &2)]).unwrap_err();
        assert!(!error.is_permanent(), "{error}");
        other.execute_batch("COMMIT").unwrap();
        assert!(impatient.write_many(&[Write::save(&1, &1)]).unwrap()[0].is_ok());
        assert_eq!(store.load(&1).unwrap(), Some(1));
    }

    #[test]
    fn bytes_that_are_no_value_and_a_table_of_another_form_are_errors() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        let store = Sqlite::<u64, String>::new(connection, "t").unwrap();
        store.save(&1, &"seven".to_string()).unwrap();
        let strict = store.codec(NoStrings);
        let error = strict.load(&1).unwrap_err();
        assert!(error.is_permanent() && error.to_string() == "no strings today", "{error}");
        assert!(strict.write_many(&[Write::save(&2, &String::new())]).unwrap()[0].is_err());

        let connection = rusqlite::Connection::open_in_memory().unwrap();
        connection.execute("CREATE TABLE t (id INTEGER)", []).unwrap();
        assert!(Sqlite::<u64, u64>::new(connection, "t").is_err());
    }

    struct NoStrings;

    impl floodwall::store::Codec<u64> for NoStrings {
        fn encode(&self, value: &u64, into: &mut Vec<u8>) -> Result<(), CodecError> {
            floodwall::store::Plain.encode(value, into)
        }

        fn decode(&self, bytes: &[u8]) -> Result<u64, CodecError> {
            floodwall::store::Plain.decode(bytes)
        }
    }

    impl floodwall::store::Codec<String> for NoStrings {
        fn encode(&self, _: &String, _: &mut Vec<u8>) -> Result<(), CodecError> {
            Err("no strings today".into())
        }

        fn decode(&self, _: &[u8]) -> Result<String, CodecError> {
            Err("no strings today".into())
        }
    }

    #[test]
    fn readers_and_writers_share_a_file() {
        let folder = Folder::new("shared");
        let store = Sqlite::<u64, u64>::open(folder.0.join("db"), "t").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| (1..=300).for_each(|value| store.save(&(value % 10), &value).unwrap()));
            scope.spawn(|| {
                let mut last = 0;
                for _ in 0..3_000 {
                    let value = store.load(&5).unwrap().unwrap_or(0);
                    assert!(value >= last, "{value} after {last}");
                    last = value;
                }
            });
        });
        assert_eq!(store.load(&0).unwrap(), Some(300));
    }

    #[cfg(feature = "serde")]
    #[test]
    fn what_serde_can_say_crosses_as_json() {
        use floodwall::store::Json;

        let store = Sqlite::<String, Vec<Option<f64>>>::open_in_memory("t").unwrap().codec(Json);
        let value = vec![Some(0.5), None];
        store.save(&"k".to_string(), &value).unwrap();
        assert_eq!(store.load(&"k".to_string()).unwrap(), Some(value));
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use floodwall::pool::PostgresManager;
    use floodwall::store::{CachedStore, Codec, CodecError, Plain, Postgres, PostgresError};
    use floodwall::{Cache, Constant, Policy, Pool, Retry, WriteBehind};
    use tokio_postgres::NoTls;

    use super::*;

    /// One test at a time: some of them stop the server.
    static SERVER: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    /// Where the server is, or that it is skipped.
    fn server() -> Option<String> {
        let server = std::env::var("FLOODWALL_POSTGRES").ok();
        if server.is_none() {
            println!("skipped: FLOODWALL_POSTGRES names no server");
        }
        server
    }

    fn pool(server: &str, max: usize) -> Pool<PostgresManager> {
        let spawn = |driver| drop(tokio::spawn(driver));
        Pool::new(PostgresManager::new(server.parse().unwrap(), NoTls, spawn), max)
    }

    async fn execute(server: &str, sql: &str) -> Result<(), tokio_postgres::Error> {
        pool(server, 1).get().await.unwrap().batch_execute(sql).await
    }

    /// A table of the test's own, over so many connections.
    async fn table<K, V>(server: &str, name: &str, max: usize) -> Postgres<K, V> {
        execute(server, &format!(r#"DROP TABLE IF EXISTS "{name}""#)).await.unwrap();
        open(server, name, max).await
    }

    async fn open<K, V>(server: &str, name: &str, max: usize) -> Postgres<K, V> {
        Postgres::open(pool(server, max), name).await.unwrap()
    }

    #[tokio::test]
    async fn it_behaves() {
        let Some(server) = server() else { return };
        let _turn = SERVER.lock().await;
        let store = table::<u64, String>(&server, "sel ect", 2).await;
        behaves(&store).await;
        let again = open::<u64, String>(&server, "sel ect", 2).await;
        assert_eq!(again.load(&u64::MAX).await.unwrap(), Some("a".to_string()));
        let many: Vec<(u64, String)> = (0..10_000).map(|key| (key, format!("value {key}"))).collect();
        let writes: Vec<_> = many.iter().map(|(key, value)| Write::save(key, value)).collect();
        assert!(again.write_many(&writes).await.unwrap().iter().all(Result::is_ok));
        let keys: Vec<&u64> = many.iter().map(|(key, _)| key).rev().collect();
        let loaded = again.load_many(&keys).await.unwrap();
        let expected = many.iter().rev().map(|(_, value)| Some(value.clone()));
        assert!(loaded.into_iter().map(Result::unwrap).eq(expected));
        assert_eq!(again.pool().stats().connected, 1);
    }

    #[tokio::test]
    async fn writes_that_the_table_refuses_or_that_have_no_bytes_leave_the_others_of_their_batch() {
        struct NoThirteen;
        impl Codec<u64> for NoThirteen {
            fn encode(&self, value: &u64, into: &mut Vec<u8>) -> Result<(), CodecError> {
                if *value == 13 { Err("no bytes for 13".into()) } else { Plain.encode(value, into) }
            }
            fn decode(&self, bytes: &[u8]) -> Result<u64, CodecError> {
                Plain.decode(bytes)
            }
        }
        impl Codec<String> for NoThirteen {
            fn encode(&self, value: &String, into: &mut Vec<u8>) -> Result<(), CodecError> {
                Plain.encode(value, into)
            }
            fn decode(&self, _: &[u8]) -> Result<String, CodecError> {
                Err("not today".into())
            }
        }
        let Some(server) = server() else { return };
        let _turn = SERVER.lock().await;
        let store = table::<u64, String>(&server, "picky", 1).await;
        execute(&server, "ALTER TABLE picky ADD CHECK (length(value) < 4)").await.unwrap();
        let store = store.codec(NoThirteen);
        let value =
            |key: u64| if [2, 20, 21, 39].contains(&key) { "much too long" } else { "abc" }.to_string();
        let values: Vec<_> = (0..40).map(|key| (key, value(key))).collect();
        let writes: Vec<_> = values.iter().map(|(key, value)| Write::save(key, value)).collect();
        let results = store.write_many(&writes).await.unwrap();
        for (key, result) in (0..40).zip(&results) {
            let is_refused = [2, 13, 20, 21, 39].contains(&key);
            assert_eq!(result.is_err(), is_refused, "{key}: {result:?}");
            assert!(result.as_ref().err().is_none_or(PostgresError::is_permanent));
        }
        let plain = open::<u64, String>(&server, "picky", 1).await;
        assert_eq!(plain.load(&38).await.unwrap(), Some("abc".to_string()));
        assert_eq!(plain.load(&39).await.unwrap(), None);
        assert_eq!(store.load(&38).await.unwrap_err().to_string(), "not today");
        let loaded = store.load_many(&[&13, &38, &39]).await.unwrap();
        assert!(loaded[0].is_err() && loaded[1].is_err() && matches!(loaded[2], Ok(None)));

        execute(&server, "CREATE TABLE IF NOT EXISTS other (id int)").await.unwrap();
        assert!(
            Postgres::<u64, u64>::open(pool(&server, 1), "other").await.is_err(),
            "a table of another form"
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn connections_that_are_lost_cost_what_was_in_them_and_are_made_once_again_for_all() {
        let Some(server) = server() else { return };
        let _turn = SERVER.lock().await;
        let store = table::<u64, u64>(&server, "lost", 4).await;
        let store = Arc::new(store);
        store.save(&1, &1).await.unwrap();
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE pid <> pg_backend_pid() AND usename = current_user AND backend_type = 'client backend'";
        for round in 1..=3 {
            execute(&server, end).await.unwrap();
            let mut tasks = tokio::task::JoinSet::new();
            for key in 0..50 {
                let store = store.clone();
                tasks.spawn(async move {
                    let policy = Retry::new(Constant::new(Duration::from_millis(5)).attempts(20));
                    policy.call(|| store.save(&key, &round)).await
                });
            }
            while let Some(saved) = tasks.join_next().await {
                saved.unwrap().unwrap();
            }
            assert_eq!(store.load(&49).await.unwrap(), Some(round));
        }
        // Four at most at first, and four for them in each round.
        let stats = store.pool().stats();
        assert!((4..=16).contains(&stats.connected) && stats.failed == 0, "{stats:?}");
    }

    #[tokio::test]
    async fn operations_at_the_same_time_share_a_connection_and_give_others_their_turn() {
        let Some(server) = server() else { return };
        let _turn = SERVER.lock().await;
        let store = Arc::new(table::<u64, u64>(&server, "shared", 1).await);
        let other = pool(&server, 1);
        let mut locks = other.get().await.unwrap();
        let transaction = locks.transaction().await.unwrap();
        transaction.batch_execute("LOCK TABLE shared").await.unwrap();
        let first = tokio::spawn({
            let store = store.clone();
            async move { store.save(&1, &1).await }
        });
        while store.pool().status().in_use == 0 {
            tokio::task::yield_now().await;
        }
        let mut second = Box::pin(store.save(&2, &2));
        assert!(second.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(store.pool().status().waiting, 0, "it has joined the first");
        transaction.rollback().await.unwrap();
        second.await.unwrap();
        first.await.unwrap().unwrap();

        let is_over = Arc::new(AtomicBool::new(false));
        let mut tasks = tokio::task::JoinSet::new();
        for key in 0..8 {
            let (store, is_over) = (store.clone(), is_over.clone());
            tasks.spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    store.load(&key).await.unwrap();
                }
            });
        }
        while store.pool().stats().served < 3 {
            tokio::task::yield_now().await;
        }
        let turn = tokio::time::timeout(Duration::from_secs(20), store.pool().get()).await;
        drop(turn.expect("it comes home between").unwrap());
        is_over.store(true, Ordering::Relaxed);
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
    }

    /// The next user of a connection would wait behind what its last one did not await.
    #[tokio::test]
    async fn an_operation_that_is_dropped_holds_up_nobody_for_long() {
        let Some(server) = server() else { return };
        let _turn = SERVER.lock().await;
        let store = table::<u64, u64>(&server, "locked", 1).await;
        let other = open::<u64, u64>(&server, "locked", 1).await;
        let mut locks = other.pool().get().await.unwrap();
        let transaction = locks.transaction().await.unwrap();
        transaction.batch_execute("LOCK TABLE locked").await.unwrap();
        let dropped = tokio::time::timeout(Duration::from_millis(100), store.save(&1, &1)).await;
        assert!(dropped.is_err(), "it waits for the lock");
        let next = async { store.pool().get().await.unwrap().batch_execute("SELECT 1").await };
        let next = tokio::time::timeout(Duration::from_secs(20), next).await;
        next.expect("nobody waits behind it").unwrap();
        transaction.rollback().await.unwrap();
        assert!(store.load(&1).await.unwrap().is_none_or(|value| value == 1), "it may be made yet");
    }

    /// With a cache and a write-behind in front, that a server goes away is not seen at all.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_that_restarts_loses_nothing_that_was_acknowledged() {
        let Some(server) = server() else { return };
        let Ok(restart) = std::env::var("FLOODWALL_POSTGRES_RESTART") else {
            println!("skipped: FLOODWALL_POSTGRES_RESTART names no script");
            return;
        };
        let _turn = SERVER.lock().await;
        let through = table::<u64, u64>(&server, "through", 4).await;
        let pool = through.pool().clone();
        let through = Arc::new(CachedStore::write_through(Cache::new(1_000), through));
        let behind = table::<u64, u64>(&server, "behind", 1).await;
        let behind = WriteBehind::builder(behind)
            .delay(Duration::from_millis(10))
            .backoff(Constant::new(Duration::from_millis(20)).attempts(1_000))
            .build();
        tokio::spawn(behind.run());
        let counts = CachedStore::write_through(Cache::new(1_000), behind.clone());

        let is_back = Arc::new(AtomicBool::new(false));
        let (failures, after) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = tokio::task::JoinSet::new();
        for key in 0..8 {
            let (through, counts, is_back) = (through.clone(), counts.clone(), is_back.clone());
            let (failures, after) = (failures.clone(), after.clone());
            tasks.spawn(async move {
                let (mut acknowledged, mut value, mut more) = (0, 0, 20);
                while more > 0 {
                    value += 1;
                    counts.save(&key, &value).await.unwrap();
                    assert_eq!(counts.load(&key).await.unwrap(), Some(value));
                    match through.save(&key, &value).await {
                        Ok(()) => {
                            acknowledged = value;
                            assert_eq!(through.load(&key).await.unwrap(), Some(value));
                            if is_back.load(Ordering::Relaxed) {
                                after.fetch_add(1, Ordering::Relaxed);
                                more -= 1;
                            }
                        }
                        Err(_) => {
                            failures.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                    }
                }
                (key, acknowledged, value)
            });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let connected = pool.stats().connected;
        let restart = || std::process::Command::new("sh").arg(restart).status();
        assert!(tokio::task::spawn_blocking(restart).await.unwrap().unwrap().success());
        is_back.store(true, Ordering::Relaxed);
        let mut ended = Vec::new();
        while let Some(task) = tasks.join_next().await {
            ended.push(task.unwrap());
        }
        let seen = failures.load(Ordering::Relaxed) > 0 || pool.stats().connected > connected;
        assert!(seen, "the restart was not seen");
        assert_eq!(after.load(Ordering::Relaxed), 160);
        assert!(behind.close(Duration::from_secs(20)).await.is_empty());
        let through = open::<u64, u64>(&server, "through", 1).await;
        let behind = open::<u64, u64>(&server, "behind", 1).await;
        for (key, acknowledged, last) in ended {
            let stored = through.load(&key).await.unwrap().unwrap();
            assert!((acknowledged..=last).contains(&stored), "{stored} of {acknowledged}..={last}");
            assert_eq!(behind.load(&key).await.unwrap(), Some(last));
        }
    }
}
