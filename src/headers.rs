//! Answers for HTTP: what to tell a client that was turned away, and what a server that turned you away asks for.
//!
//! Strings in and out, so that it works with any HTTP library: field names are lower case, as HTTP/2 wants them, and
//! values are ASCII that needs no check, whatever a limit was named. When **not** to use it: between services of your
//! own that speak something richer; a header knows whole seconds only.
//!
//! | field | written | read | defined in |
//! |---|---|---|---|
//! | `Retry-After` | [`retry_after`] | [`parse_retry_after`], [`parse_wait`] | RFC 9110, section 10.2.3 |
//! | `RateLimit` | [`of`] | [`parse_wait`] | draft-ietf-httpapi-ratelimit-headers-11 (May 2026) |
//! | `RateLimit-Policy` | [`of`] | | the same |
//! | `X-RateLimit-Limit` | [`legacy`] | | a custom, as GitHub and Twitter have it |
//! | `X-RateLimit-Remaining`, `-Reset` | [`legacy`] | [`parse_wait`], also without the `X-` | the same |
//!
//! The draft is not a standard yet; these functions follow it as it changes, in minor releases.
//!
//! Seconds are rounded up: a client that waits as long as it was told is admitted, if nobody else took its place.
//!
//! # Examples
//!
//! A server turns a client away:
//!
//! ```
//! # use std::time::Duration;
//! use floodwall::{Clock, Gate, TokenBucket, headers};
//!
//! let bucket = TokenBucket::per(100, Duration::from_secs(250)).burst(1).name("search").clock(Clock::manual());
//! bucket.try_acquire()?.success();
//! let rejected = bucket.try_acquire().unwrap_err();
//!
//! let mut answer = String::from("HTTP/1.1 429 Too Many Requests\r\n");
//! let wait = rejected.retry_after().map(headers::retry_after);
//! for (name, value) in headers::of(&bucket.quota()).into_iter().chain(wait) {
//!     answer += &format!("{name}: {value}\r\n");
//! }
//! assert_eq!(answer, "HTTP/1.1 429 Too Many Requests\r\n\
//!     ratelimit-policy: \"search\";q=1;w=3\r\n\
//!     ratelimit: \"search\";r=0;t=3\r\n\
//!     retry-after: 3\r\n");
//! # Ok::<(), floodwall::Rejected>(())
//! ```
//!
//! A client obeys. [`Retry`](crate::Retry) waits as long as it was asked, or, if that is longer than its
//! [`max_wait`](crate::Retry::max_wait), gives up at once; so let `at_most` be more than that, or it comes back early.
//!
//! ```
//! # use std::time::{Duration, SystemTime};
//! use floodwall::{Blocking, Constant, Error, Outcome, Retry, headers};
//!
//! struct Answer { status: u16, headers: Vec<(&'static str, &'static str)> } // or your library's `HeaderMap`
//!
//! let retry = Retry::new(Constant::new(Duration::ZERO).attempts(5)).max_wait(Duration::from_secs(60)).judge(
//!     |result: &Result<Answer, Error<std::io::Error>>| match result {
//!         Ok(answer) if matches!(answer.status, 429 | 503) => Outcome::Throttled {
//!             retry_after: headers::parse_wait(
//!                 answer.headers.iter().copied(),
//!                 SystemTime::now(),
//!                 Duration::from_secs(300),
//!             ),
//!         },
//!         Ok(_) => Outcome::Success,
//!         Err(_) => Outcome::Failure,
//!     },
//! );
//! // "Come back at once", then "in an hour": the second is not worth the wait.
//! let mut answers = ["0", "3600"].into_iter();
//! let answer = retry.call_blocking(|| {
//!     Ok(Answer { status: 429, headers: vec![("Retry-After", answers.next().unwrap())] })
//! });
//! assert_eq!(answer.unwrap().headers, [("Retry-After", "3600")]);
//! ```

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::limit::Quota;

