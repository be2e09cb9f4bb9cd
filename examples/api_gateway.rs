//! An API gateway: a limit for each client by its plan, and one for all, in which better plans come first.
//!
//! `cargo run --example api_gateway` starts it on a port of the loopback, lets clients of three plans ask for more than it gives,
//! prints what each plan got, and ends. The gateway comes first: start from it.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use floodwall::{Call, Gate, Keyed, PriorityBucket, Rejected, TokenBucket, headers};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, interval_at, sleep};

/// What a client pays for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Plan {
    Premium,
    Standard,
    Basic,
}
use Plan::{Basic, Premium, Standard};

impl Plan {
    /// Requests a second that one client of the plan may send.
    const fn rate(self) -> u64 {
        match self {
            Premium => 40,
            Standard => 30,
            Basic => 20,
        }
    }

    const fn priority(self) -> u8 {
        match self {
            Premium => 200,
            Standard => Call::NORMAL,
            Basic => 50,
        }
    }
}

/// Requests a second that the backend bears.
const CAPACITY: u64 = 150;

#[derive(Clone)]
struct Gateway {
    /// One limit per client, for as many clients as there are: memory is bounded, and no debt is forgotten.
    clients: Arc<Keyed<String, TokenBucket>>,
    /// One limit for all. Half of it is there for premium clients whenever they ask, three tenths for standard ones and
    /// a tenth for basic ones; what nobody claims goes to the better plan first.
    backend: Arc<PriorityBucket>,
}

impl Gateway {
    fn new() -> Self {
        let of_plan = |client: &String| {
            let plan = plan_of(client).unwrap_or(Basic);
            TokenBucket::per_second(plan.rate()).burst(5).name("client")
        };
        let backend = PriorityBucket::per_second(CAPACITY)
            .burst(30)
            .class(Premium.priority(), 0.5)
            .class(Standard.priority(), 0.3)
            .class(Basic.priority(), 0.1)
            .name("backend");
        Self { clients: Arc::new(Keyed::new(of_plan).max_keys(10_000)), backend: Arc::new(backend) }
    }

    /// Admits one request of a client. The client's own limit comes first: who asks too often must not use up what is
    /// there for others.
    fn admit(&self, client: &str, plan: Plan) -> Result<Arc<TokenBucket>, Rejected> {
        let limit = self.clients.get(client)?;
        limit.try_acquire()?.success();
        match self.backend.try_acquire_for(Call::new().priority(plan.priority())) {
            Ok(permit) => permit.success(),
            Err(rejected) => {
                // The request is not served, so the client keeps its token.
                limit.refund(1);
                return Err(rejected);
            }
        }
        Ok(limit)
    }
}

fn router(gateway: Gateway) -> Router {
    Router::new().route("/quote", get(|| async { "42" })).layer(from_fn_with_state(gateway, guard))
}

async fn guard(State(gateway): State<Gateway>, request: Request, next: Next) -> Response {
    let Some((client, plan)) = client_of(request.headers()) else {
        return (StatusCode::UNAUTHORIZED, "send your key as x-api-key").into_response();
    };
    match gateway.admit(&client, plan) {
        // An admitted client is told how it stands, so that it need not find out by being refused.
        Ok(limit) => (headers::of(&limit.quota()), next.run(request).await).into_response(),
        Err(rejected) => {
            let wait = rejected.retry_after().unwrap_or(Duration::from_secs(1));
            (StatusCode::TOO_MANY_REQUESTS, [headers::retry_after(wait)], rejected.to_string())
                .into_response()
        }
    }
}

/// Here a key tells its plan, "premium-7"; yours would look it up.
fn plan_of(client: &str) -> Option<Plan> {
    match client.split_once('-')?.0 {
        "premium" => Some(Premium),
        "standard" => Some(Standard),
        "basic" => Some(Basic),
        _ => None,
    }
}

fn client_of(headers: &HeaderMap) -> Option<(String, Plan)> {
    let client = headers.get("x-api-key")?.to_str().ok()?;
    Some((client.to_owned(), plan_of(client)?))
}

// From here on: the clients, and what they got.

const SECONDS: u64 = 4;
/// (plan, clients, requests a second that each sends): more than the backend bears, and one who asks far too often.
const LOAD: [(Plan, u64, u64); 4] = [(Premium, 3, 30), (Standard, 4, 25), (Basic, 4, 15), (Basic, 1, 100)];

