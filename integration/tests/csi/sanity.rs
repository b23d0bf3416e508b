//! The cases of csi-sanity (kubernetes-csi/csi-test 5.4 to 5.6), which tests drivers over their socket, with
//! its arguments, sizes and order of calls, twice on one layerd. Cases of capabilities that are not announced
//! are passed over there and left out here.

use std::fmt::Debug;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use layerd_proto::csi::v1::volume_capability::access_mode::Mode;
use layerd_proto::csi::v1::{self as pb};
use tonic::{Code, Response, Status};

use super::client::{
    Failed, Services, bytes, capability, create, of_snapshot, of_volume, publish, writer,
};
use super::world::World;

const GIB: i64 = 1 << 30;
/// Size of its volumes, and what they are grown to.
const SIZE: i64 = 10 * GIB;
const GROWN: i64 = 11 * GIB;
/// Less than its volumes of one case have together: sizes are not kept free.
const DISK_MIB: u64 = 24 << 10;

/// An id that no volume has, and a path where none is.
pub(super) const NO_VOLUME: &str = "fake-vol-id-1f0c6b2e-3";
pub(super) const NO_PATH: &str = "some/path";

#[test]
fn root_cases_of_csi_sanity_pass_and_pass_again() {
    let mut suite = Suite::new();
    for run in ["-0A1B2C3D-4E5F6071", "-8293A4B5-C6D7E8F9"] {
        for case in [
            Suite::volumes_are_counted,
            Suite::volumes_are_created_by_name,
            Suite::volumes_are_made_of_others,
            Suite::volumes_are_grown,
            Suite::snapshots_are_made_by_name,
            Suite::snapshots_are_found,
            Suite::snapshots_are_listed_in_pages,
            Suite::volumes_are_published,
            Suite::single_writers_have_one_path,
        ] {
            suite.begin(run);
            case(&mut suite);
            suite.end();
        }
    }
    assert!(!suite.world.log().contains(SECRET));
}

/// The value of a secret, as `--csi.secrets` has them sent.
const SECRET: &str = "correct-horse";

struct Suite {
    world: World,
    /// End of the names of one run.
    run: &'static str,
    /// Volumes and snapshots of a case; one that was answered twice is in it twice.
    made: Vec<Made>,
}

#[derive(Debug)]
enum Made {
    Volume(String),
    Snapshot(String),
}

impl Suite {
    fn new() -> Self {
        let world = World::with_disk(DISK_MIB);
        let temporary = world.path().join("kubelet/tmp");
        fs::create_dir(&temporary).unwrap();
        fs::set_permissions(temporary, Permissions::from_mode(0o1777)).unwrap();
        let (run, made) = ("", Vec::new());
        Self { world, run, made }
    }

    /// Directory that target paths lie in, new for each case.
    fn parent(&self) -> PathBuf {
        self.world.path().join("kubelet/tmp/csi-mount")
    }

    fn target(&self) -> PathBuf {
        self.parent().join("target")
    }

    fn begin(&mut self, run: &'static str) {
        self.run = run;
        fs::create_dir(self.parent()).unwrap();
    }

    /// Deletes the volumes and snapshots of a case, the newest first. Unpublishes each volume, published or not.
    fn end(&mut self) {
        for made in std::mem::take(&mut self.made).into_iter().rev() {
            match made {
                Made::Volume(id) => {
                    if let Err(failed) = self.unpublish(&id) {
                        assert_eq!(failed.code, Code::NotFound, "{failed:?}");
                    }
                    self.delete(&id).unwrap();
                }
                Made::Snapshot(id) => self.delete_snapshot(&id).unwrap(),
            }
        }
        fs::remove_dir(self.parent()).unwrap();
    }

    fn ask<T: Debug>(
        &mut self,
        call: impl AsyncFnOnce(&mut Services) -> Result<Response<T>, Status>,
    ) -> Result<T, Failed> {
        self.world.client.run(call)
    }

    /// A volume of exactly its size.
    fn exactly(&self, name: &str) -> pb::CreateVolumeRequest {
        pb::CreateVolumeRequest {
            capacity_range: bytes(SIZE, SIZE),
            secrets: [("password".to_owned(), SECRET.to_owned())].into(),
            ..create(&format!("{name}{}", self.run))
        }
    }

