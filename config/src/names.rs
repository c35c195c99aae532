//! Names whose form is known without looking at the machine: NQNs, PCI addresses, UUIDs.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// A text was not the name that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {remedy}")]
pub struct ParseNameError {
    pub(crate) reason: String,
    pub(crate) remedy: String,
}

impl ParseNameError {
    fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            remedy: remedy.into(),
        }
    }
}

/// An NVMe Qualified Name (NVMe Base Specification 2.0, clause 4.5): `nqn.2014-08.com.example:name`,
/// or `nqn.2014-08.org.nvmexpress:uuid:` and a UUID. 223 bytes at most, no spaces, no control
/// characters. Compared byte by byte, as the specification says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Nqn(String);

impl Nqn {
    /// The well-known name of the discovery service.
    pub const DISCOVERY: &'static str = "nqn.2014-08.org.nvmexpress.discovery";
    /// The longest NQN, in bytes.
    pub const MAX_LEN: usize = 223;
    const UUID_PREFIX: &'static str = "nqn.2014-08.org.nvmexpress:uuid:";

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Why a text is not an NQN; `None` when it is one.
    fn fault(text: &str) -> Option<String> {
        if text.len() > Self::MAX_LEN {
            return Some(format!(
                "it has {} bytes, and {} is the limit",
                text.len(),
                Self::MAX_LEN
            ));
        }
        if text == Self::DISCOVERY {
            return Some("it is the name of the discovery service, which is always there".into());
        }
        if let Some(c) = text.chars().find(|c| c.is_control() || c.is_whitespace()) {
            return Some(format!("it contains the character {c:?}"));
        }
        if let Some(uuid) = text.strip_prefix(Self::UUID_PREFIX) {
            return uuid.parse::<Uuid>().err().map(|error| error.reason);
        }
        let Some(rest) = text.strip_prefix("nqn.") else {
            return Some("it does not begin with `nqn.`".into());
        };
        let Some((authority, name)) = rest.split_once(':') else {
            return Some("there is no `:` with a name of your own after it".into());
        };
        if name.is_empty() {
            return Some("nothing follows the `:`".into());
        }
        match authority.split_once('.') {
            Some((date, _)) if !is_year_and_month(date) => {
                Some(format!("`{date}` is not a year and month, yyyy-mm"))
            }
            Some((_, domain)) if !domain.split('.').all(is_label) => Some(format!(
                "`{domain}` is not a domain name in reverse, such as com.example"
            )),
            Some(_) => None,
            None => Some("there is no domain name between the date and the `:`".into()),
        }
    }
}

fn is_year_and_month(date: &str) -> bool {
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    date.split_once('-').is_some_and(|(year, month)| {
        year.len() == 4
            && all_digits(year)
            && month.len() == 2
            && all_digits(month)
            && ("01"..="12").contains(&month)
    })
}

/// One label of a domain name.
fn is_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

impl FromStr for Nqn {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match Self::fault(text) {
            None => Ok(Self(text.to_owned())),
            Some(fault) => Err(ParseNameError::new(
                format!("`{text}` is not an NQN that can be used here: {fault}"),
                "write nqn.yyyy-mm.DOMAIN-IN-REVERSE:NAME, such as nqn.2026-11.com.example:disk0, or \
                 nqn.2014-08.org.nvmexpress:uuid:UUID",
            )),
        }
    }
}

impl fmt::Display for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The address of a PCI function as sysfs writes it: domain, bus, device, function in lower-case
/// hexadecimal, `0000:03:00.0`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct PciSlot(String);

impl PciSlot {
    /// The address as text; the name of the function's folder in `/sys/bus/pci/devices`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Accepts `DDDD:BB:DD.F` and, as lspci prints it for domain 0, `BB:DD.F`.
    fn normal_form(text: &str) -> Option<String> {
        let hex = |digits: &str| {
            let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
            is_hex
                .then(|| u32::from_str_radix(digits, 16).ok())
                .flatten()
        };
        let (rest, function) = text.rsplit_once('.')?;
        let (rest, device) = rest.rsplit_once(':')?;
        let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0000", rest));
        let well_sized = (4..=8).contains(&domain.len())
            && bus.len() == 2
            && device.len() == 2
            && function.len() == 1;
        let (domain, bus, device, function) =
            (hex(domain)?, hex(bus)?, hex(device)?, hex(function)?);
        (well_sized && device < 32 && function < 8)
            .then(|| format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}"))
    }
}

impl FromStr for PciSlot {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::normal_form(text).map(Self).ok_or_else(|| {
            ParseNameError::new(
                format!("`{text}` is not a PCI address"),
                "write DOMAIN:BUS:DEVICE.FUNCTION in hexadecimal, such as 0000:03:00.0, as `lspci -D` \
                 lists it",
            )
        })
    }
}

