//! How a call can end badly: [`Error`], [`Rejected`], [`Reason`], [`TimedOut`]; and a setting: [`BadSetting`].

use std::fmt;
use std::time::Duration;

/// How a call under policies ended badly. The three cases are a partition, and stay flat however deep the stack.
///
/// # Examples
///
/// ```
/// use floodwall::{Error, Reason, Rejected};
///
/// let error: Error<std::io::Error> = Rejected::new("db", Reason::CircuitOpen).into();
/// let advice = match error {
///     Error::Inner(_) => "it ran and failed",
///     Error::Rejected(_) => "it never ran",
///     Error::TimedOut(_) => "it ran out of time",
/// };
/// assert_eq!(advice, "it never ran");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error<E> {
    /// It ran and failed: your error, untouched.
    Inner(E),
    /// It never ran.
    Rejected(Rejected),
    /// It ran out of time; how far it came is not known.
    TimedOut(TimedOut),
}

impl<E> Error<E> {
    /// Returns your own error, if that is how the call ended.
    ///
    /// ```
    /// use floodwall::Error;
    /// assert_eq!(Error::Inner("disk full").into_inner(), Some("disk full"));
    /// ```
    pub fn into_inner(self) -> Option<E> {
        match self {
            Error::Inner(error) => Some(error),
            Error::Rejected(_) | Error::TimedOut(_) => None,
        }
    }

    /// Returns how long to wait before it makes sense to try again, if a rejection told.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Error, Reason, Rejected};
    /// let error: Error<()> = Rejected::new("db", Reason::CircuitOpen).after(Duration::from_secs(3)).into();
    /// assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
    /// ```
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Rejected(rejected) => rejected.retry_after(),
            Error::Inner(_) | Error::TimedOut(_) => None,
        }
    }

    /// Changes the type of your own error and leaves the other two cases as they are.
    ///
    /// ```
    /// use floodwall::Error;
    /// assert_eq!(Error::Inner(404).map(|code| code.to_string()), Error::Inner("404".to_string()));
    /// ```
    pub fn map<F>(self, change: impl FnOnce(E) -> F) -> Error<F> {
        match self {
            Error::Inner(error) => Error::Inner(change(error)),
            Error::Rejected(rejected) => Error::Rejected(rejected),
            Error::TimedOut(timed_out) => Error::TimedOut(timed_out),
        }
    }

    /// Turns all three cases into one error type of your choice: an enum of your own, or `anyhow::Error`.
    ///
    /// ```
    /// use floodwall::{Error, Reason, Rejected, TimedOut};
    ///
    /// #[derive(Debug, PartialEq)]
    /// enum AppError { Disk(u8), Busy(Rejected), Slow(TimedOut) }
    /// impl From<u8> for AppError { fn from(code: u8) -> Self { AppError::Disk(code) } }
    /// impl From<Rejected> for AppError { fn from(rejected: Rejected) -> Self { AppError::Busy(rejected) } }
    /// impl From<TimedOut> for AppError { fn from(timed_out: TimedOut) -> Self { AppError::Slow(timed_out) } }
    ///
    /// fn save(result: Result<(), Error<u8>>) -> Result<(), AppError> {
    ///     result.map_err(Error::lift)
    /// }
    /// let rejected = Rejected::new("disk", Reason::BulkheadFull);
    /// assert_eq!(save(Err(rejected.into())), Err(AppError::Busy(rejected)));
    /// ```
    pub fn lift<G>(self) -> G
    where
        G: From<E> + From<Rejected> + From<TimedOut>,
    {
        match self {
            Error::Inner(error) => error.into(),
            Error::Rejected(rejected) => rejected.into(),
            Error::TimedOut(timed_out) => timed_out.into(),
        }
    }
}

impl<E> From<Rejected> for Error<E> {
    fn from(rejected: Rejected) -> Self {
        Error::Rejected(rejected)
    }
}

impl<E> From<TimedOut> for Error<E> {
    fn from(timed_out: TimedOut) -> Self {
        Error::TimedOut(timed_out)
    }
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Inner(error) => error.fmt(f),
            Error::Rejected(rejected) => rejected.fmt(f),
            Error::TimedOut(timed_out) => timed_out.fmt(f),
        }
    }
}

impl<E: std::error::Error> std::error::Error for Error<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Inner(error) => error.source(),
            Error::Rejected(_) | Error::TimedOut(_) => None,
        }
    }
}

