//! Names: NVMe Qualified Names (clause 4.5) and host identifiers (5.27.1.25).

use std::fmt;
use std::str::FromStr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Name of the discovery service, which every discovery controller answers to.
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// Longest name, in bytes.
pub const NQN_LEN_MAX: usize = 223;

const UUID_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";

/// A well-formed NVMe Qualified Name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nqn(Box<str>);

/// Why a name is not an NVMe Qualified Name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NqnError {
    /// No name at all.
    #[error("the name is empty")]
    Empty,
    /// Longer than 223 bytes.
    #[error("the name has {0} bytes; an NVMe Qualified Name has at most 223")]
    TooLong(usize),
    /// A field of 256 bytes without an end.
    #[error("the name is not terminated by a zero byte within its field")]
    Unterminated,
    /// Not UTF-8, or with control characters.
    #[error("the name is not printable UTF-8 text")]
    NotText,
    /// Not of the prescribed form.
    #[error(
        "`{name}` is not an NVMe Qualified Name: {reason}; such as nqn.2026-01.com.example:disk1"
    )]
    Form {
        /// The text.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Nqn {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this names the discovery service.
    pub fn is_discovery(&self) -> bool {
        self.as_str() == DISCOVERY_NQN
    }
}

impl FromStr for Nqn {
    type Err = NqnError;

    fn from_str(name: &str) -> Result<Self, NqnError> {
        check_text(name)?;
        match check_form(name) {
            Ok(()) => Ok(Self(name.into())),
            Err(reason) => Err(NqnError::Form {
                name: name.to_owned(),
                reason,
            }),
        }
    }
}

fn check_text(name: &str) -> Result<(), NqnError> {
    match name.len() {
        0 => Err(NqnError::Empty),
        len if len > NQN_LEN_MAX => Err(NqnError::TooLong(len)),
        _ if name.chars().any(char::is_control) => Err(NqnError::NotText),
        _ => Ok(()),
    }
}

fn check_form(name: &str) -> Result<(), &'static str> {
    if name == DISCOVERY_NQN {
        return Ok(());
    }
    if let Some(uuid) = name.strip_prefix(UUID_PREFIX) {
        return parse_uuid(uuid)
            .map(|_| ())
            .ok_or("what follows `uuid:` is not a UUID");
    }
    let rest = name
        .strip_prefix("nqn.")
        .ok_or("it does not begin with `nqn.`")?;
    let (owner, own_name) = rest
        .split_once(':')
        .ok_or("it has no `:` after the domain")?;
    if own_name.is_empty() {
        return Err("nothing follows the `:`");
    }
    let (date, domain) = owner
        .split_once('.')
        .ok_or("it has no domain after the date")?;
    let month = date
        .split_once('-')
        .filter(|(year, month)| {
            year.len() == 4
                && month.len() == 2
                && year
                    .bytes()
                    .chain(month.bytes())
                    .all(|b| b.is_ascii_digit())
        })
        .and_then(|(_, month)| month.parse::<u8>().ok());
    if !matches!(month, Some(1..=12)) {
        return Err("the date is not of the form yyyy-mm");
    }
    let label_is_good = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if domain.split('.').all(label_is_good) {
        Ok(())
    } else {
        Err("its domain is malformed")
    }
}

impl fmt::Display for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A field of 256 bytes that holds a name and zeros.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(transparent)]
pub struct NqnField(pub [u8; 256]);

impl NqnField {
    /// The text in the field: at most 223 bytes of UTF-8 before the first zero.
    /// Its form is not checked, for a host's name only has to match a list.
    ///
    /// # Errors
    /// When the field is empty, without end, too long or not text.
    pub fn to_str(&self) -> Result<&str, NqnError> {
        let end = self
            .0
            .iter()
            .position(|b| *b == 0)
            .ok_or(NqnError::Unterminated)?;
        let name = std::str::from_utf8(self.0.get(..end).unwrap_or_default());
        let name = name.map_err(|_| NqnError::NotText)?;
        check_text(name)?;
        Ok(name)
    }
}

impl From<&Nqn> for NqnField {
    fn from(name: &Nqn) -> Self {
        let mut field = Self([0; 256]);
        for (to, from) in field.0.iter_mut().zip(name.as_str().bytes()) {
            *to = from;
        }
        field
    }
}

impl Default for NqnField {
    fn default() -> Self {
        Self([0; 256])
    }
}

impl fmt::Debug for NqnField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_str() {
            Ok(name) => write!(f, "\"{name}\""),
            Err(error) => write!(f, "({error})"),
        }
    }
}

/// A host identifier of 128 bits, by custom a UUID; zero is not one.
#[derive(
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(transparent)]
pub struct HostId(pub [u8; 16]);

impl HostId {
    /// Whether no host is identified.
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 16]
    }
}

/// The text was not a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID, such as 01234567-89ab-cdef-0123-456789abcdef")]
pub struct ParseHostIdError;

impl FromStr for HostId {
    type Err = ParseHostIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_uuid(text).map(Self).ok_or(ParseHostIdError)
    }
}

/// The bytes of a UUID in their order of writing.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    if lengths != [8, 4, 4, 4, 12] || !text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(&groups.concat(), 16)
        .ok()
        .map(u128::to_be_bytes)
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            let dash = if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
