//! Connections of several keys under one cap.

use floodwall::pool::{BlockingManager, InPlace};
use floodwall::{KeyedPool, Pool};

use super::*;

/// Counts what is open.
struct Maker(Arc<AtomicU64>);

struct Connection(Arc<AtomicU64>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl BlockingManager for Maker {
    type Connection = Connection;
    type Error = ();

    fn connect(&self) -> Result<Connection, ()> {
        assert_eq!(self.0.fetch_add(1, Ordering::Relaxed), 0, "one is open, and no more may be");
        Ok(Connection(self.0.clone()))
    }

    fn check(&self, _: &mut Connection) -> Result<(), ()> {
        Ok(())
    }
}

type Hosts = KeyedPool<u64, InPlace<Maker>>;

/// Room for one connection in all.
fn hosts() -> (Hosts, Arc<AtomicU64>) {
    let (clock, open) = (Clock::manual(), Arc::new(AtomicU64::new(0)));
    let (time, of_all) = (clock.clone(), open.clone());
    let make = move |_: &u64| {
        let pool = Pool::builder(Maker(of_all.clone()).in_place()).max(1).clock(time.clone());
        pool.seed(1).timeout(Duration::MAX)
    };
    (KeyedPool::new(1, make).max_keys(2).clock(clock), open)
}

/// The one place goes from key to key: what comes home while another looks for a place is found by it, or finds it.
#[test]
fn a_place_goes_from_key_to_key() {
    model_of(2, || {
        let (hosts, open) = hosts();
        let hosts = Arc::new(hosts);
        let other = {
            let hosts = hosts.clone();
            thread::spawn(move || drop(hosts.get_blocking(&1).unwrap()))
        };
        drop(hosts.get_blocking(&2).unwrap());
        other.join().unwrap();
        let status = hosts.status();
        assert_eq!((status.total, status.idle, status.in_use, status.waiting), (1, 1, 0, 0));
        assert_eq!(open.load(Ordering::Relaxed), 1);
    });
}

/// Whoever comes while the pool is closed gets a connection that is closed after it, or none.
#[test]
fn closing_reaches_who_comes_meanwhile() {
    model_of(2, || {
        let (hosts, open) = hosts();
        let hosts = Arc::new(hosts);
        let comes = {
            let hosts = hosts.clone();
            thread::spawn(move || drop(hosts.get_blocking(&1)))
        };
        hosts.close_now();
        comes.join().unwrap();
        assert_eq!(open.load(Ordering::Relaxed), 0);
    });
}