/// A call that never ran: who refused it, why, and when to come back.
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{Reason, Rejected};
/// let rejected = Rejected::new("db", Reason::CircuitOpen).after(Duration::from_secs(30));
/// assert_eq!(rejected.to_string(), "db: circuit open, retry after 30s");
/// assert_eq!(rejected.reason(), Reason::CircuitOpen);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rejected {
    by: &'static str,
    /// Nanoseconds; `u64::MAX` stands for "not known", so that the whole fits in 32 bytes.
    retry_after: u64,
    reason: Reason,
}

impl Rejected {
    /// Creates a rejection: the name of who refuses, and why.
    pub const fn new(by: &'static str, reason: Reason) -> Self {
        Self { by, retry_after: u64::MAX, reason }
    }

    /// Says when to come back. At least 1 ns, so that nobody is told to spin; at most 584 years.
    #[must_use = "returns the changed rejection"]
    pub const fn after(self, wait: Duration) -> Self {
        self.after_nanos(saturating_nanos(wait))
    }

    #[inline]
    pub(crate) const fn after_nanos(mut self, wait: u64) -> Self {
        self.retry_after = match wait {
            0 => 1,
            u64::MAX => u64::MAX - 1,
            nanos => nanos,
        };
        self
    }

    /// Returns the name of the policy that refused, as given when it was built; empty if it was given none.
    pub const fn by(&self) -> &'static str {
        self.by
    }

    /// Returns why the call was refused.
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// Returns how long to wait before the same call has a chance, or `None` if that is not known. Never zero.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self.retry_after {
            u64::MAX => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }
}

impl fmt::Debug for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected")
            .field("by", &self.by)
            .field("reason", &self.reason)
            .field("retry_after", &self.retry_after())
            .finish()
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        named(self.by, f)?;
        self.reason.fmt(f)?;
        match self.retry_after {
            u64::MAX => Ok(()),
            nanos => write!(f, ", retry after {:?}", Duration::from_nanos(three_digits(nanos))),
        }
    }
}

impl std::error::Error for Rejected {}

/// Why a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// A rate limit has no tokens left.
    RateLimited,
    /// A circuit breaker is open, or half-open with all its probes out.
    CircuitOpen,
    /// As many calls run, or wait, as a bulkhead allows.
    BulkheadFull,
    /// A queue is full.
    QueueFull,
    /// An item is heavier than all that a queue holds: it would never fit.
    TooHeavy,
    /// The call was shed: the system is overloaded, and other work is worth more.
    Shed,
    /// The call's deadline had passed, or would have passed before it could start.
    DeadlineExceeded,
    /// Closed for good, or for maintenance.
    Closed,
    /// A load asks for what it is loading itself, and would wait for ever.
    Recursive,
    /// A pool has no connection that is idle.
    NoneIdle,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::RateLimited => "rate limited",
            Reason::CircuitOpen => "circuit open",
            Reason::BulkheadFull => "bulkhead full",
            Reason::QueueFull => "queue full",
            Reason::TooHeavy => "too heavy",
            Reason::Shed => "shed",
            Reason::DeadlineExceeded => "deadline exceeded",
            Reason::Closed => "closed",
            Reason::Recursive => "recursive",
            Reason::NoneIdle => "none idle",
        })
    }
}

/// A call that ran out of time: whose limit it was, and how long the call was given.
///
/// ```
/// # use std::time::Duration;
/// use floodwall::TimedOut;
/// assert_eq!(TimedOut::new("search", Duration::from_millis(400)).to_string(), "search: timed out after 400ms");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimedOut {
    by: &'static str,
    after: Duration,
}

impl TimedOut {
    /// Creates a timeout: the name of who gave up, and the time that the call was given.
    pub const fn new(by: &'static str, after: Duration) -> Self {
        Self { by, after }
    }

    /// Returns the name of the policy that gave up, as given when it was built; empty if it was given none.
    pub const fn by(&self) -> &'static str {
        self.by
    }

    /// Returns how long the call was given.
    pub const fn after(&self) -> Duration {
        self.after
    }
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        named(self.by, f)?;
        write!(f, "timed out after {:?}", Duration::from_nanos(three_digits(saturating_nanos(self.after))))
    }
}

impl std::error::Error for TimedOut {}

/// Writes a policy's name before its message, if it was given one.
fn named(by: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if by.is_empty() { Ok(()) } else { write!(f, "{by}: ") }
}

/// Rounds up to three digits, which is what a reader of a message wants: who waits that long is not too early.
const fn three_digits(nanos: u64) -> u64 {
    let unit = match nanos.checked_ilog10() {
        Some(digits @ 3..) => 10u64.pow(digits - 2),
        _ => 1,
    };
    nanos.div_ceil(unit).saturating_mul(unit)
}

