//! What is done about an SSD's troubles: decided here, without I/O and without a
//! clock, and carried out elsewhere.
//!
//! ```text
//! up -- command overdue --> abort it -- still overdue later --> reset
//!    -- fatal state, or admin commands unanswered -----------> reset
//!    -- gone, wanted back by the kernel, or not to be reset -> lost
//! reset -- done --> up        -- failed --> lost
//! lost -- once a second --> is it back? --> up
//! ```

use std::collections::VecDeque;
use std::time::Duration;

/// Resets without [`CALM`] seconds of peace between them, before the SSD is closed
/// and opened again, which resets more of it. More than a command is given
/// attempts: one that brings its SSD down fails before that.
const MAX_RESETS: u32 = 6;

/// Seconds without trouble after which earlier resets count no more.
const CALM: u32 = 120;

/// Commands whose abort is remembered, so that it is asked for once.
const REMEMBERED: usize = 64;

/// A command of a queue pair, by both identifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) qid: u16,
    pub(super) cid: u16,
}

/// Something that happened to an SSD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// A command is overdue, by so much beyond its time.
    Overdue(Command, Duration),
    /// Nobody wants a command any more.
    Unwanted(Command),
    /// The target stops, and commands do not end.
    GivenUp,
    /// A second has gone, and nothing is wrong, or nothing could be looked at.
    Second,
    /// It says that there is something to read.
    HasEvents,
    /// It has failed, or does not answer.
    Broken(String),
    /// It is gone, or has to be let go.
    Gone(String),
    /// How its reset ended.
    ResetEnded(Result<(), String>),
    /// It is back, and serves.
    Returned,
    /// The target stops, and its queue pairs are gone.
    Stop,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Have the controller abort a command; `overdue` or unwanted.
    Abort { command: Command, overdue: bool },
    /// Reset it, and start again what it had.
    Reset { why: String },
    /// Fail what it had, take its memory and namespaces out of service, close it.
    Lose { why: String },
    /// Stop it, and let what it had end.
    Halt,
    /// Read what it has to say.
    TakeEvents,
    /// See whether it is back.
    LookFor,
    /// Shut it down in order, as far as it is there.
    Close,
}

/// How an SSD is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It serves.
    Up,
    /// It is being reset.
    Resetting,
    /// It is not there, or cannot be used.
    Lost,
    /// It was stopped and will not serve again.
    Halted,
    /// It was shut down.
    Closed,
}

/// The state of an SSD, and what of its past counts.
#[derive(Debug)]
pub(super) struct Machine {
    state: State,
    /// How long a command may go on after its abort.
    grace: Duration,
    /// Resets since the last calm.
    resets: u32,
    /// Seconds without trouble.
    calm: u32,
    /// Overdue commands whose abort was asked for, and how far beyond their time
    /// they were.
    aborted: VecDeque<(Command, Duration)>,
}

