//! The server's part of a round, without an adapter: what a message asks for, and
//! in which order.

use sidelane_transport::nic::RemoteMemory;

use super::wire::{Advert, MAX_SIZE};

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Read so many bytes; [`Answer::has_read`] when they are there.
    Read(RemoteMemory, u32),
    /// Nod: the client may go on.
    Nod,
    /// Write so many of the bytes that were read, and nod after them.
    WriteAndNod(RemoteMemory, u32),
}

/// Why a client is not served any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Breach {
    #[error("a message out of turn")]
    Turn,
    #[error("{0} bytes in one round; 1 to {MAX_SIZE} are possible")]
    Size(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Step {
    /// Until the client says where its data lies.
    #[default]
    Source,
    Reading,
    /// Until the client says where it would like it back.
    Sink,
}

/// How far a round is.
#[derive(Debug, Default)]
pub(super) struct Answer {
    step: Step,
    /// Bytes that were read, or are being read.
    len: u32,
    /// Rounds answered.
    pub rounds: u64,
}

impl Answer {
    pub fn on_message(&mut self, advert: &Advert) -> Result<Action, Breach> {
        let size = advert.size.get();
        if !(1..=MAX_SIZE).contains(&size) {
            return Err(Breach::Size(size));
        }
        match self.step {
            Step::Source => {
                self.step = Step::Reading;
                self.len = size;
                Ok(Action::Read(advert.memory(), size))
            }
            Step::Reading => Err(Breach::Turn),
            Step::Sink => {
                self.step = Step::Source;
                self.rounds += 1;
                Ok(Action::WriteAndNod(advert.memory(), self.len.min(size)))
            }
        }
    }

    pub fn has_read(&mut self) -> Result<Action, Breach> {
        if self.step != Step::Reading {
            return Err(Breach::Turn);
        }
        self.step = Step::Sink;
        Ok(Action::Nod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_round_is_read_nodded_at_written_back_and_nodded_at() {
        let mut answer = Answer::default();
        for round in 1..=3 {
            let source = Advert::new(0x1000, 7, 100);
            let sink = Advert::new(0x2000, 8, 100);
            assert_eq!(
                answer.on_message(&source),
                Ok(Action::Read(source.memory(), 100))
            );
            assert_eq!(answer.has_read(), Ok(Action::Nod));
            assert_eq!(
                answer.on_message(&sink),
                Ok(Action::WriteAndNod(sink.memory(), 100))
            );
            assert_eq!(answer.rounds, round);
        }
    }

    #[rstest::rstest]
    #[case(0)]
    #[case(MAX_SIZE + 1)]
    #[case(u32::MAX)]
    fn a_size_that_no_buffer_has_is_refused(#[case] size: u32) {
        let answer = Answer::default().on_message(&Advert::new(0, 0, size));
        assert_eq!(answer, Err(Breach::Size(size)));
    }

    #[test]
    fn a_message_while_the_server_reads_is_out_of_turn() {
        let mut answer = Answer::default();
        answer.on_message(&Advert::new(0, 0, 1)).unwrap();
        let again = answer.on_message(&Advert::new(0, 0, 1));
        assert_eq!(again, Err(Breach::Turn));
    }

    proptest! {
        /// Whatever comes in whatever order: never more is read than the buffer
        /// holds, nor written than was read, nor past what the client offered.
        #[test]
        fn no_order_of_events_reaches_outside(
            events in prop::collection::vec(prop::option::of(any::<u32>()), 0..50),
        ) {
            let (mut answer, mut read) = (Answer::default(), 0);
            for event in events {
                let done = match event {
                    Some(size) => answer.on_message(&Advert::new(1, 1, size)),
                    None => answer.has_read(),
                };
                match done {
                    Ok(Action::Read(_, len)) => {
                        prop_assert!(len <= MAX_SIZE);
                        read = len;
                    }
                    Ok(Action::WriteAndNod(_, len)) => {
                        prop_assert!(len <= read && Some(len) <= event);
                    }
                    Ok(Action::Nod) => {}
                    Err(_) => break,
                }
            }
        }
    }
}
