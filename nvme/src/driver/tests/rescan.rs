//! What others change about namespaces, and the truth about the write cache.

use rstest::rstest;

use super::*;
use crate::driver::open::cache_enabled;
use crate::model::{Fault, Matcher, ModelNamespace};
use crate::spec::{AdminOpcode, FeatureId, SetFeatures, SetFeaturesCdw10};

const MIB: ModelNamespace = ModelNamespace {
    blocks: 2048,
    lbads: 9,
    metadata_bytes: 0,
};

/// A controller with three namespaces of 1 MiB.
fn stage() -> (Bench, Controller<ModelBacking>) {
    let options = ModelOptions {
        namespaces: vec![MIB; 3],
        ..ModelOptions::default()
    };
    let bench = Bench::new(options, ModelOptions::default());
    let controller = open(&bench.near);
    (bench, controller)
}

/// Changes the model, and says what a rescan is to say.
type Change = fn(&ModelController) -> Vec<NamespaceChange>;

fn resized(model: &ModelController) -> Vec<NamespaceChange> {
    assert!(model.resize(2, 100));
    vec![NamespaceChange::Resized {
        nsid: 2,
        blocks: 100,
    }]
}

fn formatted(model: &ModelController) -> Vec<NamespaceChange> {
    assert!(model.format(2, 12));
    vec![NamespaceChange::Reformatted {
        nsid: 2,
        block_bytes: 4096,
    }]
}

fn detached(model: &ModelController) -> Vec<NamespaceChange> {
    assert!(model.detach(2));
    vec![NamespaceChange::Removed { nsid: 2 }]
}

fn added(model: &ModelController) -> Vec<NamespaceChange> {
    assert_eq!(model.add_namespace(MIB), 4);
    vec![NamespaceChange::Added { nsid: 4 }]
}

fn unusable(model: &ModelController) -> Vec<NamespaceChange> {
    assert!(model.format(2, 10));
    let reason =
        "its blocks are of 2^10 bytes, not of 512 or 4096; format it with another --lbaf".into();
    vec![NamespaceChange::Unusable { nsid: 2, reason }]
}

fn several(model: &ModelController) -> Vec<NamespaceChange> {
    [detached(model), added(model)].concat()
}

#[rstest]
#[case::resized(resized)]
#[case::formatted(formatted)]
#[case::detached(detached)]
#[case::added(added)]
#[case::unusable(unusable)]
#[case::several(several)]
fn a_rescan_says_what_others_have_changed_and_says_it_once(#[case] change: Change) {
    let (bench, controller) = stage();
    let before = controller.namespaces();
    let expected = change(&bench.near);
    assert_eq!(controller.rescan().unwrap(), expected);
    assert_eq!(before.len(), 3, "a snapshot stays as it is");
    assert_eq!(controller.rescan().unwrap(), []);
    // A controller that is opened now sees the same.
    let now = controller.namespaces();
    let shapes = |all: &[Namespace]| -> Vec<_> {
        let shape = |it: &Namespace| (it.nsid, it.blocks, it.block_bytes);
        all.iter().map(shape).collect()
    };
    let now = shapes(&now);
    controller.restart().unwrap();
    assert_eq!(shapes(&controller.namespaces()), now);
}

#[test]
fn what_was_unusable_or_gone_and_can_be_used_again_is_added() {
    let (bench, controller) = stage();
    bench.near.format(1, 10);
    bench.near.detach(2);
    assert_eq!(controller.rescan().unwrap().len(), 2);
    assert_eq!(controller.unusable_namespaces()[0].nsid, 1);
    bench.near.format(1, 12);
    bench.near.attach(2);
    let added = |nsid| NamespaceChange::Added { nsid };
    assert_eq!(controller.rescan().unwrap(), [added(1), added(2)]);
    assert_eq!(controller.unusable_namespaces().len(), 0);
}

#[test]
fn an_event_names_the_namespace_that_was_changed() {
    let (bench, controller) = stage();
    bench.near.resize(3, 7);
    bench.near.detach(1);
    let mut named = Vec::new();
    for event in controller.take_events().unwrap() {
        match event {
            AsyncEvent::NamespacesChanged(nsids) => named.extend(nsids),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(named, [1, 3]);
    assert_eq!(controller.rescan().unwrap().len(), 2);
}

#[test]
fn a_namespace_that_is_gone_before_it_is_looked_at_makes_no_rescan_fail() {
    let (bench, controller) = stage();
    // The list is the first Identify, then one or two for each namespace.
    let second = Matcher::admin(AdminOpcode::Identify).after(3);
    let refused = Fault::Status(Status::INVALID_NAMESPACE);
    assert_eq!(bench.near.inject(second, refused).fired(), 0);
    let changes = controller.rescan().unwrap();
    assert!(
        matches!(changes[..], [NamespaceChange::Unusable { nsid: 2, .. }]),
        "{changes:?}"
    );
    assert_eq!(
        controller.rescan().unwrap(),
        [NamespaceChange::Added { nsid: 2 }]
    );
}

#[test]
fn a_rescan_that_fails_changes_nothing() {
    let (bench, controller) = stage();
    bench.near.detach(1);
    bench.near.inject(
        Matcher::admin(AdminOpcode::Identify).after(1),
        Fault::Break(crate::model::Broken::Fatal),
    );
    assert!(matches!(
        controller.rescan(),
        Err(DriverError::Fatal { .. })
    ));
    assert_eq!(controller.namespaces().len(), 3);
    controller.restart().unwrap();
    assert_eq!(controller.namespaces().len(), 2);
}

#[test]
fn a_queue_pair_goes_by_the_block_sizes_that_it_was_made_with() {
    let (bench, controller) = stage();
    let mut old = controller.create_io_queue_pair(4).unwrap();
    bench.near.format(1, 12);
    controller.rescan().unwrap();
    let region = host(&bench.bus, 4096);
    let read = |len| IoCommand::Read {
        nsid: 1,
        slba: 0,
        blocks: 1,
        data: DataPointer {
            region: &region,
            offset: 0,
            len,
        },
    };
    let wrong = |len| Err(SubmitError::WrongLength { blocks: 1, len });
    assert_eq!(old.submit(read(4096), 1), wrong(4096));
    let mut new = controller.create_io_queue_pair(4).unwrap();
    assert_eq!(new.submit(read(512), 1), wrong(512));
    assert!(run(&mut new, read(4096)).is_success());
}

#[rstest]
#[case(true)]
#[case(false)]
fn a_write_cache_counts_only_if_it_is_there_and_in_use(#[case] volatile_cache: bool) {
    let options = ModelOptions {
        volatile_cache,
        ..ModelOptions::default()
    };
    let bench = Bench::new(options, ModelOptions::default());
    let controller = open(&bench.near);
    assert_eq!(controller.volatile_write_cache(), volatile_cache);
    let inner = &controller.inner;
    let mut admin = inner.admin_queue().unwrap();
    if volatile_cache {
        let off = SetFeatures {
            cdw10: SetFeaturesCdw10::new().with_fid(FeatureId::VolatileWriteCache),
            ..sqe_of(AdminOpcode::SetFeatures).into()
        };
        admin
            .execute(&inner.device, "Set Features", off.into())
            .unwrap();
        assert!(!cache_enabled(&inner.device, &mut admin).unwrap());
    }
    // Where it does not say, it is taken to be in use.
    let refused = Fault::Status(Status::INVALID_FIELD);
    let get_features = Matcher::admin(AdminOpcode::GetFeatures);
    bench.near.inject(get_features, refused);
    assert!(cache_enabled(&inner.device, &mut admin).unwrap());
}
