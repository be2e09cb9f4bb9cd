//! Three servers of which one dies and another becomes slow, and callers who hardly notice.
//!
//! ```text
//! cargo run --release --example failover
//! ```
//!
//! Three servers on this machine give the same answers, as a primary and its replicas would. Over some 15 seconds
//! the first one refuses connections, comes back, then accepts them and never answers; while it is silent, the second
//! becomes twenty times as slow for one call in five. 250 calls a second go through the stack below, and 250 go to
//! the three servers in turn with only a time limit, as from a client of a name with three addresses. Two rows a phase
//! show how it goes; in the end the program checks what it has claimed, and fails if that did not hold.
//!
//! [`stack`], [`ask`] and [`call`] are what you would start from. Below them come the servers, the load and the table.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use floodwall::{Call, Event, Exponential, Failover, Hedge, Histogram, Policy, Retry, RetryBudget, Timeout};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

/// The stack, outermost policy first. Build it once and share it: the failover remembers for all who is down.
fn stack(seen: Arc<Seen>) -> impl Policy<usize, io::Error> + Clone + 'static {
    // Each call lets the retry and the hedge add a tenth of a call: a fifth at most. What the failover adds is bounded
    // by itself, since a server that failed rests.
    let budget = Arc::new(RetryBudget::of_calls(0.1));
    let observer = move |_name: &str, event: Event| seen.count(event);

    Arc::new((
        // Whatever happens, a caller waits no longer than this.
        Timeout::new(millis(2000)).name("total"),
        // If all three have failed, once more.
        Retry::new(Exponential::new(millis(20)).attempts(2))
            .budget(budget.clone())
            .observe("retry", observer.clone()),
        // When there is no answer yet after three times the usual time, the next server is asked beside the first.
        Hedge::after(millis(60)).budget(budget).observe("hedge", observer.clone()),
        // When a server fails, the next one is asked. Who failed is passed over for half a second, then a second, then
        // two; after each of these times one call finds out whether it is back. So no breaker is needed for each.
        Failover::new(SERVERS).rest_for(millis(500)).max_rest(millis(2000)).observe("failover", observer),
        // A server that has not answered by then has failed. Without this one a silent server would never be found out.
        Timeout::new(millis(250)).name("attempt"),
    ))
}

/// Asks one server, over a connection of its own, and returns which one answered. It knows nothing of policies; it may
/// be dropped at any `.await`, which closes the connection.
async fn ask(server: SocketAddr) -> io::Result<usize> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(b"who are you?\n").await?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await?;
    answer.trim().parse().map_err(|_| io::ErrorKind::UnexpectedEof.into())
}

/// Makes one call: the failover says in the [`Call`] which server it is to ask.
async fn call(policy: impl Policy<usize, io::Error>, servers: Addresses) -> Option<usize> {
    let result = policy.call_with(Call::new(), |call| ask(servers[call.alternate()])).await;
    result.ok()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (mood, moods) = watch::channel([Well; SERVERS]);
    let mut servers = [SocketAddr::from(([127, 0, 0, 1], 0)); SERVERS];
    for (number, server) in servers.iter_mut().enumerate() {
        let listener = TcpListener::bind(*server).await?;
        *server = listener.local_addr()?;
        tokio::spawn(run(listener, number, moods.clone()));
    }
    let seen = Arc::new(Seen::default());
    let stack = stack(seen.clone());
    let mut all = Vec::new();
    println!("{HEADER}");
    for (phase, seconds, moods) in PHASES {
        mood.send(moods)?;
        let [with, without] = load(&stack, servers, Duration::from_secs(seconds)).await;
        with.print(phase, "with", Some(seen.take()));
        without.print("", "without", None);
        all.push(Told { phase, moods, with, without });
    }
    check(&all)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

// ---- The servers.

const SERVERS: usize = 3;
type Addresses = [SocketAddr; SERVERS];

/// What a server does to those who ask it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    /// Answers after 20 ms.
    Well,
    /// One call in five takes twenty times as long.
    Slow,
    /// Accepts connections, and never answers.
    Silent,
    /// Refuses connections.
    Down,
}
use Mood::{Down, Silent, Slow, Well};

/// Each phase, how many seconds it lasts, and what the servers do in it.
const PHASES: [(&str, u64, [Mood; SERVERS]); 6] = [
    ("all are well", 2, [Well, Well, Well]),
    ("1 refuses", 2, [Down, Well, Well]),
    ("1 is back", 2, [Well, Well, Well]),
    ("1 is silent", 3, [Silent, Well, Well]),
    ("and 2 slow", 3, [Silent, Slow, Well]),
    ("all are back", 2, [Well, Well, Well]),
];

async fn run(listener: TcpListener, number: usize, mut moods: watch::Receiver<[Mood; SERVERS]>) {
    let address = listener.local_addr().expect("a bound listener has an address");
    let mut listener = Some(listener);
    // It ends with the program, when nobody sets moods any more.
    loop {
        let listening = match listener.take() {
            Some(listener) => Ok(listener),
            None => TcpListener::bind(address).await,
        };
        match listening {
            // To be down is to drop the listener and all connections, which closes them.
            Ok(listener) => tokio::select! {
                () = serve(listener, number, moods.clone()) => {}
                ended = moods.wait_for(|moods| moods[number] == Down) => if ended.is_err() { return },
            },
            Err(_) => sleep(millis(10)).await, // the system has not let go of the port yet
        }
        if moods.wait_for(|moods| moods[number] != Down).await.is_err() {
            return;
        }
    }
}

