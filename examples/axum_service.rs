//! An axum service behind a wall: so many requests at once, so many per second, and so much time for each.
//!
//! `cargo run --example axum_service` starts it on a port of the loopback, sends it more than it can bear, prints what came back
//! and why, and ends. The router and the error handler come first: start from them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error as StdError;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use axum::Router;
use axum::error_handling::HandleErrorLayer;
use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use floodwall::tower::PolicyLayer;
use floodwall::{Acquire, Bulkhead, Error, Once, Policy, Reason, Timeout, TokenBucket, headers};
use tower::ServiceBuilder;

/// What the service puts up with. Outermost first, and in this order for a reason: who waits for a place in vain has
/// not used up a token of the database's quota, and the time in line does not count against the query.
fn wall() -> impl Policy<Response, Infallible> + Once {
    (
        // Eight reports at once; the others wait a moment for their turn, since most reports are quick.
        Bulkhead::new(8).name("reports").wait_up_to(Duration::from_millis(50)),
        // Forty queries a second, and as many in one go after a quiet second.
        TokenBucket::per_second(40).name("database"),
        // A report that takes longer is dropped where it stands.
        Timeout::new(Duration::from_millis(250)).name("report"),
    )
}

/// The service. Its wall is an argument, so that tests can bring one whose clock they hold in their hands.
fn router(wall: impl Policy<Response, Infallible> + Once + 'static) -> Router {
    Router::new()
        .route("/report/{id}", get(report))
        .layer(
            ServiceBuilder::new()
                // Outside the wall: makes answers of the wall's errors, since axum takes no others.
                .layer(HandleErrorLayer::new(turned_away::<Infallible>))
                // One wall for all routes above and for all clones of the router: the counts are shared.
                .layer(PolicyLayer::new(wall)),
        )
        // Added after the layer, so not behind the wall: health checks get through when the service is busy.
        .route("/health", get(|| async { "well" }))
}

async fn report(Path(id): Path<u32>) -> String {
    // Report 13 joins tables without an index.
    let takes = if id == 13 { Duration::from_secs(30) } else { Duration::from_millis(40) };
    tokio::time::sleep(takes).await;
    format!("report {id}")
}

