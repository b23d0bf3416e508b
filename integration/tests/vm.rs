//! layerd on the kernels of Debian 12, 13 and the next, each in a virtual machine with an emulated
//! processor, which sees the files of this machine: `integration/vm/`. It runs tests of this workspace;
//! the few of the short form here, and those of the long one with `make test-vm`.
#![allow(
    clippy::panic,
    clippy::print_stdout,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

#[path = "vm/machine.rs"]
mod machine;

use machine::{Form, Machine, Suite};

/// Behaviour that can differ between kernels, in about a minute: ids and propagation of mounts, views
/// of images, id mappings, overlayfs on each file system, layers that are EROFS images or thin devices.
const SHORT: Form = Form {
    test_limit: 300,
    limit: 900,
    suites: &[
        Suite {
            binary: "layerd-mounts",
            folder: "mounts",
            tests: &[
                "limit::project::",
                "mounter::features::",
                "mounter::tests::going::root_a_number_alone_does_not_tell_a_mount",
                "mounter::tests::going::root_what_came_along_goes_along",
                "mounter::tests::ids::root_ids_are_shifted_on_",
                "mounter::tests::options::root_propagation_goes_where_it_was_told",
                "mounter::tests::root_the_kernel_keeps_the_contract",
                "mounter::tests::views::",
            ],
        },
        Suite {
            binary: "layerd-drivers",
            folder: "mounts/drivers",
            tests: &[
                "conformance::tests::root_overlay_keeps_the_contract_on_xfs",
                "devicemapper::tests::root_devicemapper_keeps_the_contract_on_ext4",
                "overlay::images::tests::root_an_image_lives_and_goes_on_ext4",
                "overlay::limited::project_tests::",
                "overlay::probe::tests::root_good_disks_are_taken",
            ],
        },
        Suite {
            binary: "layerd-layers",
            folder: "mounts/layers",
            tests: &[
                "apply::tests::attributes::",
                "diff::tests::root_each_change_has_its_entry",
            ],
        },
        Suite {
            binary: "layerd-integration::volumes",
            folder: "integration",
            tests: &["attach::root_flags_are_normalised"],
        },
        Suite {
            binary: "layerd-integration::unpack",
            folder: "integration",
            tests: &["calls::root_a_stack_is_unpacked_and_described"],
        },
    ],
};

/// For a kernel between the oldest and the newest, mostly part of [`SHORT`]: which features it has, mounts,
/// views, and layers as directories, as images and as thin devices. `make test-vm` runs all there as well.
const FEW: Form = Form {
    test_limit: 300,
    limit: 900,
    suites: &[
        Suite {
            binary: "layerd-mounts",
            folder: "mounts",
            tests: &[
                "mounter::features::",
                "mounter::tests::root_the_kernel_keeps_the_contract",
                "mounter::tests::views::",
            ],
        },
        Suite {
            binary: "layerd-drivers",
            folder: "mounts/drivers",
            tests: &[
                "conformance::tests::root_overlay_keeps_the_contract_on_xfs",
                "devicemapper::tests::root_devicemapper_keeps_the_contract_on_ext4",
                "devicemapper::tests::root_devicemapper_keeps_the_contract_on_xfs",
                "overlay::images::tests::root_an_image_lives_and_goes_on_ext4",
            ],
        },
    ],
};

/// All tests of mounts and layers but the longest; attachments of each kind, unpacking, fsck; and a
/// container's life with the containerd of the kernel's Debian.
macro_rules! long {
    ($containerd:literal) => {
        Form {
            test_limit: 900,
            limit: 5400,
            suites: &[
                Suite {
                    binary: "layerd-mounts",
                    folder: "mounts",
                    tests: &[""],
                },
                Suite {
                    binary: "layerd-drivers",
                    folder: "mounts/drivers",
                    tests: &[""],
                },
                Suite {
                    binary: "layerd-layers",
                    folder: "mounts/layers",
                    tests: &[
                        "apply::",
                        "archive::tests::root_gnu_tar_reads_what_is_exported",
                        "archive::tests::root_reads_",
                        "copy::tests::root_mounts_in_the_source_are_refused",
                        "copy::tests::root_random_stacks_are_what_overlayfs_shows",
                        "copy::tests::root_unusual_overlays_are_refused",
                        "diff::tests::root_",
                    ],
                },
                Suite {
                    binary: "layerd-integration::containerd",
                    folder: "integration",
                    tests: &[
                        concat!("root_", $containerd, "::lifecycle"),
                        concat!("root_full_", $containerd, "::lifecycle"),
                        "devices::root_crash_while_importing_devices",
                    ],
                },
                Suite {
                    binary: "layerd-integration::volumes",
                    folder: "integration",
                    tests: &[
                        "attach::",
                        "containers::",
                        "images::",
                        "owners::",
                        "quotas::",
                    ],
                },
                Suite {
                    binary: "layerd-integration::unpack",
                    folder: "integration",
                    tests: &[
                        "calls::root_a_stack_is_unpacked_and_described",
                        "containerd::root_containerd_1_7::unpacks_and_packs",
                        concat!("containerd::root_", $containerd, "::layers_are_images"),
                        "content::root_a_changed_byte_is_found_online_offline",
                        "diffs::root_layers_are_made_in_every_form",
                        "images::",
                    ],
                },
                Suite {
                    binary: "layerd-integration::recovery",
                    folder: "integration",
                    tests: &["faults::root_faults_are_found", "lost::", "quarantine::"],
                },
                Suite {
                    binary: "layerd-integration::snapshots",
                    folder: "integration",
                    tests: &["limits::", "mounts::", "space::root_usage_is_what_du_says"],
                },
                Suite {
                    binary: "layerd-integration::service",
                    folder: "integration",
                    tests: &[
                        "check::root_check_of_a_good_host_passes",
                        "metrics::root_images_their_mounts_and_their_bytes_are_counted",
                    ],
                },
            ],
        }
    };
}

/// The driver zfs, whose tests need a kernel with its module: all it promises, and a container's life with the
/// containerd of the kernel's Debian.
const ZFS: Form = Form {
    test_limit: 900,
    limit: 3600,
    suites: &[
        Suite {
            binary: "layerd-drivers",
            folder: "mounts/drivers",
            tests: &[
                "zfs::tests::kernel::root_full_vm_",
                "zfs::tests::removal::root_full_vm_",
            ],
        },
        Suite {
            binary: "layerd-integration::containerd",
            folder: "integration",
            tests: &["zfs::root_full_vm_"],
        },
    ],
};

#[test]
fn root_short_linux_6_1() {
    Machine::new("linux-6.1").run(&SHORT);
}

#[test]
fn root_short_linux_6_12() {
    Machine::new("linux-6.12").run(&FEW);
}

#[test]
fn root_short_linux_newest() {
    Machine::new("linux-newest").run(&SHORT);
}

#[test]
fn root_full_linux_6_1() {
    Machine::new("linux-6.1").run(&long!("containerd_1_6"));
}

#[test]
fn root_full_linux_6_1_zfs() {
    Machine::with("linux-6.1", "zfs-6.1").run(&ZFS);
}

#[test]
fn root_full_linux_6_12() {
    Machine::new("linux-6.12").run(&long!("containerd_1_7"));
}

#[test]
fn root_full_linux_newest() {
    Machine::new("linux-newest").run(&long!("containerd_2_1"));
}
