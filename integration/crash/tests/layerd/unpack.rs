//! Unpacking of a layer, killed at any system call and refused any.
//!
//! What layerd says of a layer later, by the manifest that it wrote meanwhile, must be true whatever
//! happened, and what could not be unpacked must go without a trace.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use layerd_crash::disk::Filesystem;
use layerd_crash::trace::{Class, Moment, Plan, Times};
use layerd_integration::image::write_layer;
use layerd_integration::snapshots::channel;
use layerd_integration::{Entry, Snapshots};
use layerd_proto::layerd::v1::admin_client::AdminClient;
use layerd_proto::layerd::v1::layers_client::LayersClient;
use layerd_proto::layerd::v1::{
    ApplyLayer, ApplyLayerRequest, CheckContentRequest, ImportLayerRequest,
};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::Verdict;
use crate::errors::Kept;
use crate::home::{Home, names, reap_all};
use crate::operation::{commit, prepare, remove};
use crate::process::{Layerd, Site};
use crate::sweep::{EVERY, Outcome, Points, Sweep, conclude, ended};

/// End of the name of the mark of a layer that Apply began and did not end.
const PARTIAL: &str = ".part";

/// A root with one active snapshot, `a`, and the layer that is to go there.
struct Case {
    home: Home,
    layer: Vec<u8>,
    form: Form,
}

/// Form of the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Directory,
    Image,
}

impl Case {
    fn new(form: Form) -> Self {
        let mut home = match form {
            Form::Directory => Home::empty(),
            // The kernel mounts a file of it.
            Form::Image => Home::empty_on(Filesystem::Ext4),
        };
        if form == Form::Image {
            home.site.configure_images();
        }
        let layerd = Layerd::start(&home.site).unwrap();
        let mut client = home.site.client();
        let operation = prepare("a", "");
        operation.perform(&mut client).unwrap();
        home.world = operation.apply(&home.world).unwrap();
        layerd.stop().unwrap();
        home.keep();
        let file = home.site.log.with_file_name("layer.tar");
        write_layer(&file, &entries());
        let layer = fs::read(file).unwrap();
        Self { home, layer, form }
    }

    fn root(&self) -> &Path {
        &self.home.site.root
    }

    /// Kills the daemon at one point of Apply and Commit, and looks at what is left.
    fn strike(&self, number: u64, moment: Moment) -> Verdict<Outcome> {
        self.home.reset();
        let site = &self.home.site;
        let mut layerd = Layerd::start(site)?;
        let (mut client, mut unpacker) = (site.client(), Unpacker::connect(site));
        let plan = Plan::kill_at(number, moment).within(&site.root);
        let mut tracer = layerd.trace(&plan);
        let applied = unpacker.apply("a", &self.layer);
        let answer = applied.and_then(|()| commit("layer", "a").perform(&mut client));
        let fired = ended(&mut tracer, &mut layerd)?;
        conclude(fired.as_ref(), &answer, |acknowledged| {
            self.examine(acknowledged)
        })
    }

    /// A manifest is there if, and only if, its layer was committed, and says nothing wrong.
    fn examine(&self, acknowledged: bool) -> Verdict {
        let site = &self.home.site;
        fs::write(&site.log, "").unwrap();
        let layerd = Layerd::start(site)?;
        let log = fs::read_to_string(&site.log).unwrap();
        if let Some(line) = log
            .lines()
            .find(|line| line.contains("ERROR") || line.contains("WARN"))
        {
            return Err(format!("at start it says: {line}"));
        }
        let (mut client, mut unpacker) = (site.client(), Unpacker::connect(site));
        let is_committed = client.stat("layer").is_ok();
        if acknowledged && !is_committed {
            return Err("the commit is lost".into());
        }
        unpacker.expect(u64::from(is_committed), 0)?;
        let has_digests = is_committed && self.form == Form::Directory;
        self.manifests(usize::from(has_digests))?;
        if !is_committed {
            let images = self.images();
            let committed = commit("layer", "a").perform(&mut client);
            if self.is_partial() {
                return match committed {
                    Ok(()) => Err("part of a layer is committed".into()),
                    Err(status) if status.code() == Code::FailedPrecondition => {
                        self.remove(&mut client, "a")?;
                        self.manifests(0)?;
                        layerd.stop()
                    }
                    Err(status) => Err(format!("Commit of part of a layer: {status}")),
                };
            }
            committed.map_err(|status| format!("Commit afterwards: {status}"))?;
            // An image is whole, or not there.
            unpacker.expect(images, 1 - images)?;
            self.manifests(0)?;
        }
        self.remove(&mut client, "layer")?;
        self.manifests(0)?;
        layerd.stop()
    }

