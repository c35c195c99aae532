//! Which memory the payload of a namespace uses: the operator's policy and
//! choice on one side, what the devices offer and reach on the other.
//!
//! Pure: devices are asked before, and what comes out is carried out elsewhere.

use sidelane_config::{P2pPolicy, ProviderChoice};
use sidelane_p2p::provider::{Fitness, OwnUse, PathReason, Realm};
use sidelane_p2p::{PciAddress, Placement};

/// Memory that could be used.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The provider's id in the configuration, or for an SSD's own memory that
    /// is not listed there, what it is (`cmb of 0000:03:00.0`).
    pub name: String,
    /// Where it is.
    pub placement: Placement,
    /// For whose devices it is mapped.
    pub realm: Realm,
    /// What the SSD that has it may itself use it for.
    pub own_use: OwnUse,
}

/// What reads and writes the payload of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The PCI function; `None` when none does.
    pub ssd: Option<PciAddress>,
    /// Who drives it.
    pub realm: Realm,
}

/// Memory for one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The candidate, by its number; `None` for plain host memory.
    pub candidate: Option<usize>,
    /// Whether it is peer memory, and if not, why.
    pub path: PathReason,
    /// It serves only when all that come before it are lost.
    pub spare: bool,
}

/// The outcome for a namespace behind one adapter: for each direction the memory
/// to use, best first, of which only the first is no spare unless several were
/// named; then what the policy allows when that is taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Memory for reads, at least one.
    pub reads: Vec<Way>,
    /// Memory for writes, at least one.
    pub writes: Vec<Way>,
    /// Why not all of it is peer memory; [`PathReason::Peer`] where it is.
    pub code: PathReason,
    /// Why, in words.
    pub reason: String,
}

/// `require` cannot be met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("p2p = \"require\" cannot be met: {reasons}; {remedy}")]
pub struct Refusal {
    reasons: String,
    remedy: String,
}

/// A direction of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

/// Chooses memory for the payload that `client` reads and writes, behind an
/// adapter. `judge` says whether the adapter and clients reach a placement.
///
/// # Errors
/// When the policy is `require` and no memory fits, with the reasons and the
/// remedy.
pub fn choose(
    policy: P2pPolicy,
    choice: &ProviderChoice,
    client: Client,
    candidates: &[Candidate],
    mut judge: impl FnMut(Placement, &[PciAddress]) -> Fitness,
) -> Result<Choice, Refusal> {
    let place = |candidate: &Candidate| choice.ids().iter().position(|id| *id == candidate.name);
    let is_host = |candidate: &Candidate| candidate.placement == Placement::Host;
    let is_auto = *choice == ProviderChoice::Auto;
    // As they were named.
    let mut listed: Vec<_> = candidates.iter().enumerate().collect();
    listed.retain(|(_, candidate)| is_auto || place(candidate).is_some());
    listed.sort_by_key(|(_, candidate)| place(candidate));
    // Host memory is that of a provider, where there is one that may be meant.
    let hosts = listed.iter().filter(|(_, candidate)| is_host(candidate));
    let hosts: Vec<_> = hosts.map(|(at, _)| *at).collect();
    if policy == P2pPolicy::Off {
        let path = PathReason::HostByPolicy;
        let way = |candidate, spare| Way {
            candidate,
            path,
            spare,
        };
        let mut ways: Vec<_> = hosts.iter().map(|at| way(Some(*at), false)).collect();
        if is_auto {
            ways.truncate(1);
        }
        if ways.is_empty() {
            ways.push(way(None, false));
        }
        return Ok(Choice {
            reads: ways.clone(),
            writes: ways,
            code: path,
            reason: "p2p is off".to_owned(),
        });
    }
    // Never host memory where peer memory is required, and elsewhere only where
    // it was named.
    listed.retain(|(_, it)| !is_host(it) || (!is_auto && policy == P2pPolicy::Prefer));
    let judged: Vec<Judged<'_>> = listed
        .into_iter()
        .map(|(at, candidate)| Judged::new(at, candidate, client, &mut judge))
        .collect();
    let fitting = |direction| {
        let mut fit: Vec<_> = judged.iter().filter(|it| it.fits(direction)).collect();
        fit.sort_by_key(|judged| judged.distance);
        fit
    };
    let (reads, writes) = (fitting(Direction::Read), fitting(Direction::Write));
    let is_met = !reads.is_empty() && !writes.is_empty();
    let code = if is_met {
        PathReason::HostByPolicy
    } else {
        why_not(judged.iter())
    };
    if !is_met && policy == P2pPolicy::Require {
        let remedy = judged.iter().find_map(|judged| judged.remedy.clone());
        let remedy = remedy.unwrap_or_else(|| {
            "name a provider that the SSD reaches, or set p2p to \"prefer\" or \"off\"".into()
        });
        let reasons = words_of(&judged);
        return Err(Refusal { reasons, remedy });
    }
    let peers = || judged.iter().filter(|it| !is_host(it.candidate));
    let ways = |fit: &[&Judged<'_>]| {
        let all = fit.iter().enumerate();
        let mut ways: Vec<_> = all.map(|(n, it)| it.way(is_auto && n > 0)).collect();
        // Host memory that was named beside peer memory, of which none fits.
        if peers().next().is_some() && ways.iter().all(|way| way.path != PathReason::Peer) {
            for way in &mut ways {
                way.path = why_not(peers());
            }
        }
        let last = Way {
            candidate: hosts.first().copied(),
            path: code,
            spare: !ways.is_empty(),
        };
        let has_it = ways.iter().any(|way| way.candidate == last.candidate);
        if policy == P2pPolicy::Prefer && !has_it {
            ways.push(last);
        }
        ways
    };
    let chosen = (ways(&reads), ways(&writes));
    let (code, reason) = match is_met {
        true => {
            let used = chosen.0.iter().chain(&chosen.1).filter(|way| !way.spare);
            let code = used
                .map(|way| way.path)
                .find(|path| *path != PathReason::Peer);
            let code = code.unwrap_or(PathReason::Peer);
            (code, reason(&reads, &writes, &judged, is_auto))
        }
        false => (code, words_of(&judged)),
    };
    Ok(Choice {
        reads: chosen.0,
        writes: chosen.1,
        code,
        reason,
    })
}

