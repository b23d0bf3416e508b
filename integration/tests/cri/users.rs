//! Pods with a user namespace (`hostUsers: false`), whose layers and volumes the kernel maps.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use layerd_integration::Transcript;
use layerd_integration::process::{WAIT_LIMIT, output, wait_until};
use layerd_integration::scratch::mounts_below;
use layerd_integration::transcript;
use layerd_proto::containerd::services::snapshots::v1::Kind;
use layerd_proto::cri::runtime::v1::{self as cri};

use super::client::{container, ids, own_users, pod, spec};
use super::csi::Csi;
use super::world::{IMAGE, World};

const UID: &str = "containerd.io/snapshot/uidmapping";
const GID: &str = "containerd.io/snapshot/gidmapping";
/// First ids of the pods on the host.
const PODS: [u32; 2] = [1_000_000, 2_000_000];

/// A pod with one container, whose root is the host's id `first`.
struct Pod {
    first: u32,
    sandbox: String,
    container: String,
    /// Where CSI published its volumes.
    targets: Vec<PathBuf>,
}

#[test]
fn root_pods_with_user_namespaces_share_layers_and_own_their_volumes() {
    let mut world = World::with_users();
    let transcript = Transcript::begin("cri-users", world.path());
    let mut csi = Csi::connect(&world.path().join("csi.sock"));
    // A directory, and a file system of its own.
    let volumes = [csi.create("pvc-1", 0), csi.create("pvc-2", 8 << 20)];
    let plain = world.path().join("plain");
    fs::create_dir(&plain).unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o777)).unwrap();
    let (layers, programs) = (snapshots(&world), programs(&world));

    let pods = PODS.map(|first| start(&mut world, &mut csi, &volumes, first));
    for pod in &pods {
        ids_are_mapped(&mut world, pod);
    }
    assert_eq!(self::programs(&world), programs, "no layer was copied");
    labels_tell_the_ids(&world, &layers);
    drop(transcript);

    world.crash_layerd();
    world.crash_containerd();
    csi = Csi::connect(&world.path().join("csi.sock"));
    for pod in &pods {
        ids_are_mapped(&mut world, pod);
    }
    for pod in &pods {
        world.remove(&pod.container);
        world.remove_pod(&pod.sandbox);
        for (volume, target) in volumes.iter().zip(&pod.targets) {
            csi.unpublish(volume, target);
        }
    }
    for volume in &volumes {
        csi.delete(volume);
    }
    wait_until("containerd's collector", WAIT_LIMIT, || {
        snapshots(&world) == layers
    });
    assert_eq!(mounts_below(world.path()), Vec::<PathBuf>::new());
    world.daemon.assert_no_errors_logged();
}

/// Has kubelet's calls made for a pod.
fn start(world: &mut World, csi: &mut Csi, volumes: &[String], first: u32) -> Pod {
    let name = format!("pod-{first}");
    let users = Some(own_users(first));
    let config = cri::PodSandboxConfig {
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: users.clone(),
            }),
        }),
        ..pod(&name, &[])
    };
    let target = |volume: &String| {
        let dir = format!("kubelet/pods/{name}/volumes/kubernetes.io~csi/{volume}");
        let dir = world.path().join(dir);
        fs::create_dir_all(&dir).unwrap();
        dir.join("mount")
    };
    let targets: Vec<PathBuf> = volumes.iter().map(target).collect();
    for (volume, target) in volumes.iter().zip(&targets) {
        csi.publish(volume, target);
    }
    let mut mounts: Vec<cri::Mount> = targets.iter().enumerate().map(volume(first)).collect();
    mounts.push(cri::Mount {
        container_path: "/image".to_owned(),
        readonly: true,
        image: Some(spec(IMAGE)),
        uid_mappings: ids(first),
        gid_mappings: ids(first),
        ..cri::Mount::default()
    });
    // As from a runtime that maps no mounts.
    mounts.push(cri::Mount {
        container_path: "/plain".to_owned(),
        host_path: world.path().join("plain").display().to_string(),
        ..cri::Mount::default()
    });
    let sandbox = world.run_pod(&config);
    let wanted = cri::ContainerConfig {
        mounts,
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: users,
            }),
        }),
        ..container("web", IMAGE)
    };
    let container = world.start(&sandbox, &config, wanted);
    Pod {
        first,
        sandbox,
        container,
        targets,
    }
}

