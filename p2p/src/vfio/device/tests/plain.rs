//! A BAR as plain memory, and BARs that are none.

use super::*;
use crate::provider::{MemoryFunction, MemoryProvider, Provider, Window};

const LEN: u64 = 0x400_0000;

/// Table of 64 entries at 0x2000 of BAR 2, pending bits behind it.
fn with_msix(fake: &Fake) {
    let mut config = fake.config.lock().unwrap();
    config[0x06] = 0x10;
    config[0x34] = 0x40;
    config[0x40..0x42].copy_from_slice(&[0x05, 0x50]);
    config[0x50..0x54].copy_from_slice(&[0x11, 0x00, 63, 0x80]);
    config[0x54..0x58].copy_from_slice(&0x2002_u32.to_le_bytes());
    config[0x58..0x5c].copy_from_slice(&0x3002_u32.to_le_bytes());
}

fn plain(fake: &Arc<Fake>, bar: u8, offset: u64, len: Option<u64>) -> Result<Window, String> {
    let (_container, device) = open(fake, "05:00.0");
    device
        .plain_memory(bar, offset, len)
        .map_err(|error| error.to_string())
}

#[test]
fn memory_of_a_function_becomes_a_region_at_its_bus_address() {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "05:00.0");
    let window = device.plain_memory(2, 0x10000, None).unwrap();
    assert_eq!((window.offset, window.len), (0x10000, LEN - 0x10000));
    let region = MemoryProvider::bar(device.clone(), window)
        .open()
        .unwrap()
        .region;
    let at = device.bar_info(2).unwrap().bus_address;
    assert_eq!(region.iova(), at + 0x10000);
    assert_eq!(region.name(), "BAR 2 of 0000:05:00.0");
    let command = fake.config.lock().unwrap()[4];
    assert_eq!(command, MEMORY_ENABLE as u8, "reachable, and does no DMA");
}

#[rstest::rstest]
#[case::no_such_bar(1, 0, None, "does not have it")]
#[case::no_bar_at_all(9, 0, None, "does not have it")]
#[case::too_long(2, 4096, Some(LEN), "write a smaller size")]
#[case::beyond(2, LEN, None, "write a smaller one")]
fn what_is_not_there_is_refused(
    #[case] bar: u8,
    #[case] offset: u64,
    #[case] len: Option<u64>,
    #[case] said: &str,
) {
    let text = plain(&Fake::new(), bar, offset, len).unwrap_err();
    assert!(text.contains(said), "{text}");
    assert!(
        text.contains(&format!("BAR {bar} of 0000:05:00.0")),
        "{text}"
    );
}

#[test]
fn registers_are_refused() {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    let text = device.plain_memory(0, 0, None).unwrap_err().to_string();
    assert!(text.contains("not prefetchable"), "{text}");
}

#[rstest::rstest]
#[case::all_of_it(0, None, false)]
#[case::up_to_the_table(0, Some(0x2000), true)]
#[case::over_the_table(0x1000, Some(0x2000), false)]
#[case::over_the_pending_bits(0x3000, Some(0x1000), false)]
#[case::behind_both(0x4000, None, true)]
fn a_table_of_interrupts_is_no_memory(
    #[case] offset: u64,
    #[case] len: Option<u64>,
    #[case] fits: bool,
) {
    let fake = Fake::new();
    with_msix(&fake);
    match plain(&fake, 2, offset, len) {
        Ok(_) => assert!(fits),
        Err(text) => assert!(!fits && text.contains("MSI-X"), "{text}"),
    }
}

#[test]
fn a_list_of_capabilities_that_goes_in_circles_ends() {
    let fake = Fake::new();
    {
        let mut config = fake.config.lock().unwrap();
        config[0x06] = 0x10;
        config[0x34] = 0x40;
        config[0x40..0x42].copy_from_slice(&[0x05, 0x40]);
    }
    assert!(plain(&fake, 2, 0, None).is_ok());
}
