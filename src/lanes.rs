//! Who is reading what: a lane for each thread, in which it names what it reads, so that nobody frees it meanwhile.
//!
//! These are hazard pointers (M. M. Michael, "Hazard pointers: safe memory reclamation for lock-free objects", 2004). A reader
//! names an address, then looks whether what it found is still in place; who took it out of its place looks
//! whether anybody names it before it is freed. Each must do the one before the other, which takes a fence on both sides. Readers
//! are many and their fences dear, so where the system can (`membarrier` on Linux), whoever frees makes all other threads
//! of the process pass a fence, and readers have none. Nobody ever waits for a reader: what is named is freed later.
//!
//! Scans are numbered and shared. What was taken out before a scan began is free after it unless the scan found it
//! named; who took it out keeps the number of the last scan that had begun, its [`stamp`].
//!
//! After a fork, what other threads were reading stays named in the child: one value a thread is not freed there.
#![cfg_attr(
    all(target_os = "linux", not(miri), not(floodwall_loom)),
    expect(unsafe_code, reason = "`membarrier` is a system call without a safe form")
)]

use std::cell::Cell;

use crate::sync::{
    AtomicU64, AtomicUsize, Mutex, OnceLock, Ordering, compiler_fence, const_fn, fence, global, thread_local,
};

/// How deep reads may nest before they need lanes beside the thread's own.
const WORDS: usize = 4;

/// Reading, of nothing in particular yet.
const BUSY: usize = 1;

/// What one thread reads. It alone writes; processors fetch lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Lane {
    /// Addresses; 0 is nothing. Reads within a read take the next.
    words: [AtomicUsize; WORDS],
    /// Readers pass a fence.
    is_fenced: bool,
    number: usize,
    /// The last scan that found no read going on.
    idle_at: AtomicU64,
}

/// Lanes are never freed, so that a scan needs no care; there are as many as there were threads at the same time.
#[derive(Debug)]
struct Lanes {
    is_fenced: OnceLock<bool>,
    begun: AtomicU64,
    ended: AtomicU64,
    /// Every lane was idle at some time after this scan began.
    quiet: AtomicU64,
    book: Mutex<Book>,
}

#[derive(Debug)]
struct Book {
    lanes: Vec<&'static Lane>,
    /// Those of threads that have ended.
    free: Vec<&'static Lane>,
    /// What the last scan found named, in order.
    named: Vec<usize>,
}

impl Lanes {
    const_fn! {
        fn new() -> Self {
            Self {
                is_fenced: OnceLock::new(),
                begun: AtomicU64::new(0),
                ended: AtomicU64::new(0),
                quiet: AtomicU64::new(0),
                book: Mutex::new(Book { lanes: Vec::new(), free: Vec::new(), named: Vec::new() }),
            }
        }
    }

    fn is_fenced(&self) -> bool {
        *self.is_fenced.get_or_init(|| !barrier::prepare())
    }

    /// Gives out a lane that nobody has.
    fn take(&self) -> &'static Lane {
        let is_fenced = self.is_fenced();
        let book = &mut *self.book.lock();
        if let Some(lane) = book.free.pop() {
            return lane;
        }
        // Idle as long as it was not there. What was taken out before that scan began is not found by its reads.
        let begun = self.begun.load(Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let lane: &'static Lane = Box::leak(Box::new(Lane {
            words: std::array::from_fn(|_| AtomicUsize::new(0)),
            is_fenced,
            number: book.lanes.len(),
            idle_at: AtomicU64::new(begun),
        }));
        book.lanes.push(lane);
        // Room for all that may be named, here rather than in a scan.
        let most = book.lanes.len() * WORDS;
        book.named.reserve(most);
        lane
    }

    fn give_back(&self, lane: &'static Lane) {
        self.book.lock().free.push(lane);
    }
}

global!(static LANES: Lanes = Lanes::new());

thread_local! {
    /// Without a destructor, so that it is one load.
    static LANE: Cell<Option<&'static Lane>> = const { Cell::new(None) };
    /// Gives the lane back when the thread ends.
    static OWNED: Owned = const { Owned(Cell::new(None)) };
}

