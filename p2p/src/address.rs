//! The address of a PCI function, as sysfs and `lspci -D` write it.

use std::fmt;
use std::str::FromStr;

/// A PCI function: domain, bus, device, function (`0000:03:00.0`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    /// PCI domain (segment).
    pub domain: u32,
    /// Bus number.
    pub bus: u8,
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

/// The text was not a PCI address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a PCI address; write it as DOMAIN:BUS:DEVICE.FUNCTION in hexadecimal, such as 0000:03:00.0"
)]
pub struct ParsePciAddressError {
    text: String,
}

impl FromStr for PciAddress {
    type Err = ParsePciAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParsePciAddressError {
            text: text.to_owned(),
        })
    }
}

/// Accepts `DDDD:BB:DD.F` and, as lspci prints it for domain 0, `BB:DD.F`.
fn parse(text: &str) -> Option<PciAddress> {
    let hex = |digits: &str, width: std::ops::RangeInclusive<usize>| {
        (width.contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .then(|| u32::from_str_radix(digits, 16).ok())
            .flatten()
    };
    let (rest, function) = text.rsplit_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0000", rest));
    let address = PciAddress {
        domain: hex(domain, 4..=8)?,
        bus: u8::try_from(hex(bus, 2..=2)?).ok()?,
        device: u8::try_from(hex(device, 2..=2)?).ok()?,
        function: u8::try_from(hex(function, 1..=1)?).ok()?,
    };
    (address.device < 32 && address.function < 8).then_some(address)
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{:x}",
            self.domain, self.bus, self.device, self.function
        )
    }
}

impl fmt::Debug for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[rstest::rstest]
    #[case("0000:03:00.0", 0, 3, 0, 0)]
    #[case("03:1f.7", 0, 3, 31, 7)]
    #[case("10000:e1:00.1", 0x10000, 0xe1, 0, 1)]
    fn an_address_is_read_as_sysfs_and_lspci_write_it(
        #[case] text: &str,
        #[case] domain: u32,
        #[case] bus: u8,
        #[case] device: u8,
        #[case] function: u8,
    ) {
        assert_eq!(
            text.parse(),
            Ok(PciAddress {
                domain,
                bus,
                device,
                function
            })
        );
    }

    #[rstest::rstest]
    #[case("")]
    #[case("3:0.0")]
    #[case("0000:03:20.0")]
    #[case("0000:03:00.8")]
    #[case("0000:03:00")]
    #[case("0000:+3:00.0")]
    fn what_is_not_an_address_is_refused_with_an_example(#[case] text: &str) {
        let error = text.parse::<PciAddress>().unwrap_err().to_string();
        assert!(error.contains("0000:03:00.0"), "{error}");
    }

    proptest! {
        #[test]
        fn printing_and_reading_an_address_gives_it_back(
            domain: u32, bus: u8, device in 0u8..32, function in 0u8..8,
        ) {
            let address = PciAddress { domain, bus, device, function };
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }
    }
}
