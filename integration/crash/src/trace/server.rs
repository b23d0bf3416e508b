//! The tracer's own process: traces in one thread, takes orders in another.
//!
//! Orders and answers are lines of JSON on standard input and output. The end of the input ends the
//! tracing: the traced program goes on alone.

use std::io::{self, BufRead, Write};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::plan::{Call, Plan, Status};
use super::run::Run;
use super::session::Session;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    Arm(Plan),
    Status,
    Calls,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The first line of all: every thread is traced.
    Attached,
    Armed,
    Status(Status),
    Calls(Vec<Call>),
    Failed(String),
}

/// Traces the process `pid` by `plan` (JSON) until standard input ends. A process that waits in
/// `hold` is started.
///
/// # Errors
/// What cannot be read from or written to standard input and output, and a plan that is none. A
/// failure of the tracing itself is answered, not returned.
pub fn serve(pid: i32, plan: &str) -> io::Result<()> {
    let session = Mutex::new(Session::new(serde_json::from_str(plan)?));
    let (attached, wait) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            trace(Pid::from_raw(pid), &session, attached);
        });
        let result = match wait.recv() {
            Ok(()) => take_orders(&session),
            Err(mpsc::RecvError) => answer(&Answer::Failed(
                lock(&session).status().trouble.unwrap_or_default(),
            )),
        };
        finish(&session);
        // The tracing thread may wait for a stop that never comes; only the end of the process
        // lets the traced program go.
        std::process::exit(i32::from(result.is_err()));
    })
}

fn trace(leader: Pid, session: &Mutex<Session>, attached: mpsc::Sender<()>) {
    let result = Run::attach(leader, session).and_then(|mut run| {
        // Fails only if the process is about to exit.
        let _ = attached.send(());
        drop(attached);
        run.release()?;
        while run.step()? {}
        Ok(())
    });
    if let Err(error) = result {
        lock(session).trouble(describe(&error));
    }
}

/// The error with its causes.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

fn take_orders(session: &Mutex<Session>) -> io::Result<()> {
    answer(&Answer::Attached)?;
    for line in io::stdin().lock().lines() {
        let order = serde_json::from_str(&line?)?;
        answer(&obey(session, order))?;
    }
    Ok(())
}

fn obey(session: &Mutex<Session>, order: Order) -> Answer {
    let mut session = lock(session);
    match order {
        Order::Arm(plan) => {
            session.arm(Some(plan));
            Answer::Armed
        }
        Order::Status => Answer::Status(session.status()),
        Order::Calls => Answer::Calls(session.calls().to_vec()),
    }
}

fn answer(answer: &Answer) -> io::Result<()> {
    let mut output = io::stdout().lock();
    serde_json::to_writer(&mut output, answer)?;
    output.write_all(b"\n")?;
    output.flush()
}

/// Waits for calls that are being made to fail, which would otherwise return ENOSYS.
fn finish(session: &Mutex<Session>) {
    lock(session).arm(None);
    for _ in 0..1000 {
        if !lock(session).is_failing() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn lock(session: &Mutex<Session>) -> MutexGuard<'_, Session> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}
