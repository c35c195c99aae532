//! Commands by chance: each is answered, or ends its connection.

use anyhow::{Context, ensure};
use sidelane_nvme::spec::{AdminOpcode, DataPtr, Fuse, Psdt, SglDescriptor, Sqe};
use sidelane_tests::in_process::bench::{Bench, CAPSULE, DISK};
use sidelane_tests::in_process::random::Random;
use sidelane_tests::in_process::raw_host::RawHost;
use zerocopy::IntoBytes;

/// A command of random bytes, and some of the fields put right so that it gets
/// further than the first check.
fn random_capsule(random: &mut Random, host: &RawHost) -> Vec<u8> {
    let mut bytes = [0; 64];
    random.bytes(&mut bytes);
    let mut sqe: Sqe = zerocopy::transmute!(bytes);
    let mut data = vec![0; [0, 0, 16, 1024, 4096][random.below(5) as usize]];
    random.bytes(&mut data);
    if random.below(4) > 0 {
        sqe.cdw0.set_fuse(Fuse::Normal);
        sqe.cdw0.set_psdt(Psdt::Sgl);
    }
    if random.below(4) > 0 {
        let opcodes = [0, 1, 2, 4, 6, 8, 9, 0x0a, 0x0c, 0x18, 0x7f, 0x7f, 0x7f];
        sqe.cdw0.set_opcode(opcodes[random.below(13) as usize]);
    }
    let fabrics = sqe.opcode() == AdminOpcode::Fabrics.0;
    if random.below(2) > 0 {
        sqe.nsid.set(match fabrics {
            true => [0, 1, 4, 8][random.below(4) as usize],
            false => random.below(4) as u32,
        });
        sqe.cdw10.set(random.below(256) as u32);
        sqe.cdw11.set(0);
        sqe.cdw12.set(random.below(16) as u32);
    }
    let len = [0, 16, 512, 1024, 4096, 8192, 0xff_ffff][random.below(7) as usize];
    let at = random.below(4096);
    let descriptor = match random.below(6) {
        0 => return [sqe.as_bytes(), &data].concat(),
        1 => SglDescriptor::in_capsule(at, len),
        2 => SglDescriptor::in_capsule_segment(at, len, at.is_multiple_of(2)),
        _ => host.keyed(0, len as usize),
    };
    sqe.dptr = DataPtr::from_sgl(descriptor);
    [sqe.as_bytes(), &data].concat()
}

#[rstest::rstest]
#[case(1)]
#[case(2)]
fn random_commands_are_answered_or_end_their_connection(#[case] seed: u64) -> anyhow::Result<()> {
    const COMMANDS: usize = 1500;
    let bench = Bench::usual()?;
    let mut random = Random::new(seed);
    let mut sent = 0;
    let mut answered = 0;
    while sent < COMMANDS {
        let mut host = RawHost::new(bench.remote)?;
        let (admin, conn) = match random.below(3) {
            0 => (None, host.queue_pair(0, 0, 32)?),
            n => {
                let subsystem = [DISK, CAPSULE][random.below(2) as usize];
                let association = host.associate(subsystem, 32, 0)?;
                match n {
                    1 => (None, association.admin),
                    _ => (Some(association.admin), association.io),
                }
            }
        };
        for _ in 0..40 {
            let capsule = random_capsule(&mut random, &host);
            let cid = u16::from_le_bytes([capsule[2], capsule[3]]);
            // Event requests are held, and so not waited for.
            let held = capsule[0] == AdminOpcode::AsyncEventRequest.0;
            if host.send(conn, &capsule).is_err() {
                break;
            }
            sent += 1;
            let failures = host.failures.len();
            host.until("an answer or an end", |host| {
                let answer = host.responses.iter().any(|(_, cqe)| cqe.cid.get() == cid);
                let ended = host.has_ended(conn) || host.failures.len() > failures;
                (held || answer || ended).then_some(())
            })
            .with_context(|| format!("seed {seed}, command {sent}: {capsule:x?}"))?;
            if host.has_ended(conn) || host.failures.len() > failures {
                break;
            }
            answered += host.responses.len();
            host.responses.clear();
        }
        host.leave(conn);
        if let Some(admin) = admin {
            host.leave(admin);
        }
        host.await_end(conn)?;
    }
    ensure!(
        answered > COMMANDS / 2,
        "only {answered} of {sent} were answered"
    );
    bench.healthy()?;
    Ok(())
}
