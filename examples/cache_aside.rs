//! A web service with a cache in front of its database, and the same service without.
//!
//! ```text
//! cargo run --release --example cache_aside --features sqlite
//! ```
//!
//! It makes a shop of 100,000 products in SQLite, starts the service twice on this machine, sends both the same load in
//! turn, and then a crowd of clients that all want the same product at the same moment. It shows what came of
//! it, and fails if something did not hold.
//!
//! [`Products`], [`cached`] and [`service`] are what you would start from. Below them come the clients and the tables.

use std::error::Error as StdError;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::Path as FilePath;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use floodwall::store::{BlockingStore, CachedStore, Store};
use floodwall::{Cache, Histogram};
use rusqlite::{Connection, OptionalExtension};

#[derive(Clone, Debug, PartialEq)]
struct Product {
    name: String,
    category: u32,
    cents: u32,
    sold: u32,
    /// Its place among those of its category, by how often they were sold. The database knows it.
    rank: u32,
}

/// The products in the database.
struct Products {
    reader: Mutex<Connection>,
    writer: Mutex<Connection>,
    queries: AtomicU64,
}

impl BlockingStore<u32, Product> for Products {
    type Error = rusqlite::Error;

    fn load(&self, id: &u32) -> rusqlite::Result<Option<Product>> {
        self.queries.fetch_add(1, Relaxed);
        let reader = self.reader.lock().unwrap();
        let mut select = reader.prepare_cached(
            "SELECT name, category, cents, sold, 1 + (SELECT count(*) FROM product AS other \
             WHERE other.category = product.category AND other.sold > product.sold) \
             FROM product WHERE id = ?1",
        )?;
        let product = select.query_row([id], |row| {
            let (name, category, cents) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(Product { name, category, cents, sold: row.get(3)?, rank: row.get(4)? })
        });
        product.optional()
    }

    fn save(&self, id: &u32, product: &Product) -> rusqlite::Result<()> {
        let Product { name, category, cents, sold, rank: _ } = product;
        let writer = self.writer.lock().unwrap();
        let mut replace = writer.prepare_cached("REPLACE INTO product VALUES (?1, ?2, ?3, ?4, ?5)")?;
        replace.execute((id, name, category, cents, sold)).map(drop)
    }

    fn remove(&self, id: &u32) -> rusqlite::Result<()> {
        self.writer.lock().unwrap().execute("DELETE FROM product WHERE id = ?1", [id]).map(drop)
    }
}

/// Puts a cache in front of the products. It is a store as well, so the service need not know of it.
fn cached<S: Store<u32, Product> + 'static>(products: S) -> CachedStore<u32, Product, S> {
    let cache = Cache::builder(10_000)
        // A page may be a minute old: the rank of a product changes when others are sold, of which the cache hears nothing.
        .ttl(Duration::from_secs(60))
        .jitter(0.1)
        // That there is no such product is known for less long.
        .negative_ttl(Duration::from_secs(5))
        // While the database is down, an old page is better than none.
        .stale_if_error(Duration::from_secs(3600))
        .build();
    // What is read is not what was written, since the database adds the rank: so a write removes what is cached. Where both
    // are the same, `write_through` saves the next load.
    CachedStore::invalidating(cache, products)
}

/// The service, over any store of products.
fn service<S>(products: Arc<S>) -> Router
where
    S: Store<u32, Product> + 'static,
    S::Error: Display,
{
    Router::new()
        .route("/products/{id}", get(show::<S>))
        .route("/products/{id}/price/{cents}", put(set_price::<S>))
        .with_state(products)
}

