//! The obvious pool, and that the core decides as it does.

use proptest::prelude::*;

use super::*;

/// The obvious pool: a list of all connections, and where each of them is.
#[derive(Default)]
struct Twin {
    /// Of those that are idle, the one that came home last is last.
    connections: Vec<Connection>,
    max: usize,
    overflow: usize,
    max_idle: usize,
    generation: u64,
    now: u64,
    failures: u32,
    failed_at: u64,
    retry_at: u64,
    waited_for: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Idle,
    Used,
    Closing,
    /// Since when.
    Dialling(u64),
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    number: u32,
    place: Place,
    seen: u64,
    expires: u64,
    generation: u64,
}

const IDLE_TIMEOUT: u64 = 50;
const LIFETIME: u64 = 120;
const MAX_CONNECTING: usize = 2;

impl Twin {
    fn count(&self, is: impl Fn(Place) -> bool) -> usize {
        self.connections.iter().filter(|connection| is(connection.place)).count()
    }

    fn idle(&self) -> usize {
        self.count(|place| place == Place::Idle)
    }

    fn dialling(&self) -> usize {
        self.count(|place| matches!(place, Place::Dialling(_)))
    }

    fn living(&self) -> usize {
        self.count(|place| place != Place::Closing)
    }

    fn sweep(&mut self) {
        let now = self.now;
        for connection in &mut self.connections {
            let overdue = connection.expires <= now || connection.seen + IDLE_TIMEOUT <= now;
            if connection.place == Place::Idle && overdue {
                connection.place = Place::Closing;
            }
        }
    }

    fn take(&mut self, mode: Mode) -> Option<u32> {
        if mode != Mode::Open || self.waited_for {
            return None;
        }
        self.sweep();
        let idle = self.connections.iter_mut().rev().find(|connection| connection.place == Place::Idle)?;
        idle.place = Place::Used;
        Some(idle.number)
    }

    fn home(&mut self, mut connection: Connection, broken: bool, closed: bool) {
        let too_many = self.living() + 1 > self.max + self.overflow;
        let old = connection.generation != self.generation || connection.expires <= self.now;
        let surplus = !self.waited_for && (self.living() + 1 > self.max || self.idle() >= self.max_idle);
        let keep = !(too_many || old || broken || closed || surplus);
        connection.place = if keep { Place::Idle } else { Place::Closing };
        self.connections.push(connection);
    }

    fn trim(&mut self) {
        while self.living() > self.max || self.idle() > self.max_idle {
            let oldest = self.connections.iter_mut().find(|connection| connection.place == Place::Idle);
            let Some(oldest) = oldest else { break };
            oldest.place = Place::Closing;
        }
    }

