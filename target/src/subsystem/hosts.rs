//! Which hosts may connect.

use std::collections::BTreeSet;

/// The hosts that a subsystem admits. By default none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AllowedHosts {
    /// Those whose NQN is in the list, compared byte for byte.
    Only(BTreeSet<String>),
    /// None.
    #[default]
    Nobody,
    /// Every host.
    Any,
}

impl AllowedHosts {
    /// The hosts with these names.
    pub fn only<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self::Only(names.into_iter().map(Into::into).collect())
    }

    /// Whether the host with this NQN may connect.
    pub fn admits(&self, host: &str) -> bool {
        match self {
            Self::Only(names) => names.contains(host),
            Self::Nobody => false,
            Self::Any => true,
        }
    }
}
