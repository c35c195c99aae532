//! Refusals in an operator's words: what was tried, what the system said, and
//! what to do about it. `errno` alone says little: ENOMEM is a limit on locked
//! memory more often than a lack of memory.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;

use super::ffi::{Limits, Unopened};

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What was tried, and what the system said.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.reason, self.remedy)
    }
}

impl Refusal {
    pub(super) fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            remedy: remedy.into(),
        }
    }
}

/// What the system lets this process lock, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLock {
    /// `RLIMIT_MEMLOCK`; `None` for no limit.
    pub limit: Option<u64>,
    /// Pinned already; `None` when the system does not say.
    pub used: Option<u64>,
}

impl MemoryLock {
    /// As it is now.
    pub fn now() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()
        };
        /// `CAP_IPC_LOCK` (linux/capability.h): no limit for who has it.
        const IPC_LOCK: u64 = 1 << 14;
        let capabilities = field("CapEff:").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let unlimited = capabilities.is_some_and(|has| has & IPC_LOCK != 0);
        Self {
            limit: limit.current.filter(|_| !unlimited),
            // What registrations count as: pinned, not locked.
            used: field("VmPin:").and_then(|kib| Some(kib.parse::<u64>().ok()? * 1024)),
        }
    }

    /// Whether `more` bytes are more than it lets.
    fn refuses(&self, more: u64) -> bool {
        let used = self.used.unwrap_or(0);
        self.limit
            .is_some_and(|limit| used.saturating_add(more) > limit)
    }
}

const MEMLOCK_REMEDY: &str =
    "raise it: LimitMEMLOCK=infinity in the systemd unit, or ulimit -l unlimited in the shell";

fn locked(lock: &MemoryLock, more: u64) -> Refusal {
    let limit = lock.limit.unwrap_or(u64::MAX) / 1024;
    let used = lock
        .used
        .map(|used| format!(", {} KiB of it in use", used / 1024));
    Refusal::new(
        format!(
            "{} KiB of memory were to be locked, and this process may lock {limit} KiB{}",
            more.div_ceil(1024),
            used.unwrap_or_default()
        ),
        MEMLOCK_REMEDY,
    )
}

/// Why an adapter did not open.
pub fn unopened(name: &str, why: &Unopened) -> Refusal {
    match why {
        Unopened::NoList(error) => Refusal::new(
            format!("the kernel offers no RDMA to programs ({error})"),
            "load the module ib_uverbs and the adapter's driver (mlx5_ib, irdma, bnxt_re, \
             rdma_rxe, ...)",
        ),
        Unopened::NotFound { available } if available.is_empty() => Refusal::new(
            "there is no RDMA device on this machine",
            "load the adapter's driver (mlx5_ib, irdma, bnxt_re, ...) and the package \
             ibverbs-providers, or make a software one: rdma link add rxe0 type rxe netdev NETDEV",
        ),
        Unopened::NotFound { available } => Refusal::new(
            format!(
                "there is no RDMA device {name}; there are {}",
                available.join(", ")
            ),
            "use one of these",
        ),
        Unopened::Refused { what, error } => match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Refusal::new(
                format!("{what}: no right to open its file in /dev/infiniband ({error})"),
                "run as a user who may open /dev/infiniband/uverbs* (group rdma on some systems), \
                 and let the service's device policy and container have them",
            ),
            Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => Refusal::new(
                format!("{what}: its file in /dev/infiniband is missing ({error})"),
                "load the module ib_uverbs, and let a container have /dev/infiniband",
            ),
            _ => refused(what, error, 0, None, &MemoryLock::now()),
        },
    }
}

/// Why a call that makes something was refused. `bytes` is about how much memory
/// the call locks; `limit` a limit of the device that it may have met, in words,
/// with the setting that lowers the need.
pub fn refused(
    what: &str,
    error: &io::Error,
    bytes: u64,
    limit: Option<&str>,
    lock: &MemoryLock,
) -> Refusal {
    match error.raw_os_error() {
        Some(libc::ENOMEM | libc::EAGAIN) if lock.refuses(bytes) => {
            let Refusal { reason, remedy } = locked(lock, bytes);
            Refusal::new(format!("{what}: {reason}"), remedy)
        }
        Some(libc::ENOMEM | libc::ENOSPC | libc::EINVAL | libc::EAGAIN) => Refusal::new(
            format!("{what}: {error}"),
            match limit {
                Some(limit) => format!("{limit}; other programs may hold some of it"),
                None => "see the kernel's log (dmesg) for the driver's reason".to_owned(),
            },
        ),
        Some(libc::ETIMEDOUT | libc::EHOSTUNREACH | libc::ENETUNREACH) => Refusal::new(
            format!("{what}: no way to the peer was found ({error})"),
            "check address, route and link between the two (ip route get, ip neigh)",
        ),
        Some(libc::ENODEV | libc::EIO) => Refusal::new(
            format!("{what}: the adapter is gone or does not answer ({error})"),
            "see the kernel's log (dmesg), and restart the target when it is back",
        ),
        Some(libc::EPERM | libc::EACCES) => Refusal::new(
            format!("{what}: not permitted ({error})"),
            "run with the right to use /dev/infiniband, and with CAP_IPC_LOCK or a higher limit \
             of locked memory",
        ),
        _ => Refusal::new(
            format!("{what}: {error}"),
            "see the kernel's log (dmesg) for the driver's reason",
        ),
    }
}