async fn show<S>(State(products): State<Arc<S>>, Path(id): Path<u32>) -> Response
where
    S: Store<u32, Product>,
    S::Error: Display,
{
    match products.load(&id).await {
        Ok(Some(Product { name, cents, rank, category, .. })) => {
            let price = f64::from(cents) / 100.0;
            format!("{name}: {price:.2}, number {rank} of category {category}").into_response()
        }
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

async fn set_price<S>(State(products): State<Arc<S>>, Path((id, cents)): Path<(u32, u32)>) -> Response
where
    S: Store<u32, Product>,
    S::Error: Display,
{
    // Two who do this at the same time to one product lose a change; a shop would let the database do it in one step.
    let saved = match products.load(&id).await {
        Ok(Some(product)) => products.save(&id, &Product { cents, ..product }).await,
        Ok(None) => return StatusCode::NOT_FOUND.into_response(),
        Err(error) => Err(error),
    };
    match saved {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

// From here on: the shop's shelves are filled, clients come, and what they met is told.

const PRODUCTS: u32 = 100_000;
const CATEGORIES: u32 = 200;
const CLIENTS: u32 = 16;
/// Both services are under load in turn, so that what else the machine does hits both.
const TURNS: u32 = 10;
const TURN: Duration = Duration::from_millis(150);
const CROWD: usize = 200;

impl Products {
    /// Makes a shop in the file of the database.
    fn create(file: &FilePath) -> rusqlite::Result<Self> {
        let (reader, mut writer) = (Connection::open(file)?, Connection::open(file)?);
        writer.pragma_update(None, "journal_mode", "WAL")?;
        writer.execute_batch(
            "CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT NOT NULL, category INTEGER NOT NULL, \
             cents INTEGER NOT NULL, sold INTEGER NOT NULL)",
        )?;
        let fill = writer.transaction()?;
        {
            let mut insert = fill.prepare("INSERT INTO product VALUES (?1, ?2, ?3, ?4, ?5)")?;
            let mut dice = Dice(7);
            for id in 1..=PRODUCTS {
                let (cents, sold) = (100 + dice.up_to(10_000), dice.up_to(1_000));
                insert.execute((id, format!("product {id}"), id % CATEGORIES, cents, sold))?;
            }
        }
        fill.execute_batch("CREATE INDEX by_category ON product (category)")?;
        fill.commit()?;
        let queries = AtomicU64::new(0);
        Ok(Self { reader: Mutex::new(reader), writer: Mutex::new(writer), queries })
    }
}

/// Numbers that only look random.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn up_to(&mut self, end: u32) -> u32 {
        (self.next() % u64::from(end)) as u32
    }

    /// A product, of which the n-th is asked for a n-th as often as the first.
    fn product(&mut self) -> u32 {
        let share = self.next() as f64 / (1_u64 << 31) as f64;
        (f64::from(PRODUCTS).powf(share) as u32).clamp(1, PRODUCTS)
    }
}

type Fallible<T> = Result<T, Box<dyn StdError + Send + Sync>>;

/// A connection to the service, over which requests go one after the other.
struct Client {
    connection: hyper::client::conn::http1::SendRequest<Body>,
    host: String,
}

impl Client {
    async fn connect(address: SocketAddr) -> Fallible<Self> {
        let stream = hyper_util::rt::TokioIo::new(tokio::net::TcpStream::connect(address).await?);
        let (connection, driver) = hyper::client::conn::http1::handshake(stream).await?;
        tokio::spawn(driver);
        Ok(Self { connection, host: address.to_string() })
    }

    async fn ask(&mut self, method: Method, path: String) -> Fallible<(StatusCode, String)> {
        self.connection.ready().await?;
        let request = Request::builder().method(method).uri(path).header(header::HOST, &self.host);
        let response = self.connection.send_request(request.body(Body::empty())?).await?.into_response();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1 << 16).await?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    async fn product(&mut self, id: u32) -> Fallible<String> {
        let (status, page) = self.ask(Method::GET, format!("/products/{id}")).await?;
        if status.is_success() { Ok(page) } else { Err(format!("product {id}: {status} {page}").into()) }
    }
}

async fn start(router: Router) -> Fallible<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

/// Asks for one product after another, and returns how long the answers took.
async fn load(address: SocketAddr, turn: u32) -> Fallible<Histogram> {
    let latencies = Arc::new(Histogram::new());
    let end = Instant::now() + TURN;
    let client = |number: u32| {
        let latencies = latencies.clone();
        tokio::spawn(async move {
            let seed = u64::from(turn * CLIENTS + number);
            let (mut client, mut dice) = (Client::connect(address).await?, Dice(seed));
            while Instant::now() < end {
                let start = Instant::now();
                client.product(dice.product()).await?;
                latencies.record(start.elapsed());
            }
            Fallible::Ok(())
        })
    };
    let clients: Vec<_> = (1..=CLIENTS).map(client).collect();
    for client in clients {
        client.await??;
    }
    Arc::into_inner(latencies).ok_or_else(|| "a client goes on".into())
}

/// Has a crowd ask for the same product at the same moment, and returns when the last one had its answer.
async fn stampede(address: SocketAddr) -> Fallible<Duration> {
    let gate = Arc::new(tokio::sync::Barrier::new(CROWD + 1));
    let client = |_| {
        let gate = gate.clone();
        tokio::spawn(async move {
            let mut client = Client::connect(address).await?;
            gate.wait().await;
            client.product(1).await
        })
    };
    let crowd: Vec<_> = (0..CROWD).map(client).collect();
    gate.wait().await;
    let start = Instant::now();
    for client in crowd {
        client.await??;
    }
    Ok(start.elapsed())
}

#[tokio::main]
async fn main() -> Fallible<()> {
    let folder = std::env::temp_dir().join(format!("floodwall-cache-aside-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let shown = show_both(&folder.join("shop")).await;
    std::fs::remove_dir_all(&folder)?;
    shown
}

async fn show_both(file: &FilePath) -> Fallible<()> {
    let start = Instant::now();
    let products = Products::create(file)?.offload(|job| drop(tokio::task::spawn_blocking(job)));
    let products = Arc::new(products);
    let queries = || products.store().queries.swap(0, Relaxed);
    println!("{PRODUCTS} products in SQLite, made in {:.1?}; a page is one query\n", start.elapsed());

    let cached = cached(products.clone());
    let without = start_and_say("without", service(products.clone())).await?;
    let with = start_and_say("with a cache of 10,000 of them", service(Arc::new(cached.clone()))).await?;
    println!(
        "\n{CLIENTS} clients ask both in turn, {TURNS} times {TURN:?} each; the n-th product a n-th as often as the first"
    );
    let mut tables = [("without cache", without), ("with cache", with)].map(|(name, address)| Table {
        name,
        address,
        latencies: Histogram::new(),
        queries: 0,
    });
    queries();
    for turn in 0..TURNS {
        for table in &mut tables {
            table.latencies.merge(&load(table.address, turn).await?);
            table.queries += queries();
        }
    }
    println!("{:<14}{:>12}{:>10}{:>8}{:>12}{:>12}", "", "requests", "queries", "hits", "median", "p99");
    let [without_hits, with_hits] = tables.each_ref().map(Table::show);
    assert_eq!(without_hits, 0.0, "without a cache each page is a query");
    assert!(with_hits > 0.2, "most pages are those of some products");
    println!("the cache itself says: {:.0} % hits", cached.cache().stats().hit_ratio() * 100.0);

    println!("\n{CROWD} clients ask for product 1 at the same moment, which is not in the cache");
    for (name, address, expected) in [("without cache", without, CROWD as u64), ("with cache", with, 1)] {
        cached.cache().remove(&1);
        let took = stampede(address).await?;
        let queries = queries();
        println!("{name:<14}{queries:>4} queries, the last answer after {took:.1?}");
        assert_eq!(queries, expected);
    }

    let mut client = Client::connect(with).await?;
    let before = client.product(1).await?;
    client.ask(Method::PUT, "/products/1/price/1234".to_string()).await?;
    let after = client.product(1).await?;
    println!("\na new price is seen at once: {before} -> {after}");
    assert!(after.starts_with("product 1: 12.34"));
    assert_eq!(client.ask(Method::GET, "/products/0".to_string()).await?.0, StatusCode::NOT_FOUND);
    Ok(())
}

/// What a service did under load.
struct Table {
    name: &'static str,
    address: SocketAddr,
    latencies: Histogram,
    queries: u64,
}

impl Table {
    /// Prints it, and returns the share of the pages that were no query.
    fn show(&self) -> f64 {
        let Self { name, latencies, queries, .. } = self;
        let requests = latencies.count();
        let hits = 1.0 - *queries as f64 / requests as f64;
        let at = |quantile| format!("{:.2?}", latencies.quantile(quantile).unwrap_or_default());
        let (median, tail) = (at(0.5), at(0.99));
        println!("{name:<14}{requests:>12}{queries:>10}{:>7.0}%{median:>12}{tail:>12}", hits * 100.0);
        hits
    }
}

async fn start_and_say(what: &str, router: Router) -> Fallible<SocketAddr> {
    let address = start(router).await?;
    println!("http://{address}/products/1  {what}");
    Ok(address)
}

#[cfg(test)]
mod tests {
    use floodwall::store::MemoryStore;
    use tower::ServiceExt;

    use super::*;

    async fn ask(router: &Router, method: &str, path: &str) -> (StatusCode, String) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn the_service_answers_the_same_with_a_cache_and_without() {
        let product = Product { name: "soap".to_string(), category: 3, cents: 250, sold: 9, rank: 1 };
        for is_cached in [false, true] {
            let store = Arc::new(MemoryStore::new());
            store.save(&7, &product).await.unwrap();
            let router = if is_cached { service(Arc::new(cached(store))) } else { service(store) };
            let page = |price: &str| (StatusCode::OK, format!("soap: {price}, number 1 of category 3"));
            assert_eq!(ask(&router, "GET", "/products/7").await, page("2.50"));
            assert_eq!(ask(&router, "PUT", "/products/7/price/199").await.0, StatusCode::NO_CONTENT);
            assert_eq!(ask(&router, "GET", "/products/7").await, page("1.99"));
            assert_eq!(ask(&router, "GET", "/products/8").await.0, StatusCode::NOT_FOUND);
        }
    }
}
