//! Queue pairs by number.
//!
//! A number is `((generation * places + place) * reactors) + reactor`: whoever
//! holds a packet can tell its reactor by the remainder, the reactor finds the
//! place by a division, and a number does not come back before its place has
//! gone through all generations. Generation 0 is left out, so numbers 0 and 1,
//! which belong to management, never occur.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::qp::Qp;
use crate::nic::QpNumber;

#[derive(Debug)]
pub(super) struct Table {
    places: Vec<Place>,
    free: VecDeque<usize>,
    generations: u32,
    reactors: u32,
    reactor: u32,
}

#[derive(Debug)]
struct Place {
    generation: u32,
    qp: Option<Box<Qp>>,
}

impl Table {
    /// `seed` sets where the generations begin, so that a restarted process
    /// does not answer to the numbers of its predecessor.
    pub(super) fn new(places: u32, reactors: u32, reactor: u32, seed: u32) -> Self {
        let reactors = reactors.max(1);
        let places = places.clamp(1, (1 << 22) / reactors);
        let generations = (1 << 24) / (places * reactors);
        let first = 1 + seed % (generations - 1);
        Self {
            places: (0..places)
                .map(|_| Place {
                    generation: first,
                    qp: None,
                })
                .collect(),
            free: (0..places as usize).collect(),
            generations,
            reactors,
            reactor: reactor % reactors,
        }
    }

    /// Queue pairs it holds at most.
    pub(super) fn limit(&self) -> u32 {
        self.places.len() as u32
    }

    /// Adds what `make` gives for the new number, or nothing when full.
    pub(super) fn insert(&mut self, make: impl FnOnce(QpNumber) -> Qp) -> Option<QpNumber> {
        let index = self.free.pop_front()?;
        let count = self.places.len() as u32;
        let place = self.places.get_mut(index)?;
        let number = (place.generation * count + index as u32) * self.reactors + self.reactor;
        place.qp = Some(Box::new(make(QpNumber(number))));
        Some(QpNumber(number))
    }

    pub(super) fn remove(&mut self, number: QpNumber) -> Option<Box<Qp>> {
        let index = self.index(number)?;
        let place = self.places.get_mut(index)?;
        let qp = place.qp.take_if(|qp| qp.number() == number)?;
        place.generation += 1;
        if place.generation >= self.generations {
            place.generation = 1;
        }
        self.free.push_back(index);
        Some(qp)
    }

    pub(super) fn get_mut(&mut self, number: QpNumber) -> Option<&mut Qp> {
        let index = self.index(number)?;
        let qp = self.places.get_mut(index)?.qp.as_deref_mut()?;
        (qp.number() == number).then_some(qp)
    }

    pub(super) fn get(&self, number: QpNumber) -> Option<&Qp> {
        let index = self.index(number)?;
        let qp = self.places.get(index)?.qp.as_deref()?;
        (qp.number() == number).then_some(qp)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Qp> {
        self.places.iter().filter_map(|place| place.qp.as_deref())
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Qp> {
        self.places
            .iter_mut()
            .filter_map(|place| place.qp.as_deref_mut())
    }

    fn index(&self, number: QpNumber) -> Option<usize> {
        (number.0 % self.reactors == self.reactor)
            .then_some((number.0 / self.reactors) as usize % self.places.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nic::QpCaps;

    #[rstest::rstest]
    #[case(1, 1, 0)]
    #[case(4, 3, 2)]
    #[case(1024, 64, 63)]
    fn numbers_tell_their_reactor_fit_24_bits_and_do_not_come_back_soon(
        #[case] places: u32,
        #[case] reactors: u32,
        #[case] reactor: u32,
    ) {
        let mut table = Table::new(places, reactors, reactor, 77);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..200 {
            let number = table
                .insert(|n| Qp::new(n, QpCaps { max_send_wr: 1 }))
                .unwrap();
            assert!(number.0 > 1 && number.0 < 1 << 24);
            assert_eq!(number.0 % reactors, reactor);
            assert!(seen.insert(number));
            assert!(table.get_mut(number).is_some());
            assert!(table.get_mut(QpNumber(number.0 + reactors)).is_none());
            assert!(table.remove(number).is_some());
            assert!(table.remove(number).is_none());
        }
    }
}