/// Why a region was not registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unregistered {
    /// Its device does not hand it out.
    NotExported(Refusal),
    /// The adapter cannot do it.
    Unsupported(Refusal),
    /// The adapter can, and did not.
    Refused(Refusal),
}

/// Why host memory was not registered.
pub fn host_unregistered(
    bytes: u64,
    error: &io::Error,
    limits: &Limits,
    lock: &MemoryLock,
) -> Unregistered {
    let limit = registrations(limits);
    Unregistered::Refused(refused("ibv_reg_mr", error, bytes, Some(&limit), lock))
}

fn registrations(limits: &Limits) -> String {
    format!(
        "the adapter takes {} registrations; use fewer pools",
        limits.max_mr
    )
}

/// Why memory of another device was not registered.
pub fn peer_unregistered(error: &io::Error, limits: &Limits, lock: &MemoryLock) -> Unregistered {
    let what = "ibv_reg_dmabuf_mr";
    Unregistered::Unsupported(match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY) => Refusal::new(
            format!("{what}: this NIC cannot register memory of another device ({error})"),
            "use a NIC whose driver can (mlx5; irdma from Linux 7.1), or p2p = \"off\" or \
             \"prefer\" for host memory",
        ),
        Some(libc::EINVAL | libc::EREMOTEIO | libc::EXDEV) => Refusal::new(
            format!("{what}: the kernel lets this NIC not reach that device ({error})"),
            "put both behind one PCIe switch or below a host bridge that the kernel trusts; \
             `sidelane topology` says what is in the way",
        ),
        _ => {
            let limit = registrations(limits);
            return Unregistered::Refused(refused(what, error, 0, Some(&limit), lock));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: MemoryLock = MemoryLock {
        limit: Some(8 << 20),
        used: Some(1 << 20),
    };
    const FREE: MemoryLock = MemoryLock {
        limit: None,
        used: None,
    };

    fn os(errno: i32) -> io::Error {
        io::Error::from_raw_os_error(errno)
    }

    #[test]
    fn too_little_lockable_memory_is_told_in_numbers() {
        let said = refused("ibv_reg_mr", &os(libc::ENOMEM), 64 << 20, None, &SMALL).to_string();
        for part in [
            "65536 KiB",
            "8192 KiB",
            "1024 KiB",
            "LimitMEMLOCK=infinity",
            "ulimit -l",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }

    #[test]
    fn no_memory_without_such_a_limit_is_about_the_device() {
        let limit = Some("the adapter takes 8 queue pairs; lower max_io_queues");
        let said = refused("ibv_create_qp", &os(libc::ENOMEM), 4096, limit, &FREE).to_string();
        assert!(
            said.contains("max_io_queues") && !said.contains("MEMLOCK"),
            "{said}"
        );
    }

    #[test]
    fn each_reason_not_to_open_has_a_remedy_of_its_own() {
        let refused = |errno| Unopened::Refused {
            what: "ibv_open_device",
            error: os(errno),
        };
        let cases = [
            (Unopened::NoList(os(libc::ENOSYS)), "ib_uverbs"),
            (Unopened::NotFound { available: vec![] }, "rdma link add"),
            (
                Unopened::NotFound {
                    available: vec!["mlx5_0".into(), "mlx5_1".into()],
                },
                "mlx5_0, mlx5_1",
            ),
            (refused(libc::EACCES), "/dev/infiniband/uverbs*"),
            (refused(libc::EPERM), "/dev/infiniband/uverbs*"),
            (refused(libc::ENOENT), "ib_uverbs"),
            (refused(libc::EIO), "dmesg"),
        ];
        for (why, part) in cases {
            let said = unopened("rxe0", &why).to_string();
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}