    /// Number of images.
    fn images(&self) -> u64 {
        names(&self.root().join("i")).len() as u64
    }

    /// True if a layer is marked as holding part of something.
    fn is_partial(&self) -> bool {
        let found = names(&self.root().join("m"));
        found.iter().any(|name| name.ends_with(PARTIAL))
    }

    fn manifests(&self, wanted: usize) -> Verdict {
        let mut found = names(&self.root().join("m"));
        found.retain(|name| !name.ends_with(PARTIAL));
        match found.len() == wanted {
            true => Ok(()),
            false => Err(format!("manifests: {found:?}, wanted are {wanted}")),
        }
    }

    /// Removes a snapshot and waits until nothing is left of it.
    fn remove(&self, client: &mut Snapshots, key: &str) -> Verdict {
        let removed = remove(key).perform(client);
        removed.map_err(|status| format!("Remove: {status}"))?;
        reap_all(client, || {
            let left = ["l", "w", "t", "i", "x"].map(|folder| names(&self.root().join(folder)));
            left.iter()
                .any(|names| !names.is_empty())
                .then(|| format!("{left:?}"))
        })?;
        // The manifest goes after the layer.
        thread::sleep(Duration::from_millis(20));
        Ok(())
    }

    /// Lets one call of Apply fail. Answers whether there was such a call, and whether Apply failed.
    fn refuse(&self, fault: Fault, number: u64) -> Verdict<Option<bool>> {
        self.home.reset();
        let site = &self.home.site;
        let mut kept = Kept::start(site)?;
        let mut unpacker = Unpacker::connect(site);
        let plan = Plan::fail_at(number, fault.errno, fault.times)
            .of(&[fault.class])
            .within(&site.root);
        let mut tracer = kept.trace(&plan);
        let answer = unpacker.apply("a", &self.layer);
        let status = tracer.status().map_err(|error| error.to_string())?;
        let Some(call) = status.fired else {
            return answer.map(|()| None).map_err(|status| status.to_string());
        };
        drop(tracer);
        let told = |why: String| format!("{} {:?}: {why}", call.name, call.paths);
        let has_failed = answer.is_err();
        match answer {
            Ok(()) => {
                kept.insist(&commit("layer", "a")).map_err(told)?;
                let (layers, without) = unpacker.compare().map_err(told)?;
                if layers + without != 1 {
                    return Err(told(format!(
                        "{layers} layers are as they were, {without} are not known"
                    )));
                }
                self.remove(&mut kept.client, "layer").map_err(told)?;
            }
            Err(status) => {
                fault.check(&status).map_err(told)?;
                self.remove(&mut kept.client, "a").map_err(told)?;
            }
        }
        self.manifests(0).map_err(told)?;
        kept.insist(&prepare("again", ""))?;
        let again = unpacker.apply("again", &self.layer);
        again.map_err(|status| told(format!("another: {status}")))?;
        kept.insist(&commit("another", "again"))?;
        unpacker.expect(1, 0).map_err(told)?;
        kept.stop()?;
        Ok(Some(has_failed))
    }
}

/// Everything that unpacking does in different ways.
pub(crate) fn entries() -> Vec<Entry> {
    vec![
        Entry::directory("d").mode(0o700),
        Entry::file("d/small", "small"),
        Entry::file("d/replaced", "first"),
        Entry::file("d/replaced", "second"),
        Entry::file("large", vec![7; 300_000]),
        Entry::hard_link("d/link", "large"),
        Entry::symlink("way", "d"),
        Entry::file("implied/by/this", "content"),
        Entry::file("owned", "x").owner(1000, 50).mode(0o4755),
    ]
}

/// System calls that fail, with their error.
#[derive(Debug, Clone, Copy)]
struct Fault {
    errno: i32,
    class: Class,
    times: Times,
}

impl Fault {
    /// Checks that the status tells the client the error.
    fn check(self, status: &Status) -> Verdict {
        let wanted = match self.errno {
            libc::ENOSPC => Code::ResourceExhausted,
            _ => Code::Internal,
        };
        match status.code() == wanted {
            true => Ok(()),
            false => Err(format!("wrong status: {status}")),
        }
    }
}

/// A blocking client of what unpacks and what compares.
pub(crate) struct Unpacker {
    runtime: Runtime,
    channel: Channel,
}

