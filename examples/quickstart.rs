//! Your first five minutes: real HTTP requests through one stack, while the server behind it has a bad day.
//!
//! ```text
//! cargo run --example quickstart
//! ```
//!
//! Two HTTP servers on this machine live through the same 12 seconds: healthy, slow, answering 500, refusing
//! connections, healthy again. Each gets 200 requests a second, one through the stack below, the other
//! plainly, with only a generous time limit. One row a second shows how it goes; a table at the end compares
//! the two.
//!
//! [`stack`], [`is_servers_fault`], [`Site::get`] and [`ask`] are what you would start from. Below them come
//! the schedule, the server, the load and the tables.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use floodwall::{
    Acquire, Bulkhead, CircuitBreaker, Error, Event, Exponential, Gate, Policy, Retry, State, Timeout,
    TokenBucket,
};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{StatusCode, Uri};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, interval_at, sleep_until};

/// The stack, outermost policy first. Build it once and share it: a limit holds for those who share it.
fn stack(events: UnboundedSender<Event>) -> impl Policy<Bytes, GetError> + Clone + 'static {
    // Hears of each retry and each change of the breaker's state. Yours may feed a metrics library.
    let observer = move |_name: &str, event: Event| {
        let _ = events.send(event); // an error would mean that nobody listens any more
    };

    Arc::new((
        // However many attempts it takes, a caller waits no longer than this. (A `Fallback` in front of it
        // would answer something else instead of an error.)
        Timeout::new(millis(1000)).name("total time"),
        // What failed is tried up to two times more, after a random part of 20 ms, then of 40 ms.
        Retry::new(Exponential::new(millis(20)).attempts(3))
            .when(is_servers_fault)
            .observe("retry", observer.clone()),
        // When half of the last second's attempts failed, and there were 20 of them, leave the server alone;
        // ask again every 250 ms.
        CircuitBreaker::builder()
            .failure_rate(0.5)
            .window(millis(1000))
            .open_for(millis(250))
            .observe("breaker", observer)
            .build()
            .when(is_servers_fault),
        // At most 16 requests at once; the next ones wait up to 50 ms for a place, then are turned away.
        Bulkhead::new(16).name("bulkhead").wait_up_to(millis(50)),
        // What this server grants us a second. Retries count too, so they cannot multiply the load.
        TokenBucket::per_second(250).burst(25).name("rate limit"),
        // An attempt that hangs is given up while there is time for another.
        Timeout::new(millis(400)).name("attempt"),
    ))
}

/// What counts against the server and is worth another attempt: a 5xx, a broken connection, a timeout. Not a
/// 404, which would be one again; nor what one of our own limits refused, since the server never saw it.
fn is_servers_fault(error: &Error<GetError>) -> bool {
    match error {
        Error::Inner(GetError::Status(status)) => status.is_server_error(),
        Error::Inner(GetError::Connection(_)) | Error::TimedOut(_) => true,
        Error::Rejected(_) => false,
    }
}

/// A web site, and the client that asks it.
struct Site {
    client: Client<HttpConnector, Empty<Bytes>>,
    uri: Uri,
    /// Beyond so many connections, a request waits until one is free, as in most clients.
    connections: Semaphore,
    /// Counted for the tables, as is the next.
    calls: AtomicUsize,
    attempts_while_sick: AtomicUsize,
}

impl Site {
    /// The operation knows nothing of policies. It may run more than once, and be dropped at any `.await`.
    async fn get(&self) -> Result<Bytes, GetError> {
        let _connection = self.connections.acquire().await.expect("the pool is never closed");
        if matches!(phase(), Erroring | Down) {
            self.attempts_while_sick.fetch_add(1, Relaxed);
        }
        let response = self.client.get(self.uri.clone()).await.map_err(|e| GetError::Connection(e.into()))?;
        if !response.status().is_success() {
            return Err(GetError::Status(response.status()));
        }
        let body = response.into_body().collect().await.map_err(|e| GetError::Connection(e.into()))?;
        Ok(body.to_bytes())
    }
}