/// Writes the `Retry-After` of an answer such as 429 or 503: whole seconds, rounded up.
///
/// Give it what a [`Rejected`](crate::Rejected) or an [`Error`](crate::Error) says with its `retry_after()`; if that is
/// `None`, there is nothing to tell.
///
/// # Cost
///
/// One allocation: the value.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{Error, Reason, Rejected, headers};
///
/// let error: Error<()> = Rejected::new("db", Reason::CircuitOpen).after(Duration::from_millis(2001)).into();
/// let header = error.retry_after().map(headers::retry_after);
/// assert_eq!(header, Some(("retry-after", "3".to_string())));
/// ```
#[must_use]
pub fn retry_after(wait: Duration) -> (&'static str, String) {
    ("retry-after", whole_seconds(wait).to_string())
}

/// Writes `RateLimit-Policy` and `RateLimit`, as draft-ietf-httpapi-ratelimit-headers-11 has them.
///
/// They may go with every answer, not only with those that turn a client away. The policy says `q` per `w` seconds:
/// the quota's limit and window. The other says that within `t` seconds no more than `r` can be taken: what remains,
/// and when there is more. A nameless quota is called `default`. If several limits apply, *append* the headers of
/// each: both fields are lists.
///
/// A window of less than a second counts as one, since the draft knows no fractions: a client that paces itself by it
/// is slower than it could be.
///
/// # Cost
///
/// Two allocations: the values.
///
/// # Examples
///
/// ```
/// use floodwall::{Clock, TokenBucket, headers};
///
/// let bucket = TokenBucket::per_second(5).burst(20).clock(Clock::manual());
/// assert_eq!(headers::of(&bucket.quota()), [
///     ("ratelimit-policy", r#""default";q=20;w=4"#.to_string()),
///     ("ratelimit", r#""default";r=20;t=0"#.to_string()),
/// ]);
/// ```
#[must_use]
pub fn of(quota: &Quota) -> [(&'static str, String); 2] {
    let window = whole_seconds(quota.window).max(1);
    [
        ("ratelimit-policy", item(quota.name, ('q', quota.limit), ('w', window))),
        ("ratelimit", item(quota.name, ('r', quota.remaining), ('t', whole_seconds(quota.more_after)))),
    ]
}

/// Writes `X-RateLimit-Limit`, `-Remaining` and `-Reset`, for clients that know nothing newer.
///
/// The reset is the time at which more than the rest can be taken, in seconds since 1970, as GitHub and Twitter have
/// it. Others count seconds from now; a client that wants those finds them in the `RateLimit` of [`of`].
///
/// # Cost
///
/// Three allocations: the values.
///
/// # Examples
///
/// ```
/// # use std::time::{Duration, UNIX_EPOCH};
/// use floodwall::{Clock, Gate, TokenBucket, headers};
///
/// let bucket = TokenBucket::per_second(2).clock(Clock::manual());
/// bucket.try_acquire()?.success();
/// let now = UNIX_EPOCH + Duration::from_millis(1_800_000_000_600); // or SystemTime::now()
/// assert_eq!(headers::legacy(&bucket.quota(), now), [
///     ("x-ratelimit-limit", "2".to_string()),
///     ("x-ratelimit-remaining", "1".to_string()),
///     ("x-ratelimit-reset", "1800000002".to_string()),
/// ]);
/// # Ok::<(), floodwall::Rejected>(())
/// ```
#[must_use]
pub fn legacy(quota: &Quota, now: SystemTime) -> [(&'static str, String); 3] {
    let reset = since_1970(now).saturating_add(quota.more_after);
    [
        ("x-ratelimit-limit", quota.limit.to_string()),
        ("x-ratelimit-remaining", quota.remaining.to_string()),
        ("x-ratelimit-reset", whole_seconds(reset).to_string()),
    ]
}

/// Reads how long a server asks to be left alone from all the headers of its answer, capped at `at_most`.
///
/// Takes what an HTTP library has: a `&HeaderMap`, pairs of strings. The first of these that says something decides,
/// and if it is there more than once, the longest wait:
///
/// 1. `Retry-After`, see [`parse_retry_after`];
/// 2. `RateLimit`: the `t` of a policy whose `r` is 0;
/// 3. `X-RateLimit-Reset` if `X-RateLimit-Remaining` is 0, both also without the `X-`. A reset below a thousand million
///    is seconds from now, any other is seconds since 1970: both are in use.
///
/// `None` if nothing was said, or nothing that makes sense: each malformed header is ignored. A time that is past is no
/// wait at all. Whatever a server writes, this does not panic, and returns no more than `at_most`: choose the longest
/// wait that makes sense to you, since a hostile or broken server may ask for a thousand years. Five minutes is a good
/// start.
///
/// # Cost
///
/// No allocation; a few comparisons per header.
///
/// # Examples
///
/// ```
/// # use std::time::{Duration, SystemTime};
/// use floodwall::headers::parse_wait;
///
/// let (now, minute) = (SystemTime::now(), Duration::from_secs(60));
/// let headers = [("Content-Length", "0"), ("RateLimit", r#""hour";r=100;t=900, "minute";r=0;t=17"#)];
/// assert_eq!(parse_wait(headers, now, minute), Some(Duration::from_secs(17)));
/// assert_eq!(parse_wait([("Retry-After", "99999999999999999999999")], now, minute), Some(minute));
/// assert_eq!(parse_wait([("Retry-After", "soon")], now, minute), None);
/// ```
#[must_use]
pub fn parse_wait(
    headers: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<[u8]>)>,
    now: SystemTime,
    at_most: Duration,
) -> Option<Duration> {
    let (mut asked, mut window, mut reset, mut is_spent) = (None, None, None, false);
    for (name, value) in headers {
        let (name, value) = (name.as_ref(), value.as_ref().trim_ascii());
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("retry-after") {
            asked = asked.max(parse_retry_after(value, now));
        } else if is("ratelimit") {
            window = window.max(spent_window(value));
        } else if is("x-ratelimit-reset") || is("ratelimit-reset") {
            reset = reset.max(whole_number(value).map(|seconds| match seconds {
                ..OLDEST_RESET => Duration::from_secs(seconds),
                OLDEST_RESET.. => until(seconds, now),
            }));
        } else if is("x-ratelimit-remaining") || is("ratelimit-remaining") {
            is_spent |= whole_number(value) == Some(0);
        }
    }
    let wait = asked.or(window).or(reset.filter(|_| is_spent))?;
    Some(wait.min(at_most))
}

/// Reads the value of a `Retry-After`: seconds, or a date in one of HTTP's three forms.
///
/// `None` for anything else; zero for a time that is past. Not capped, so it may be billions of years: to sleep for it,
/// take [`parse_wait`]. Dates are compared with `now`, so they are as good as the two clocks agree.
///
/// # Examples
///
/// ```
/// # use std::time::{Duration, UNIX_EPOCH};
/// use floodwall::headers::parse_retry_after;
///
/// let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
/// assert_eq!(parse_retry_after("120", now), Some(Duration::from_secs(120)));
/// assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:50:07 GMT", now), Some(Duration::from_secs(30)));
/// assert_eq!(parse_retry_after("-1", now), None);
/// ```
#[must_use]
pub fn parse_retry_after(value: impl AsRef<[u8]>, now: SystemTime) -> Option<Duration> {
    let value = value.as_ref().trim_ascii();
    let seconds = whole_number(value).map(Duration::from_secs);
    seconds.or_else(|| Some(until(http_date(value, now)?, now)))
}

/// A smaller `X-RateLimit-Reset` counts seconds from now: as a date it would be before September 2001, when nobody had
/// heard of it, and as a wait the larger ones would be 31 years.
const OLDEST_RESET: u64 = 1_000_000_000;

/// Integers of structured fields have at most 15 digits (RFC 9651, section 3.3.1).
const MAX_INTEGER: u64 = 999_999_999_999_999;

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// How long it is from `now` until so many seconds after 1970 began; zero if that is past.
fn until(seconds: u64, now: SystemTime) -> Duration {
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    at.map_or(Duration::MAX, |at| at.duration_since(now).unwrap_or_default())
}

/// Writes an item of a structured field (RFC 9651): a string with two parameters.
fn item(name: &str, first: (char, u64), second: (char, u64)) -> String {
    let name = if name.is_empty() { "default" } else { name };
    let mut item = String::with_capacity(name.len() + "'';q=;w=".len() + 2 * 15);
    item.push('"');
    for character in name.chars() {
        match character {
            '"' | '\\' => item.extend(['\\', character]),
            ' '..='~' => item.push(character),
            // A string cannot hold it; and a line break would start a header of its own.
            _ => item.push('?'),
        }
    }
    item.push('"');
    for (key, value) in [first, second] {
        let _ = write!(item, ";{key}={}", value.min(MAX_INTEGER));
    }
    item
}

/// Reads a `RateLimit`: the longest `t` among the policies whose `r` is 0; `None` if there is none, or if the field is
/// malformed. Parameters other than these two are not looked at.
fn spent_window(field: &[u8]) -> Option<Duration> {
    let mut longest = None;
    for item in split_outside_strings(field, b',') {
        let mut parts = split_outside_strings(item, b';').map(<[u8]>::trim_ascii);
        let Some([b'"', .., b'"']) = parts.next() else { return None };
        let (mut remaining, mut window) = (None, None);
        for parameter in parts {
            if let Some(value) = parameter.strip_prefix(b"r=") {
                remaining = Some(whole_number(value)?);
            } else if let Some(value) = parameter.strip_prefix(b"t=") {
                window = Some(Duration::from_secs(whole_number(value)?));
            }
        }
        if remaining == Some(0) {
            longest = longest.max(window);
        }
    }
    longest
}

fn split_outside_strings(field: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut is_string, mut is_escaped) = (false, false);
    field.split(move |&byte| {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_string => is_escaped = true,
            b'"' => is_string = !is_string,
            _ => return byte == separator && !is_string,
        }
        false
    })
}

