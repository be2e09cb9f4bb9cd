//! The default policy: a window, a clock and admission by frequency.

use super::choice::{Choice, Ghosts};
use super::ghost::Ghost;
use super::list::List;
use super::node::Nodes;
use super::sketch::Sketch;
use crate::rng::Rng;

/// New entries stand in a window, a queue. When it is longer than its share, its oldest entry goes: into the main part if
/// it was used more than once, or if it was used more often, lately, than the entry that would have to leave there. That
/// is found by a clock's hand (F. J. Corbató, 1968), which passes over used entries and takes a use from each.
///
/// It is W-TinyLFU (G. Einziger, R. Friedman and B. Manes, 2017) without anything to do on a hit: a use is two bits, and
/// counts in the sketch when the entry is passed or leaves. An entry's insertion counts when it leaves, too. So in a loop a
/// key that comes back has as many counts as one that stays, and does not replace it; counted at once, it would be
/// one ahead of all those whose turn in the loop has yet to come.
///
/// Window, ghosts and margin are the [`Choice`] of somebody outside.
#[derive(Debug)]
pub(super) struct Clock {
    window: List,
    main: List,
    choice: Choice,
    sketch: Sketch,
    ghost: Ghost,
    rng: Rng,
    /// The sketch and the ghost are for about so many entries.
    fit: usize,
}

impl Clock {
    /// At most so many entries are passed over in search of one to evict. Most have less than two uses left, and who is passed
    /// has less afterwards.
    const STEPS: usize = 16;
    /// So many entries leave a window that was made smaller, with each newcomer.
    const MOVES: usize = 4;
    /// A key that was seen so often may replace an entry that was seen more often, now and then.
    const FREQUENT: u8 = 6;

    pub(super) fn new(seed: u64) -> Self {
        Self {
            window: List::new(1),
            main: List::new(2),
            choice: Choice::default(),
            sketch: Sketch::new(),
            ghost: Ghost::new(),
            rng: Rng::seeded(seed),
            fit: 0,
        }
    }

    pub(super) fn memory(&self) -> usize {
        self.sketch.memory() + self.ghost.memory()
    }

    pub(super) fn choose(&mut self, choice: Choice) {
        self.choice = choice;
    }

    const fn len(&self) -> usize {
        self.window.len() + self.main.len()
    }

    pub(super) const fn weight(&self) -> u64 {
        self.window.weight().wrapping_add(self.main.weight())
    }

    /// Whether the window's oldest entry has to go. The newest stays: it would be useless to take in what leaves at once.
    fn is_window_over(&self) -> bool {
        let share = (u128::from(self.weight()) * u128::from(self.choice.window)) >> 10;
        self.window.len() > 1 && u128::from(self.window.weight()) > share.max(1)
    }

    pub(super) fn admit(&mut self, nodes: &impl Nodes, id: u32) {
        // Nobody had to leave for those that came before: there was room, or the window has a smaller share now.
        for _ in 0..Self::MOVES {
            let Some(oldest) = self.window.oldest().filter(|_| self.is_window_over()) else { break };
            self.window.unlink(nodes, oldest);
            self.main.push(nodes, oldest);
        }
        let welcome = self.choice.ghost != Ghosts::Ignored && self.ghost.take(nodes.node(id).hash());
        if welcome {
            self.main.push(nodes, id)
        } else {
            self.window.push(nodes, id)
        }
        self.refit();
    }

    /// Sees to it, now and then, that what is remembered is enough for the entries that there are.
    fn refit(&mut self) {
        let entries = self.len();
        if entries > self.fit + self.fit / 8 || entries < self.fit / 2 {
            self.fit = entries;
            self.sketch.fit(entries + entries / 8);
            self.ghost.fit(entries);
        }
    }

    /// Forgets the entries, and returns those that begin its lists.
    pub(super) fn clear(&mut self) -> [u32; 2] {
        [self.window.clear(), self.main.clear()]
    }

    /// The list in which an entry stands.
    pub(super) fn list(&mut self, nodes: &impl Nodes, id: u32) -> &mut List {
        if self.window.holds(nodes, id) { &mut self.window } else { &mut self.main }
    }

    pub(super) fn victim(&mut self, nodes: &impl Nodes) -> Option<u32> {
        for _ in 0..Self::STEPS {
            let Some(oldest) = self.window.oldest().filter(|_| self.is_window_over()) else { break };
            let node = nodes.node(oldest);
            let uses = node.uses();
            if uses > 0 {
                self.sketch.count(node.hash(), uses, self.len());
                node.set_uses(0);
                if self.choice.again {
                    self.window.renew(nodes, oldest);
                    continue;
                }
            }
            if uses > 1 {
                self.window.unlink(nodes, oldest);
                self.main.push(nodes, oldest);
                continue;
            }
            if self.choice.ghost != Ghosts::Alone {
                if let Some(rival) = self.hand(nodes) {
                    if self.is_better(nodes, oldest, rival) {
                        self.window.unlink(nodes, oldest);
                        self.main.push(nodes, oldest);
                        return Some(self.leave(nodes, rival));
                    }
                }
            }
            return Some(self.leave(nodes, oldest));
        }
        let victim = self.hand(nodes).or_else(|| self.window.oldest())?;
        Some(self.leave(nodes, victim))
    }

    /// Finds the entry of the main part that is to leave next.
    fn hand(&mut self, nodes: &impl Nodes) -> Option<u32> {
        for _ in 0..Self::STEPS {
            let id = self.main.oldest()?;
            let node = nodes.node(id);
            let uses = node.uses();
            if uses == 0 {
                break;
            }
            node.set_uses(uses - 1);
            self.sketch.count(node.hash(), 1, self.len());
            self.main.renew(nodes, id);
        }
        self.main.oldest()
    }

    fn is_better(&mut self, nodes: &impl Nodes, newcomer: u32, rival: u32) -> bool {
        let seen = self.sketch.estimate(nodes.node(newcomer).hash());
        let rivals = self.sketch.estimate(nodes.node(rival).hash()) + self.choice.margin;
        let (weight, rooms) = (nodes.weight(newcomer), nodes.weight(rival));
        let is_better = if weight > rooms {
            // For a heavy one several have to leave, and it has to be worth as much as they are together.
            u128::from(seen) * u128::from(rooms) > u128::from(rivals) * u128::from(weight)
        } else {
            seen > rivals
        };
        // Somebody who knows the hashes could make an entry look much used, with other keys, and so keep out whom he likes. In a
        // loop all look alike, and each that gets in costs a hit: so it is less often than TinyLFU's one in 128.
        is_better || seen >= Self::FREQUENT && self.rng.next() & 1023 == 0
    }

    /// Takes out the entry; its insertion counts now.
    fn leave(&mut self, nodes: &impl Nodes, id: u32) -> u32 {
        let node = nodes.node(id);
        self.sketch.count(node.hash(), 1 + node.uses(), self.len());
        self.list(nodes, id).unlink(nodes, id);
        self.ghost.remember(node.hash());
        id
    }
}
