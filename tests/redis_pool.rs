//! A pool over a real Redis server, used by plain threads. `FLOODWALL_REDIS` names its socket, and `FLOODWALL_REDIS_RESTART` a
//! script that restarts it.
#![cfg(all(unix, not(floodwall_loom)))]

mod support;

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use floodwall::Pool;
use floodwall::pool::BlockingManager;
use support::{millis, secs};

/// Speaks as much of Redis' protocol as it takes to be answered.
struct Redis(PathBuf);

impl BlockingManager for Redis {
    type Connection = BufReader<UnixStream>;
    type Error = io::Error;

    fn connect(&self) -> io::Result<Self::Connection> {
        let stream = UnixStream::connect(&self.0)?;
        stream.set_read_timeout(Some(secs(5)))?;
        let mut connection = BufReader::new(stream);
        // A server that is still loading takes connections, and answers with an error.
        self.check(&mut connection)?;
        Ok(connection)
    }

    fn check(&self, connection: &mut Self::Connection) -> io::Result<()> {
        match ask(connection, "PING")?.as_str() {
            "+PONG" => Ok(()),
            other => Err(io::Error::other(other)),
        }
    }
}

/// Sends a command and reads an answer of one line.
fn ask(connection: &mut BufReader<UnixStream>, command: &str) -> io::Result<String> {
    connection.get_mut().write_all(format!("{command}\r\n").as_bytes())?;
    let mut line = String::new();
    if connection.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

/// A restart in the middle: every thread is served again, and few connections are tried meanwhile.
#[test]
fn threads_come_back_with_their_server() {
    const THREADS: u64 = 16;
    let variables = ["FLOODWALL_REDIS", "FLOODWALL_REDIS_RESTART"].map(std::env::var_os);
    let [Some(server), Some(restart)] = variables else {
        println!("skipped: FLOODWALL_REDIS and FLOODWALL_REDIS_RESTART name no server");
        return;
    };
    let pool = Pool::builder(Redis(server.into()).in_place()).max(4).timeout(secs(20)).build();
    let (is_back, failures) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (pool, is_back, failures) = (&pool, &is_back, &failures);
            scope.spawn(move || {
                let mut more = 50;
                while more > 0 {
                    let mut connection = pool.get_blocking().expect("everybody gets one in time");
                    match ask(&mut connection, &format!("BITCOUNT nothing{number}")) {
                        Ok(answer) => {
                            assert_eq!(answer, ":0");
                            more -= i32::from(is_back.load(Ordering::Relaxed));
                        }
                        Err(_) => {
                            connection.mark_broken();
                            failures.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        while pool.stats().served < 1_000 {
            thread::sleep(millis(1));
        }
        assert!(Command::new("sh").arg(restart).status().unwrap().success());
        is_back.store(true, Ordering::Relaxed);
    });
    let (failures, stats, status) = (failures.into_inner(), pool.stats(), pool.status());
    println!("{failures} commands and {} attempts to connect failed; {status:?}", stats.failed);
    // Each connection fails whoever has it, and whoever gets it before that is known.
    assert!((1..=16).contains(&failures), "{failures} commands failed");
    assert!((5..=20).contains(&stats.connected), "{} connections were made for four", stats.connected);
    assert!(stats.failed < 60, "{} attempts to connect failed", stats.failed);
    assert!(status.total <= 4 && status.in_use == 0, "{status:?}");
}
