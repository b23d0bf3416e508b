//! Kubernetes' side of containerd, without Kubernetes: an own client of the CRI, layerd as the snapshotter,
//! and layerd-nri, which gives containers their volumes.
#![allow(
    clippy::panic,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

#[path = "cri/client.rs"]
mod client;
#[path = "cri/csi.rs"]
mod csi;
#[path = "cri/users.rs"]
mod users;
#[path = "cri/world.rs"]
mod world;

use layerd_integration::process::{WAIT_LIMIT, wait_until};
use layerd_integration::{Transcript, Version};
use layerd_proto::cri::runtime::v1::{self as cri};

use client::{container, pod, spec};
use world::{IMAGE, World, owner};

const DATA: &str =
    "type=volume,src=data,dst=/data,on-missing=create\n\ntype=tmpfs,dst=/cache,tmpfs-size=1m\n";

macro_rules! on_version {
    ($name:ident, $version:expr) => {
        mod $name {
            use super::{Transcript, Version};

            #[test]
            fn a_container_has_what_its_annotation_asks_for_until_it_is_removed() {
                let mut world = super::World::new($version);
                let name = concat!("cri-", stringify!($name));
                let _transcript = Transcript::begin(name, world.path());
                super::lifecycle(&mut world);
            }

            #[test]
            fn crashes_of_layerd_of_the_plugin_and_of_containerd() {
                super::crashes(&mut super::World::new($version));
            }

            #[test]
            fn pods_on_images_outlive_crashes() {
                let mut world = super::World::with_images($version);
                super::lifecycle(&mut world);
                super::crashes(&mut world);
            }

            #[test]
            fn what_is_refused_is_said_and_leaves_nothing() {
                super::refusals(&mut super::World::new($version));
            }
        }
    };
}

on_version!(root_containerd_1_7, Version::V1_7);
on_version!(root_containerd_2_1, Version::V2_1);

#[test]
fn root_images_are_volumes_of_containers() {
    for mut world in [World::new(Version::V2_1), World::with_images(Version::V2_1)] {
        image_volumes(&mut world);
    }
}

/// The runtime tells of the removal of a container that was never created.
#[test]
fn root_what_a_container_had_that_another_plugin_refused_is_let_go() {
    for version in [Version::V1_7, Version::V2_1] {
        let mut world = World::new(version);
        let mut second = world.second_plugin();
        let config = pod("shop", &[("volumes.layerd.io/web", DATA)]);
        let sandbox = world.run_pod(&config);
        let refused = world.try_create(&sandbox, &config, container("web", IMAGE));
        let status = refused.unwrap_err();
        assert!(status.message().contains("/data"), "{status:?}");
        let of_first = |world: &World| {
            let mut all = world.holders();
            all.retain(|owner| owner.starts_with("container:nri:"));
            all
        };
        wait_until("what it had to be let go", WAIT_LIMIT, || {
            of_first(&world).is_empty()
        });
        second.kill9();
        world.remove_pod(&sandbox);
    }
}

/// The CRI hands the annotations of a pod on for the snapshot of its sandbox alone: the default is what
/// holds containers.
#[test]
fn root_containers_of_pods_are_held_to_the_default() {
    const SIZE: &str = "containerd.io/snapshot/layerd.size";
    for version in [Version::V1_7, Version::V2_1] {
        let mut world = World::limited(version);
        let config = pod("limited", &[(SIZE, "20m")]);
        let sandbox = world.run_pod(&config);
        let id = world.start(&sandbox, &config, container("web", IMAGE));
        let command = "dd if=/dev/zero of=/large bs=65536 count=512 2>&1 || echo ended";
        let said = world.exec(&id, command);
        assert!(said.contains("No space left on device"), "{said}");
        assert!(said.contains("ended"), "{said}");
        let limit = |world: &World, id: &str| {
            let all = world.daemon.snapshots().list();
            let own = all.iter().find(|info| info.name.ends_with(id)).unwrap();
            own.labels.get(SIZE).cloned()
        };
        assert_eq!(limit(&world, &id).as_deref(), Some("16777216"));
        assert_eq!(limit(&world, &sandbox).as_deref(), Some("20m"));
    }
}

