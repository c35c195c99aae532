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

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Proof {
    /// Addresses of payload that were recorded and compared.
    pub checked: u64,
    /// Those of them that lie outside the expected memory.
    pub outside: u64,
    /// Payload bytes in the expected place, as the SSD counted all of them,
    /// recorded or not.
    pub bytes_inside: u64,
    /// Payload bytes in any other place, and accesses that nothing answered.
    pub bytes_elsewhere: u64,
}

impl Proof {
    /// Takes in what an SSD has touched since its record was begun.
    pub fn add(&mut self, touched: &Touched, expected: &Expected) {
        for touch in touched
            .record
            .iter()
            .filter(|touch| touch.purpose == Purpose::Data)
        {
            let holds = |range: &Range<u64>| {
                range.start <= touch.range.start && touch.range.end <= range.end
            };
            let inside = touch.place == expected.place && expected.ranges.iter().any(holds);
            self.checked += 1;
            self.outside += u64::from(!inside);
        }
        let payload = &touched.payload;
        let all = payload.host + payload.own_cmb + payload.peer;
        let inside = match expected.place {
            Place::Host => payload.host,
            Place::OwnCmb => payload.own_cmb,
            Place::Peer(_) => payload.peer,
            Place::Nowhere => 0,
        };
        self.bytes_inside += inside;
        self.bytes_elsewhere += all - inside + touched.faults;
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
            peer: 3,
        };
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
            bytes_inside: 252,
            bytes_elsewhere: 14,
        };
        assert_eq!(proof, one);
        proof.add(&touched, &expected);
        assert_eq!((proof.checked, proof.bytes_inside), (10, 504));
    }
}