impl Unpacker {
    pub(crate) fn connect(site: &Site) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let channel = runtime.block_on(async { channel(site.socket.clone()) });
        Self { runtime, channel }
    }

    pub(crate) fn apply(&mut self, key: &str, layer: &[u8]) -> Result<(), Status> {
        let mut client = LayersClient::new(self.channel.clone());
        let first = ApplyLayer {
            key: key.into(),
            ..ApplyLayer::default()
        };
        let pieces = layer.chunks(64 << 10).map(|data| ApplyLayerRequest {
            layer: None,
            data: data.to_vec(),
        });
        let first = ApplyLayerRequest {
            layer: Some(first),
            data: Vec::new(),
        };
        let messages: Vec<_> = std::iter::once(first).chain(pieces).collect();
        let call = async move { client.apply(tokio_stream::iter(messages)).await };
        self.runtime.block_on(call).map(drop)
    }

    pub(crate) fn import(&mut self, key: &str, source: &Path) -> Result<(), Status> {
        let mut client = LayersClient::new(self.channel.clone());
        let request = ImportLayerRequest {
            key: key.into(),
            source: source.to_str().unwrap().into(),
        };
        let call = async move { client.import(request).await };
        self.runtime.block_on(call).map(drop)
    }

    /// Layers that are as they were unpacked, and those of which nothing is known. Any other is
    /// wrong.
    pub(crate) fn compare(&mut self) -> Verdict<(u64, u64)> {
        let mut client = AdminClient::new(self.channel.clone());
        let request = CheckContentRequest { repair: false };
        let call = async {
            let mut stream = client.check_content(request).await?.into_inner();
            let (mut found, mut counts) = (Vec::new(), None);
            while let Some(message) = stream.message().await? {
                found.extend(message.findings);
                counts = message.counts.or(counts);
            }
            Ok((found, counts))
        };
        let compared = self.runtime.block_on(call);
        let (found, counts) = compared.map_err(|status: Status| format!("compare: {status}"))?;
        match (found.first(), counts) {
            (Some(finding), _) => Err(format!("suspected: {}", finding.problem)),
            (None, Some(counts)) => Ok((counts.layers, counts.without_digests)),
            (None, None) => Err("the comparison has no end".into()),
        }
    }

    fn expect(&mut self, layers: u64, without_digests: u64) -> Verdict {
        let found = self.compare()?;
        match found == (layers, without_digests) {
            true => Ok(()),
            false => Err(format!(
                "with and without file digests: {found:?}, not {layers} and {without_digests}"
            )),
        }
    }
}

fn kill(form: Form, points: Points) {
    let case = Case::new(form);
    let mut sweep = Sweep::default();
    sweep.run("Apply and Commit", points, |number, moment| {
        case.strike(number, moment)
    });
    sweep.finish();
}

#[test]
fn root_short_unpacking_is_a_crash_point() {
    kill(
        Form::Directory,
        Points {
            step: 13,
            finishes: 1,
            ..EVERY
        },
    );
}

#[test]
fn root_short_unpacking_into_an_image_is_a_crash_point() {
    kill(
        Form::Image,
        Points {
            step: 7,
            finishes: 1,
            ..EVERY
        },
    );
}

#[test]
fn root_full_unpacking_into_an_image_is_a_crash_point() {
    kill(Form::Image, EVERY);
}

#[test]
fn root_full_unpacking_is_a_crash_point() {
    kill(Form::Directory, EVERY);
}

fn inject(form: Form, errnos: &[(i32, Times)], step: usize) {
    let case = Case::new(form);
    let (mut injected, mut refused, mut bad) = (0, 0, Vec::new());
    for (errno, times) in errnos.iter().copied() {
        for class in [Class::Write, Class::Sync, Class::Create, Class::Attribute] {
            let fault = Fault {
                errno,
                class,
                times,
            };
            for number in (1..200).step_by(step) {
                match case.refuse(fault, number) {
                    Ok(None) => break,
                    Ok(Some(has_failed)) => {
                        injected += 1;
                        refused += u32::from(has_failed);
                    }
                    Err(why) => bad.push(format!("{fault:?}, call {number}: {why}")),
                }
            }
        }
    }
    println!(
        "errors injected: {injected}, layers refused: {refused}, bad: {}",
        bad.len()
    );
    assert!(bad.is_empty(), "{}", bad.join("\n\n"));
    assert!(injected > 0 && refused > 0, "nothing was injected");
}

#[test]
fn root_short_unpacking_is_refused_calls() {
    inject(
        Form::Directory,
        &[(libc::ENOSPC, Times::Onwards), (libc::EIO, Times::Once)],
        10,
    );
}

#[test]
fn root_full_unpacking_is_refused_calls() {
    let times = [Times::Once, Times::Onwards];
    let errnos = [libc::ENOSPC, libc::EIO];
    let all = errnos.map(|errno| times.map(|times| (errno, times)));
    inject(Form::Directory, all.as_flattened(), 1);
}

#[test]
fn root_short_unpacking_into_an_image_is_refused_calls() {
    let errnos = [(libc::ENOSPC, Times::Onwards), (libc::EIO, Times::Once)];
    inject(Form::Image, &errnos, 3);
}