#[derive(Debug)]
enum GetError {
    Status(StatusCode),
    Connection(Box<dyn std::error::Error + Send + Sync>),
}

impl fmt::Display for GetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "the server answered {status}"),
            Self::Connection(error) => write!(f, "no answer: {error}"),
        }
    }
}

/// Makes one call through `policy`. Returns how it ended, in a word or two, and the error in its own words.
async fn ask(policy: &impl Policy<Bytes, GetError>, site: &Site) -> (&'static str, Option<String>) {
    let result = policy.call(|| site.get()).await;
    let ending = match &result {
        Ok(_body) => "ok",
        Err(Error::Rejected(rejected)) => rejected.by(), // it never ran: the name of who refused it
        Err(Error::TimedOut(_)) => "timed out",          // it ran out of time
        Err(Error::Inner(_)) => "failed",                // it ran and failed: your own error, untouched
    };
    (ending, result.err().map(|error| error.to_string()))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let (events, heard) = unbounded_channel();
    let mut walled = Arm::start(stack(events)).await?;
    let mut plain = Arm::start(Timeout::new(millis(5000))).await?;
    watch(heard, &mut walled, &mut plain).await;
    compare(&walled, &plain);
    Ok(())
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

// ---- The schedule.

#[derive(Clone, Copy, Debug)]
enum Phase {
    Healthy,
    Slow,
    Erroring,
    Down,
}
use Phase::{Down, Erroring, Healthy, Slow};

/// Second by second.
const PHASES: [Phase; 12] =
    [Healthy, Healthy, Slow, Slow, Slow, Erroring, Erroring, Down, Down, Healthy, Healthy, Healthy];
const DOWN: u64 = 7;
const BACK: u64 = 9;
const END: u64 = PHASES.len() as u64;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn at(second: u64) -> Instant {
    *START + Duration::from_secs(second)
}

fn phase() -> Phase {
    *PHASES.get(START.elapsed().as_secs() as usize).unwrap_or(&Healthy)
}

// ---- The server.

/// An HTTP server that keeps to the schedule.
mod server {
    use std::convert::Infallible;

    use http_body_util::Full;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper::{Response, StatusCode};
    use hyper_util::rt::TokioIo;
    use tokio::task::JoinSet;
    use tokio::time::{sleep, timeout_at};

    use super::*;

    struct Server {
        workers: Semaphore,
        requests: AtomicUsize,
    }

    pub(super) async fn run(listener: TcpListener) {
        let address = listener.local_addr().expect("a bound listener has an address");
        let server = Arc::new(Server { workers: Semaphore::new(16), requests: AtomicUsize::new(0) });
        // When time is up, the listener and all connections are dropped, which closes them.
        let _ = timeout_at(at(DOWN), serve(listener, server.clone())).await;
        sleep_until(at(BACK)).await;
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(_) => sleep(millis(10)).await, // the system has not let go of the port yet
            }
        };
        serve(listener, server).await;
    }

    async fn serve(listener: TcpListener, server: Arc<Server>) {
        let mut connections = JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let server = server.clone();
            let service = service_fn(move |_| answer(server.clone()));
            connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            while connections.try_join_next().is_some() {}
        }
    }

    /// Works on one request; 16 are worked on at a time, and the others wait.
    async fn answer(server: Arc<Server>) -> Result<Response<Full<Bytes>>, Infallible> {
        let _worker = server.workers.acquire().await.expect("the workers never leave");
        let number = server.requests.fetch_add(1, Relaxed);
        let (work, status) = match phase() {
            Healthy if number % 50 == 0 => (10, StatusCode::SERVICE_UNAVAILABLE),
            Healthy => (10, StatusCode::OK),
            Slow if number % 10 == 0 => (2000, StatusCode::OK),
            Slow => (200, StatusCode::OK),
            Erroring | Down => (10, StatusCode::INTERNAL_SERVER_ERROR),
        };
        sleep(millis(work)).await;
        let mut response = Response::new(Full::from("hello"));
        *response.status_mut() = status;
        Ok(response)
    }
}

// ---- The load: a caller every 5 ms, however long the answers take.

