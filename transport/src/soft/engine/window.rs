//! How many packets may be under way: of SENDs and WRITEs not acknowledged, of
//! READ responses not received.
//!
//! The specification leaves that to the requester. An end made of a socket has
//! only so much buffer; what does not fit there is lost, and all that follows it
//! sent again. So a window halves when something was lost and grows by one
//! packet for each window that came through.
#![forbid(unsafe_code)]

const SMALLEST: u32 = 4;

#[derive(Debug, Clone)]
pub(super) struct Window {
    size: u32,
    limit: u32,
    acknowledged: u32,
}

impl Window {
    pub(super) fn new(first: u32, limit: u32) -> Self {
        let limit = limit.max(1);
        Self {
            size: first.min(limit),
            limit,
            acknowledged: 0,
        }
    }

    pub(super) fn size(&self) -> u32 {
        self.size
    }

    pub(super) fn acknowledged(&mut self, packets: u32) {
        self.acknowledged += packets;
        if self.acknowledged >= self.size {
            self.acknowledged = 0;
            self.size = (self.size + 1).min(self.limit);
        }
    }

    pub(super) fn lost(&mut self) {
        self.acknowledged = 0;
        self.size = (self.size / 2).max(SMALLEST).min(self.limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_halves_at_a_loss_and_grows_back_to_its_limit() {
        let mut window = Window::new(64, 32);
        window.lost();
        window.lost();
        assert_eq!(window.size(), 8);
        for _ in 0..10 {
            window.lost();
        }
        assert_eq!(window.size(), SMALLEST);
        for _ in 0..10_000 {
            window.acknowledged(1);
        }
        assert_eq!(window.size(), 32);
    }
}
