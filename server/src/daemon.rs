//! The daemon's life: open, recover, serve, drain.
//!
//! Shutdown order: the socket stops accepting, long work is told to end, calls finish, the reaper
//! ends its step, the store writes what waits and closes. All within one deadline.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use layerd_drivers::Driver;
use layerd_engine::{Engine, ErrorKind};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::api::admission::Admission;
use crate::api::docker::{self, Door};
use crate::calls::Calls;
use crate::config::Config;
use crate::content::Content;
use crate::ending::{CLOSE_LIMIT, Ending};
use crate::fullness;
use crate::listener::{Inherited, Latest, ListenError, Listener, Socket};
use crate::opening::{find_copy, lost, open_driver, open_engine};
use crate::optional::Failures;
use crate::reaper::{self, Waker};
use crate::starting::{Start, Unstarted};
use crate::tasks::Tasks;
use crate::traces::Traces;
use crate::{api, ending, health, metrics, notify};
/// After this time a writer that does not answer is logged.
const WRITER_SLOW: Duration = Duration::from_secs(10);
/// Time after a stop for peers to read or to send data for which a call waits.
const PEER_GRACE: Duration = Duration::from_secs(1);
/// Time for clients to read their last replies and to close, once all calls have ended.
const CLOSE_GRACE: Duration = Duration::from_millis(500);

