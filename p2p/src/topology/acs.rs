//! Access Control Services (PCI Express base specification, "ACS Extended
//! Capability"): the bits that decide whether a bridge passes a peer's request
//! on or sends it up to the root complex.

/// Extended capabilities start behind the conventional configuration space.
const EXTENDED_START: usize = 0x100;
/// The identifier of the ACS capability.
const ACS_ID: u16 = 0x000d;
/// Offset of the ACS control register in the capability.
const ACS_CONTROL: usize = 6;
/// What an unprivileged reader gets of `config`.
const UNPRIVILEGED_LEN: usize = 64;
/// No chain of capabilities can be longer: each takes at least 8 bytes.
const MAX_CAPABILITIES: usize = (4096 - EXTENDED_START) / 8;

/// What a function's configuration space says about ACS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acs {
    /// It has no ACS capability: it redirects nothing.
    Absent,
    /// It has one; this is its control register.
    Control(u16),
    /// The extended configuration space cannot be read: that takes
    /// CAP_SYS_ADMIN.
    Unreadable,
}

impl Acs {
    /// P2P Request Redirect.
    pub const REQUEST_REDIRECT: u16 = 1 << 2;
    /// P2P Completion Redirect.
    pub const COMPLETION_REDIRECT: u16 = 1 << 3;
    /// P2P Egress Control.
    pub const EGRESS_CONTROL: u16 = 1 << 5;

    /// Reads it from the bytes of a `config` file, as many as could be read.
    pub(super) fn parse(config: &[u8]) -> Self {
        if config.len() <= UNPRIVILEGED_LEN {
            return Self::Unreadable;
        }
        let mut at = EXTENDED_START;
        for _ in 0..MAX_CAPABILITIES {
            let Some(header) = word(config, at).zip(word(config, at + 2)) else {
                break;
            };
            match header {
                (ACS_ID, _) => {
                    return word(config, at + ACS_CONTROL).map_or(Self::Absent, Self::Control);
                }
                // The next capability's offset is in the upper 12 bits; 0 ends
                // the list, as do the zeroes or ones of a space without any.
                (_, next) if (next >> 4) as usize >= EXTENDED_START && next != u16::MAX => {
                    at = (next >> 4) as usize & !3;
                }
                _ => break,
            }
        }
        Self::Absent
    }

    /// Whether peer requests or completions are sent up to the root complex.
    /// `None` when that cannot be read.
    pub fn redirects(self) -> Option<bool> {
        const REDIRECTING: u16 =
            Acs::REQUEST_REDIRECT | Acs::COMPLETION_REDIRECT | Acs::EGRESS_CONTROL;
        match self {
            Self::Absent => Some(false),
            Self::Control(bits) => Some(bits & REDIRECTING != 0),
            Self::Unreadable => None,
        }
    }
}

fn word(config: &[u8], at: usize) -> Option<u16> {
    let bytes = config.get(at..at + 2)?;
    Some(u16::from_le_bytes([bytes[0], bytes[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration space with capabilities at the given places, linked in
    /// that order.
    fn config(capabilities: &[(usize, u16)], control: u16) -> Vec<u8> {
        let mut config = vec![0; 4096];
        for (i, &(at, id)) in capabilities.iter().enumerate() {
            let next = capabilities.get(i + 1).map_or(0, |c| c.0);
            let header = u32::from(id) | 1 << 16 | (next as u32) << 20;
            config[at..at + 4].copy_from_slice(&header.to_le_bytes());
            if id == ACS_ID {
                config[at + 6..at + 8].copy_from_slice(&control.to_le_bytes());
            }
        }
        config
    }

    #[rstest::rstest]
    #[case::request(1 << 2, true)]
    #[case::completion(1 << 3, true)]
    #[case::egress(1 << 5, true)]
    #[case::source_validation_and_upstream_forwarding(1 << 0 | 1 << 4, false)]
    #[case::nothing(0, false)]
    fn only_redirect_and_egress_control_redirect(#[case] control: u16, #[case] expected: bool) {
        let acs = Acs::parse(&config(&[(0x100, 1), (0x148, ACS_ID)], control));
        assert_eq!(acs, Acs::Control(control));
        assert_eq!(acs.redirects(), Some(expected));
    }

    #[rstest::rstest]
    #[case::no_extended_space(vec![0; 256], Acs::Absent)]
    #[case::empty_list(vec![0; 4096], Acs::Absent)]
    #[case::all_ones_as_of_a_removed_device(vec![0xff; 4096], Acs::Absent)]
    #[case::other_capabilities(config(&[(0x100, 1), (0x140, 3)], 0), Acs::Absent)]
    #[case::a_list_that_loops(config(&[(0x100, 1), (0x100, 1)], 0), Acs::Absent)]
    #[case::without_privilege(vec![0; 64], Acs::Unreadable)]
    fn odd_spaces_are_read_without_harm(#[case] config: Vec<u8>, #[case] expected: Acs) {
        assert_eq!(Acs::parse(&config), expected);
    }
}
