//! Peers that stop reading or sending in the middle of a call: a stop does not wait for them.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use layerd_integration::process::wait_until;
use layerd_integration::snapshots::channel;
use layerd_integration::{Daemon, Scratch};
use layerd_proto::layerd::v1::layers_client::LayersClient;
use layerd_proto::layerd::v1::volumes_client::VolumesClient;
use layerd_proto::layerd::v1::{
    Compression, CreateVolumeRequest, DiffLayerRequest, ExportVolumeRequest, ImportVolumeRequest,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::stop::assert_stops_soon;

/// More than the windows of HTTP/2 and the channels of the daemon hold.
const LARGE: usize = 16 << 20;

/// A client that reads and sends only while it is run.
struct Client {
    runtime: Runtime,
    channel: Channel,
}

impl Client {
    fn of(daemon: &Daemon) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let channel = runtime.block_on(async { channel(daemon.socket().to_owned()) });
        Self { runtime, channel }
    }

    fn volumes(&self) -> VolumesClient<Channel> {
        VolumesClient::new(self.channel.clone())
    }

    /// Reads the rest of a stream, which has to break off.
    fn rest<M>(&self, mut stream: Streaming<M>) -> Status {
        self.runtime.block_on(async {
            loop {
                match stream.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("half a stream ended as if it were whole"),
                    Err(status) => return status,
                }
            }
        })
    }
}

fn named(name: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.to_owned(),
        ..CreateVolumeRequest::default()
    }
}

/// Waits until the daemon reads no more, for want of a reader of what it sends.
fn wait_for_full_buffers(daemon: &Daemon) {
    let read = || {
        let io = std::fs::read_to_string(format!("/proc/{}/io", daemon.pid())).unwrap();
        let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
        line.unwrap().parse::<usize>().unwrap()
    };
    let (mut last, mut same) = (read(), 0);
    wait_until("the buffers to be full", Duration::from_secs(20), || {
        std::thread::sleep(Duration::from_millis(50));
        let now = read();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        same >= 4
    });
}

/// Bytes that cannot be compressed.
fn noise() -> Vec<u8> {
    let mut state = 1u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next)
        .take(LARGE / 8)
        .flatten()
        .collect()
}

#[test]
fn root_a_paused_reader_of_an_export_does_not_keep_a_stop() {
    let scratch = Scratch::new();
    let mut daemon = Daemon::start(scratch.path());
    let client = Client::of(&daemon);
    let stream = client.runtime.block_on(async {
        let created = client.volumes().create(named("data")).await.unwrap();
        let path = created.into_inner().volume.unwrap().path;
        std::fs::write(Path::new(&path).join("large"), noise()).unwrap();
        let name = "data".to_owned();
        let exported = client.volumes().export(ExportVolumeRequest { name }).await;
        let mut stream = exported.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
        stream
    });
    wait_for_full_buffers(&daemon);
    assert_stops_soon(&mut daemon, "a paused reader of an export");
    let status = client.rest(stream);
    // Nothing gets through to a client that does not read, not even the reason of the end.
    assert_ne!(status.code(), Code::Ok, "{status}");
}

#[test]
fn root_a_reader_that_reads_on_is_told_of_the_stop() {
    let scratch = Scratch::new();
    let mut daemon = Daemon::start(scratch.path());
    let mut snapshots = daemon.snapshots();
    let mounts = snapshots.prepare("k", "", &[]).unwrap();
    std::fs::write(Path::new(&mounts[0].source).join("large"), noise()).unwrap();
    let client = Client::of(&daemon);
    let mut stream = client.runtime.block_on(async {
        let request = DiffLayerRequest {
            key: "k".to_owned(),
            compression: Compression::None.into(),
            ..DiffLayerRequest::default()
        };
        let diffed = LayersClient::new(client.channel.clone())
            .diff(request)
            .await;
        let mut stream = diffed.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
        stream
    });
    wait_for_full_buffers(&daemon);
    let pid = daemon.pid();
    let status = client.runtime.block_on(async move {
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("half a stream ended as if it were whole"),
                Err(status) => return status,
            }
        }
    });
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_stops_soon(&mut daemon, "a slow reader of a diff");
}

#[test]
fn root_a_stalled_import_does_not_keep_a_stop() {
    let scratch = Scratch::new();
    let mut daemon = Daemon::start(scratch.path());
    let client = Client::of(&daemon);
    let (sender, messages) = mpsc::channel(1);
    let begun = daemon.root().join("volumes/.staging");
    let volumes = client.volumes();
    let call = client.runtime.spawn(async move {
        let mut volumes = volumes;
        volumes.import(ReceiverStream::new(messages)).await
    });
    client.runtime.block_on(async {
        let volume = Some(named("data"));
        let data = vec![0; 100];
        sender
            .send(ImportVolumeRequest { volume, data })
            .await
            .unwrap();
        while std::fs::read_dir(&begun).map_or(0, Iterator::count) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let pid = daemon.pid();
    let status = client.runtime.block_on(async {
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        call.await.unwrap().unwrap_err()
    });
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_stops_soon(&mut daemon, "an import without an end");
    drop(sender);
    daemon.restart();
    wait_until("the staged volume to go", Duration::from_secs(10), || {
        std::fs::read_dir(&begun).map_or(0, Iterator::count) == 0
    });
}

#[test]
fn root_half_a_request_for_metrics_does_not_keep_a_stop() {
    let scratch = Scratch::new();
    let socket = scratch.path().join("metrics.sock");
    let config = scratch.path().join("config.toml");
    let text = format!("[metrics]\naddress = \"unix:{}\"\n", socket.display());
    std::fs::write(&config, text).unwrap();
    let mut daemon = Daemon::start_with(scratch.path(), &["--config", config.to_str().unwrap()]);
    wait_until("the metrics", Duration::from_secs(10), || socket.exists());
    let mut half = UnixStream::connect(&socket).unwrap();
    half.write_all(b"GET /metrics HT").unwrap();
    assert_stops_soon(&mut daemon, "half a request for metrics");
}
