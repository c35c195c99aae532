//! What NVMe over Fabrics puts on RDMA: the private data of connection set-up,
//! and where the data of a command is.
//!
//! NVM Express RDMA Transport Specification, revision 1.1, and NVM Express Base
//! Specification, revision 2.1, clause 4.3.2 (SGLs). Everything here comes from a
//! host: each length and offset is checked, and what cannot be is refused with
//! the status that the specification names.
#![forbid(unsafe_code)]

mod data_pointer;
mod private_data;

pub use data_pointer::{
    HostData, KeyedData, MAX_DESCRIPTORS, MAX_LIST_BYTES, SglError, data_pointer,
};
pub use private_data::{ConnectAccept, ConnectReject, ConnectRequest, RECORD_FORMAT, RejectStatus};