fn lifecycle(world: &mut World) {
    let (sandbox, id) = world.web(DATA);
    let table = world.exec(
        &id,
        "grep -E ' /(data|cache) ' /proc/mounts; echo kept > /data/file",
    );
    assert!(
        table.contains(" /data ") && table.contains("tmpfs /cache tmpfs"),
        "{table}"
    );
    assert_eq!(world.holders(), [owner(&id), owner(&id)]);
    assert!(world.layerctl(&["who-uses", "data"]).contains(&id[..12]));

    let stats = cri::ContainerStatsRequest {
        container_id: id.clone(),
    };
    let stats = world
        .client
        .run(async |client| client.pods.container_stats(stats).await);
    assert!(stats.unwrap().stats.is_some());
    let disks = world
        .client
        .run(async |client| client.images.image_fs_info(cri::Empty {}).await);
    let disks = disks.unwrap().image_filesystems;
    let mountpoint = &disks[0].fs_id.as_ref().unwrap().mountpoint;
    assert!(
        mountpoint.ends_with("io.containerd.snapshotter.v1.layerd"),
        "{disks:?}"
    );

    // A container without the annotation gets nothing; the next one with it, what is there.
    let config = pod("shop", &[("volumes.layerd.io/web", DATA)]);
    let other = world.start(&sandbox, &config, container("other", IMAGE));
    assert_eq!(world.exec(&other, "ls -d /data /cache || true"), "");
    world.remove(&other);
    world.remove(&id);
    assert_eq!(world.holders(), Vec::<String>::new());
    let again = world.start(&sandbox, &config, container("web", IMAGE));
    assert_eq!(world.exec(&again, "cat /data/file"), "kept\n");
    world.remove(&again);
    world.remove_pod(&sandbox);
    assert_eq!(world.holders(), Vec::<String>::new());
    world.daemon.assert_no_errors_logged();
}

/// containerd 2.1 makes a View of an image for each container that has it as a volume.
fn image_volumes(world: &mut World) {
    let before = world.daemon.snapshots().list().len();
    let config = pod("shop", &[]);
    let sandbox = world.run_pod(&config);
    let in_pod = world.daemon.snapshots().list().len();
    let volume = cri::Mount {
        container_path: "/of-image".to_owned(),
        readonly: true,
        image: Some(spec(IMAGE)),
        ..cri::Mount::default()
    };
    let reader = |name: &str| cri::ContainerConfig {
        mounts: vec![volume.clone()],
        ..container(name, IMAGE)
    };
    let ids = ["one", "two"].map(|name| world.start(&sandbox, &config, reader(name)));
    let look = "cmp /bin/busybox /of-image/bin/busybox; ! touch /of-image/file 2>/dev/null";
    for id in &ids {
        world.exec(id, look);
    }
    world.crash_layerd();
    world.exec(&ids[0], look);
    world.crash_containerd();
    world.exec(&ids[1], look);
    for id in &ids {
        world.remove(id);
    }
    world.remove_pod(&sandbox);
    assert!(in_pod > before);
    wait_until("containerd's collector", WAIT_LIMIT, || {
        world.daemon.snapshots().list().len() == before
    });
    world.daemon.assert_no_errors_logged();
}

fn crashes(world: &mut World) {
    let (sandbox, id) = world.web(DATA);
    let look = |world: &mut World, word: &str| {
        let text = world.exec(
            &id,
            &format!("echo {word} >> /data/file; tail -n 1 /data/file"),
        );
        assert_eq!(text.trim(), word);
    };
    // `layerctl doctor` reads it from systemd.
    world.wait_for_state("STATUS=registered with containerd ");
    world.crash_layerd();
    look(world, "layerd");
    world.kill_plugin();
    look(world, "plugin");
    world.start_plugin();
    look(world, "again");
    world.crash_containerd();
    world.wait_for_state("STATUS=not registered: ");
    world.wait_for_state("STATUS=registered with containerd ");
    look(world, "containerd");
    assert_eq!(world.holders(), [owner(&id), owner(&id)]);

    // A container is removed while the plugin is away: the list of containers tells of it later.
    world.kill_plugin();
    world.remove(&id);
    assert_eq!(world.holders().len(), 2);
    world.start_plugin();
    world.wait_for_holders(&[]);
    // And while layerd is away, the runtime does not wait.
    let config = pod("shop", &[("volumes.layerd.io/web", DATA)]);
    let id = world.start(&sandbox, &config, container("web", IMAGE));
    world.exec(&id, "grep -q again /data/file");
    let kept = world.holders();
    assert_eq!(kept, [owner(&id), owner(&id)]);
    world.hide_layerd_from_plugin();
    world.remove(&id);
    assert_eq!(world.holders(), kept);
    world.show_layerd_to_plugin();
    world.wait_for_holders(&[]);
    world.remove_pod(&sandbox);
}

fn refusals(world: &mut World) {
    for (line, wanted) in [
        ("type=volume,src=missing,dst=/data", "missing"),
        ("type=bind,src=/etc,dst=/data", "--allow-binds"),
        ("type=volume,src=data,dst=data", "dst"),
        (
            "type=volume,src=made,dst=/a,on-missing=create\ntype=volume,src=missing,dst=/b",
            "missing",
        ),
    ] {
        let config = pod("shop", &[("volumes.layerd.io/web", line)]);
        let sandbox = world.run_pod(&config);
        let refused = world.try_create(&sandbox, &config, container("web", IMAGE));
        let status = refused.unwrap_err();
        assert!(status.message().contains(wanted), "{line}: {status:?}");
        assert!(
            status.message().contains("volumes.layerd.io/web"),
            "{status:?}"
        );
        world.remove_pod(&sandbox);
        assert_eq!(world.holders(), Vec::<String>::new(), "{line}");
        assert_eq!(
            world.layerctl(&["-o", "json", "volume", "ls"]),
            "",
            "{line}"
        );
    }
}
