//! Stacks as tower layers in real servers and clients, over the loopback.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use floodwall::tower::PolicyLayer;
use floodwall::{Acquire, Bulkhead, Clock, Constant, Error, Outcome, Reason, Retry, Timeout, TokenBucket};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tower::util::BoxCloneService;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

type Answer = Response<Full<Bytes>>;

/// Serves each connection to a port of the loopback with a clone of `service`.
async fn serve<S, B>(service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError> + Send,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service.clone();
            let service = hyper::service::service_fn(move |request| service.clone().oneshot(request));
            let server = hyper::server::conn::http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

async fn connect(address: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn get(connection: &mut SendRequest<Full<Bytes>>) -> (u16, Option<String>) {
    connection.ready().await.unwrap();
    let request = Request::get("/").header(header::HOST, "localhost").body(Full::default()).unwrap();
    let (head, body) = connection.send_request(request).await.unwrap().into_parts();
    body.collect().await.unwrap();
    let wait = head.headers.get(header::RETRY_AFTER).map(|wait| wait.to_str().unwrap().to_string());
    (head.status.as_u16(), wait)
}

/// What a server says about a call that its stack did not let through.
///
/// No error is left; the type stays, since tower converts errors of `poll_ready` into it.
fn answered(result: Result<Answer, Error<Infallible>>) -> Result<Answer, Error<Infallible>> {
    let error = match result {
        Ok(answer) => return Ok(answer),
        Err(error) => error,
    };
    let status = match &error {
        Error::Inner(never) => match *never {},
        Error::Rejected(rejected) if rejected.reason() == Reason::RateLimited => {
            StatusCode::TOO_MANY_REQUESTS
        }
        Error::Rejected(_) => StatusCode::SERVICE_UNAVAILABLE,
        Error::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
    };
    let mut answer = Response::new(Full::from(error.to_string()));
    *answer.status_mut() = status;
    if let Some(wait) = error.retry_after() {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    Ok(answer)
}

/// Trap R19.
#[tokio::test(flavor = "multi_thread")]
async fn the_connections_of_a_server_share_its_rate_and_the_rest_is_answered_429() {
    let clock = Clock::manual();
    let bucket = TokenBucket::per(4, MINUTE).clock(clock.clone());
    let greet = service_fn(|_: Request<Incoming>| async { Ok::<_, Infallible>(Answer::default()) });
    let service =
        ServiceBuilder::new().map_result(answered).layer(PolicyLayer::new((bucket,))).service(greet);
    let address = serve(service).await;
    let clients: Vec<_> = (0..10)
        .map(|_| {
            tokio::spawn(async move {
                let mut connection = connect(address).await;
                [get(&mut connection).await, get(&mut connection).await]
            })
        })
        .collect();
    let mut answers = Vec::new();
    for client in clients {
        answers.extend(client.await.unwrap());
    }
    answers.sort();
    let (passed, turned_away) = answers.split_at(4);
    assert_eq!(passed, vec![(200, None); 4]);
    assert_eq!(turned_away, vec![(429, Some("15".to_string())); 16]);

    let mut connection = connect(address).await;
    clock.advance(Duration::from_millis(1));
    assert_eq!(get(&mut connection).await, (429, Some("15".to_string())));
    clock.advance(Duration::from_millis(13_999));
    assert_eq!(get(&mut connection).await, (429, Some("1".to_string())));
    clock.advance(SECOND);
    assert_eq!(get(&mut connection).await, (200, None));
}

/// A service that tells when a request has come in, and answers when a permit is added to the semaphore.
fn held_back(
    came_in: tokio::sync::mpsc::UnboundedSender<()>,
    answer: Arc<tokio::sync::Semaphore>,
) -> BoxCloneService<Request<Incoming>, Answer, Infallible> {
    let service = service_fn(move |_: Request<Incoming>| {
        let (came_in, answer) = (came_in.clone(), answer.clone());
        async move {
            came_in.send(()).unwrap();
            answer.acquire().await.unwrap().forget();
            Ok(Answer::default())
        }
    });
    service.boxed_clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_answers_503_while_its_bulkhead_is_full() {
    let (came_in, mut incoming) = tokio::sync::mpsc::unbounded_channel();
    let answer = Arc::new(tokio::sync::Semaphore::new(0));
    let bulkhead = Arc::new(Bulkhead::new(2));
    let service = ServiceBuilder::new()
        .then(|result| async { answered(result) })
        .layer(PolicyLayer::new((bulkhead.clone(),)))
        .service(held_back(came_in, answer.clone()));
    let address = serve(service).await;
    let held = [(); 2].map(|()| tokio::spawn(async move { get(&mut connect(address).await).await }));
    incoming.recv().await.unwrap();
    incoming.recv().await.unwrap();
    let mut third = connect(address).await;
    assert_eq!(get(&mut third).await, (503, None));
    assert_eq!(bulkhead.running(), 2);
    answer.add_permits(3);
    for client in held {
        assert_eq!(client.await.unwrap(), (200, None));
    }
    assert_eq!(get(&mut third).await, (200, None));
    assert_eq!(bulkhead.running(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_gives_the_place_of_its_call_back() {
    let (came_in, mut incoming) = tokio::sync::mpsc::unbounded_channel();
    let bulkhead = Arc::new(Bulkhead::new(1));
    let service = ServiceBuilder::new()
        .map_result(answered)
        .layer(PolicyLayer::new((bulkhead.clone(), Timeout::new(MINUTE))))
        .service(held_back(came_in, Arc::new(tokio::sync::Semaphore::new(0))));
    let address = serve(service).await;
    let stream = TcpStream::connect(address).await.unwrap();
    stream.writable().await.unwrap();
    stream.try_write(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    incoming.recv().await.unwrap();
    assert_eq!(bulkhead.running(), 1);
    drop(stream);
    let permit = tokio::time::timeout(MINUTE, bulkhead.acquire()).await.unwrap().unwrap();
    assert_eq!(bulkhead.running(), 1);
    permit.success();
}

/// A body that is made as it is sent: `Send`, and neither `Clone` nor `Sync`.
struct Chunks(Cell<u32>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        Poll::Ready((left > 0).then(|| Ok(Frame::data(Bytes::from_static(b"chunk")))))
    }
}

async fn chunks_in<B: Body<Data = Bytes, Error: std::fmt::Debug>>(body: B) -> u32 {
    body.collect().await.unwrap().to_bytes().len() as u32 / 5
}

#[tokio::test(flavor = "multi_thread")]
async fn streaming_bodies_pass_a_stack_in_a_client_and_in_a_server() {
    // Takes any body apart and answers with twice as many chunks.
    let double = service_fn(|request: Request<UnsyncBoxBody<Bytes, hyper::Error>>| async {
        let chunks = chunks_in(request.into_body()).await;
        Ok::<_, Infallible>(Response::new(Chunks(Cell::new(2 * chunks))))
    });
    let server = (Bulkhead::new(8).wait_up_to(SECOND), TokenBucket::per_second(100), Timeout::new(MINUTE));
    let service = ServiceBuilder::new()
        .map_err(Error::lift::<BoxError>)
        .map_request(|request: Request<Incoming>| request.map(BodyExt::boxed_unsync))
        .layer(PolicyLayer::new(server))
        .service(double);
    let address = serve(service).await;

    let client = Client::builder(TokioExecutor::new()).build_http::<Chunks>();
    let stack = (Timeout::new(MINUTE), Bulkhead::new(4).wait_up_to(MINUTE));
    let client = ServiceBuilder::new().layer(PolicyLayer::new(stack)).service(client);
    let uploads: Vec<_> = (1..=8)
        .map(|chunks| {
            let upload = Request::post(format!("http://{address}/")).body(Chunks(Cell::new(chunks))).unwrap();
            tokio::spawn(client.clone().oneshot(upload))
        })
        .collect();
    for (chunks, upload) in (1..).zip(uploads) {
        let answer = upload.await.unwrap().unwrap();
        assert_eq!(chunks_in(answer.into_body()).await, 2 * chunks);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_repeats_a_get_that_was_answered_503_and_never_a_post() {
    let hits = Arc::new(AtomicUsize::new(0));
    let flaky = {
        let hits = hits.clone();
        service_fn(move |_: Request<Incoming>| {
            let hit = hits.fetch_add(1, Ordering::SeqCst);
            let mut answer = Answer::default();
            if hit % 3 < 2 {
                *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            async move { Ok::<_, Infallible>(answer) }
        })
    };
    let address = serve(flaky).await;

    type Failure = Error<hyper_util::client::legacy::Error>;
    let unavailable = Retry::new(Constant::new(Duration::ZERO).attempts(5)).judge(
        |result: &Result<Response<Incoming>, Failure>| match result {
            Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => Outcome::Failure,
            Ok(_) => Outcome::Success,
            Err(_) => Outcome::Failure,
        },
    );
    // The body of a GET is empty and can be made again; that of a POST is on its way once it has been sent.
    let copy = |request: &Request<Chunks>| {
        (request.method() == Method::GET)
            .then(|| Request::get(request.uri().clone()).body(Chunks(Cell::new(0))).unwrap())
    };
    let client = Client::builder(TokioExecutor::new()).build_http::<Chunks>();
    let client = ServiceBuilder::new()
        .layer(PolicyLayer::repeating((unavailable, Timeout::new(MINUTE)), copy))
        .service(client);

    let get = Request::get(format!("http://{address}/")).body(Chunks(Cell::new(0))).unwrap();
    assert_eq!(client.clone().oneshot(get).await.unwrap().status(), StatusCode::OK);
    assert_eq!(hits.load(Ordering::SeqCst), 3);
    let post = Request::post(format!("http://{address}/")).body(Chunks(Cell::new(3))).unwrap();
    assert_eq!(client.oneshot(post).await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(hits.load(Ordering::SeqCst), 4);
}