/// Makes an answer of each way in which a call can end badly.
///
/// A [`Router`] cannot fail: its `E` is `Infallible`, and a handler's own 500 passes the wall as the answer that it is.
/// A wall around something that can fail, such as a client, ends in the first case as well.
async fn turned_away<E: StdError>(error: Error<E>) -> Response {
    match error {
        // It ran and failed.
        Error::Inner(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),

        // It never ran, so it may be sent again, even if it is a POST.
        Error::Rejected(rejected) => {
            let status = match rejected.reason() {
                // The client asks too often.
                Reason::RateLimited => StatusCode::TOO_MANY_REQUESTS,
                // We are too busy, or something that we need is down.
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            // A rate limit knows when it has room again; a bulkhead cannot know, and a second is a fair guess.
            let wait = rejected.retry_after().unwrap_or(Duration::from_secs(1));
            let why = format!("{}: {}", rejected.by(), rejected.reason());
            (status, [headers::retry_after(wait)], why).into_response()
        }

        // It ran out of time, and how far it came is not known.
        Error::TimedOut(timed_out) => (StatusCode::GATEWAY_TIMEOUT, timed_out.to_string()).into_response(),
    }
}

// From here on: a crowd of clients, and what they were told.

const CLIENTS: u32 = 24;
const REQUESTS_OF_EACH: u32 = 6;

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError + Send + Sync>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    println!(
        "listening on http://{address}, where {CLIENTS} clients send {REQUESTS_OF_EACH} requests each\n"
    );
    tokio::spawn(async move { axum::serve(listener, router(wall())).await });

    // The first comes alone and gets what there is. Then the crowd: each client has a connection of its own, and sends
    // its next request as soon as it has an answer.
    let mut answers = ask_for_reports(address, 12..14).await?;
    let crowd: Vec<_> = (1..=CLIENTS)
        .map(|client| tokio::spawn(ask_for_reports(address, client..client + REQUESTS_OF_EACH)))
        .collect();
    for client in crowd {
        answers.extend(client.await??);
    }
    let mut table = BTreeMap::new();
    for answer in answers {
        *table.entry(answer).or_insert(0) += 1;
    }

    println!("{:>6}  {:>7}  {:>11}  why", "status", "answers", "retry after");
    for (Answer { status, retry_after, why }, answers) in &table {
        let wait = retry_after.map_or("-".to_string(), |seconds| format!("{seconds} s"));
        println!("{status:>6}  {answers:>7}  {wait:>11}  {why}");
    }

    let total = |statuses: &[u16]| -> u32 {
        table.iter().filter(|(answer, _)| statuses.contains(&answer.status)).map(|(_, answers)| answers).sum()
    };
    assert!(total(&[200]) > 0, "some get their report");
    assert!(total(&[429, 503]) > 0, "a crowd like this is not all let in");
    assert!(total(&[504]) > 0, "report 13 takes too long");
    assert_eq!(total(&[200, 429, 503, 504]), 2 + CLIENTS * REQUESTS_OF_EACH, "each request has its answer");
    for answer in table.keys() {
        let told_to_come_back = matches!(answer.retry_after, Some(1..));
        assert_eq!(told_to_come_back, matches!(answer.status, 429 | 503), "{answer:?}");
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Answer {
    status: u16,
    /// In seconds.
    retry_after: Option<u64>,
    why: String,
}

impl Answer {
    async fn read(response: Response) -> Result<Self, axum::Error> {
        let (head, body) = response.into_parts();
        let wait = head.headers.get(header::RETRY_AFTER);
        let body = axum::body::to_bytes(body, 1 << 16).await?;
        let body = String::from_utf8_lossy(&body);
        Ok(Self {
            status: head.status.as_u16(),
            retry_after: wait.and_then(|seconds| seconds.to_str().ok()?.parse().ok()),
            why: if head.status.is_success() { "a report".to_string() } else { body.into_owned() },
        })
    }
}

/// Sends one request after another over one connection.
async fn ask_for_reports(
    address: SocketAddr,
    ids: Range<u32>,
) -> Result<Vec<Answer>, Box<dyn StdError + Send + Sync>> {
    let stream = hyper_util::rt::TokioIo::new(tokio::net::TcpStream::connect(address).await?);
    let (mut connection, driver) = hyper::client::conn::http1::handshake(stream).await?;
    tokio::spawn(driver);
    let mut answers = Vec::new();
    for id in ids {
        connection.ready().await?;
        let request = hyper::Request::get(format!("/report/{id}"))
            .header(header::HOST, address.to_string())
            .body(axum::body::Body::empty())?;
        let response = connection.send_request(request).await?;
        answers.push(Answer::read(response.into_response()).await?);
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::body::Body;
    use axum::http::Request;
    use floodwall::{Clock, Gate, Rejected, TimedOut};
    use tower::ServiceExt;

    use super::*;

    async fn ask(router: &Router, path: &str) -> (u16, Option<u64>, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let Answer { status, retry_after, why } = Answer::read(response).await.unwrap();
        (status, retry_after, why)
    }

    #[tokio::test(start_paused = true)]
    async fn clones_of_the_router_share_the_limit_and_are_told_when_to_come_back() {
        let clock = Clock::manual();
        let bucket = TokenBucket::per(3, Duration::from_secs(10)).clock(clock.clone()).name("quota");
        let router = router((bucket,));
        let mut statuses = Vec::new();
        for id in 0..10 {
            statuses.push(ask(&router.clone(), &format!("/report/{id}")).await.0);
        }
        assert_eq!(statuses, [200, 200, 200, 429, 429, 429, 429, 429, 429, 429]);

        // A token comes back each 3.33 s.
        let turned_away = |seconds| (429, Some(seconds), "quota: rate limited".to_string());
        assert_eq!(ask(&router, "/report/1").await, turned_away(4));
        clock.advance(Duration::from_secs(3));
        assert_eq!(ask(&router, "/report/1").await, turned_away(1));
        clock.advance(Duration::from_secs(1));
        assert_eq!(ask(&router, "/report/1").await.0, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_house_is_a_503_and_the_health_check_still_gets_through() {
        let bulkhead = Arc::new(Bulkhead::new(1).name("reports"));
        let router = router((bulkhead.clone(),));
        let permit = bulkhead.try_acquire().unwrap();
        assert_eq!(ask(&router, "/report/1").await, (503, Some(1), "reports: bulkhead full".to_string()));
        assert_eq!(ask(&router, "/health").await.0, 200);
        permit.success();
        assert_eq!(ask(&router, "/report/1").await.0, 200);
        assert_eq!(bulkhead.running(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_that_takes_too_long_is_a_504_and_its_place_is_free_again() {
        let bulkhead = Arc::new(Bulkhead::new(1));
        let router = router((bulkhead.clone(), Timeout::new(Duration::from_secs(2)).name("report")));
        let timed_out = "report: timed out after 2s".to_string();
        assert_eq!(ask(&router, "/report/13").await, (504, None, timed_out));
        assert_eq!(bulkhead.running(), 0);
        assert_eq!(ask(&router, "/report/12").await.0, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn the_wall_of_the_program_lets_one_client_in() {
        let router = router(wall());
        assert_eq!(ask(&router, "/report/1").await.0, 200);
        assert_eq!(ask(&router, "/report/13").await.0, 504);
        assert_eq!(ask(&router, "/report/x").await.0, 400);
        assert_eq!(ask(&router, "/nowhere").await.0, 404);
    }

    #[tokio::test]
    async fn each_way_to_end_badly_has_a_status_of_its_own() {
        let wait = Duration::from_millis(2001);
        let cases = [
            (Error::Inner(std::io::Error::other("disk full")), 502, None),
            (Rejected::new("quota", Reason::RateLimited).after(wait).into(), 429, Some(3)),
            (Rejected::new("search", Reason::CircuitOpen).after(Duration::from_secs(5)).into(), 503, Some(5)),
            (Rejected::new("reports", Reason::BulkheadFull).into(), 503, Some(1)),
            (TimedOut::new("report", Duration::from_secs(2)).into(), 504, None),
        ];
        for (error, status, retry_after) in cases {
            let answer = Answer::read(turned_away(error).await).await.unwrap();
            assert_eq!((answer.status, answer.retry_after), (status, retry_after), "{answer:?}");
        }
    }
}