/// A server, its callers, and what they report.
struct Arm {
    site: Arc<Site>,
    answers: Vec<Answer>,
    heard: UnboundedReceiver<Answer>,
}

/// How a call ended, as its caller saw it.
struct Answer {
    ending: &'static str,
    error: Option<String>,
    waited: Duration,
    ended: Duration, // since the start
}

impl Arm {
    async fn start(policy: impl Policy<Bytes, GetError> + Clone + 'static) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let uri = format!("http://{}/", listener.local_addr()?);
        let site = Arc::new(Site {
            client: Client::builder(TokioExecutor::new()).build_http(),
            uri: uri.parse().expect("an address makes a URI"),
            connections: Semaphore::new(64),
            calls: AtomicUsize::new(0),
            attempts_while_sick: AtomicUsize::new(0),
        });
        let (answers, heard) = unbounded_channel();
        tokio::spawn(server::run(listener));
        tokio::spawn(send(policy, site.clone(), answers));
        Ok(Self { site, answers: Vec::new(), heard })
    }

    /// Returns the answers that came since the last time.
    fn news(&mut self) -> &[Answer] {
        let known = self.answers.len();
        while let Ok(answer) = self.heard.try_recv() {
            self.answers.push(answer);
        }
        &self.answers[known..]
    }
}

async fn send<P>(policy: P, site: Arc<Site>, answers: UnboundedSender<Answer>)
where
    P: Policy<Bytes, GetError> + Clone + 'static,
{
    let mut ticks = interval_at(*START, millis(5));
    loop {
        // A wait counts from when the call was due, even if this machine was too busy to make it then.
        let due = ticks.tick().await;
        if due >= at(END) {
            return;
        }
        site.calls.fetch_add(1, Relaxed);
        let (policy, site, answers) = (policy.clone(), site.clone(), answers.clone());
        // Each call has a time limit, so no more are under way than come in that time.
        tokio::spawn(async move {
            let (ending, error) = ask(&policy, &site).await;
            let _ = answers.send(Answer { ending, error, waited: due.elapsed(), ended: START.elapsed() });
        });
    }
}

// ---- The tables.

const HEADER: &str = "
200 requests a second go through the stack, and 200 without it to another server like it. A row counts what
ended in that second; p50 and p99 are waits in milliseconds, of the calls that were ok.

                                  ---- rejected by ----                                  without it
      server                                       rate  timed         breaker
      is        sent   ok retries breaker bulkhead limit   out failed  is         p50  p99   ok  p50  p99";

/// Prints a row per second, and returns when the last call has ended.
async fn watch(mut events: UnboundedReceiver<Event>, walled: &mut Arm, plain: &mut Arm) {
    println!("{HEADER}");
    let (mut state, mut sent) = (State::Closed, 0);
    for (second, phase) in (1..).zip(PHASES) {
        sleep_until(at(second)).await;
        let mut retries = 0;
        while let Ok(event) = events.try_recv() {
            match event {
                Event::Retrying { .. } => retries += 1,
                Event::StateChanged { to, .. } => state = to,
                _ => {}
            }
        }
        let sent_before = std::mem::replace(&mut sent, walled.site.calls.load(Relaxed));
        print!("{second:2} s  {:<8} {:5}", format!("{phase:?}").to_lowercase(), sent - sent_before);
        let news = walled.news();
        let [ok, breaker, bulkhead, limit, timed_out, failed] = ENDINGS.map(|one| count(news, &[one]));
        print!(" {ok:>4} {retries:7} {breaker:>7} {bulkhead:>8} {limit:>5} {timed_out:>5}");
        print!(" {failed:>6}  {state:<9} {:>4} {:>4}", percentile(news, 50, OK), percentile(news, 99, OK));
        let news = plain.news();
        println!(" {:>4} {:>4} {:>4}", count(news, OK), percentile(news, 50, OK), percentile(news, 99, OK));
    }
    for arm in [walled, plain] {
        while arm.heard.recv_many(&mut arm.answers, 100).await > 0 {}
    }
}

