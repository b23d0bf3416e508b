//! `docker run -v` with a volume of the plugin beside one of Docker's local driver: the whole command, in turn, with
//! one dockerd.

use std::path::Path;
use std::time::Instant;

use layerd_integration::image::{busybox, write_layer};
use layerd_integration::plugin::{SOCKET, own_run};
use layerd_integration::{Daemon, Docker, Scratch};

use crate::stats::{Spread, Times, millis};
use crate::table::{Table, verdict};

/// Most times of the local driver's that the plugin may take.
const GOAL: f64 = 1.1;
const DRIVERS: [&str; 2] = ["local", "layerd"];

/// Options of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Volume {
    /// One that the command creates.
    New,
    /// One that is there, and was used before.
    Known,
}

/// Runs `rounds` containers of each kind with each driver, and prints times and ratios.
///
/// # Panics
/// If Docker cannot be run.
pub(crate) fn run(rounds: usize) {
    own_run();
    let scratch = Scratch::new();
    let config = scratch.path().join("config.toml");
    let api = Docker::socket(&scratch.path().join("k"));
    let text = format!(
        "[docker]\nsocket = \"{SOCKET}\"\napi = \"{}\"\n",
        api.display()
    );
    std::fs::write(&config, text).expect("a fresh folder");
    let config = config.to_str().expect("scratch paths are text");
    let _daemon = Daemon::start_with(&scratch.dir("d"), &["--config", config]);
    let docker = Docker::start_alone(&scratch.dir("k"));
    import(&docker, scratch.path());
    for driver in DRIVERS {
        docker.docker(&[
            "volume",
            "create",
            "--driver",
            driver,
            &name(driver, "known"),
        ]);
        // The first use of a driver, which is not measured.
        container(&docker, driver, &name(driver, "known"));
    }
    let mut table = Table::new(
        format!("`docker run --rm -v VOLUME:/data IMAGE sh -c :`, {rounds} of each, median:"),
        &[
            "volume",
            "local, ms",
            "layerd, ms",
            "ratio of each pair",
            "goal",
        ],
    );
    for volume in [Volume::New, Volume::Known] {
        table.row(compare(&docker, volume, rounds));
    }
    crate::say(&table);
}

fn import(docker: &Docker, dir: &Path) {
    let archive = dir.join("base.tar");
    write_layer(&archive, &busybox());
    docker.docker(&[
        "import",
        archive.to_str().expect("scratch paths are text"),
        "base",
    ]);
}

fn name(driver: &str, what: &str) -> String {
    format!("{driver}-{what}")
}

/// Times of pairs of containers, of which either driver is first in turn.
fn compare(docker: &Docker, volume: Volume, rounds: usize) -> [String; 5] {
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        let order = if round.is_multiple_of(2) {
            [0, 1]
        } else {
            [1, 0]
        };
        for at in order {
            let driver = DRIVERS[at];
            let name = match volume {
                Volume::New => name(driver, &round.to_string()),
                Volume::Known => name(driver, "known"),
            };
            times[at].push(container(docker, driver, &name));
            if volume == Volume::New {
                docker.docker(&["volume", "rm", &name]);
            }
        }
    }
    let [local, layerd] = &times;
    let median = |all: &[std::time::Duration]| {
        let all: Times = all.iter().copied().collect();
        format!("{:.0}", millis(all.median()))
    };
    let figures = |all: &[std::time::Duration]| all.iter().copied().map(millis).collect::<Vec<_>>();
    let ratio = Spread::of_ratios(&figures(layerd), &figures(local));
    [
        match volume {
            Volume::New => "new".to_owned(),
            Volume::Known => "known".to_owned(),
        },
        median(local),
        median(layerd),
        ratio.to_string(),
        verdict(format!("at most {GOAL}"), ratio.median() <= GOAL),
    ]
}

/// Runs a container to its end; answers how long the command took.
fn container(docker: &Docker, driver: &str, volume: &str) -> std::time::Duration {
    let mount = format!("{volume}:/data");
    let begun = Instant::now();
    docker.docker(&[
        "run",
        "--rm",
        "--network",
        "none",
        "-v",
        &mount,
        "--volume-driver",
        driver,
        "base",
        "sh",
        "-c",
        ":",
    ]);
    begun.elapsed()
}