    fn remove(&mut self, index: usize, is: impl Fn(Place) -> bool) -> Option<Connection> {
        let places: Vec<_> =
            (0..self.connections.len()).filter(|at| is(self.connections[*at].place)).collect();
        (!places.is_empty()).then(|| self.connections.remove(places[index % places.len()]))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_pool_decides_as_a_plain_list_does(
        steps in prop::collection::vec((0u8..14, 0usize..6), 1..200),
        max in 1usize..5,
        overflow in 0usize..2,
    ) {
        let limits = Limits {
            max, overflow, max_idle: usize::MAX, min_idle: 0, max_connecting: MAX_CONNECTING,
            idle_timeout: IDLE_TIMEOUT, replace_ahead: 0, fail_fast_after: 3, barging: false, codel: None,
        };
        let mut core: Core<u32> = Core::new(limits);
        let mut twin = Twin { max, overflow, max_idle: usize::MAX, ..Twin::default() };
        let mut held: Vec<Box<Entry<u32>>> = Vec::new();
        let mut buried: Vec<u32> = Vec::new();
        let mut mode = Mode::Open;
        let mut number = 0;
        for (step, value) in steps {
            match step {
                0 | 1 => {
                    let took = match core.take(twin.now) {
                        Served::Entry(mut entry) => {
                            entry.seen = twin.now;
                            held.push(entry);
                            held.last().map(|entry| entry.connection)
                        }
                        Served::Failed => {
                            prop_assert!(twin.failures >= 3 && twin.now < twin.retry_at);
                            None
                        }
                        Served::NotYet | Served::Shed | Served::Closed => None,
                    };
                    prop_assert_eq!(took, twin.take(mode));
                    let now = twin.now;
                    let used = twin.connections.iter_mut().find(|connection| Some(connection.number) == took);
                    if let Some(used) = used {
                        used.seen = now;
                    }
                }
                2 | 3 if !held.is_empty() => {
                    let mut entry = held.swap_remove(value % held.len());
                    entry.broken = value == 5;
                    let broken = entry.broken;
                    let number = entry.connection;
                    core.give(entry);
                    let place = twin.connections.iter().position(|connection| connection.number == number);
                    let mut connection = twin.connections.remove(place.unwrap());
                    connection.seen = twin.now;
                    twin.home(connection, broken, mode == Mode::Closed);
                }
                4 if !held.is_empty() => {
                    let entry = held.swap_remove(value % held.len());
                    core.taken_away();
                    twin.connections.retain(|connection| connection.number != entry.connection);
                }
                5 | 6 => {
                    let open = matches!(mode, Mode::Open | Mode::Draining);
                    let unserved = value.saturating_sub(twin.idle());
                    let wants = open
                        && twin.dialling() < unserved.min(MAX_CONNECTING)
                        && twin.connections.len() < twin.max + twin.overflow;
                    let dials = wants && twin.now >= twin.retry_at;
                    let plan = core.plan(twin.now, value);
                    prop_assert_eq!(matches!(plan, Plan::Dial { .. }), dials);
                    prop_assert_eq!(plan == Plan::At(twin.retry_at), wants && !dials);
                    if let Plan::Dial { generation } = plan {
                        prop_assert_eq!(generation, twin.generation);
                        number += 1;
                        let place = Place::Dialling(twin.now);
                        let (seen, expires) = (0, 0);
                        twin.connections.push(Connection { number, place, seen, expires, generation });
                    }
                }
                7 => if let Some(mut dial) = twin.remove(value, |place| matches!(place, Place::Dialling(_))) {
                    let (seen, expires) = (twin.now, twin.now + LIFETIME);
                    let entry = Entry {
                        connection: dial.number, expires, seen, proved: seen, generation: dial.generation,
                        suspect: false, unclean: false, broken: false, out: None,
                    };
                    core.dialled(twin.now, Box::new(entry));
                    (twin.failures, twin.retry_at) = (0, 0);
                    (dial.seen, dial.expires) = (seen, expires);
                    twin.home(dial, false, mode == Mode::Closed);
                },
                8 => if let Some(dial) = twin.remove(value, |place| matches!(place, Place::Dialling(_))) {
                    let Place::Dialling(since) = dial.place else { unreachable!() };
                    core.failed(twin.now, since, value as u64);
                    if twin.failures == 0 || since >= twin.failed_at {
                        twin.failures += 1;
                    }
                    twin.failed_at = twin.now;
                    twin.retry_at = twin.retry_at.max(twin.now + value as u64);
                    prop_assert_eq!(core.failures(), twin.failures);
                },
                9 => {
                    buried.extend(core.doomed().into_iter().map(|entry| entry.connection));
                    if let Some(closed) = buried.pop() {
                        core.gone();
                        let place = twin.connections.iter().position(|connection| connection.number == closed);
                        prop_assert_eq!(twin.connections.remove(place.unwrap()).place, Place::Closing);
                    }
                }
                10 => {
                    twin.now += 7 * value as u64;
                    core.advance(twin.now);
                    // Time may be told late.
                    core.advance(twin.now / 2);
                }
                11 => {
                    (twin.max, twin.max_idle) = (value.max(1), value + 1);
                    (core.limits.max, core.limits.max_idle) = (twin.max, twin.max_idle);
                    core.trim();
                    twin.trim();
                }
                12 if value == 0 => {
                    core.clear();
                    twin.generation += 1;
                    for connection in &mut twin.connections {
                        if connection.place == Place::Idle {
                            connection.place = Place::Closing;
                        }
                    }
                }
                12 => {
                    twin.waited_for = value > 3;
                    core.mark(twin.waited_for);
                    if !twin.waited_for {
                        twin.trim();
                    }
                }
                13 => {
                    mode = [Mode::Open, Mode::Open, Mode::Open, Mode::Paused, Mode::Draining, Mode::Open][value];
                    core.enter(mode);
                }
                _ => {}
            }
            prop_assert_eq!(core.idle() + core.in_use() + core.connecting(), core.total());
            prop_assert_eq!(core.total(), twin.connections.len());
            prop_assert_eq!(core.idle(), twin.idle());
            prop_assert_eq!(core.connecting(), twin.dialling());
            prop_assert_eq!(core.has_doomed(), twin.count(|place| place == Place::Closing) > buried.len());
            prop_assert!(core.connecting() <= MAX_CONNECTING);
            let newest = twin.connections.iter().rev().find(|connection| connection.place == Place::Idle);
            prop_assert_eq!(core.idle.back().map(|entry| entry.connection), newest.map(|idle| idle.number));
        }
    }
}