    /// A name of 128 bytes.
    fn longest(&self, start: &str) -> String {
        let filler = "x".repeat(128 - start.len() - self.run.len());
        format!("{start}{filler}{}", self.run)
    }

    fn create(&mut self, request: pb::CreateVolumeRequest) -> Result<pb::Volume, Failed> {
        let call = async |to: &mut Services| to.controller.create_volume(request).await;
        let volume = self.ask(call)?.volume.unwrap();
        assert!(!volume.volume_id.is_empty());
        self.made.push(Made::Volume(volume.volume_id.clone()));
        Ok(volume)
    }

    fn delete(&mut self, id: &str) -> Result<(), Failed> {
        let request = pb::DeleteVolumeRequest {
            volume_id: id.to_owned(),
            ..pb::DeleteVolumeRequest::default()
        };
        self.ask(async |to| to.controller.delete_volume(request).await)
            .map(drop)
    }

    fn snapshot(&mut self, name: &str, source: &str) -> Result<pb::Snapshot, Failed> {
        let request = pb::CreateSnapshotRequest {
            name: name.to_owned(),
            source_volume_id: source.to_owned(),
            ..pb::CreateSnapshotRequest::default()
        };
        let call = async |to: &mut Services| to.controller.create_snapshot(request).await;
        let snapshot = self.ask(call)?.snapshot.unwrap();
        is_whole(&snapshot);
        assert!(snapshot.ready_to_use, "it asks every 5 s until it is");
        self.made.push(Made::Snapshot(snapshot.snapshot_id.clone()));
        Ok(snapshot)
    }

    /// A snapshot of a volume of its own.
    fn snapshot_of_new(&mut self, number: usize) -> pb::Snapshot {
        let volume = self.exactly(&format!("volume{number}"));
        let volume = self.create(volume).unwrap();
        let name = format!("snapshot{number}{}", self.run);
        self.snapshot(&name, &volume.volume_id).unwrap()
    }

    fn delete_snapshot(&mut self, id: &str) -> Result<(), Failed> {
        let request = pb::DeleteSnapshotRequest {
            snapshot_id: id.to_owned(),
            ..pb::DeleteSnapshotRequest::default()
        };
        self.ask(async |to| to.controller.delete_snapshot(request).await)
            .map(drop)
    }

    fn snapshots(&mut self, request: pb::ListSnapshotsRequest) -> (Vec<pb::Snapshot>, String) {
        let call = async |to: &mut Services| to.controller.list_snapshots(request).await;
        let answer = self.ask(call).unwrap();
        let all = answer.entries.into_iter().map(|one| one.snapshot.unwrap());
        let all: Vec<_> = all.inspect(is_whole).collect();
        (all, answer.next_token)
    }

    fn unpublish(&mut self, id: &str) -> Result<(), Failed> {
        let request = pb::NodeUnpublishVolumeRequest {
            volume_id: id.to_owned(),
            target_path: self.target().to_str().unwrap().to_owned(),
        };
        self.ask(async |to| to.node.node_unpublish_volume(request).await)
            .map(drop)
    }

    fn count(&mut self) -> usize {
        let request = pb::ListVolumesRequest::default();
        let list = self.ask(async |to| to.controller.list_volumes(request).await);
        list.unwrap().entries.len()
    }
}

fn is_whole(snapshot: &pb::Snapshot) {
    assert!(!snapshot.snapshot_id.is_empty() && !snapshot.source_volume_id.is_empty());
    assert!(snapshot.creation_time.unwrap().seconds > 0);
}

/// Cases of the controller.
impl Suite {
    fn volumes_are_counted(&mut self) {
        let before = self.count();
        let volume = self.create(pb::CreateVolumeRequest {
            capacity_range: None,
            ..create("sanity")
        });
        assert_eq!(self.count(), before + 1);
        self.delete(&volume.unwrap().volume_id).unwrap();
        assert_eq!(self.count(), before);
    }