/// Prints what the same day was like with the stack and without.
fn compare(walled: &Arm, plain: &Arm) {
    let row = |label: &str, cell: fn(&Arm) -> String| {
        let cells = [cell(walled), cell(plain)];
        println!("{label:64} {:>8} {:>8}", cells[0], cells[1]);
        cells
    };
    println!("\n{:64} {:>8} {:>8}", "", "stack", "no stack");
    row("calls", |arm| arm.answers.len().to_string());
    row("ok", |arm| count(&arm.answers, OK));
    let [quick, plain_quick] =
        row("ok within 500 ms", |arm| arm.answers.iter().filter(|a| is_quick(a)).count().to_string());
    row("failed or timed out", |arm| count(&arm.answers, FAILED));
    let [refused, _] =
        row("turned away by breaker, bulkhead or rate limit", |arm| count(&arm.answers, REFUSED));
    row("wait for an ok, median (ms)", |arm| percentile(&arm.answers, 50, OK));
    row("wait for an ok, 99th percentile (ms)", |arm| percentile(&arm.answers, 99, OK));
    let [longest, plain_longest] =
        row("longest wait, whatever came of it (ms)", |arm| percentile(&arm.answers, 100, &ENDINGS));
    let [load, plain_load] = row("load on the sick server: attempts while it was erroring or down", |arm| {
        arm.site.attempts_while_sick.load(Relaxed).to_string()
    });
    let [back, plain_back] =
        row("after its return, until answers were ok and quick again (ms)", |arm| recovery(&arm.answers));

    println!("\nThe errors of the stack, one of each kind:");
    let errors = walled.answers.iter().filter_map(|answer| Some((answer.ending, answer.error.as_ref()?)));
    BTreeMap::from_iter(errors).values().for_each(|error| println!("  {error}"));

    let told = percentile(&walled.answers, 90, REFUSED);
    println!(
        "\n\
         While the server was erroring or down, it was asked {load} times through the stack, {plain_load} without.\n\
         {quick} calls were ok within 500 ms with the stack, {plain_quick} without; the longest wait was\n\
         {longest} ms with the stack, {plain_longest} ms without. For this the stack turned {refused} calls away,\n\
         nine in ten of them within {told} ms; and after the server's return it took {back} ms until answers\n\
         were ok and quick again, {plain_back} ms without the stack."
    );
}

const ENDINGS: [&str; 6] = ["ok", "breaker", "bulkhead", "rate limit", "timed out", "failed"];
const OK: &[&str] = &["ok"];
const REFUSED: &[&str] = &["breaker", "bulkhead", "rate limit"];
const FAILED: &[&str] = &["timed out", "failed"];

fn is_quick(answer: &Answer) -> bool {
    answer.ending == "ok" && answer.waited <= millis(500)
}

fn count(answers: &[Answer], endings: &[&str]) -> String {
    answers.iter().filter(|answer| endings.contains(&answer.ending)).count().to_string()
}

/// How many milliseconds so many percent of the calls with these endings waited at most.
fn percentile(answers: &[Answer], percent: usize, endings: &[&str]) -> String {
    let those = answers.iter().filter(|answer| endings.contains(&answer.ending));
    let mut waits: Vec<_> = those.map(|answer| answer.waited.as_millis()).collect();
    waits.sort_unstable();
    let rank = (waits.len() * percent).div_ceil(100);
    waits.get(rank.saturating_sub(1)).map_or("-".into(), u128::to_string)
}

/// When nine answers in ten were ok and quick, in tenths of a second since the server's return.
fn recovery(answers: &[Answer]) -> String {
    let is_well = |end: &u64| {
        let tenth = millis(BACK * 1000 + end - 100)..millis(BACK * 1000 + end);
        let ended: Vec<_> = answers.iter().filter(|answer| tenth.contains(&answer.ended)).collect();
        let quick = ended.iter().filter(|answer| is_quick(answer)).count();
        quick > 0 && quick * 10 >= ended.len() * 9
    };
    (100..3000).step_by(100).find(is_well).map_or("over 3000".into(), |end| end.to_string())
}
