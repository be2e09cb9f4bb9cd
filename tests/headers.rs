//! HTTP headers: written, read, obeyed, and what hostile servers send.
#![cfg(not(floodwall_loom))]

mod support;

use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use floodwall::headers::{legacy, of, parse_retry_after, parse_wait, retry_after};
use floodwall::{Call, Clock, Constant, Error, Gate, Outcome, Policy, Quota, Retry, TokenBucket};
use proptest::prelude::*;
use support::{millis, nanos, poll, secs};

/// The example of RFC 9110: Sun, 06 Nov 1994 08:49:37 GMT.
const RFC_EXAMPLE: u64 = 784_111_777;

const HOUR: Duration = secs(3600);

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + secs(seconds)
}

fn quota(name: &'static str) -> Quota {
    Quota { name, limit: 10, window: secs(60), remaining: 3, more_after: secs(4) }
}

fn values<const N: usize>(headers: [(&'static str, String); N]) -> [String; N] {
    headers.map(|(_, value)| value)
}

mod written {
    use super::*;

    /// Trap R14.
    #[test]
    fn seconds_are_rounded_up() {
        let table = [
            (Duration::ZERO, "0"),
            (nanos(1), "1"),
            (nanos(999_999_999), "1"),
            (secs(1), "1"),
            (nanos(1_000_000_001), "2"),
            (millis(2_500), "3"),
            (Duration::MAX, "18446744073709551615"),
        ];
        for (wait, value) in table {
            assert_eq!(retry_after(wait), ("retry-after", value.to_string()));
        }
        let quota = Quota { window: millis(2_500), more_after: nanos(1_000_000_001), ..quota("a") };
        assert_eq!(values(of(&quota)), [r#""a";q=10;w=3"#, r#""a";r=3;t=2"#]);
        let now = at(101);
        assert_eq!(values(legacy(&quota, now)), ["10", "3", "103"]);
    }

    #[test]
    fn a_window_is_at_least_a_second_and_integers_have_at_most_15_digits() {
        let fast = Quota { window: millis(5), more_after: Duration::ZERO, ..quota("") };
        assert_eq!(values(of(&fast)), [r#""default";q=10;w=1"#, r#""default";r=3;t=0"#]);
        let none = Quota { window: Duration::ZERO, ..fast };
        assert_eq!(values(of(&none))[0], r#""default";q=10;w=1"#);
        let most = Quota {
            limit: u64::MAX,
            window: Duration::MAX,
            remaining: u64::MAX,
            more_after: Duration::MAX,
            ..fast
        };
        assert_eq!(
            values(of(&most)),
            [
                r#""default";q=999999999999999;w=999999999999999"#,
                r#""default";r=999999999999999;t=999999999999999"#
            ]
        );
        assert_eq!(values(legacy(&most, SystemTime::now()))[2], u64::MAX.to_string());
        assert_eq!(values(legacy(&quota(""), UNIX_EPOCH - HOUR))[2], "4");
    }

    #[test]
    fn no_name_can_end_the_string_or_the_line() {
        let table = [
            ("", r#""default""#),
            ("per minute, all", r#""per minute, all""#),
            (r#"a"b\c"#, r#""a\"b\\c""#),
            ("a\r\nset-cookie: b", r#""a??set-cookie: b""#),
            ("größe\u{7f}\0\t", r#""gr??e???""#),
        ];
        for (name, written) in table {
            assert_eq!(values(of(&quota(name)))[1], format!("{written};r=3;t=4"));
        }
    }

    /// A bucket's limit and window describe it whole: the rate is `limit` per `window`, and no more is ever left.
    #[test]
    fn a_buckets_quota_is_its_burst_per_the_time_it_takes_to_fill() {
        let clock = Clock::manual();
        let bucket = TokenBucket::per_second(5).burst(20).clock(clock.clone()).name("api");
        let full =
            Quota { name: "api", limit: 20, window: secs(4), remaining: 20, more_after: Duration::ZERO };
        assert_eq!(bucket.quota(), full);
        // (milliseconds, cost, left, more after)
        let table = [
            (0, 1, 19, 200),
            (0, 3, 16, 200),
            (50, 0, 16, 150),
            (200, 0, 17, 200),
            (200, 17, 0, 200),
            (399, 0, 0, 1),
            (400, 1, 0, 200),
            (4_399, 0, 19, 1),
            (4_400, 0, 20, 0),
            (90_000, 0, 20, 0),
        ];
        let start = clock.now();
        for (time, cost, remaining, more_after) in table {
            clock.advance(start + millis(time) - clock.now());
            bucket.try_acquire_for(Call::new().cost(cost)).unwrap().success();
            let expected = Quota { remaining, more_after: millis(more_after), ..full };
            assert_eq!(bucket.quota(), expected, "{time} ms");
        }
    }

    #[test]
    fn while_others_wait_there_is_more_only_after_their_turn() {
        let clock = Clock::manual();
        let bucket = TokenBucket::per_second(1).burst(2).clock(clock.clone());
        bucket.try_acquire_for(Call::new().cost(2)).unwrap().success();
        let mut waiter = Box::pin(floodwall::Acquire::acquire_for(&bucket, Call::new().cost(2)));
        assert!(poll(&mut waiter).is_pending());
        let quota = bucket.quota();
        assert_eq!((quota.remaining, quota.more_after), (0, secs(3)));
    }

    #[test]
    fn the_extremes_have_a_quota() {
        let slowest = TokenBucket::per(1, nanos(1 << 63)).burst(1 << 58).clock(Clock::manual());
        assert_eq!(slowest.quota().window, nanos(u64::MAX));
        let most = Call::new().cost(u32::MAX);
        slowest.try_acquire_for(most).unwrap().success();
        assert_eq!(slowest.quota().remaining, (1 << 58) - u64::from(u32::MAX));
        assert_eq!(slowest.quota().more_after, nanos(1 << 63));
        let fastest = TokenBucket::per_second(1_000_000_000).burst(1 << 58).clock(Clock::manual());
        fastest.try_acquire_for(most).unwrap().success();
        assert_eq!(fastest.quota().more_after, nanos(1));
    }
}

mod obeyed {
    use super::*;

    /// A wall clock that moves with the manual one.
    fn wall(clock: &Clock, started: std::time::Instant) -> SystemTime {
        UNIX_EPOCH + millis(1_790_000_000_250) + (clock.now() - started)
    }

    /// Trap R14. Rates of which no wait is a whole number of seconds: rounded down, each would come too early.
    #[test]
    fn who_waits_as_long_as_any_header_says_is_admitted() {
        let rates =
            [(3, secs(1)), (3, secs(10)), (7, secs(60)), (2, millis(2_500)), (1, nanos(1_000_000_001))];
        for (tokens, period) in rates {
            for (header, request) in [("retry-after", 2), ("ratelimit", 1), ("x-ratelimit-", 1)] {
                let clock = Clock::manual();
                let bucket = TokenBucket::per(tokens, period).burst(2).clock(clock.clone());
                let (started, call) = (clock.now(), Call::new().cost(request));
                bucket.try_acquire_for(Call::new().cost(2)).unwrap().success();
                let rejected = bucket.try_acquire_for(call).unwrap_err();

                let (quota, now) = (bucket.quota(), wall(&clock, started));
                let answer: Vec<(&str, String)> =
                    of(&quota)
                        .into_iter()
                        .chain(legacy(&quota, now))
                        .chain(rejected.retry_after().map(retry_after))
                        .filter(|(name, _)| {
                            if header.ends_with('-') { name.starts_with(header) } else { *name == header }
                        })
                        .collect();
                let wait = parse_wait(answer, now, HOUR).unwrap();
                assert!(rejected.retry_after().unwrap().subsec_nanos() > 0, "the case proves nothing");
                clock.advance(wait);
                assert!(bucket.try_acquire_for(call).is_ok(), "{header}, {tokens} per {period:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// Trap R14.
        #[test]
        fn obeying_never_comes_too_early(
            tokens in 1u64..2_000,
            period in 2_000u64..100_000_000_000,
            burst in 1u64..50,
            steps in prop::collection::vec((0u64..3_000_000_000, 0u32..20), 1..50),
        ) {
            let clock = Clock::manual();
            let started = clock.now();
            let bucket = TokenBucket::per(tokens, nanos(period)).burst(burst).clock(clock.clone());
            for (pause, cost) in steps {
                clock.advance(nanos(pause));
                let call = Call::new().cost(cost);
                let Err(rejected) = bucket.try_acquire_for(call) else { continue };
                let Some(exact) = rejected.retry_after() else { continue };
                let (quota, now) = (bucket.quota(), wall(&clock, started));
                prop_assert!(quota.more_after <= exact, "Retry-After must not end before the RateLimit's window");
                if quota.remaining == 0 {
                    let all = [parse_wait(of(&quota), now, Duration::MAX), parse_wait(legacy(&quota, now), now, Duration::MAX)];
                    for wait in all {
                        prop_assert!(wait.unwrap() >= quota.more_after && wait.unwrap() <= quota.more_after + secs(1));
                    }
                }
                let wait = parse_wait([retry_after(exact)], now, Duration::MAX).unwrap();
                prop_assert!(wait < exact + secs(1), "no longer than a second too late");
                clock.advance(wait);
                prop_assert!(bucket.try_acquire_for(call).is_ok());
            }
        }

        #[test]
        fn a_quota_tells_when_there_is_more(tokens in 1u64..2_000, period in 2_000u64..5_000_000, burst in 1u64..50, cost in 1u32..50, pause: u32) {
            let clock = Clock::manual();
            let bucket = TokenBucket::per(tokens, nanos(period)).burst(burst).clock(clock.clone());
            prop_assume!(bucket.try_acquire_for(Call::new().cost(cost)).is_ok());
            clock.advance(nanos(u64::from(pause) % period));
            let before = bucket.quota();
            prop_assert_eq!(before.remaining, bucket.available());
            prop_assert_eq!(before.more_after.is_zero(), before.remaining == burst);
            if before.remaining < burst {
                clock.advance(before.more_after - nanos(1));
                prop_assert_eq!(bucket.available(), before.remaining);
                clock.advance(nanos(1));
                prop_assert!(bucket.available() > before.remaining);
            }
        }
    }

    #[test]
    fn retry_waits_as_long_as_the_server_asks_and_at_most_a_quarter_longer() {
        let clock = Clock::manual();
        let retry = Retry::new(Constant::new(millis(1))).clock(clock.clone()).judge(
            |result: &Result<&'static str, Error<()>>| match result {
                Ok("") => Outcome::Success,
                Ok(asked) => Outcome::Throttled {
                    retry_after: parse_wait([("retry-after", asked)], SystemTime::now(), HOUR),
                },
                Err(_) => Outcome::Failure,
            },
        );
        let answers = std::sync::Mutex::new(["7", ""].into_iter());
        let mut call =
            Box::pin(retry.call(|| std::future::ready(Ok::<_, ()>(answers.lock().unwrap().next().unwrap()))));
        assert!(poll(&mut call).is_pending());
        clock.advance(secs(7) - nanos(1));
        assert!(poll(&mut call).is_pending());
        clock.advance(nanos(1) + millis(1_750));
        assert_eq!(poll(&mut call), Poll::Ready(Ok("")));
    }
}

mod read {
    use super::*;

    /// Trap R15.
    #[test]
    fn retry_after_is_seconds_or_a_date_or_nothing() {
        let now = at(RFC_EXAMPLE - 30);
        let table = [
            ("0", Some(0)),
            ("120", Some(120)),
            ("007", Some(7)),
            (" \t5 ", Some(5)),
            ("18446744073709551615", Some(u64::MAX)),
            ("999999999999999999999", Some(u64::MAX)),
            ("9223372036854775807", Some(i64::MAX as u64)),
            // A date in each of the three forms, and what is nearly one.
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(30)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(30)),
            ("Sun Nov  6 08:49:37 1994", Some(30)),
            ("Sun Nov 16 08:49:37 1994", Some(30 + 10 * 86_400)),
            ("Sat, 31 Dec 1994 23:59:60 GMT", Some(30 + 55 * 86_400 + 54_624 - 1)),
            ("Sun, 06 Nov 1994 08:49:06 GMT", Some(0)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Mon, 01 Jan 0000 00:00:00 GMT", Some(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(253_402_300_799 - RFC_EXAMPLE + 30)),
            ("Sun, 06 Nov 9999999999999999 08:49:37 GMT", None),
            ("Sun, 06 Nov 19940 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 CET", None),
            ("Sun, 06 Nov 1994 08:49:37", None),
            ("Sun, 06 Nov 1994 08:49:37 GMT GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 24:00:00 GMT", None),
            ("Sun, 06 Nov 1994 08:60:00 GMT", None),
            ("Sun, 06 Nov 1994 08:49:61 GMT", None),
            ("Sun, 06 Nov 1994 08:49 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37:00 GMT", None),
            ("Sun, 06 Nov 1994 99999999999999999999:49:37 GMT", None),
            ("Sun, 00 Nov 1994 08:49:37 GMT", None),
            ("Sun, 31 Nov 1994 08:49:37 GMT", None),
            ("Wed, 29 Feb 1995 08:49:37 GMT", None),
            ("Thu, 29 Feb 2096 08:49:37 GMT", Some(3_981_343_777 - RFC_EXAMPLE + 30)),
            ("Thu, 29 Feb 2100 08:49:37 GMT", None),
            ("Sun, 06 nov 1994 08:49:37 GMT", None),
            ("Sun, 06 11 1994 08:49:37 GMT", None),
            ("Sun, 06 anF 1994 08:49:37 GMT", None),
            ("1994-11-06T08:49:37Z", None),
            // And what is neither.
            ("", None),
            ("   ", None),
            ("-1", None),
            ("+1", None),
            ("1e9", None),
            ("1.5", None),
            ("0x10", None),
            ("1 2", None),
            ("120, 120", None),
            ("\"120\"", None),
            ("NaN", None),
            ("∞", None),
            ("１２０", None),
            ("12\0", None),
        ];
        for (value, seconds) in table {
            assert_eq!(parse_retry_after(value, now), seconds.map(secs), "{value}");
        }
        assert_eq!(parse_retry_after([0xff, 0xfe, b'1'], now), None);
    }

    #[test]
    fn a_date_counts_from_the_fraction_of_a_second_that_it_is_now() {
        let now = at(RFC_EXAMPLE) - millis(1_250);
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(millis(1_250)));
    }

    #[test]
    fn a_year_of_two_digits_is_never_more_than_fifty_years_ahead() {
        for this_year in [1994, 2000, 2026, 2049, 2050, 2099, 2100, 2150] {
            let now = at(november_of(this_year));
            for (ahead, is_past) in [(0, true), (1, false), (6, false), (48, false), (51, true), (99, true)] {
                let year = this_year + ahead;
                let date = format!("Sunday, 06-Nov-{:02} 08:49:37 GMT", year % 100);
                let wait = if is_past { 0 } else { november_of(year) - november_of(this_year) };
                assert_eq!(parse_retry_after(&date, now), Some(secs(wait)), "{date} in {this_year}");
            }
        }
    }

    /// The sixth, 08:49:37.
    fn november_of(year: u64) -> u64 {
        let is_leap = |year: u64| year % 400 == 0 || (year % 4 == 0 && year % 100 != 0);
        let days: u64 = (1970..year).map(|year| 365 + u64::from(is_leap(year))).sum();
        (days + 304 + u64::from(is_leap(year)) + 5) * 86_400 + 31_777
    }

    /// Trap R15.
    #[test]
    fn what_is_spent_decides() {
        let spent = |field: &str| parse_wait([("RateLimit", field)], SystemTime::now(), HOUR);
        let table = [
            (r#""default";r=0;t=30"#, Some(30)),
            (r#""default";t=30;r=0"#, Some(30)),
            (r#"  "default" ; r=0 ;  t=30  "#, Some(30)),
            (r#""default";r=0;t=0"#, Some(0)),
            (r#""default";r=1;t=30"#, None),
            (r#""default";r=0"#, None),
            (r#""default";t=30"#, None),
            (r#""default""#, None),
            (r#""a";r=0;t=5,"b";r=0;t=9,"c";r=0;t=7"#, Some(9)),
            (r#""a";r=5;t=50, "b";r=0;t=9"#, Some(9)),
            (r#""a,b;r=0;t=1";r=0;t=2"#, Some(2)),
            (r#""a\",\\";r=0;t=2"#, Some(2)),
            (r#""p";r=0;t=60;pk=:QXBwLTk5OQ==:;acme-burst=?1"#, Some(60)),
            (r#""p";rr=0;tt=60"#, None),
            (r#""p";r=5;r=0;t=1;t=6"#, Some(6)),
            (r#""p";r=0;t=999999999999999999999"#, Some(3600)),
            // Malformed fields are ignored whole, as the draft wants.
            (r#""a";r=0;t=5,"b";r=-1;t=9"#, None),
            (r#""a";r=0;t=5,"b"#, None),
            (r#""a";r=0;t=5,"#, None),
            (r#""a";r=0;t=1e9"#, None),
            (r#""a";r=0.0;t=9"#, None),
            (r#""a";r=0;t="#, None),
            (r#""a;r=0;t=9"#, None),
            (r#""#, None),
            (r#"""#, None),
            (",;,;", None),
            ("a;r=0;t=9", None),
            ("limit=100, remaining=0, reset=5", None),
        ];
        for (field, seconds) in table {
            assert_eq!(spent(field), seconds.map(secs), "{field}");
        }
    }

    /// Trap R15.
    #[test]
    fn a_reset_counts_from_now_or_from_1970_and_only_if_nothing_remains() {
        let now = at(1_790_000_000);
        let table = [
            ("0", "17", Some(17)),
            ("0", "0", Some(0)),
            ("0", "999999999", Some(3600)),
            ("0", "1790000017", Some(17)),
            ("0", "1000000000", Some(0)),
            ("0", "1789999999", Some(0)),
            ("0", "1790000017000", Some(3600)),
            ("0", "9223372036854775807", Some(3600)),
            ("0", "999999999999999999999", Some(3600)),
            ("00", "17", Some(17)),
            ("1", "17", None),
            ("-1", "17", None),
            ("", "17", None),
            ("0", "", None),
            ("0", "-1", None),
            ("0", "1e9", None),
            ("0", "soon", None),
            ("0, 0", "17", None),
        ];
        for prefix in ["x-ratelimit", "X-RateLimit", "RateLimit"] {
            for (remaining, reset, seconds) in table {
                let headers =
                    [(format!("{prefix}-Remaining"), remaining), (format!("{prefix}-Reset"), reset)];
                assert_eq!(parse_wait(headers, now, HOUR), seconds.map(secs), "{prefix} {remaining} {reset}");
            }
        }
        assert_eq!(parse_wait([("x-ratelimit-reset", "17")], now, HOUR), None);
        assert_eq!(parse_wait([("x-ratelimit-remaining", "0")], now, HOUR), None);
    }

    #[test]
    fn the_first_that_says_something_decides_and_of_equals_the_longest() {
        let now = at(1_790_000_000);
        let retry_after = ("Retry-After", "5");
        let rate_limit = ("RateLimit", r#""a";r=0;t=50"#);
        let legacy = [("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "500")];
        let wait = |headers: &[(&str, &str)]| {
            parse_wait(headers.iter().copied(), now, HOUR).map(|wait| wait.as_secs())
        };
        assert_eq!(wait(&[legacy[1], rate_limit, retry_after, legacy[0]]), Some(5));
        assert_eq!(wait(&[legacy[1], rate_limit, ("Retry-After", "?"), legacy[0]]), Some(50));
        assert_eq!(wait(&[legacy[1], ("RateLimit", "?"), legacy[0]]), Some(500));
        assert_eq!(wait(&[retry_after, ("retry-after", "7"), ("RETRY-AFTER", "junk")]), Some(7));
        assert_eq!(wait(&[rate_limit, ("RateLimit", r#""b";r=0;t=60"#), ("RateLimit", "?")]), Some(60));
        assert_eq!(
            wait(&[legacy[0], ("X-RateLimit-Remaining", "9"), legacy[1], ("X-RateLimit-Reset", "9")]),
            Some(500)
        );
        assert_eq!(wait(&[("Retry-After-Ms", "5"), ("Content-Length", "0")]), None);
        assert_eq!(wait(&[]), None);
    }

    #[test]
    fn a_header_map_is_read_as_it_is() {
        let mut map = hyper::HeaderMap::new();
        map.insert("content-type", "text/plain".parse().unwrap());
        for (name, value) in of(&Quota { remaining: 0, ..quota("a") }) {
            map.append(name, value.parse().unwrap());
        }
        assert_eq!(parse_wait(&map, SystemTime::now(), HOUR), Some(secs(4)));
        assert_eq!(
            map.get("retry-after").and_then(|value| parse_retry_after(value, SystemTime::now())),
            None
        );
    }

    proptest! {
        /// In all three forms, against the crate that others use.
        #[test]
        fn dates_agree_with_another_opinion(seconds in 0u64..=253_402_300_799, now: u32) {
            let now = at(now.into());
            let date = httpdate::fmt_http_date(at(seconds));
            let expected = Some(at(seconds).duration_since(now).unwrap_or_default());
            prop_assert_eq!(parse_retry_after(&date, now), expected);
            let [weekday, day, month, year, time, _] = date.split(' ').collect::<Vec<_>>()[..] else { panic!("{date}") };
            let weekday = weekday.trim_end_matches(',');
            let day: u8 = day.parse().unwrap();
            let asctime = format!("{weekday} {month} {day:>2} {time} {year}");
            prop_assert_eq!(httpdate::parse_http_date(&asctime).ok(), Some(at(seconds)));
            prop_assert_eq!(parse_retry_after(asctime, now), expected);
        }

        /// Trap R15.
        #[test]
        fn no_bytes_panic_and_nothing_passes_the_cap(
            headers in prop::collection::vec((name(), value()), 0..6),
            now in any::<u64>(),
            at_most in any::<u64>(),
        ) {
            let now = UNIX_EPOCH.checked_add(nanos(now)).unwrap() - secs(1 << 33);
            for (_, value) in &headers {
                let _ = parse_retry_after(value, now);
            }
            let wait = parse_wait(headers, now, nanos(at_most));
            prop_assert!(wait.is_none_or(|wait| wait <= nanos(at_most)));
        }
    }

    fn name() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "retry-after",
            "ratelimit",
            "x-ratelimit-reset",
            "x-ratelimit-remaining",
            "date",
        ])
    }

    /// Any bytes at all, and the parts of valid headers in any order, which come further.
    fn value() -> impl Strategy<Value = Vec<u8>> {
        let parts = vec![
            "Sun",
            ", ",
            " ",
            "-",
            ":",
            "06",
            "31",
            "29",
            "Nov",
            "Feb",
            "1994",
            "94",
            "9999",
            "0000",
            "08:49:37",
            "23:59:60",
            "GMT",
            "\"a\"",
            "\"",
            "\\",
            ";",
            ",",
            "r=",
            "t=",
            "0",
            "1",
            "9223372036854775807",
            "99999999999999999999999",
            "1e9",
            "\u{e9}",
            "\0",
        ];
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..64),
            prop::collection::vec(prop::sample::select(parts), 0..14)
                .prop_map(|parts| parts.concat().into_bytes()),
        ]
    }
}