    fn volumes_are_created_by_name(&mut self) {
        let least = pb::CreateVolumeRequest {
            capacity_range: bytes(SIZE, 0),
            ..self.exactly("twice")
        };
        let first = self.create(least.clone()).unwrap();
        assert_eq!(first.capacity_bytes, SIZE);
        assert_eq!(self.create(least).unwrap(), first);
        let get = pb::ControllerGetVolumeRequest {
            volume_id: first.volume_id.clone(),
        };
        let got = self.ask(async |to| to.controller.controller_get_volume(get).await);
        let got = got.unwrap();
        assert_eq!((got.volume, got.status.is_some()), (Some(first), true));
        let exactly = self.exactly("twice-different");
        self.create(exactly.clone()).unwrap();
        let larger = self.create(pb::CreateVolumeRequest {
            capacity_range: bytes(2 * SIZE, 2 * SIZE),
            ..exactly.clone()
        });
        larger.unwrap_err().is(Code::AlreadyExists, "capacity");
        let longest = self.longest("maxlen");
        let longest = pb::CreateVolumeRequest {
            name: longest,
            ..exactly
        };
        self.create(longest).unwrap();
    }

    fn volumes_are_made_of_others(&mut self) {
        let volume = self.exactly("source-vol");
        let volume = self.create(volume).unwrap().volume_id;
        let name = format!("snap-from-vol{}", self.run);
        let snapshot = self.snapshot(&name, &volume).unwrap().snapshot_id;
        for (name, source) in [
            ("vol-from-snap", of_snapshot(&snapshot)),
            ("vol-from-vol", of_volume(&volume)),
        ] {
            let copy = pb::CreateVolumeRequest {
                volume_content_source: source.clone(),
                ..self.exactly(name)
            };
            let copy = self.create(copy).unwrap();
            assert_eq!(
                (copy.capacity_bytes, copy.content_source),
                (SIZE, source),
                "{name}"
            );
        }
        for source in [
            of_snapshot("non-existing-snapshot-id"),
            of_volume(NO_VOLUME),
        ] {
            let copy = pb::CreateVolumeRequest {
                volume_content_source: source,
                ..self.exactly("vol-from-nothing")
            };
            self.create(copy)
                .unwrap_err()
                .is(Code::NotFound, "there is no");
        }
    }

    fn volumes_are_grown(&mut self) {
        let volume = self.exactly("expand");
        let volume = self.create(volume).unwrap();
        assert_eq!(self.grow(&volume.volume_id).unwrap(), GROWN);
    }

    fn grow(&mut self, id: &str) -> Result<i64, Failed> {
        let request = pb::ControllerExpandVolumeRequest {
            volume_id: id.to_owned(),
            capacity_range: bytes(GROWN, 0),
            volume_capability: Some(writer()),
            ..pb::ControllerExpandVolumeRequest::default()
        };
        self.ask(async |to| to.controller.controller_expand_volume(request).await)
            .map(|grown| grown.capacity_bytes)
    }

    fn snapshots_are_made_by_name(&mut self) {
        let volume = self.exactly("volume");
        let volume = self.create(volume).unwrap().volume_id;
        for name in [
            format!("CreateSnapshot-1{}", self.run),
            self.longest("CreateSnapshot-maxlen"),
        ] {
            let first = self.snapshot(&name, &volume).unwrap();
            assert_eq!(self.snapshot(&name, &volume).unwrap(), first);
        }
        let other = self.exactly("other");
        let other = self.create(other).unwrap().volume_id;
        let name = format!("CreateSnapshot-1{}", self.run);
        let refused = self.snapshot(&name, &other).unwrap_err();
        refused.is(Code::AlreadyExists, "source_volume_id");
    }