struct Owned(Cell<Option<&'static Lane>>);

impl Drop for Owned {
    fn drop(&mut self) {
        // What is dropped after this and reads takes a lane for the one read.
        let _ = LANE.try_with(|lane| lane.set(None));
        if let Some(lane) = self.0.take() {
            LANES.give_back(lane);
        }
    }
}

/// A read that is going on.
#[derive(Debug)]
pub(crate) struct Hold {
    word: &'static AtomicUsize,
    is_fenced: bool,
    /// A lane that was taken for this read.
    borrowed: Option<&'static Lane>,
}

/// Begins a read. What was in place before it begins, and is not named, may be freed as soon as it is taken out.
#[inline]
pub(crate) fn hold() -> Hold {
    match LANE.try_with(Cell::get) {
        Ok(Some(lane)) if lane.words[0].load(Ordering::Relaxed) == 0 => Hold::begin(lane, 0, None),
        Ok(lane) => hold_more(lane),
        Err(_) => hold_more(None),
    }
}

/// The number of this thread's lane, which it shares with none that runs at the same time; nothing before its first read.
#[inline]
pub(crate) fn number() -> Option<usize> {
    LANE.try_with(Cell::get).ok().flatten().map(|lane| lane.number)
}

/// The first read of a thread, or one within another.
#[cold]
#[inline(never)]
fn hold_more(lane: Option<&'static Lane>) -> Hold {
    let lane = lane.or_else(|| {
        let lane = LANES.take();
        let kept = OWNED.try_with(|owned| owned.0.set(Some(lane))).is_ok();
        if kept && LANE.try_with(|own| own.set(Some(lane))).is_ok() {
            return Some(lane);
        }
        LANES.give_back(lane);
        None
    });
    let free = lane.and_then(|lane| {
        let word = lane.words.iter().position(|word| word.load(Ordering::Relaxed) == 0)?;
        Some((lane, word))
    });
    match free {
        Some((lane, word)) => Hold::begin(lane, word, None),
        None => {
            let lane = LANES.take();
            Hold::begin(lane, 0, Some(lane))
        }
    }
}

impl Hold {
    #[inline]
    fn begin(lane: &'static Lane, word: usize, borrowed: Option<&'static Lane>) -> Self {
        let hold = Self { word: &lane.words[word], is_fenced: lane.is_fenced, borrowed };
        hold.name(BUSY);
        hold
    }

    /// Names what is at an address. If it is in its place after this, it stays until the read ends.
    #[inline]
    pub(crate) fn name(&self, address: usize) {
        // Release: reads of what was named before are over.
        self.word.store(address, Ordering::Release);
        light(self.is_fenced);
    }
}

impl Drop for Hold {
    #[inline]
    fn drop(&mut self) {
        self.word.store(0, Ordering::Release);
        if let Some(lane) = self.borrowed {
            LANES.give_back(lane);
        }
    }
}

#[inline]
fn light(is_fenced: bool) {
    if is_fenced {
        fence(Ordering::SeqCst);
    } else {
        compiler_fence(Ordering::SeqCst);
    }
}

/// Marks the time at which something was taken out of its place, after it was: only a later scan says that it is free.
///
/// For what was taken out under a lock that the caller has taken again since.
pub(crate) fn stamp() -> u64 {
    // A scan that is not in the number yet must find the place empty. On x86 stores become visible in their order and
    // no load overtakes the lock's instruction, so nothing more is needed.
    if cfg!(all(target_arch = "x86_64", not(miri), not(floodwall_loom))) {
        compiler_fence(Ordering::SeqCst);
        return LANES.begun.load(Ordering::SeqCst);
    }
    stamp_now()
}

/// The same for what the caller has just taken out.
pub(crate) fn stamp_now() -> u64 {
    fence(Ordering::SeqCst);
    LANES.begun.load(Ordering::SeqCst)
}

/// Looks at what all threads read. Costs about a microsecond: to be shared by many.
pub(crate) fn scan() {
    let is_fenced = LANES.is_fenced();
    let number = LANES.begun.fetch_add(1, Ordering::SeqCst) + 1;
    fence(Ordering::SeqCst);
    if !is_fenced && !barrier::pass() {
        // It was forbidden after the start: nothing can be freed any more, and nothing is.
        return;
    }
    let book = &mut *LANES.book.lock();
    book.named.clear();
    let mut quiet = number;
    for lane in &book.lanes {
        for word in &lane.words {
            let address = word.load(Ordering::Acquire);
            if address > BUSY {
                book.named.push(address);
            }
        }
        if lane.words[0].load(Ordering::Acquire) == 0 {
            lane.idle_at.store(number, Ordering::Relaxed);
        }
        quiet = quiet.min(lane.idle_at.load(Ordering::Relaxed));
    }
    book.named.sort_unstable();
    // Two scans may end in another order than they began. What the later one to end has found is as good for both: it
    // looked at the lanes after the fences of both.
    LANES.quiet.fetch_max(quiet, Ordering::Release);
    LANES.ended.fetch_max(number, Ordering::Release);
}

/// The last scan that has ended.
#[inline]
pub(crate) fn scanned() -> u64 {
    LANES.ended.load(Ordering::Acquire)
}

/// All reads that began before the stamps below this have ended.
pub(crate) fn quiet() -> u64 {
    LANES.quiet.load(Ordering::Acquire)
}

/// Calls `each` with a test of whether the last scan found an address named, or with nothing if it found none.
pub(crate) fn with_named<R>(each: impl FnOnce(Option<&dyn Fn(usize) -> bool>) -> R) -> R {
    let book = LANES.book.lock();
    let is_named = |address| book.named.binary_search(&address).is_ok();
    each(if book.named.is_empty() { None } else { Some(&is_named) })
}

/// The heavy side of the fence.
#[cfg(all(target_os = "linux", not(miri), not(floodwall_loom)))]
mod barrier {
    const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

    fn call(command: libc::c_int) -> bool {
        // SAFETY: `membarrier` takes three integers and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }

    /// Returns whether the system can do it.
    pub(super) fn prepare() -> bool {
        call(REGISTER_PRIVATE_EXPEDITED) && call(PRIVATE_EXPEDITED)
    }

    /// Makes every running thread of the process pass a fence.
    pub(super) fn pass() -> bool {
        // A fork's child may have to ask again.
        call(PRIVATE_EXPEDITED) || prepare()
    }
}

#[cfg(not(all(target_os = "linux", not(miri), not(floodwall_loom))))]
mod barrier {
    pub(super) fn prepare() -> bool {
        false
    }

    pub(super) fn pass() -> bool {
        false
    }
}