type Answers = Vec<(Plan, String)>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    println!(
        "listening on http://{address}, for {CAPACITY} requests a second; the clients send for {SECONDS} s\n"
    );
    let gateway = Gateway::new();
    let routes = router(gateway.clone());
    tokio::spawn(async move { axum::serve(listener, routes).await });

    let mut clients = Vec::new();
    for (plan, count, rate) in LOAD {
        for _ in 0..count {
            let key = format!("{plan:?}-{}", clients.len()).to_lowercase();
            clients.push(tokio::spawn(client(address, key, plan, rate)));
        }
    }
    let mut answers = Answers::new();
    for client in clients {
        answers.extend(client.await??);
    }
    print_table(&answers);

    println!("\nKnown clients: {}. The heaviest:", gateway.clients.len());
    for (client, _) in gateway.clients.heaviest(3) {
        println!("  {client}");
    }
    who_obeys_is_admitted(address).await
}

/// Sends requests at a steady rate over a connection of its own, and notes what it is told.
async fn client(
    address: SocketAddr,
    key: String,
    plan: Plan,
    rate: u64,
) -> Result<Answers, Box<dyn Error + Send + Sync>> {
    let mut connection = connect(address).await?;
    let mut ticks = interval_at(Instant::now(), Duration::from_secs(1) / rate as u32);
    let mut answers = Answers::new();
    for _ in 0..rate * SECONDS {
        ticks.tick().await;
        let (status, _, text) = ask(&mut connection, &key).await?;
        let answer = match status {
            StatusCode::OK => "ok".to_owned(),
            // "backend: shed, retry after 7ms": who, and why.
            _ => text.split(", ").next().unwrap_or_default().to_owned(),
        };
        answers.push((plan, answer));
    }
    Ok(answers)
}

type Connection = hyper::client::conn::http1::SendRequest<Empty<Bytes>>;

async fn connect(address: SocketAddr) -> Result<Connection, Box<dyn Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn ask(
    connection: &mut Connection,
    key: &str,
) -> Result<(StatusCode, HeaderMap, String), Box<dyn Error + Send + Sync>> {
    let request =
        Request::get("/quote").header("host", "gateway").header("x-api-key", key).body(Empty::new())?;
    connection.ready().await?;
    let (parts, body) = connection.send_request(request).await?.into_parts();
    let body = http_body_util::BodyExt::collect(body).await?.to_bytes();
    Ok((parts.status, parts.headers, String::from_utf8_lossy(&body).into_owned()))
}

fn print_table(answers: &Answers) {
    let mut reasons: BTreeMap<&str, BTreeMap<Plan, usize>> = BTreeMap::new();
    for (plan, answer) in answers {
        *reasons.entry(answer).or_default().entry(*plan).or_default() += 1;
    }
    println!("{:<28} {:>9} {:>9} {:>9}", "a second", "premium", "standard", "basic");
    let row = |label: &str, of_plan: &dyn Fn(Plan) -> usize| {
        let cells =
            [Premium, Standard, Basic].map(|plan| format!("{:.0}", of_plan(plan) as f64 / SECONDS as f64));
        println!("{label:<28} {:>9} {:>9} {:>9}", cells[0], cells[1], cells[2]);
    };
    row("sent", &|plan| answers.iter().filter(|answer| answer.0 == plan).count());
    for (reason, plans) in &reasons {
        row(reason, &|plan| plans.get(&plan).copied().unwrap_or(0));
    }
    let ok = |plan| reasons.get("ok").and_then(|plans| plans.get(&plan)).copied().unwrap_or(0) as u64;
    let all = ok(Premium) + ok(Standard) + ok(Basic);
    println!(
        "\n{all} requests were served in {SECONDS} s, of {} that the backend bears.",
        CAPACITY * SECONDS
    );
    // What must hold: the whole is not exceeded, and a better plan gets the share that is kept for it.
    assert!(all <= CAPACITY * (SECONDS + 1) + 30, "the backend was given too much");
    assert!(ok(Premium) > 0 && ok(Standard) > 0);
    let sent = |plan| answers.iter().filter(|answer| answer.0 == plan).count() as u64;
    assert!(
        ok(Premium) * sent(Basic) >= ok(Basic) * sent(Premium),
        "a basic client was served before a premium one"
    );
}

/// A client that waits as long as Retry-After says is admitted.
async fn who_obeys_is_admitted(address: SocketAddr) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut connection = connect(address).await?;
    for _ in 0..50 {
        let (status, headers, _) = ask(&mut connection, "basic-obedient").await?;
        if status == StatusCode::TOO_MANY_REQUESTS {
            let wait = headers::parse_wait(&headers, std::time::SystemTime::now(), Duration::from_secs(5));
            let wait = wait.ok_or("a 429 without a time to wait")?;
            sleep(wait).await;
            let (status, headers, _) = ask(&mut connection, "basic-obedient").await?;
            assert_eq!(status, StatusCode::OK, "it waited {wait:?} as it was told");
            let left = headers.get("ratelimit").ok_or("no word on what is left")?.to_str()?;
            println!(
                "\nOne was told to wait {wait:?}, did, and was admitted; it was also told \"ratelimit: {left}\"."
            );
            return Ok(());
        }
    }
    Err("a client that asks 50 times at once was never limited".into())
}