/// Reads digits and nothing else; a number that is too large is the largest.
fn whole_number(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let append = |number: u64, digit: &u8| number.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    is_number.then(|| digits.iter().fold(0, append))
}

/// Reads a date (RFC 9110, section 5.6.7) as seconds since 1970; earlier ones are 0.
///
/// By hand, in the place of a dependency: forty lines, which the tests hold against the crate that others use.
fn http_date(value: &[u8], now: SystemTime) -> Option<u64> {
    let mut words: [&[u8]; 6] = [b""; 6];
    let split = value.split(|byte| matches!(byte, b' ' | b',' | b'-')).filter(|word| !word.is_empty());
    for (place, word) in split.enumerate() {
        *words.get_mut(place)? = word;
    }
    // The day of the week tells nothing new.
    let (day, month, year, time) = match words {
        // Sun, 06 Nov 1994 08:49:37 GMT; or, once, Sunday, 06-Nov-94 08:49:37 GMT.
        [_, day, month, year, time, b"GMT"] => (day, month, year, time),
        // And as C's asctime has it: Sun Nov  6 08:49:37 1994.
        [_, month, day, time, year, b""] => (day, month, year, time),
        _ => return None,
    };
    let year = match (year.len(), whole_number(year)?) {
        (4, year) => year,
        // A year of two digits is never more than 50 years ahead.
        (2, digits) => {
            let latest = 1970 + since_1970(now).as_secs() / AVERAGE_YEAR + 48;
            latest - (latest - digits) % 100
        }
        _ => return None,
    };
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [31, if is_leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let names = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    let month = names.chunks(3).position(|name| name == month)?;
    let day = whole_number(day).filter(|day| (1..=lengths[month]).contains(day))?;
    let mut clock = time.split(|byte| *byte == b':').map(whole_number);
    let mut next = |limit| clock.next()?.filter(|number| *number <= limit);
    // A leap second is a second too.
    let (hours, minutes, seconds) = (next(23)?, next(59)?, next(60)?);
    if clock.next().is_some() {
        return None;
    }
    let Some(years) = year.checked_sub(1970) else { return Some(0) };
    let leap_days = |year: u64| year / 4 - year / 100 + year / 400;
    let days = 365 * years + leap_days(year - 1) - leap_days(1969)
        + lengths[..month].iter().sum::<u64>()
        + (day - 1);
    Some(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
}

/// In seconds, in the Gregorian calendar.
const AVERAGE_YEAR: u64 = 31_556_952;
