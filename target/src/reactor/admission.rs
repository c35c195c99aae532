//! Who gets the next buffer: round robin over connections, first come first
//! served within one, and nobody overtakes.
//!
//! A large request at the front blocks smaller ones behind it on purpose:
//! otherwise a steady stream of small ones would starve it.

use std::collections::VecDeque;

/// The requests that wait for one pool.
#[derive(Debug)]
pub struct Admission {
    /// Waiting request slots by connection.
    waiting: Vec<VecDeque<usize>>,
    /// Connections with waiting requests, in the order of their turns.
    turns: VecDeque<usize>,
}

impl Admission {
    /// Room for connections numbered below `connections`.
    pub fn new(connections: usize) -> Self {
        Self {
            waiting: (0..connections).map(|_| VecDeque::new()).collect(),
            turns: VecDeque::with_capacity(connections),
        }
    }

    /// Makes room for `depth` waiting requests of a connection, so that none of
    /// them allocates later.
    pub fn reserve(&mut self, conn: usize, depth: usize) {
        if let Some(queue) = self.waiting.get_mut(conn) {
            queue.reserve(depth.saturating_sub(queue.len()));
        }
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Puts a request at the end of its connection's queue.
    pub fn push(&mut self, conn: usize, slot: usize) {
        let Some(queue) = self.waiting.get_mut(conn) else {
            return;
        };
        if queue.is_empty() {
            self.turns.push_back(conn);
        }
        queue.push_back(slot);
    }

    /// The request whose turn it is; stays where it is until [`Self::pop`].
    pub fn front(&self) -> Option<usize> {
        self.waiting.get(*self.turns.front()?)?.front().copied()
    }

    /// Takes the front request out; the turn goes to the next connection.
    pub fn pop(&mut self) -> Option<usize> {
        let conn = self.turns.pop_front()?;
        let queue = self.waiting.get_mut(conn)?;
        let slot = queue.pop_front();
        if !queue.is_empty() {
            self.turns.push_back(conn);
        }
        slot
    }

    /// Takes one request out; `false` when it does not wait.
    pub fn remove(&mut self, conn: usize, slot: usize) -> bool {
        let Some(queue) = self.waiting.get_mut(conn) else {
            return false;
        };
        let Some(at) = queue.iter().position(|waiting| *waiting == slot) else {
            return false;
        };
        queue.remove(at);
        if queue.is_empty() {
            self.turns.retain(|turn| *turn != conn);
        }
        true
    }

    /// Takes all requests of a connection out.
    pub fn remove_connection(&mut self, conn: usize) -> impl Iterator<Item = usize> + '_ {
        self.turns.retain(|c| *c != conn);
        self.waiting
            .get_mut(conn)
            .into_iter()
            .flat_map(|queue| queue.drain(..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn connections_take_turns_and_keep_their_own_order() {
        let mut admission = Admission::new(3);
        for (conn, slot) in [(0, 1), (0, 2), (0, 3), (1, 4), (2, 5), (1, 6)] {
            admission.push(conn, slot);
        }
        let order: Vec<_> = std::iter::from_fn(|| admission.pop()).collect();
        assert_eq!(order, [1, 4, 5, 2, 6, 3]);
        assert!(admission.is_empty());
    }

    #[test]
    fn a_connection_that_ends_takes_its_requests_along() {
        let mut admission = Admission::new(2);
        for (conn, slot) in [(0, 1), (1, 2), (0, 3)] {
            admission.push(conn, slot);
        }
        assert_eq!(admission.remove_connection(0).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(admission.front(), Some(2));
        assert_eq!(admission.pop(), Some(2));
        assert!(admission.is_empty());
    }

    #[test]
    fn one_request_leaves_and_the_turns_of_others_stay() {
        let mut admission = Admission::new(3);
        for (conn, slot) in [(0, 1), (1, 2), (0, 3), (2, 4)] {
            admission.push(conn, slot);
        }
        assert!(admission.remove(1, 2) && admission.remove(0, 1));
        assert!(!admission.remove(1, 2) && !admission.remove(7, 4));
        admission.push(1, 5);
        let order: Vec<_> = std::iter::from_fn(|| admission.pop()).collect();
        assert_eq!(order, [3, 4, 5]);
    }

    proptest! {
        #[test]
        fn nobody_waits_longer_than_one_turn_of_each_other_connection(
            pushes in proptest::collection::vec(0usize..8, 1..200),
        ) {
            let mut admission = Admission::new(8);
            for (slot, conn) in pushes.iter().enumerate() {
                admission.push(*conn, slot);
            }
            let mut rank = [0usize; 8];
            let order: Vec<_> = std::iter::from_fn(|| admission.pop()).collect();
            prop_assert_eq!(order.len(), pushes.len());
            // The k-th request of a connection comes before any connection's k+1-th.
            let mut last = 0;
            for slot in order {
                let conn = pushes[slot];
                prop_assert!(rank[conn] >= last);
                last = rank[conn];
                rank[conn] += 1;
            }
        }
    }
}