/// Why the daemon ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    #[error("start the runtime")]
    Runtime(#[source] io::Error),
    #[error("make a temporary directory")]
    Scratch(#[source] io::Error),
    #[error("start")]
    Unstarted(#[from] Unstarted),
    #[error("prepare the data directory")]
    Driver(#[from] layerd_mounts::Error),
    #[error("open the data directory")]
    Engine(#[from] layerd_engine::Error),
    #[error("open the socket")]
    Listen(#[from] ListenError),
    #[error("set up the services")]
    Services(#[source] tonic_reflection::server::Error),
    #[error("serve")]
    Serve(#[from] tonic::transport::Error),
    #[error("the database failed; start layerd again")]
    Failed,
    #[error("calls did not end within {} s", .0.as_secs())]
    Stuck(Duration),
    #[error(
        "the end took more than {} s, because it is {doing}; layerd ends without that, and the next start \
         has all that was acknowledged", .limit.as_secs()
    )]
    Unclosed {
        limit: Duration,
        doing: &'static str,
    },
}

/// Runs until SIGTERM or SIGINT. The root of a driver that keeps nothing is a temporary directory.
pub(crate) fn run(mut config: Config) -> Result<(), DaemonError> {
    if config.driver.kind.is_persistent() {
        return run_on(config);
    }
    let scratch = tempfile::Builder::new()
        .prefix("layerd-memory-")
        .tempdir_in(&config.root)
        .map_err(DaemonError::Scratch)?;
    config.set_root(scratch.path());
    run_on(config)
}

fn run_on(config: Config) -> Result<(), DaemonError> {
    // One thread for all that does not block, which is little; what blocks has threads of its own. A
    // second one cost a call a third to a half of its processor time, to wake it and hand over.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DaemonError::Runtime)?;
    match runtime.block_on(serve(config)) {
        Ok(None) => {
            info!("stopped");
            Ok(())
        }
        Ok(Some((engine, served))) => {
            let is_failed = engine.has_failed();
            let is_stuck = matches!(served, Err(DaemonError::Stuck(_)));
            let closed = Ending::begin(move || {
                match is_stuck {
                    // What is stuck would keep us for ever. Nothing acknowledged depends on it.
                    true => runtime.shutdown_background(),
                    // Ends the connections that their clients left open, which hold the engine.
                    false => drop(runtime),
                }
                drop(engine);
            });
            let closed = closed.wait(CLOSE_LIMIT);
            served?;
            closed.map_err(|unended| DaemonError::Unclosed {
                limit: CLOSE_LIMIT,
                doing: unended.doing,
            })?;
            info!("stopped");
            match is_failed {
                true => Err(DaemonError::Failed),
                false => Ok(()),
            }
        }
        Err(error) => {
            // What is stuck would keep us for ever. Nothing acknowledged depends on it.
            runtime.shutdown_background();
            Err(error)
        }
    }
}

/// The engine, which is to be closed, and how serving ended.
type Served = (Arc<Engine>, Result<(), DaemonError>);

/// Serves until the daemon is told to stop; none if the records were never to be had.
async fn serve(config: Config) -> Result<Option<Served>, DaemonError> {
    let tasks = Tasks::default();
    stop_on_signals(&tasks).map_err(DaemonError::Runtime)?;
    let started = Instant::now();
    let mut inherited = Inherited::from_env()?;
    let docker = docker::Socket::open(&config.docker, &mut inherited);
    let Some((engine, listener)) = open(&config, &tasks, &mut inherited, &docker).await? else {
        return Ok(None);
    };
    let engine = Arc::new(engine);
    let remove_socket = listener.remover();
    let waker = Waker::default();
    let (reporter, health_service) = health::service(true).await;
    let followed = engine.clone();
    tasks.spawn(|stop| health::follow(reporter, followed, stop));
    let calls = Calls::default();
    start_tasks(&config, &engine, &tasks, &waker, &calls);
    let admission = Admission::new(config.limits, calls.clone());
    let failures = Failures::default();
    let parts = api::Parts {
        engine: engine.clone(),
        tasks: tasks.clone(),
        waker,
        started,
        effective: Arc::new(config.effective.clone()),
        failures: failures.clone(),
    };
    if let Some(address) = &config.metrics {
        let look = metrics::Look::new(config.metrics_volumes, &engine, &admission);
        metrics::serve(address, look, &tasks, &failures).await;
    }
    docker.serve(Door::new(parts.clone(), admission.clone(), &config.docker));
    let unpack = unpacking(&config, &tasks);
    let (traces, flush) = Traces::start(&config.tracing, &tasks, &failures);
    let csi = inherited.take_named(api::csi::SOCKET_NAME);
    api::csi::serve(&config.csi, csi, &parts, admission.clone(), traces.clone());
    let router = api::router(parts, unpack, health_service, admission, traces);
    let router = router.map_err(DaemonError::Services)?;
    let clients = listener.accept(tasks.stopping());
    let clients = clients.map_err(DaemonError::Runtime)?;
    info!(version = env!("CARGO_PKG_VERSION"), root = %config.root.display(), "ready");
    notify::ready();

    let stop = tasks.stopping();
    let ending = engine.clone();
    let (latest, calling) = (clients.latest(), clients.latest());
    let served = router.serve_with_incoming_shutdown(clients, async move {
        stop.cancelled().await;
        info!("stopping");
        notify::stopping();
        calling.has_called().await;
        ending.stop();
    });
    let served = drain(served, &tasks, &latest, config.stop_timeout).await;
    remove_socket();
    flush.finish().await;
    if matches!(served, Err(DaemonError::Stuck(_))) {
        ending::log_calls(&calls);
    }
    Ok(Some((engine, served)))
}

/// Starts the reaper and the watch over the daemon.
fn start_tasks(config: &Config, engine: &Arc<Engine>, tasks: &Tasks, waker: &Waker, calls: &Calls) {
    engine.watch(Box::new(waker.clone()));
    tasks.spawn(|stop| {
        reaper::run(
            engine.clone(),
            tasks.clone(),
            waker.clone(),
            config.reap_every,
            stop,
        )
    });
    fullness::start(engine, tasks, config.reap_every);
    tasks.spawn(|stop| watch(engine.clone(), tasks.clone(), calls.clone(), stop));
}

fn unpacking(config: &Config, tasks: &Tasks) -> api::UnpackParts {
    api::UnpackParts {
        content: Content::new(config.content.clone(), tasks.clone()),
        config: config.unpack.clone(),
    }
}

/// Opens the records, after a rescue if they are lost. None if the daemon was told to stop before.
async fn open(
    config: &Config,
    tasks: &Tasks,
    inherited: &mut Inherited,
    docker: &docker::Socket,
) -> Result<Option<(Engine, Listener)>, DaemonError> {
    let start = Start::new(tasks, config.stop_timeout);
    let driver = open_driver(config, &start).await??;
    match open_engine(config, &driver, &start).await? {
        Ok(engine) => {
            let listener = Listener::open(&config.socket, inherited.take_own())?;
            Ok(Some((engine, listener)))
        }
        Err(error) if error.kind() == ErrorKind::Damaged => {
            let listener = Listener::open(&config.socket, inherited.take_own())?;
            let newest_copy = find_copy(config, &driver, &start).await?;
            let trouble = lost(&error, &newest_copy);
            let rescue = rescue(
                config,
                &driver,
                tasks,
                (&listener, docker),
                (trouble, newest_copy),
            );
            if !rescue.await? {
                listener.remover()();
                return Ok(None);
            }
            let engine = open_engine(config, &driver, &start).await??;
            Ok(Some((engine, listener)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Waits for the server and, once it is to stop, for all calls, but not for ever. Clients are told
/// to close their connections and get a moment for it; one that is idle, stopped or slow to read
/// or to send does not keep the daemon: streams end [`PEER_GRACE`] after the stop.
async fn drain(
    served: impl Future<Output = Result<(), tonic::transport::Error>>,
    tasks: &Tasks,
    latest: &Latest,
    limit: Duration,
) -> Result<(), DaemonError> {
    let stop = tasks.stopping();
    let mut served = std::pin::pin!(served);
    let mut ended = None;
    tokio::select! {
        outcome = &mut served => ended = Some(outcome),
        () = stop.cancelled() => {}
    }
    tasks.stop();
    let all = async {
        let quiet = async {
            latest.has_called().await;
            tasks.ended().await;
            sleep(CLOSE_GRACE).await;
        };
        if ended.is_none() {
            tokio::select! {
                outcome = &mut served => ended = Some(outcome),
                () = quiet => {}
            }
        }
        tasks.ended().await;
    };
    let all = async {
        tokio::select! {
            () = all => {}
            () = end_peers(tasks) => {}
        }
    };
    let in_time = timeout(limit, all).await;
    in_time.map_err(|_| DaemonError::Stuck(limit))?;
    Ok(ended.unwrap_or(Ok(()))?)
}

/// Never ends, since what waits for peers has to end yet.
async fn end_peers(tasks: &Tasks) {
    sleep(PEER_GRACE).await;
    tasks.end_peers();
    pending().await
}

/// Serves nothing but the way to get the records back, until they are back. An empty store in
/// their place would have containerd believe that every image is gone. Answers whether they are
/// back; they are not if the daemon was told to stop before.
async fn rescue(
    config: &Config,
    driver: &Arc<dyn Driver>,
    tasks: &Tasks,
    (listener, docker): (&Listener, &docker::Socket),
    (trouble_text, newest_copy): (String, String),
) -> Result<bool, DaemonError> {
    error!("{trouble_text}");
    let done = CancellationToken::new();
    docker.refuse(&trouble_text, tasks, &done);
    let (_, health_service) = health::service(false).await;
    let rescue = api::layerd::rescue::Rescue {
        root: config.root.clone(),
        driver: driver.clone(),
        tasks: tasks.clone(),
        trouble: trouble_text,
        newest_copy,
        done: done.clone(),
    };
    let router = api::layerd::rescue::router(rescue, health_service);
    let socket = listener.socket.try_clone().and_then(UnixListener::from_std);
    let socket = socket.map_err(DaemonError::Runtime)?;
    notify::ready();
    tasks.spawn(|stop| keep_alive(done.clone(), stop));
    let (stop, restored) = (tasks.stopping(), done.clone());
    let ended = async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = restored.cancelled() => {}
        }
    };
    let served = router.serve_with_incoming_shutdown(Socket::new(socket), ended);
    let (stop, restored) = (tasks.stopping(), done.clone());
    // A client that is idle or stopped keeps its connection, but not the daemon.
    let enough = async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = restored.cancelled() => {}
        }
        sleep(CLOSE_GRACE).await;
    };
    tokio::select! {
        outcome = served => outcome?,
        () = enough => {}
    }
    Ok(done.is_cancelled())
}

/// Keeps systemd's watchdog quiet while there is no store to ask.
async fn keep_alive(done: CancellationToken, stop: CancellationToken) {
    let mut tick = interval(watch_every());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = done.cancelled() => return,
            _ = tick.tick() => notify::alive(),
        }
    }
}

fn watch_every() -> Duration {
    notify::watchdog().map_or(health::EVERY, |limit| (limit / 3).min(health::EVERY))
}

/// Signals are caught before anything is opened, so that a stop during recovery is orderly too.
fn stop_on_signals(tasks: &Tasks) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let all = tasks.clone();
    tasks.spawn(|stop| async move {
        tokio::select! {
            () = stop.cancelled() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        all.stop();
    });
    Ok(())
}

/// Tells systemd that we are alive, each time after a write of nothing has ended, and while the disk
/// stalls: a new process would wait for it as well. A store that refuses changes is alive; it heals
/// itself when it can. One whose database hangs cannot: then the daemon stops, to be started anew.
/// Calls that take long are logged with what they do, which is the disk's own story when it hangs.
async fn watch(engine: Arc<Engine>, tasks: Tasks, calls: Calls, stop: CancellationToken) {
    let mut tick = interval(watch_every());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        if engine.has_hung() {
            tasks.stop();
            return;
        }
        let asked = engine.clone();
        let answer = tasks.call(move || asked.ping());
        tokio::select! {
            () = stop.cancelled() => return,
            pinged = answer => if pinged.is_ok() {
                notify::alive();
            },
            () = watch_stall(&engine, &tasks, &calls) => {}
        }
    }
}

/// Goes on while the writer of the records does not answer. A disk that answers while the writer
/// does not shows that the writer is stuck, and keeps systemd from being told anything.
async fn watch_stall(engine: &Arc<Engine>, tasks: &Tasks, calls: &Calls) {
    let every = watch_every();
    let begun = Instant::now();
    sleep(every).await;
    let mut logged = begun;
    let probe = || {
        let probed = engine.clone();
        Box::pin(tasks.call(move || probed.probe_disk()))
    };
    let mut probing = probe();
    loop {
        log_slow(calls);
        tokio::select! {
            _ = &mut probing => {
                sleep(every).await;
                probing = probe();
            }
            () = sleep(every) => notify::alive(),
        }
        if logged.elapsed() >= WRITER_SLOW {
            logged = Instant::now();
            let waited_s = begun.elapsed().as_secs();
            warn!(waited_s, "the writer of the records does not answer");
        }
    }
}

fn log_slow(calls: &Calls) {
    for slow in calls.newly_slow() {
        let (doing, since) = slow.doing;
        let (running_s, doing_s) = (slow.running.as_secs(), since.as_secs());
        warn!(
            method = slow.method,
            running_s, doing, doing_s, "a call takes long"
        );
    }
}
