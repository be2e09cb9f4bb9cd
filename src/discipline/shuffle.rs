//! A few flows for each key, so that one key's flood leaves the others most of theirs: shuffle sharding.
//!
//! A key is dealt a hand of flows by its hash and uses the shortest. Two keys seldom share their whole hand, so a key that
//! fills all of its hand still leaves the other one a flow. (C. MacCárthaigh, "Workload isolation using shuffle-sharding",
//! Amazon Builders' Library; fair queues over it as in Kubernetes' API server.)

/// How many flows there are.
pub(super) const FLOWS: usize = 64;

/// How many of them a key may use: of 64, two keys share all four with a chance of 1 in 600,000.
const HAND: usize = 4;

/// Deals the hand of a key: different flows, each hand as likely as any other.
pub(super) fn hand(key: u64) -> [usize; HAND] {
    let mut rest = spread(key);
    let mut cards = [0; HAND];
    for dealt in 0..HAND {
        let left = (FLOWS - dealt) as u64;
        let mut card = (rest % left) as usize;
        rest /= left;
        // The card counts among those that are still in the deck: step over those that are dealt, in order.
        for before in &cards[..dealt] {
            if card >= *before {
                card += 1;
            }
        }
        cards[dealt] = card;
        cards[..=dealt].sort_unstable();
    }
    cards
}

/// Brings the entropy of weak keys, such as small numbers, into all bits (the finalizer of D. Stafford's mix 13).
const fn spread(key: u64) -> u64 {
    let mut bits = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_has_different_flows_and_stays_the_same() {
        for key in 0..10_000 {
            let cards = hand(key);
            assert!(cards.windows(2).all(|pair| pair[0] < pair[1]) && cards[HAND - 1] < FLOWS, "{cards:?}");
            assert_eq!(cards, hand(key));
        }
    }

    #[test]
    fn flows_are_dealt_evenly_and_two_keys_seldom_share_a_hand() {
        let mut dealt = [0u32; FLOWS];
        let mut whole = 0;
        let elephant = hand(0);
        for key in 1..=64_000 {
            let cards = hand(key);
            cards.iter().for_each(|card| dealt[*card] += 1);
            whole += u32::from(cards == elephant);
        }
        // 4,000 each; the standard deviation is 61.
        assert!(dealt.iter().all(|count| count.abs_diff(4_000) < 400), "{dealt:?}");
        assert!(whole <= 2, "{whole}");
    }
}
