//! Every structure survives a round trip.

use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

use super::*;

mod layout;
mod meaning;

fn bytes(len: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), len)
}

macro_rules! round_trips {
    ($($name:ident: $ty:ty;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(32))]
            $(
                #[test]
                fn $name(raw in bytes(size_of::<$ty>())) {
                    let value = <$ty>::read_from_bytes(&raw).unwrap();
                    prop_assert_eq!(value.as_bytes(), &raw[..]);
                    prop_assert_eq!(value, <$ty>::read_from_bytes(value.as_bytes()).unwrap());
                    let text = format!("{:?}", value);
                    prop_assert!(!text.is_empty());
                }
            )*
        }
    };
}

mod survive_a_round_trip_with_any_bytes {
    use super::*;

    round_trips! {
        sqe: Sqe;
        cqe: Cqe;
        sgl_descriptor: SglDescriptor;
        identify_controller: IdentifyController;
        identify_controller_nvm: IdentifyControllerNvm;
        identify_namespace: IdentifyNamespace;
        identify_namespace_nvm: IdentifyNamespaceNvm;
        identify_namespace_independent: IdentifyNamespaceIndependent;
        namespace_list: NamespaceList;
        namespace_id_list: NamespaceIdList;
        command_set_list: CommandSetList;
        power_state: PowerState;
        error_log_entry: ErrorLogEntry;
        smart_log: SmartLog;
        firmware_slot_log: FirmwareSlotLog;
        command_effects_log: CommandEffectsLog;
        supported_log_pages: SupportedLogPages;
        discovery_header: DiscoveryHeader;
        discovery_entry: DiscoveryEntry;
        connect_data: ConnectData;
        dsm_range: DsmRange;
    }
}

macro_rules! commands {
    ($($name:ident: $ty:ty;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(32))]
            $(
                #[test]
                fn $name(raw in bytes(64)) {
                    let sqe = Sqe::read_from_bytes(&raw).unwrap();
                    let command = <$ty>::from(sqe);
                    prop_assert_eq!(command.cdw0, sqe.cdw0);
                    let text = format!("{:?}", command);
                    prop_assert!(!text.is_empty());
                    prop_assert_eq!(Sqe::from(command), sqe);
                }
            )*
        }
    };
}

mod typed_commands_are_another_reading_of_the_same_bytes {
    use super::*;

    commands! {
        create_cq: CreateIoCq;
        create_sq: CreateIoSq;
        delete_queue: DeleteIoQueue;
        doorbell_buffer: DoorbellBufferConfig;
        abort: Abort;
        identify: Identify;
        get_log_page: GetLogPage;
        keep_alive: KeepAlive;
        get_features: GetFeatures;
        set_features: SetFeatures;
        read_write: ReadWrite;
        write_zeroes: WriteZeroes;
        flush: Flush;
        dsm: DatasetManagement;
        fabrics: FabricsCommand;
        connect: Connect;
        property_get: PropertyGet;
        property_set: PropertySet;
        disconnect: Disconnect;
    }
}