impl Machine {
    /// An SSD that serves.
    pub(super) fn new(grace: Duration) -> Self {
        Self {
            state: State::Up,
            grace,
            resets: 0,
            calm: 0,
            aborted: VecDeque::with_capacity(REMEMBERED),
        }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Takes note of an event, and says what to do.
    pub(super) fn apply(&mut self, event: Event) -> Option<Action> {
        match (self.state, event) {
            (State::Closed, _) => None,
            (_, Event::Stop) => {
                self.state = State::Closed;
                Some(Action::Close)
            }
            (State::Up, Event::Overdue(command, beyond)) => self.overdue(command, beyond),
            (State::Up, Event::Unwanted(command)) => Some(Action::Abort {
                command,
                overdue: false,
            }),
            (State::Up, Event::HasEvents) => Some(Action::TakeEvents),
            (State::Up, Event::Second) => {
                self.calm = self.calm.saturating_add(1);
                if self.calm >= CALM {
                    self.resets = 0;
                    self.aborted.clear();
                }
                None
            }
            (State::Up, Event::Broken(why)) => Some(self.reset(why)),
            (State::Up | State::Resetting, Event::Gone(why)) => Some(self.lose(why)),
            (State::Resetting, Event::ResetEnded(Ok(()))) => {
                self.state = State::Up;
                None
            }
            (State::Resetting, Event::ResetEnded(Err(why))) => Some(self.lose(why)),
            (State::Up | State::Resetting, Event::GivenUp) => {
                self.state = State::Halted;
                Some(Action::Halt)
            }
            (State::Lost, Event::Second) => Some(Action::LookFor),
            (State::Lost, Event::Returned) => {
                self.forget();
                self.state = State::Up;
                None
            }
            // What was said of it before it was reset or lost.
            (State::Up | State::Resetting | State::Lost | State::Halted, _) => None,
        }
    }

    fn overdue(&mut self, command: Command, beyond: Duration) -> Option<Action> {
        self.calm = 0;
        let mut asked = self.aborted.iter();
        // One that is younger than it was is another, under the same identifier.
        let asked = asked.find(|(asked, at)| *asked == command && *at <= beyond);
        if let Some((Command { qid, cid }, at)) = asked {
            let why = format!(
                "command {cid:#x} of queue {qid} did not end, although its abort was asked for"
            );
            return (beyond - *at >= self.grace).then(|| self.reset(why));
        }
        self.aborted.retain(|(other, _)| *other != command);
        if self.aborted.len() == REMEMBERED {
            self.aborted.pop_front();
        }
        self.aborted.push_back((command, beyond));
        Some(Action::Abort {
            command,
            overdue: true,
        })
    }

    fn reset(&mut self, why: String) -> Action {
        self.calm = 0;
        self.aborted.clear();
        if self.resets == MAX_RESETS {
            return self.lose(format!("{why}; {MAX_RESETS} resets did not help"));
        }
        self.resets += 1;
        self.state = State::Resetting;
        Action::Reset { why }
    }

    fn lose(&mut self, why: String) -> Action {
        self.state = State::Lost;
        Action::Lose { why }
    }

    fn forget(&mut self) {
        self.resets = 0;
        self.calm = 0;
        self.aborted.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GRACE: Duration = Duration::from_secs(4);
    const COMMAND: Command = Command { qid: 1, cid: 7 };

    fn overdue(millis: u64) -> Event {
        Event::Overdue(COMMAND, Duration::from_millis(millis))
    }

    fn abort() -> Action {
        Action::Abort {
            command: COMMAND,
            overdue: true,
        }
    }

    fn kind(action: &Action) -> &'static str {
        match action {
            Action::Abort { .. } => "abort",
            Action::Reset { .. } => "reset",
            Action::Lose { .. } => "lose",
            Action::Halt => "halt",
            Action::TakeEvents => "take",
            Action::LookFor => "look",
            Action::Close => "close",
        }
    }

    #[rstest::rstest]
    #[case::a_late_command_is_aborted_once(vec![overdue(0), overdue(1000)], "abort")]
    #[case::also_one_that_is_found_late(vec![overdue(9000), overdue(12_999)], "abort")]
    #[case::another_under_the_same_identifier(vec![overdue(3000), overdue(10)], "abort abort")]
    #[case::and_then_the_ssd_is_reset(
        vec![overdue(0), overdue(4000), Event::ResetEnded(Ok(()))], "abort reset"
    )]
    #[case::a_fatal_state_is_reset_at_once(vec![Event::Broken("CFS".into())], "reset")]
    #[case::while_it_is_reset_no_command_is_late(
        vec![Event::Broken("CFS".into()), overdue(9000), Event::HasEvents], "reset"
    )]
    #[case::a_reset_that_fails_loses_it(
        vec![Event::Broken("CFS".into()), Event::ResetEnded(Err("no".into()))], "reset lose"
    )]
    #[case::one_that_is_gone_is_lost_and_looked_for(
        vec![Event::Gone("ones".into()), Event::Second, Event::Second], "lose look look"
    )]
    #[case::one_that_is_back_serves_as_before(
        vec![Event::Gone("ones".into()), Event::Returned, overdue(0)], "lose abort"
    )]
    #[case::what_nobody_wants_is_aborted(vec![Event::Unwanted(COMMAND)], "abort")]
    #[case::at_the_end_it_is_halted_and_closed(
        vec![Event::GivenUp, Event::Second, overdue(9000), Event::Stop, Event::Stop], "halt close"
    )]
    fn the_ladder(#[case] events: Vec<Event>, #[case] expected: &str) {
        let mut machine = Machine::new(GRACE);
        let actions = events.into_iter().filter_map(|event| machine.apply(event));
        let kinds: Vec<_> = actions.map(|action| kind(&action)).collect();
        assert_eq!(kinds.join(" "), expected);
    }

    #[test]
    fn an_ssd_that_resets_do_not_help_is_closed_and_one_with_calm_between_is_not() {
        let resets_until_lost = |calm: u32| {
            let mut machine = Machine::new(GRACE);
            (0..100).position(|_| {
                let action = machine.apply(Event::Broken("CFS".into()));
                machine.apply(Event::ResetEnded(Ok(())));
                for _ in 0..calm {
                    machine.apply(Event::Second);
                }
                matches!(action, Some(Action::Lose { .. }))
            })
        };
        assert_eq!(resets_until_lost(CALM - 1), Some(MAX_RESETS as usize));
        assert_eq!(resets_until_lost(CALM), None);
    }

    #[test]
    fn after_a_reset_the_same_identifiers_are_other_commands() {
        let mut machine = Machine::new(GRACE);
        assert_eq!(machine.apply(overdue(0)), Some(abort()));
        machine.apply(overdue(5000));
        machine.apply(Event::ResetEnded(Ok(())));
        assert_eq!(machine.apply(overdue(0)), Some(abort()));
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0u16..3, 0u16..3, 0u64..8000).prop_map(|(qid, cid, ms)| {
                Event::Overdue(Command { qid, cid }, Duration::from_millis(ms))
            }),
            Just(Event::Unwanted(COMMAND)),
            Just(Event::GivenUp),
            Just(Event::Second),
            Just(Event::HasEvents),
            Just(Event::Broken(String::new())),
            Just(Event::Gone(String::new())),
            Just(Event::ResetEnded(Ok(()))),
            Just(Event::ResetEnded(Err(String::new()))),
            Just(Event::Returned),
            Just(Event::Stop),
        ]
    }

    proptest! {
        /// Whatever comes in whatever order.
        #[test]
        fn only_an_ssd_that_is_there_is_asked_for_anything(
            events in proptest::collection::vec(event(), 1..200),
        ) {
            let mut machine = Machine::new(GRACE);
            let mut in_a_row = 0;
            for event in events {
                let before = machine.state();
                let action = machine.apply(event);
                match &action {
                    Some(Action::Abort { .. } | Action::Reset { .. } | Action::TakeEvents) => {
                        prop_assert_eq!(before, State::Up);
                    }
                    Some(Action::Lose { .. } | Action::Halt) => {
                        prop_assert!(matches!(before, State::Up | State::Resetting));
                    }
                    Some(Action::LookFor) => prop_assert_eq!(before, State::Lost),
                    Some(Action::Close) => prop_assert_ne!(before, State::Closed),
                    None => {}
                }
                match action {
                    Some(Action::Reset { .. }) => in_a_row += 1,
                    Some(Action::Lose { .. }) => in_a_row = 0,
                    _ => {}
                }
                prop_assert!(in_a_row <= MAX_RESETS);
                prop_assert!(machine.aborted.len() <= REMEMBERED);
            }
        }
    }
}
