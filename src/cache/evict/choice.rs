//! The ways in which the default policy can run, of which a cache takes the one that would have hit most lately.

/// How a [`Clock`](super::clock::Clock) decides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Choice {
    /// The window's share of the weight, in 1,024ths.
    pub(super) window: u16,
    /// What a key that has just left and comes back is worth.
    pub(super) ghost: Ghosts,
    /// By how much a newcomer must have been used more often than whom it replaces.
    pub(super) margin: u8,
    /// Entries of the window that were used go to its other end, rather than through the admission.
    pub(super) again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ghosts {
    /// Nothing: it stands in the window again.
    Ignored,
    /// It passes the window by.
    Welcome,
    /// It passes the window by, which is the only way in but much use: S3-FIFO.
    Alone,
}

const fn choice(percent: u16, ghost: Ghosts, margin: u8, again: bool) -> Choice {
    Choice { window: percent * 256 / 25, ghost, margin, again }
}

/// From those that fit a loop to those that fit a stack. They are few, since each costs a simulation; each was taken in
/// because some kind of load needs it that none of the others serves (see the design notes).
pub(super) const CHOICES: [Choice; 7] = [
    choice(1, Ghosts::Ignored, 0, false),
    choice(2, Ghosts::Ignored, 0, false),
    choice(4, Ghosts::Welcome, 1, false),
    choice(10, Ghosts::Welcome, 0, false),
    choice(40, Ghosts::Ignored, 1, false),
    choice(80, Ghosts::Ignored, 0, true),
    choice(80, Ghosts::Alone, 0, false),
];

/// What a cache begins with.
pub(super) const FIRST: usize = 1;

impl Default for Choice {
    fn default() -> Self {
        CHOICES[FIRST]
    }
}