    fn snapshots_are_found(&mut self) {
        let any = pb::ListSnapshotsRequest::default();
        let before = self.snapshots(any.clone()).0.len();
        let all = [1, 2, 3].map(|number| self.snapshot_of_new(number));
        assert_eq!(self.snapshots(any.clone()).0.len(), before + 3);
        let by = |id: &str, source: &str| pb::ListSnapshotsRequest {
            snapshot_id: id.to_owned(),
            source_volume_id: source.to_owned(),
            ..any.clone()
        };
        for (request, found) in [
            (by(&all[1].snapshot_id, ""), &all[1..2]),
            (by("", &all[1].source_volume_id), &all[1..2]),
            (by("none-exist-id", ""), &[]),
            (by("", NO_VOLUME), &[]),
        ] {
            assert_eq!(self.snapshots(request.clone()).0, found, "{request:?}");
        }
        self.delete_snapshot(&all[1].snapshot_id).unwrap();
        assert_eq!(self.snapshots(any).0.len(), before + 2);
    }

    fn snapshots_are_listed_in_pages(&mut self) {
        let all: Vec<_> = (0..5).map(|number| self.snapshot_of_new(number)).collect();
        let (mut seen, token) = self.snapshots(pb::ListSnapshotsRequest {
            max_entries: 2,
            ..pb::ListSnapshotsRequest::default()
        });
        assert_eq!(seen.len(), 2);
        let (rest, end) = self.snapshots(pb::ListSnapshotsRequest {
            starting_token: token,
            ..pb::ListSnapshotsRequest::default()
        });
        seen.extend(rest);
        assert_eq!((seen, end), (all, String::new()));
    }
}

/// Cases of the node.
impl Suite {
    fn volumes_are_published(&mut self) {
        let info = self.ask(async |to| to.node.node_get_info(pb::NodeGetInfoRequest {}).await);
        let info = info.unwrap();
        assert!(!info.node_id.is_empty() && info.max_volumes_per_node >= 0);
        let here = pb::TopologyRequirement {
            requisite: vec![info.accessible_topology.unwrap()],
            ..pb::TopologyRequirement::default()
        };
        let volume = pb::CreateVolumeRequest {
            accessibility_requirements: Some(here),
            ..self.exactly("node-full")
        };
        let volume = self.create(volume).unwrap();
        assert_eq!(self.grow(&volume.volume_id).unwrap(), GROWN);
        let target = self.target();
        let request = pb::NodePublishVolumeRequest {
            volume_context: volume.volume_context,
            ..publish(&volume.volume_id, &target)
        };
        self.world.publish(&request).unwrap();
        assert!(target.is_dir());
        let stats = |path: &str| pb::NodeGetVolumeStatsRequest {
            volume_id: volume.volume_id.clone(),
            volume_path: path.to_owned(),
            ..pb::NodeGetVolumeStatsRequest::default()
        };
        let (there, away) = (stats(target.to_str().unwrap()), stats(NO_PATH));
        let there = self.ask(async |to| to.node.node_get_volume_stats(there).await);
        assert!(!there.unwrap().usage.is_empty());
        let away = self.ask(async |to| to.node.node_get_volume_stats(away).await);
        away.unwrap_err().is(Code::NotFound, NO_PATH);
        let grow = pb::NodeExpandVolumeRequest {
            volume_id: volume.volume_id.clone(),
            volume_path: target.to_str().unwrap().to_owned(),
            capacity_range: bytes(GROWN, 0),
            ..pb::NodeExpandVolumeRequest::default()
        };
        self.ask(async |to| to.node.node_expand_volume(grow).await)
            .unwrap();
        self.unpublish(&volume.volume_id).unwrap();
        assert!(!target.exists());
    }

    fn single_writers_have_one_path(&mut self) {
        let single = capability(Mode::SingleNodeSingleWriter);
        let volume = pb::CreateVolumeRequest {
            volume_capabilities: vec![single.clone()],
            ..self.exactly("single-writer")
        };
        let id = self.create(volume).unwrap().volume_id;
        let at = |name: &str| pb::NodePublishVolumeRequest {
            volume_capability: Some(single.clone()),
            ..publish(&id, &self.parent().join(name))
        };
        let (first, other) = (at("target"), at("other_target"));
        self.ask(async |to| to.node.node_publish_volume(first).await)
            .unwrap();
        let other = self.ask(async |to| to.node.node_publish_volume(other).await);
        other.unwrap_err().is(Code::FailedPrecondition, "only");
    }
}
