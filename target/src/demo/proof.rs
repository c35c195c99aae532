//! What the modelled SSDs say of it: which addresses they were told to touch.
//!
//! The target counts payload by path itself; here the devices at the far end of
//! the data path are asked. Each address that an SSD was told for payload has to
//! lie in the one memory that the policy allows, and the SSD's own count of
//! bytes by place has to agree.

use std::ops::Range;

use sidelane_nvme::model::{Place, Purpose, Touched};

/// The memory in which the payload of a namespace has to be.
#[derive(Debug, Clone)]
pub struct Expected {
    /// What an operator calls it.
    pub name: String,
    /// Its bus addresses; more than one range where reactors have their own.
    pub ranges: Vec<Range<u64>>,
    /// What has to answer at those addresses.
    pub place: Place,
}

/// Commands of so many bytes that surely fit one record of an SSD: it has 65,536
/// entries, and a command makes one for each page and perhaps each list entry,
/// and some for its queue entries.
pub fn commands_per_record(command_bytes: u64) -> u64 {
    let entries = 2 * command_bytes.div_ceil(4096) + 8;
    (60_000 / entries).max(1)
}

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Proof {
    /// Addresses of payload that were recorded and compared.
    pub checked: u64,
    /// Those of them that lie outside the expected memory.
    pub outside: u64,
    /// Payload bytes at addresses that were compared and lie inside.
    pub bytes_inside: u64,
    /// Payload bytes that the SSD counted beyond those, and its accesses that
    /// nothing answered.
    pub bytes_elsewhere: u64,
}

impl Proof {
    /// Takes in what an SSD has touched since its record was begun.
    pub fn add(&mut self, touched: &Touched, expected: &Expected) {
        let mut inside = 0;
        for touch in touched
            .record
            .iter()
            .filter(|touch| touch.purpose == Purpose::Data)
        {
            let holds = |range: &Range<u64>| {
                range.start <= touch.range.start && touch.range.end <= range.end
            };
            self.checked += 1;
            if touch.place == expected.place && expected.ranges.iter().any(holds) {
                inside += touch.range.end - touch.range.start;
            } else {
                self.outside += 1;
            }
        }
        let payload = &touched.payload;
        let counted =
            payload.host + payload.own_cmb + payload.own_pmr + payload.peer + touched.faults;
        self.bytes_inside += inside;
        self.bytes_elsewhere += counted.saturating_sub(inside);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidelane_nvme::model::{Direction, PayloadBytes, Touch};

    fn touch(range: Range<u64>, place: Place, purpose: Purpose) -> Touch {
        Touch {
            range,
            direction: Direction::ToMemory,
            place,
            purpose,
        }
    }

    #[test]
    fn addresses_of_payload_must_lie_in_the_memory_and_be_answered_by_it() {
        let expected = Expected {
            name: "cmb".into(),
            ranges: vec![100..200, 300..400],
            place: Place::OwnCmb,
        };
        let record = vec![
            touch(100..200, Place::OwnCmb, Purpose::Data),
            touch(350..400, Place::OwnCmb, Purpose::Data),
            touch(199..201, Place::OwnCmb, Purpose::Data),
            touch(150..160, Place::Host, Purpose::Data),
            touch(200..300, Place::OwnCmb, Purpose::Data),
            touch(9..10, Place::Host, Purpose::Queue),
            touch(9..10, Place::Host, Purpose::List),
        ];
        let payload = PayloadBytes {
            host: 10,
            own_cmb: 252,
            own_pmr: 0,
            peer: 3,
        };
        let inside = 100 + 50;
        let touched = Touched {
            payload,
            faults: 1,
            record,
            unrecorded: 0,
        };
        let mut proof = Proof::default();
        proof.add(&touched, &expected);
        let one = Proof {
            checked: 5,
            outside: 3,
            bytes_inside: inside,
            bytes_elsewhere: 266 - inside,
        };
        assert_eq!(proof, one);
        proof.add(&touched, &expected);
        assert_eq!((proof.checked, proof.bytes_inside), (10, 2 * inside));
    }
}