/// Why nothing fits both directions. What devices could not use for its owner
/// says least.
fn why_not<'a>(mut judged: impl Iterator<Item = &'a Judged<'a>> + Clone) -> PathReason {
    let first = judged.clone().next();
    let telling = judged.find(|it| it.code != PathReason::OtherOwner);
    match telling.or(first).map(|judged| judged.code) {
        None => PathReason::NoProvider,
        Some(PathReason::Peer) => PathReason::DirectionUnsupported,
        Some(code) => code,
    }
}

fn words_of(judged: &[Judged<'_>]) -> String {
    if judged.is_empty() {
        return "no peer memory is configured, and the SSD has none of its own".to_owned();
    }
    let each = judged.iter().map(Judged::words);
    each.collect::<Vec<_>>().join("; ")
}

/// What is used for each direction, and what of the named is not, with the
/// reasons.
fn reason(
    reads: &[&Judged<'_>],
    writes: &[&Judged<'_>],
    judged: &[Judged<'_>],
    is_auto: bool,
) -> String {
    let used = |fit: &[&Judged<'_>]| {
        let first = if is_auto { 1 } else { fit.len() };
        let each = fit.iter().take(first);
        let each = each.map(|it| format!("{}: {}", it.candidate.name, it.text));
        each.collect::<Vec<_>>().join("; ")
    };
    let (by_reads, by_writes) = (used(reads), used(writes));
    let mut text = match by_reads == by_writes {
        true => by_reads,
        false => format!("reads by {by_reads}; writes by {by_writes}"),
    };
    let unfit = |it: &&Judged<'_>| !it.fits(Direction::Read) && !it.fits(Direction::Write);
    for judged in judged.iter().filter(|it| !is_auto && unfit(it)) {
        text += &format!("; not used: {}", judged.words());
    }
    text
}

/// A candidate, judged for one client.
struct Judged<'a> {
    at: usize,
    candidate: &'a Candidate,
    code: PathReason,
    text: String,
    remedy: Option<String>,
    distance: u32,
    own: bool,
}

impl<'a> Judged<'a> {
    fn new(
        at: usize,
        candidate: &'a Candidate,
        client: Client,
        judge: &mut impl FnMut(Placement, &[PciAddress]) -> Fitness,
    ) -> Self {
        let clients: Vec<_> = client.ssd.into_iter().collect();
        let fitness = match client.realm.takes(candidate.realm) {
            true => judge(candidate.placement, &clients),
            false => client.realm.refusal(),
        };
        let own = matches!(candidate.placement, Placement::Peer { device, .. } if Some(device) == client.ssd);
        Self {
            at,
            candidate,
            code: fitness.code,
            text: fitness.text,
            remedy: fitness.remedy,
            distance: fitness.route.map_or(u32::MAX, |route| route.distance),
            own,
        }
    }

    /// Host memory fits too, where it was named as a provider; it counts as
    /// what it is.
    fn fits(&self, direction: Direction) -> bool {
        let reached = matches!(self.code, PathReason::Peer | PathReason::HostByPolicy);
        let taken = match direction {
            Direction::Read => self.candidate.own_use.reads,
            Direction::Write => self.candidate.own_use.writes,
        };
        reached && (taken || !self.own)
    }

    fn way(&self, spare: bool) -> Way {
        Way {
            candidate: Some(self.at),
            path: self.code,
            spare,
        }
    }

    fn words(&self) -> String {
        let name = &self.candidate.name;
        match (self.fits(Direction::Read), self.fits(Direction::Write)) {
            (true, false) => {
                format!("{name}: the SSD does not take write data from its own memory")
            }
            (false, true) => format!("{name}: the SSD does not put read data into its own memory"),
            _ => format!("{name}: {}", self.text),
        }
    }
}

#[cfg(test)]
mod tests;
