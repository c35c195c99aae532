//! The end of a reactor: what still has its buffers is waited for, no longer than
//! it is worth, and memory is deregistered before it goes.

use std::time::{Duration, Instant};

use super::Reactor;

/// How long a stopping reactor waits for commands that SSDs have, before those
/// are made to give them back.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// How long a stopping reactor waits for SSDs and adapters.
const STOP_LIMIT: Duration = Duration::from_secs(10);

impl Reactor {
    /// Whether nothing is in flight any more, or it was waited for long enough. An
    /// SSD that keeps commands is stopped by its keeper before that.
    pub(super) fn has_stopped(&mut self, since: Instant, now: Instant) -> bool {
        let outstanding = self.outstanding();
        let waited = now.saturating_duration_since(since);
        if outstanding > 0 && waited > STOP_PATIENCE && !std::mem::replace(&mut self.gave_up, true)
        {
            for queued in &mut self.namespaces {
                if let Some(backend) = &mut queued.namespace.backend
                    && backend.outstanding() > 0
                {
                    backend.give_up();
                }
            }
        }
        let late = waited > STOP_LIMIT;
        if late {
            tracing::error!(
                outstanding,
                "an SSD or an adapter did not give its work back in time"
            );
        }
        let idle = self.connections.is_empty() && self.openings.is_empty();
        late || (outstanding == 0 && idle)
    }

    /// Commands that a backend still has: their buffers must stay.
    fn outstanding(&self) -> usize {
        self.namespaces
            .iter()
            .filter_map(|queued| queued.namespace.backend.as_ref())
            .map(|backend| backend.outstanding())
            .sum()
    }

    /// Nothing is in flight any more: memory is deregistered before it goes.
    pub(super) fn teardown(&mut self) {
        for port in &mut self.ports {
            let pools = port.pool_memory.iter().flatten();
            for memory in pools.chain([&port.messages_memory]) {
                port.nic.deregister(memory);
            }
        }
    }
}
