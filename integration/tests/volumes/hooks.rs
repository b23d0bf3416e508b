//! Containers of runc and crun that get their volumes from the hooks of `layerctl oci-hook`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use layerd_integration::image::{busybox, write_layer};
use layerd_integration::process::{output, wait_until};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use super::{Ended, World, text};

const LIMIT: Duration = Duration::from_secs(60);
const RUNTIMES: [&str; 2] = ["runc", "crun"];
const ANNOTATION: &str = "volumes.layerd.io/mounts";

/// Where crun may write what its hooks wrote to standard error, which it drops otherwise.
const HOOKS_STDERR: &str = "run.oci.hooks.stderr";

/// Gives the test a mount namespace without version 2 of the control groups beside version 1, which
/// a machine may have and crun refuses.
fn plain_cgroups() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    let none = None::<&str>;
    mount(none, "/", none, private, none).unwrap();
    let unified = Path::new("/sys/fs/cgroup/unified");
    if unified.exists() {
        umount2(unified, MntFlags::MNT_DETACH).unwrap();
    }
}

/// A bundle with the hooks, run by one of the runtimes.
struct Container<'w> {
    world: &'w World,
    runtime: &'static str,
    name: String,
    bundle: PathBuf,
}

impl World {
    fn hooked(&self, runtime: &'static str, mounts: &str, script: &str) -> Container<'_> {
        let name = format!(
            "{runtime}-{}",
            self.scratch.path().file_name().unwrap().display()
        );
        let bundle = self.scratch.dir(&name);
        let container = Container {
            world: self,
            runtime,
            name,
            bundle,
        };
        container.unpack();
        container.write(mounts, script);
        container
    }

    /// A hook that is called as a runtime calls it.
    fn hook(&self, name: &str, state: &str) -> Ended {
        let mut command = self.command(&["oci-hook", name]);
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(state.as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        Ended {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            error: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn assert_nothing_attached(&self) {
        assert_eq!(self.json(&["attachments"]), [] as [Value; 0]);
    }
}

impl Container<'_> {
    fn unpack(&self) {
        let rootfs = self.bundle.join("rootfs");
        if rootfs.exists() {
            return;
        }
        std::fs::create_dir(&rootfs).unwrap();
        let archive = self.bundle.join("layer.tar");
        write_layer(&archive, &busybox());
        let mut tar = Command::new("tar");
        output(tar.arg("-xpf").arg(archive).arg("-C").arg(rootfs));
    }

    /// Writes the config.json anew.
    fn write(&self, mounts: &str, script: &str) {
        let file = self.bundle.join("config.json");
        let _ = std::fs::remove_file(&file); // not there the first time
        output(Command::new("runc").arg("spec").arg("-b").arg(&self.bundle));
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["sh", "-euc", script]);
        // One parent for all tests, as the runtimes leave it behind, empty.
        config["linux"]["cgroupsPath"] = json!(format!("/layerd-test/{}", self.name));
        config["annotations"] = json!({ ANNOTATION: mounts, HOOKS_STDERR: self.errors() });
        config["hooks"] = json!({
            "createRuntime": [self.entry(&["create-runtime", "--allow-binds"])],
            "poststop": [self.entry(&["poststop"])],
        });
        std::fs::write(file, config.to_string()).unwrap();
    }

    fn entry(&self, hook: &[&str]) -> Value {
        let command = self.world.command(&[&["oci-hook"], hook].concat());
        let path = command.get_program().to_str().unwrap();
        let arguments = command.get_args().map(|one| one.to_str().unwrap());
        let args: Vec<&str> = std::iter::once("layerctl").chain(arguments).collect();
        json!({ "path": path, "args": args, "timeout": 60 })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.runtime);
        let state = self.world.scratch.path().join(self.runtime);
        command.arg("--root").arg(state);
        command.args(["run", "--bundle"]).arg(&self.bundle);
        command.arg(&self.name).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    fn run(&self) -> Output {
        self.command().output().unwrap()
    }

    /// Its output; it must succeed.
    fn printed(&self) -> String {
        printed(&self.run())
    }

    /// File that crun writes the errors of hooks to.
    fn errors(&self) -> PathBuf {
        self.bundle.join("errors")
    }

    /// Runs it, which must fail before its process starts. Answers the error.
    fn refused(&self) -> String {
        let ended = self.run();
        assert!(!ended.status.success(), "{ended:?}");
        assert_eq!(ended.stdout, b"", "it did not start");
        let of_hooks = std::fs::read_to_string(self.errors()).unwrap_or_default();
        String::from_utf8_lossy(&ended.stderr).into_owned() + &of_hooks
    }

    fn owner(&self) -> String {
        format!("container:oci:{}", self.name)
    }
}

fn printed(ended: &Output) -> String {
    let error = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{}: {error}", ended.status);
    String::from_utf8(ended.stdout.clone()).unwrap()
}

#[test]
fn root_a_hook_brings_a_volume_that_outlives_the_container() {
    plain_cgroups();
    for runtime in RUNTIMES {
        let world = World::new();
        world.run(&["volume", "create", "data"]);
        let mounts = "type=volume,src=data,dst=/data";
        let container = world.hooked(runtime, mounts, "echo one > /data/file");
        assert_eq!(container.printed(), "", "{runtime}");
        assert_eq!(world.read("data"), "one\n", "{runtime}");
        world.assert_nothing_attached();

        container.write(
            "type=volume,src=data,dst=/in/deep,readonly\n\n type=tmpfs,dst=/fast,tmpfs-size=1m\n",
            "cat /in/deep/file; touch /in/deep/x 2>/dev/null || echo read-only
             touch /fast/x; df -k /fast | tail -n 1 | awk '{ print $2 }'",
        );
        assert_eq!(container.printed(), "one\nread-only\n1024\n", "{runtime}");
        world.assert_nothing_attached();
        assert_eq!(world.mounts(), [] as [PathBuf; 0], "{runtime}");
        world.run(&["volume", "rm", "data"]);
    }
}

#[test]
fn root_a_volume_is_held_while_the_container_runs_and_layerd_crashes() {
    plain_cgroups();
    for runtime in RUNTIMES {
        let mut world = World::new();
        world.run(&["volume", "create", "data"]);
        let script = "touch /data/ready
            while [ ! -e /data/stop ]; do sleep 0.1; done; echo after > /data/file";
        let (running, owner) = {
            let container = world.hooked(runtime, "type=volume,src=data,dst=/data", script);
            (container.command().spawn().unwrap(), container.owner())
        };
        let volume = world.path("data");
        wait_until("the container", LIMIT, || volume.join("ready").exists());
        let users = world.json(&["who-uses", "data"]);
        assert_eq!(text(&users[0], "owner"), owner);
        world.fail(5, &["volume", "rm", "data"]);

        world.crash();
        world.fail(5, &["volume", "rm", "data"]);
        std::fs::write(volume.join("stop"), "").unwrap();
        assert_eq!(
            printed(&running.wait_with_output().unwrap()),
            "",
            "{runtime}"
        );
        assert_eq!(world.read("data"), "after\n", "{runtime}");
        world.assert_nothing_attached();
        world.run(&["volume", "rm", "data"]);
    }
}

#[test]
fn root_a_missing_volume_fails_the_start() {
    plain_cgroups();
    for runtime in RUNTIMES {
        let world = World::new();
        let mounts = "type=volume,src=new,dst=/new,on-missing=create\n\
                      type=volume,src=missing,dst=/data";
        let container = world.hooked(runtime, mounts, "echo started");
        let error = container.refused();
        assert!(
            error.contains("missing"),
            "{runtime} names the volume: {error}"
        );
        world.assert_nothing_attached();
        assert_eq!(world.names(&[]), [] as [&str; 0], "{runtime}");
    }
}

#[test]
fn root_what_cannot_be_mounted_fails_the_start_and_is_undone() {
    plain_cgroups();
    for runtime in RUNTIMES {
        let world = World::new();
        let mounts = "type=volume,src=new,dst=/file/below,on-missing=create";
        let container = world.hooked(runtime, mounts, "echo started");
        std::fs::write(container.bundle.join("rootfs/file"), "").unwrap();
        let error = container.refused();
        assert!(
            error.contains("rootfs/file is not a directory"),
            "{runtime}: {error}"
        );
        world.assert_nothing_attached();
        assert_eq!(world.names(&[]), [] as [&str; 0], "{runtime}");
    }
}

#[test]
fn root_symlinks_of_an_image_stay_in_its_root() {
    plain_cgroups();
    for runtime in RUNTIMES {
        let world = World::new();
        let host = world.scratch.dir("host");
        let file = world.scratch.path().join("note");
        std::fs::write(&file, "from the host\n").unwrap();
        world.run(&["volume", "create", "data"]);
        let mounts = format!(
            "type=volume,src=data,dst=/link/in\ntype=bind,src={},dst=/etc/note,readonly",
            file.display()
        );
        let script = format!("cat /etc/note; echo one > {}/in/file", host.display());
        let container = world.hooked(runtime, &mounts, &script);
        let rootfs = container.bundle.join("rootfs");
        std::os::unix::fs::symlink(&host, rootfs.join("link")).unwrap();
        let inside = rootfs.join(host.strip_prefix("/").unwrap());
        std::fs::create_dir_all(inside).unwrap();
        assert_eq!(container.printed(), "from the host\n", "{runtime}");
        assert_eq!(world.read("data"), "one\n", "{runtime}");
        assert!(!host.join("in").exists(), "{runtime}");
    }
}

#[test]
fn root_a_mount_that_the_hook_does_not_see_fails_the_start() {
    let world = World::new();
    let mounts = "type=bind,src=/etc,dst=/in,readonly";
    let container = world.hooked("runc", mounts, "echo started");
    // What layerd mounts from now on does not arrive here.
    plain_cgroups();
    let error = container.refused();
    assert!(
        error.contains("is not seen in this mount namespace"),
        "{error}"
    );
    world.assert_nothing_attached();
}

#[test]
fn root_hooks_refuse_bad_input_and_attach_nothing() {
    let world = World::new();
    let container = world.hooked("runc", "type=bind,src=/etc,dst=/etc", "true");
    // The process needs a mount namespace of its own.
    let mut other = Command::new("unshare")
        .args(["--mount", "sleep", "infinity"])
        .spawn()
        .unwrap();
    let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    let its = format!("/proc/{}/ns/mnt", other.id());
    wait_until("a mount namespace", LIMIT, || {
        std::fs::read_link(&its).is_ok_and(|its| its != own)
    });
    let state = |pid: u32| {
        json!({"id": "a", "pid": pid, "bundle": container.bundle.to_str().unwrap()}).to_string()
    };
    let refused = [
        (String::new(), "EOF"),
        ("{}".to_owned(), "id is missing, and must be a string"),
        (
            r#"{"id": "a", "pid": 0}"#.to_owned(),
            "pid is 0, and must be",
        ),
        (state(other.id()), "must not ask for type=bind"),
    ];
    for (state, wanted) in refused {
        let ended = world.hook("create-runtime", &state);
        assert_eq!(ended.code, 6, "{ended:?}");
        assert!(ended.error.contains(wanted), "{ended:?}");
    }
    let ended = world.hook("create-runtime", &state(std::process::id()));
    assert!(
        ended.error.contains("is the mount namespace of the caller"),
        "{ended:?}"
    );
    container.write("type=volume,src=data", "true");
    let ended = world.hook("create-runtime", &state(other.id()));
    assert_eq!(ended.code, 6, "{ended:?}");
    world.assert_nothing_attached();
    other.kill().unwrap();
    other.wait().unwrap();

    container.write("", "true");
    assert_eq!(container.printed(), "", "no line is no mount");
    let nothing_there = world.hook("poststop", r#"{"id": "a"}"#);
    assert_eq!((nothing_there.code, nothing_there.out.as_str()), (0, ""));
    assert_eq!(world.hook("poststop", "[]").code, 6);
}

#[test]
fn the_examples_name_the_hooks() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/oci-hooks");
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(dir.join(name)).unwrap()).unwrap()
    };
    let args = |stage: &str| {
        let hook = stage.replace("createRuntime", "create-runtime");
        json!(["layerctl", "oci-hook", hook])
    };
    let bundle = read("config.json");
    assert!(bundle["annotations"][ANNOTATION].is_string());
    for (stage, file) in [
        ("createRuntime", "layerd-create-runtime.json"),
        ("poststop", "layerd-poststop.json"),
    ] {
        assert_eq!(bundle["hooks"][stage][0]["args"], args(stage));
        let one = read(file);
        assert_eq!(one["hook"]["args"], args(stage));
        assert_eq!(one["stages"], json!([stage]));
        // Also with a quote that is left before it, which the hook refuses.
        let pattern = format!("^[\"']?{}$", ANNOTATION.replace('.', "\\."));
        assert_eq!(one["when"]["annotations"][pattern], ".+");
    }
}
