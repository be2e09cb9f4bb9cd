//! A server driven to three times its capacity: without a limit it soon answers nobody in time, and goes on like that
//! when the load has gone; with one it answers as many as it can.
//!
//! ```text
//! cargo run --release --example overload
//! ```
//!
//! Three servers on this machine live through the same 12 seconds: half of the load that they can bear, three times that
//! load, half of it again. Each has 40 threads, which work for 100 ms on a request, on average, and a queue before them.
//! Clients give up after a second, which no server hears of, and ask up to two times more. So without a limit a server
//! comes to work on what nobody waits for any more.
//!
//! One row a second shows how it goes. Then come a table, a plot (`overload.svg` in the target directory) and what must
//! have held; if something did not, the program fails.
//!
//! [`limit`], [`limit_by_class`] and [`Server::answer`] are what you would start from. Below them come the clients, the
//! load, the tables and the plot.

use std::error::Error;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use floodwall::{
    AdaptiveConcurrency, Call, Exponential, Histogram, OwnedPermit, Policy, Rejected, Retry, Timeout,
};
use plotters::prelude::*;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::{Instant, sleep_until};

/// How many requests the server takes in at once. It is told neither how many threads there are nor how fast they are: it
/// starts well above what a quiet day brings, and finds out.
fn limit() -> AdaptiveConcurrency {
    AdaptiveConcurrency::between(1, 1_000).start(100).name("server")
}

/// The same, but a quarter of it is kept for those who pay: those who look around are shed first.
fn limit_by_class() -> AdaptiveConcurrency {
    limit().class(Kind::Checkout.priority(), 0.25)
}

/// A server that works on threads: here tokio's for blocking work, whose queue has no end.
struct Server {
    threads: Handle,
    limit: Option<Arc<AdaptiveConcurrency>>,
    /// Counted for the tables.
    log: Log,
}

impl Server {
    /// Answers a request, or says at once that it will not.
    ///
    /// For async work, which ends when it is dropped, the limit is a policy like any other: `limit.call(..)`, or a part
    /// of a stack.
    async fn answer(self: &Arc<Self>, request: Request) -> Result<Page, Unavailable> {
        let permit = match &self.limit {
            None => None,
            Some(limit) => {
                let call = Call::new().priority(request.kind.priority());
                Some(OwnedPermit::try_acquire_for(limit.clone(), call)?)
            }
        };
        let (server, asked) = (self.clone(), Instant::now());
        server.log.inside.fetch_add(1, Relaxed);
        let work = self.threads.spawn_blocking(move || {
            let page = request.work();
            // The permit goes with the work, not with the caller: if the caller leaves, a thread is busy all the same.
            if let Some(permit) = permit {
                permit.success();
            }
            server.log.worked(request.kind, asked);
            page
        });
        Ok(work.await.expect("the work does not panic"))
    }
}

/// What a client hears as 503.
#[derive(Debug)]
struct Unavailable;