async fn serve(listener: TcpListener, number: usize, moods: watch::Receiver<[Mood; SERVERS]>) {
    let mut connections = JoinSet::new();
    for count in 0.. {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let work = match moods.borrow()[number] {
            Silent => None,
            Slow if count % 5 == 0 => Some(millis(400)),
            _ => Some(millis(20)),
        };
        connections.spawn(answer(stream, number, work));
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(stream: TcpStream, number: usize, work: Option<Duration>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    match work {
        Some(work) => sleep(work).await,
        None => drop(stream.read_line(&mut line).await?), // nothing comes but the end, when the caller has gone
    }
    stream.write_all(format!("{number}\n").as_bytes()).await
}

// ---- The load: a call every 4 ms each way, however long the answers take.

/// How the calls of a phase went, as their callers saw it.
#[derive(Default)]
struct Row {
    /// Of all calls, those that failed included.
    waits: Histogram,
    failed: usize,
    answered_by: [usize; SERVERS],
}

/// Makes the calls of one phase, with the stack and without, and returns when the last one has ended.
async fn load<P>(stack: &P, servers: Addresses, lasts: Duration) -> [Row; 2]
where
    P: Policy<usize, io::Error> + Clone + 'static,
{
    let mut calls = JoinSet::new();
    let end = Instant::now() + lasts;
    let mut ticks = interval(millis(4));
    for turn in 0.. {
        // A wait counts from when the call was due, even if this machine was too busy to make it then.
        let due = ticks.tick().await;
        if due >= end {
            break;
        }
        let stack = stack.clone();
        calls.spawn(async move { (0, call(stack, servers).await, due.elapsed()) });
        let plain = Timeout::new(millis(2000));
        let mut in_turn = servers;
        in_turn.rotate_left(turn % SERVERS);
        calls.spawn(async move { (1, call(plain, in_turn).await, due.elapsed()) });
    }
    let mut rows: [Row; 2] = Default::default();
    while let Some(ended) = calls.join_next().await {
        let (way, answered_by, waited) = ended.expect("no call panics");
        let row = &mut rows[way];
        row.waits.record(waited);
        match answered_by {
            Some(server) => row.answered_by[server] += 1,
            None => row.failed += 1,
        }
    }
    rows
}

/// What the policies had to do in a phase: hedges that won, failovers, retries.
#[derive(Default)]
struct Seen([AtomicUsize; 3]);

impl Seen {
    fn count(&self, event: Event) {
        let which = match event {
            Event::HedgeWon { copy: 2.. } => 0,
            Event::FailedOver { .. } => 1,
            Event::Retrying { .. } => 2,
            _ => return,
        };
        self.0[which].fetch_add(1, Relaxed);
    }

    fn take(&self) -> [usize; 3] {
        self.0.each_ref().map(|count| count.swap(0, Relaxed))
    }
}

// ---- The table.

const HEADER: &str = "
Waits in milliseconds, of all calls, whatever came of them.

                                                         answered by server   hedges   fail-
phase         policies  calls failed   p50   p99   max      1      2      3      won   overs retries";

impl Row {
    fn print(&self, phase: &str, policies: &str, seen: Option<[usize; 3]>) {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|q| self.wait(q).as_millis());
        print!("{phase:<13} {policies:<8} {:>6} {:>6}", self.waits.count(), self.failed);
        print!(" {p50:>5} {p99:>5} {max:>5}");
        self.answered_by.iter().for_each(|count| print!(" {count:>6}"));
        match seen {
            Some([won, failovers, retries]) => println!(" {won:>8} {failovers:>7} {retries:>7}"),
            None => println!(),
        }
    }

    fn wait(&self, q: f64) -> Duration {
        self.waits.quantile(q).expect("each phase has calls")
    }
}

/// A phase and what became of it, with the stack and without.
struct Told {
    phase: &'static str,
    moods: [Mood; SERVERS],
    with: Row,
    without: Row,
}

/// Says what came of it all, and holds it against what this program claims.
fn check(all: &[Told]) -> Result<(), Box<dyn Error>> {
    let worst = |row: fn(&Told) -> &Row| {
        let p99 = all.iter().map(|told| row(told).wait(0.99)).max().expect("there are phases");
        (all.iter().map(|told| row(told).failed).sum::<usize>(), p99.as_millis())
    };
    let ((failed, p99), (plain_failed, plain_p99)) = (worst(|told| &told.with), worst(|told| &told.without));
    println!(
        "\nWith the stack {failed} calls failed, and 99 in 100 took no longer than {p99} ms in the worst phase. Without\n\
         it {plain_failed} failed, and it was {plain_p99} ms."
    );
    for Told { phase, moods, with, without } in all {
        if with.failed > 0 {
            return Err(format!("{phase}: {} calls failed in spite of the stack", with.failed).into());
        }
        if *moods != [Well; SERVERS] && without.failed == 0 {
            return Err(format!("{phase}: no call failed without the stack either").into());
        }
        // A busy machine adds to both. On another one the first is what an attempt may take and then a call takes, and the
        // second is the time limit.
        let (p99, plain_p99) = (with.wait(0.99), without.wait(0.99));
        if moods.contains(&Silent) && (p99 > millis(1000) || plain_p99 < millis(1900)) {
            return Err(format!("{phase}: p99 is {p99:?} with the stack and {plain_p99:?} without").into());
        }
    }
    Ok(())
}