/// A setting that makes no sense, found at run time: which, its value, and what it must be.
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{Carry, TokenBucket};
///
/// let bucket = TokenBucket::per_second(5);
/// let error = bucket.set_rate(0, Duration::from_secs(1), 5, Carry::AsIs).unwrap_err();
/// assert_eq!(error.to_string(), "tokens: 0 must be at least 1");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSetting {
    setting: &'static str,
    /// Of a real number, the bits of an `f64`.
    value: u64,
    is_real: bool,
    must: &'static str,
}

impl BadSetting {
    pub(crate) const fn new(setting: &'static str, value: u64, must: &'static str) -> Self {
        Self { setting, value, is_real: false, must }
    }

    pub(crate) const fn real(setting: &'static str, value: f64, must: &'static str) -> Self {
        Self { setting, value: value.to_bits(), is_real: true, must }
    }

    /// Returns the name of the setting.
    pub const fn setting(&self) -> &'static str {
        self.setting
    }

    /// Returns the value that it was given; a duration in nanoseconds, a real number in millionths.
    pub const fn value(&self) -> u64 {
        if self.is_real { (f64::from_bits(self.value) * 1e6) as u64 } else { self.value }
    }

    /// Panics as a setter does that was given this literal.
    #[track_caller]
    pub(crate) const fn panic(&self) -> ! {
        absurd(self.setting, self.value(), self.must)
    }
}

impl fmt::Display for BadSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, value, must, .. } = *self;
        if self.is_real {
            write!(f, "{setting}: {} {must}", f64::from_bits(value))
        } else {
            write!(f, "{setting}: {value} {must}")
        }
    }
}

impl std::error::Error for BadSetting {}

/// A duration in whole nanoseconds; longer than 584 years counts as 584 years.
pub(crate) const fn saturating_nanos(duration: Duration) -> u64 {
    const SECOND: u64 = 1_000_000_000;
    // One multiplication of 64 bits: 128 of them cost every reading of the clock a nanosecond more.
    let (secs, nanos) = (duration.as_secs(), duration.subsec_nanos() as u64);
    if secs < u64::MAX / SECOND {
        secs * SECOND + nanos
    } else {
        (secs.saturating_mul(SECOND)).saturating_add(nanos)
    }
}

/// Panics with a message that names a setting, its value and what it must be, in `const` setters too.
#[track_caller]
pub(crate) const fn absurd(setting: &str, value: u64, must: &str) -> ! {
    let mut digits = [0u8; 20];
    let mut start = digits.len();
    let mut rest = value;
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let mut message = [b' '; 160];
    let mut at = 0;
    let parts: [&[u8]; 5] = [setting.as_bytes(), b": ", digits.split_at(start).1, b" ", must.as_bytes()];
    let mut part = 0;
    while part < parts.len() {
        let mut i = 0;
        while i < parts[part].len() && at < message.len() {
            message[at] = parts[part][i];
            at += 1;
            i += 1;
        }
        part += 1;
    }
    match std::str::from_utf8(message.split_at(at).0) {
        Ok(message) => panic!("{}", message),
        Err(_) => panic!("{}", setting),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_fits_in_32_bytes() {
        assert!(size_of::<Rejected>() <= 32);
    }

    #[test]
    fn messages_are_short() {
        let rejected = Rejected::new("", Reason::RateLimited);
        assert_eq!(rejected.to_string(), "rate limited");
        for (nanos, text) in
            [(240_135_483, "241ms"), (999, "999ns"), (1_000_000_001, "1.01s"), (59_999_999_999, "60s")]
        {
            let rejected = rejected.after(Duration::from_nanos(nanos));
            assert_eq!(rejected.to_string(), format!("rate limited, retry after {text}"));
        }
        assert!(rejected.after(Duration::MAX).to_string().ends_with('s'));
        assert_eq!(TimedOut::new("", Duration::from_millis(400)).to_string(), "timed out after 400ms");
    }

    #[test]
    fn a_rejection_never_asks_to_come_back_at_once() {
        let rejected = Rejected::new("db", Reason::Shed);
        assert_eq!(rejected.retry_after(), None);
        assert_eq!(rejected.after(Duration::ZERO).retry_after(), Some(Duration::from_nanos(1)));
        assert!(rejected.after(Duration::MAX).retry_after().is_some());
    }

    #[test]
    #[should_panic(expected = "burst: 18446744073709551615 must be smaller")]
    fn an_absurd_setting_is_named_with_its_value() {
        absurd("burst", u64::MAX, "must be smaller");
    }
}