/// A volume at `/data0`, `/data1` and so on, with the mappings that kubelet gives it.
fn volume(first: u32) -> impl Fn((usize, &PathBuf)) -> cri::Mount {
    move |(number, target)| cri::Mount {
        container_path: format!("/data{number}"),
        host_path: target.display().to_string(),
        uid_mappings: ids(first),
        gid_mappings: ids(first),
        ..cri::Mount::default()
    }
}

fn ids_are_mapped(world: &mut World, pod: &Pod) {
    let (id, first) = (&pod.container, pod.first);
    let map = world.exec(id, "cat /proc/self/uid_map /proc/self/gid_map");
    let first_text = first.to_string();
    let line = ["0", &first_text, "65536"];
    let map: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(map, [line, line].concat());
    let look = "stat -c '%u:%g %n' /bin/busybox /image/bin/busybox /data0 /data1";
    let seen = world.exec(id, look);
    assert!(seen.lines().all(|line| line.starts_with("0:0 ")), "{seen}");

    world.exec(
        id,
        "for dir in /data0 /data1 /plain /; do echo content > $dir/own; done
         echo content > /data0/other; chown 5:6 /data0/other
         ! touch /image/file 2>/dev/null",
    );
    // Kubernetes gives a volume the ids that the pod sees: another pod finds them, whatever its own are.
    // What is not mapped, and the container's own layer, have the host's.
    let plain = world.path().join("plain/own");
    let [data0, data1] = [0, 1].map(|number| pod.targets[number].join("own"));
    let other = pod.targets[0].join("other");
    let wanted = [
        (&data0, "0:0".to_owned()),
        (&data1, "0:0".to_owned()),
        (&other, "5:6".to_owned()),
        (&plain, format!("{first}:{first}")),
    ];
    for (path, wanted) in wanted {
        let look = ["-c", "%u:%g", path.to_str().unwrap()];
        let seen = output(Command::new("stat").args(look));
        transcript::inside(&format!("stat {} # on the host", look.join(" ")), &seen);
        assert_eq!(seen.trim_end(), wanted, "{}", path.display());
    }
    fs::remove_file(plain).unwrap();
    let own = find(&world.daemon.root().join("l"), "own");
    let owners = own.iter().map(|path| owner(path));
    assert!(owners.clone().any(|owner| owner == (first, first)));
    assert!(
        owners
            .clone()
            .all(|(uid, gid)| uid == gid && PODS.contains(&uid))
    );
}

/// The owners of the programs in all layers, by path.
fn programs(world: &World) -> BTreeMap<PathBuf, (u32, u32)> {
    let found = find(&world.daemon.root().join("l"), "busybox");
    let owned = found.into_iter().map(|path| {
        let owner = owner(&path);
        (path, owner)
    });
    let owned: BTreeMap<_, _> = owned.collect();
    assert_eq!(owned.len(), 2, "one of each image");
    assert!(owned.values().all(|owner| *owner == (0, 0)), "{owned:?}");
    owned
}

/// Names and kinds of all snapshots.
fn snapshots(world: &World) -> BTreeMap<String, i32> {
    let all = world.daemon.snapshots().list().into_iter();
    all.map(|info| (info.name, info.kind)).collect()
}

/// Requires that no layer was made for a pod, but for those that its containers write to.
fn labels_tell_the_ids(world: &World, before: &BTreeMap<String, i32>) {
    let all = world.daemon.snapshots().list();
    let made = all.iter().filter(|info| !before.contains_key(&info.name));
    let mut of_pods = BTreeMap::<String, usize>::new();
    for info in made {
        assert_eq!(info.kind, i32::from(Kind::Active), "{info:?}");
        assert_eq!(info.labels.get(UID), info.labels.get(GID), "{info:?}");
        *of_pods.entry(info.labels[UID].clone()).or_default() += 1;
    }
    // Its sandbox, its container, and its image volume.
    let wanted = PODS.map(|first| (format!("0:{first}:65536"), 3));
    assert_eq!(of_pods, BTreeMap::from(wanted));
}

fn find(dir: &Path, name: &str) -> Vec<PathBuf> {
    let found = output(
        Command::new("find")
            .arg(dir)
            .args(["-name", name, "-type", "f"]),
    );
    found.lines().map(PathBuf::from).collect()
}

fn owner(path: &Path) -> (u32, u32) {
    let meta = fs::metadata(path).unwrap();
    (meta.uid(), meta.gid())
}