impl From<Rejected> for Unavailable {
    fn from(_: Rejected) -> Self {
        Self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Pays; one in five.
    Checkout,
    /// Looks around.
    Browse,
}

impl Kind {
    const fn priority(self) -> u8 {
        match self {
            Self::Checkout => 200,
            Self::Browse => Call::NORMAL,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Request {
    kind: Kind,
    takes: Duration,
}

impl Request {
    /// Yours asks a database.
    fn work(self) -> Page {
        thread::sleep(self.takes);
        Page
    }
}

struct Page;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let start = Instant::now();
    let (mut servers, mut pools) = (Vec::new(), Vec::new());
    for limit in [None, Some(limit()), Some(limit_by_class())] {
        let pool = Builder::new_current_thread().max_blocking_threads(THREADS).build()?;
        let (threads, limit) = (pool.handle().clone(), limit.map(Arc::new));
        servers.push(Arc::new(Server { threads, limit, log: Log::new(start) }));
        pools.push(pool);
    }
    let clients = Runtime::new()?;
    clients.spawn(send(start, servers.clone()));
    clients.block_on(watch(start, &servers));
    print_table(&servers);
    let plot = plot(&servers)?;
    println!("\nThe plot is in {}.\n", plot.display());
    // First the clients, so that nobody waits for what still stands in the queues and is dropped now.
    drop(clients);
    pools.into_iter().for_each(Runtime::shutdown_background);
    Ok(if holds(&servers) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

// ---- The servers' size, the clients and the load.

const THREADS: usize = 40;
/// How long a thread works on a request: from half of this to half more.
const WORK: Duration = millis(100);
/// What a server can answer then.
const PER_SECOND: f64 = 1000.0 * THREADS as f64 / WORK.as_millis() as f64;
/// After how long a client gives up an attempt.
const PATIENCE: Duration = millis(1000);

/// What all clients do. A server cannot choose them: they try again, as most do, and neither a `RetryBudget` nor an
/// `AdaptiveThrottle` holds them back, as with most.
fn client() -> impl Policy<Page, Unavailable> + Clone + 'static {
    Arc::new((Retry::new(Exponential::new(millis(100)).attempts(3)), Timeout::new(PATIENCE)))
}

struct Phase {
    name: &'static str,
    seconds: Range<usize>,
    /// Of the capacity.
    load: f64,
}

const PHASES: [Phase; 3] = [
    Phase { name: "before", seconds: 0..2, load: 0.5 },
    Phase { name: "overload", seconds: 2..8, load: 3.0 },
    Phase { name: "after", seconds: 8..12, load: 0.5 },
];
const OVERLOAD: &Phase = &PHASES[1];
const AFTER: &Phase = &PHASES[2];
const END: usize = AFTER.seconds.end;

impl Phase {
    /// Requests a second.
    fn offers(&self) -> f64 {
        self.load * PER_SECOND
    }
}

/// The number of the phase at a time since the start.
fn phase_at(time: Duration) -> Option<usize> {
    let second = time.as_secs() as usize;
    PHASES.iter().position(|phase| phase.seconds.contains(&second))
}

/// Sends each request to all servers at once, whatever became of those before.
async fn send(start: Instant, servers: Vec<Arc<Server>>) {
    let client = client();
    let mut random = Random(7);
    let mut at = Duration::ZERO;
    loop {
        let Some(phase) = phase_at(at) else { return };
        at += Duration::from_secs_f64(-(1.0 - random.unit()).ln() / PHASES[phase].offers());
        let kind = if random.unit() < 0.2 { Kind::Checkout } else { Kind::Browse };
        let request = Request { kind, takes: WORK.mul_f64(0.5 + random.unit()) };
        // A wait counts from when the request was due, even if this machine was too busy to send it then.
        let due = start + at;
        sleep_until(due).await;
        for server in &servers {
            tokio::spawn(ask(client.clone(), server.clone(), request, due));
        }
    }
}

async fn ask(client: impl Policy<Page, Unavailable>, server: Arc<Server>, request: Request, due: Instant) {
    server.log.count(OFFERED, request.kind, due);
    let result = client.call(|| async {
        let answer = server.answer(request).await;
        if answer.is_err() {
            server.log.count(REJECTED, request.kind, Instant::now());
        }
        answer
    });
    if result.await.is_ok() {
        server.log.good(request.kind, due);
    }
}

/// SplitMix64 (G. Steele and others, 2014): the same load in each run.
struct Random(u64);

impl Random {
    /// From 0 to 1, evenly.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

// ---- What is counted.

/// What happened at one server.
struct Log {
    start: Instant,
    slots: [Slot; END * SLOTS],
    /// How long clients waited for a good answer, for each phase.
    waits: [Histogram; PHASES.len()],
    /// Requests that wait for a thread or have one.
    inside: AtomicU64,
}

/// Slots a second.
const SLOTS: usize = 4;

/// What happened in a part of a second, for each [`Kind`].
#[derive(Default)]
struct Slot {
    /// Requests, each counted once, however often its client asks.
    offered: [AtomicU64; 2],
    /// Those of them that were answered, now or later, while their client waited.
    answered: [AtomicU64; 2],
    /// Such answers, whenever the request came.
    good: [AtomicU64; 2],
    /// What the server refused to answer; its client may ask again.
    rejected: [AtomicU64; 2],
    /// What the threads did, and what of that had no client any more.
    worked: [AtomicU64; 2],
    late: [AtomicU64; 2],
}

type Count = fn(&Slot) -> &[AtomicU64; 2];
const OFFERED: Count = |slot| &slot.offered;
const ANSWERED: Count = |slot| &slot.answered;
const GOOD: Count = |slot| &slot.good;
const REJECTED: Count = |slot| &slot.rejected;
const WORKED: Count = |slot| &slot.worked;
const LATE: Count = |slot| &slot.late;

impl Log {
    fn new(start: Instant) -> Self {
        let slots = std::array::from_fn(|_| Slot::default());
        Self { start, slots, waits: Default::default(), inside: AtomicU64::new(0) }
    }

    /// What happens after the end is not counted.
    fn count(&self, what: Count, kind: Kind, at: Instant) {
        let slot = ((at - self.start).as_secs_f64() * SLOTS as f64) as usize;
        if let Some(slot) = self.slots.get(slot) {
            what(slot)[kind as usize].fetch_add(1, Relaxed);
        }
    }

    fn good(&self, kind: Kind, due: Instant) {
        self.count(ANSWERED, kind, due);
        self.count(GOOD, kind, Instant::now());
        if let Some(phase) = phase_at(due - self.start) {
            self.waits[phase].record(due.elapsed());
        }
    }

    fn worked(&self, kind: Kind, asked: Instant) {
        self.inside.fetch_sub(1, Relaxed);
        self.count(WORKED, kind, Instant::now());
        if asked.elapsed() > PATIENCE {
            self.count(LATE, kind, Instant::now());
        }
    }

    /// How many a second.
    fn rate(&self, what: Count, seconds: Range<usize>, kinds: &[Kind]) -> f64 {
        let length = seconds.len() as f64;
        self.sum(what, seconds.start * SLOTS..seconds.end * SLOTS, kinds) as f64 / length
    }

    fn sum(&self, what: Count, slots: Range<usize>, kinds: &[Kind]) -> u64 {
        let counts =
            self.slots[slots].iter().flat_map(|slot| kinds.iter().map(|kind| &what(slot)[*kind as usize]));
        counts.map(|count| count.load(Relaxed)).sum()
    }
}

const ALL: &[Kind] = &[Kind::Checkout, Kind::Browse];
const PAYING: &[Kind] = &[Kind::Checkout];

/// What such a server can do a second: while overloaded, the threads of the one without a limit never rest.
fn capacity(servers: &[Arc<Server>]) -> f64 {
    servers[0].log.rate(WORKED, OVERLOAD.seconds.clone(), ALL)
}

// ---- The tables.

const NAMES: [&str; 3] = ["no limit", "limit", "classes"];

const HEADER: &str = "
Three servers get the same requests: one without a limit, one with a limit, one with a limit that sheds
by class. How many answers came in time, a second; and how many requests wait inside or are worked on.

                    ----- answers in time -----    ----- requests inside -----
          requests  no limit    limit   classes    no limit    limit   classes";

/// Prints a row per second, and returns when the last clients have their answers.
async fn watch(start: Instant, servers: &[Arc<Server>]) {
    println!("{HEADER}");
    for (second, end) in (0..END).zip(1..) {
        sleep_until(start + Duration::from_secs(end)).await;
        let rate = |number: usize, what| servers[number].log.rate(what, second..second + 1, ALL);
        let [plain, limited, classes] = [0, 1, 2].map(|number| rate(number, GOOD));
        print!("{end:3} s {:12.0} {plain:9.0} {limited:8.0} {classes:9.0}", rate(0, OFFERED));
        let [plain, limited, classes] = [0, 1, 2].map(|number| servers[number].log.inside.load(Relaxed));
        println!(" {plain:11} {limited:8} {classes:9}");
    }
    sleep_until(start + Duration::from_secs(END as u64) + PATIENCE).await;
}

const TABLE: &str = "
A second, on average: requests; answers in time; answers after the client had left; refusals. Then how long
clients waited for an answer in time (ms); and the share of the requests that got one, of all and of checkouts.

                       offered in time    late  refused     p50    p99     all  checkouts";

/// Prints what each phase was like for each server.
fn print_table(servers: &[Arc<Server>]) {
    println!("{TABLE}");
    for (number, phase) in PHASES.iter().enumerate() {
        for (server, name) in servers.iter().zip(NAMES) {
            let rate = |what| server.log.rate(what, phase.seconds.clone(), ALL);
            let [offered, good, late, refused] = [OFFERED, GOOD, LATE, REJECTED].map(rate);
            let [p50, p99] = [0.5, 0.99].map(|q| {
                let wait = server.log.waits[number].quantile(q);
                wait.map_or("-".into(), |wait| wait.as_millis().to_string())
            });
            let [all, checkouts] = [ALL, PAYING].map(|kinds| answered(server, phase, kinds));
            let phase = if name == NAMES[0] { phase.name } else { "" };
            print!("{phase:10} {name:10} {offered:8.0} {good:7.0} {late:7.0} {refused:8.0}");
            println!(" {p50:>7} {p99:>6} {all:5.0} % {checkouts:8.0} %");
        }
    }
}

/// How many of a hundred requests were answered in time.
fn answered(server: &Server, phase: &Phase, kinds: &[Kind]) -> f64 {
    let [answered, offered] =
        [ANSWERED, OFFERED].map(|what| server.log.rate(what, phase.seconds.clone(), kinds));
    100.0 * answered / offered
}

/// Prints what must have held, and returns whether it did.
fn holds(servers: &[Arc<Server>]) -> bool {
    let capacity = capacity(servers);
    let good =
        |number: usize| 100.0 * servers[number].log.rate(GOOD, OVERLOAD.seconds.clone(), ALL) / capacity;
    let after = |number: usize| answered(&servers[number], AFTER, ALL);
    let checkouts = answered(&servers[2], OVERLOAD, PAYING);
    println!(
        "What must hold; the capacity is {capacity:.0} answers a second, as many as threads give that never rest:"
    );
    let claims = [
        ("while overloaded, of the capacity, without a limit", good(0), AtMost(50.0)),
        ("while overloaded, of the capacity, with a limit", good(1), AtLeast(80.0)),
        ("while overloaded, of the capacity, with classes", good(2), AtLeast(80.0)),
        ("while overloaded, of all checkouts, with classes", checkouts, AtLeast(90.0)),
        ("after the overload, of all requests, without a limit", after(0), AtMost(50.0)),
        ("after the overload, of all requests, with a limit", after(1), AtLeast(90.0)),
        ("after the overload, of all requests, with classes", after(2), AtLeast(90.0)),
    ];
    let verdicts = claims.map(|(what, share, bound)| {
        let (words, bound, holds) = match bound {
            AtLeast(bound) => ("at least", bound, share >= bound),
            AtMost(bound) => ("at most", bound, share <= bound),
        };
        println!("  {what:54} {share:4.0} %   {words:8} {bound} %   {}", if holds { "yes" } else { "NO" });
        holds
    });
    if capacity < 0.9 * PER_SECOND {
        println!(
            "\nThis machine was too busy to tell: {PER_SECOND} is the capacity if no thread must wait for it."
        );
    }
    !verdicts.contains(&false)
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}
use Bound::{AtLeast, AtMost};

// ---- The plot.

/// Draws the good answers over time, and returns where.
fn plot(servers: &[Arc<Server>]) -> Result<PathBuf, Box<dyn Error>> {
    // This program is in target/release/examples.
    let path = std::env::current_exe()?.ancestors().nth(3).ok_or("no target directory")?.join("overload.svg");
    let capacity = capacity(servers);
    let (end, top) = (END as f64, 1.4 * capacity);

    let area = SVGBackend::new(&path, (900, 480)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("Answers in time, a second", ("sans-serif", 24))
        .margin(15)
        .x_label_area_size(40)
        .y_label_area_size(55)
        .build_cartesian_2d(0.0..end, 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("seconds")
        .x_label_formatter(&|second| format!("{second:.0}"))
        .y_label_formatter(&|rate| format!("{rate:.0}"))
        .label_style(("sans-serif", 15))
        .draw()?;

    let [from, to] = [OVERLOAD.seconds.start, OVERLOAD.seconds.end].map(|second| second as f64);
    let shade = Rectangle::new([(from, 0.0), (to, top)], BLACK.mix(0.06).filled());
    let load = format!("{} times the load it can bear", OVERLOAD.load);
    let word = Text::new(load, (from + 0.1, 0.98 * top), ("sans-serif", 17));
    chart.draw_series([shade])?;
    chart.draw_series([word])?;

    let dark_green = RGBColor(0, 140, 60);
    let lines = [
        ("capacity", BLACK.mix(0.5).stroke_width(1), vec![(0.0, capacity), (end, capacity)]),
        ("no limit", RED.stroke_width(2), over_time(&servers[0], ALL)),
        ("limit", BLUE.stroke_width(2), over_time(&servers[1], ALL)),
        ("classes", dark_green.stroke_width(2), over_time(&servers[2], ALL)),
        ("limit, checkouts", BLUE.stroke_width(1), over_time(&servers[1], PAYING)),
        ("classes, checkouts", dark_green.stroke_width(1), over_time(&servers[2], PAYING)),
    ];
    for (name, style, points) in lines {
        let key = move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style);
        chart.draw_series(LineSeries::new(points, style))?.label(name).legend(key);
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 17))
        .draw()?;
    area.present()?;
    drop(chart);
    drop(area);
    Ok(path)
}

/// Answers in time, a second, at the middle of each slot.
fn over_time(server: &Server, kinds: &[Kind]) -> Vec<(f64, f64)> {
    let rate = |slot| (server.log.sum(GOOD, slot..slot + 1, kinds) * SLOTS as u64) as f64;
    (0..END * SLOTS).map(|slot| ((slot as f64 + 0.5) / SLOTS as f64, rate(slot))).collect()
}
