//! Rounds as rping makes them, from the side that asks: the client says where its
//! data lies, the server reads it and nods, the client says where it would like it
//! back, the server writes it there and nods. A round shows that messages, READs
//! and WRITEs get through, and that data comes back as it was.

use std::time::{Duration, Instant};

use sidelane_transport::cm::ConnError;
use sidelane_transport::nic::{Access, SendOp};
use zerocopy::IntoBytes;

use super::contents;
use super::end::{LOCAL, Memory, work};
use super::lines::{Lines, News};
use super::report::Tally;
use super::wire::MESSAGE_LEN;
use super::{Event, Loss, PingError, Stop};

/// How long to leave a peer alone after a loss, at least.
const PAUSE: Duration = Duration::from_secs(1);

/// Which rounds are to be made.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Rounds of each line; for ever if not given.
    pub count: Option<u64>,
    /// When the last one begins.
    pub until: Option<Instant>,
    /// From the beginning of one to that of the next.
    pub interval: Duration,
    /// How long connecting and a round may take together.
    pub timeout: Duration,
    /// Bytes.
    pub size: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Until the next round is due.
    Idle,
    /// A round is due as soon as there is a connection.
    Connecting,
    /// The server has been told where to read.
    Reading,
    /// The server has been told where to write.
    Writing,
    /// No round is left.
    Over,
}

/// One line's part.
struct Course {
    source: Memory,
    sink: Memory,
    step: Step,
    /// Rounds begun.
    round: u64,
    due: Instant,
    deadline: Instant,
    started: Instant,
}

/// Rounds on all lines.
pub(super) struct Rounds {
    plan: Plan,
    courses: Vec<Course>,
    /// The messages of each line: where to read, then where to write.
    messages: Memory,
    sent: Vec<u8>,
    came: Vec<u8>,
    pub tally: Tally,
}

impl Rounds {
    pub fn new(lines: &mut Lines, plan: Plan, now: Instant) -> Result<Self, PingError> {
        let (count, len) = (lines.count(), plan.size as usize);
        let messages = lines
            .end
            .memory("messages", count * 2 * MESSAGE_LEN, LOCAL)?;
        let mut courses = Vec::with_capacity(count);
        for line in 0..count {
            let readable = Access {
                remote_read: true,
                ..Access::default()
            };
            let writable = Access {
                local_write: true,
                remote_write: true,
                ..Access::default()
            };
            let source = lines.end.memory("ping source", len, readable)?;
            let sink = lines.end.memory("ping sink", len, writable)?;
            let adverts = [source.advert(plan.size), sink.advert(plan.size)];
            messages.write(line * 2 * MESSAGE_LEN, adverts.as_bytes())?;
            courses.push(Course {
                source,
                sink,
                step: Step::Idle,
                round: 0,
                due: now,
                deadline: now,
                started: now,
            });
        }
        Ok(Self {
            plan,
            courses,
            messages,
            sent: vec![0; len],
            came: vec![0; len],
            tally: Tally::new(),
        })
    }

    /// Leaves the lines alone that are not connected now.
    pub fn only_connected(&mut self, lines: &Lines) {
        for (line, course) in self.courses.iter_mut().enumerate() {
            if !lines.is_up(line) {
                course.step = Step::Over;
            }
        }
    }

    /// Makes the rounds, until the last has ended or the end is wished for.
    pub fn run(
        &mut self,
        lines: &mut Lines,
        stop: &Stop,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), PingError> {
        let mut report_at = Instant::now() + Duration::from_secs(1);
        while !stop.is_wished() {
            let now = Instant::now();
            lines.turn(now, |lines, news| self.on(lines, news, now, tell))?;
            self.give_up_late(lines, now, tell);
            self.begin_due(lines, now)?;
            let pending = self.courses.iter().filter(|it| it.step != Step::Over);
            let next = pending
                .map(|course| match course.step {
                    Step::Idle => course.due,
                    _ => course.deadline,
                })
                .min();
            let Some(next) = next else { break };
            if now >= report_at {
                report_at = now + Duration::from_secs(1);
                tell(Event::Progress(&format!(
                    "{} rounds back, {} lost",
                    self.tally.back, self.tally.lost
                )));
            }
            lines.end.wait(next, Some(stop))?;
        }
        Ok(())
    }