impl fmt::Display for PciSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A UUID (RFC 9562) in its usual form, never all zero: a host reports a zero one as bogus.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid([u8; 16]);

impl Uuid {
    /// The 16 bytes in the order of the text.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    fn bytes_of(text: &str) -> Option<[u8; 16]> {
        let groups: Vec<&str> = text.split('-').collect();
        if !groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) {
            return None;
        }
        let digits = groups.concat();
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        u128::from_str_radix(&digits, 16)
            .ok()
            .map(u128::to_be_bytes)
    }
}

impl FromStr for Uuid {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fault = match Self::bytes_of(text) {
            Some(bytes) if bytes != [0; 16] => return Ok(Self(bytes)),
            Some(_) => "is zero, which hosts report as bogus",
            None => "is not a UUID",
        };
        Err(ParseNameError::new(
            format!("`{text}` {fault}"),
            "write 8-4-4-4-12 hexadecimal digits, as `uuidgen` prints them",
        ))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let dash = if matches!(index, 4 | 6 | 8 | 10) {
                "-"
            } else {
                ""
            };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Uuid {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[rstest::rstest]
    #[case("nqn.2026-11.io.sidelane:disk0")]
    #[case("nqn.1988-11.com.dell-x:a:b:c")]
    #[case("nqn.2014-08.org.nvmexpress:uuid:6ba7b810-9dad-11d1-80b4-00c04fd430c8")]
    fn both_forms_of_an_nqn_are_read(#[case] text: &str) {
        assert_eq!(text.parse::<Nqn>().unwrap().as_str(), text);
    }

    #[rstest::rstest]
    #[case("", "begin")]
    #[case("iqn.2026-11.io.sidelane:disk0", "begin")]
    #[case("nqn.2026-13.io.sidelane:disk0", "year and month")]
    #[case("nqn.26-11.io.sidelane:disk0", "year and month")]
    #[case("nqn.2026-11:disk0", "domain")]
    #[case("nqn.2026-11..io:disk0", "reverse")]
    #[case("nqn.2026-11.io.sidelane", "no `:`")]
    #[case("nqn.2026-11.io.sidelane:", "nothing")]
    #[case("nqn.2026-11.io.sidelane:my disk", "' '")]
    #[case("nqn.2014-08.org.nvmexpress:uuid:1234", "not a UUID")]
    #[case(Nqn::DISCOVERY, "discovery")]
    fn what_is_not_an_nqn_is_refused_with_the_reason(#[case] text: &str, #[case] reason: &str) {
        let error = text.parse::<Nqn>().unwrap_err();
        assert!(error.reason.contains(reason), "{error}");
    }

    #[test]
    fn an_nqn_may_have_223_bytes_and_no_more() {
        let name = |len: usize| format!("nqn.2026-11.io.sidelane:{}", "x".repeat(len - 24));
        assert!(name(223).parse::<Nqn>().is_ok());
        assert!(name(224).parse::<Nqn>().is_err());
    }

    #[rstest::rstest]
    #[case("0000:03:00.0", "0000:03:00.0")]
    #[case("E1:1F.7", "0000:e1:1f.7")]
    #[case("10000:e1:00.1", "10000:e1:00.1")]
    fn a_pci_address_is_brought_into_the_form_of_sysfs(#[case] text: &str, #[case] form: &str) {
        assert_eq!(text.parse::<PciSlot>().unwrap().as_str(), form);
    }

    #[rstest::rstest]
    #[case("")]
    #[case("3:0.0")]
    #[case("0000:03:20.0")]
    #[case("0000:03:00.8")]
    #[case("0000:03:00")]
    #[case("0000:+3:00.0")]
    #[case("/dev/nvme0")]
    fn what_is_not_a_pci_address_is_refused(#[case] text: &str) {
        assert!(text.parse::<PciSlot>().is_err());
    }

    #[rstest::rstest]
    #[case("00000000-0000-0000-0000-000000000000")]
    #[case("6ba7b8109dad11d180b400c04fd430c8")]
    #[case("6ba7b810-9dad-11d1-80b4-00c04fd430cg")]
    #[case("+ba7b810-9dad-11d1-80b4-00c04fd430c8")]
    fn what_is_not_a_uuid_is_refused(#[case] text: &str) {
        assert!(text.parse::<Uuid>().is_err());
    }

    proptest! {
        #[test]
        fn printing_and_reading_a_uuid_gives_it_back(value in 1u128..) {
            let uuid = Uuid(value.to_be_bytes());
            prop_assert_eq!(uuid.to_string().parse(), Ok(uuid));
        }

        #[test]
        fn no_text_makes_reading_a_name_panic(text in "(nqn\\.)?(2026-11)?.*") {
            let _ = text.parse::<Nqn>();
            let _ = text.parse::<PciSlot>();
            let _ = text.parse::<Uuid>();
        }
    }
}