    fn on(
        &mut self,
        lines: &mut Lines,
        news: News,
        now: Instant,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), PingError> {
        match news {
            News::Up(line) => self.send(lines, line, Step::Reading),
            News::Nod(line) => match self.courses.get(line).map(|it| it.step) {
                Some(Step::Reading) => self.send(lines, line, Step::Writing),
                Some(Step::Writing) => self.judge(lines, line, now, tell),
                // A nod that nobody asked for.
                _ => {
                    lines.close(line, now);
                    let len = MESSAGE_LEN as u32;
                    self.lost(line, &Loss::Garbage { len }, now, tell);
                    Ok(())
                }
            },
            News::Down(line, loss) => {
                self.lost(line, &loss, now, tell);
                Ok(())
            }
            News::Done(_) => Ok(()),
        }
    }

    /// Begins the rounds that are due.
    fn begin_due(&mut self, lines: &mut Lines, now: Instant) -> Result<(), PingError> {
        for line in 0..self.courses.len() {
            let Some(course) = self.courses.get_mut(line) else {
                break;
            };
            if course.step != Step::Idle {
                continue;
            }
            let counted = self.plan.count.is_some_and(|count| course.round >= count);
            if counted || self.plan.until.is_some_and(|until| now >= until) {
                course.step = Step::Over;
                continue;
            }
            if now < course.due {
                continue;
            }
            course.round += 1;
            course.due = (course.due + self.plan.interval).max(now);
            course.deadline = now + self.plan.timeout;
            contents::fill(&mut self.sent, line, course.round);
            course.source.write(0, &self.sent)?;
            if lines.is_up(line) {
                self.send(lines, line, Step::Reading)?;
            } else {
                course.step = Step::Connecting;
                lines.open(line, now)?;
            }
        }
        Ok(())
    }

    /// Sends the message that begins a step.
    fn send(&mut self, lines: &mut Lines, line: usize, step: Step) -> Result<(), PingError> {
        let Some(course) = self.courses.get_mut(line) else {
            return Ok(());
        };
        course.step = step;
        let mut offset = line * 2 * MESSAGE_LEN;
        match step {
            Step::Writing => offset += MESSAGE_LEN,
            _ => course.started = Instant::now(),
        }
        let sge = self.messages.sge(offset, MESSAGE_LEN as u32);
        lines.post(line, &[work(0, SendOp::Send, sge, false)])
    }

    /// The last nod of a round has come: is the data as it was?
    fn judge(
        &mut self,
        lines: &mut Lines,
        line: usize,
        now: Instant,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), PingError> {
        let Some(course) = self.courses.get_mut(line) else {
            return Ok(());
        };
        let time = now.saturating_duration_since(course.started);
        course.source.read(0, &mut self.sent)?;
        course.sink.read(0, &mut self.came)?;
        if let Some(at) = contents::difference(&self.sent, &self.came) {
            lines.close(line, now);
            self.lost(line, &Loss::Altered { at }, now, tell);
            return Ok(());
        }
        course.step = Step::Idle;
        self.tally.add(time);
        tell(Event::Back {
            line,
            round: course.round,
            time,
        });
        Ok(())
    }

    /// The line is down: so is the round that was on its way, if one was.
    fn lost(&mut self, line: usize, loss: &Loss, now: Instant, tell: &mut dyn FnMut(Event<'_>)) {
        let Some(course) = self.courses.get_mut(line) else {
            return;
        };
        if matches!(course.step, Step::Idle | Step::Over) {
            return;
        }
        course.step = Step::Idle;
        course.due = course.due.max(now + PAUSE);
        let round = course.round;
        tell(Event::Lost { line, round, loss });
        self.tally.lose(loss);
    }

    fn give_up_late(&mut self, lines: &mut Lines, now: Instant, tell: &mut dyn FnMut(Event<'_>)) {
        for line in 0..self.courses.len() {
            let Some(course) = self.courses.get(line) else {
                break;
            };
            let what = match course.step {
                Step::Idle | Step::Over => continue,
                _ if now < course.deadline => continue,
                Step::Connecting => {
                    let port = lines.remote.port();
                    let error = ConnError::Timeout(lines.remote);
                    lines.close(line, now);
                    self.lost(line, &Loss::NotConnected { port, error }, now, tell);
                    continue;
                }
                Step::Reading => "word that the peer has read",
                Step::Writing => "word that the peer has written",
            };
            let after = self.plan.timeout;
            lines.close(line, now);
            self.lost(line, &Loss::Silence { what, after }, now, tell);
        }
    }
}
