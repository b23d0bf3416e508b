//! The loop around ptrace(2). All of it runs in one thread, as ptrace asks for.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::calls::Raw;
use super::plan::End;
use super::session::{Session, Verdict};
use super::tracee::Tracee;

/// `PTRACE_EVENT_STOP`, which libc exports as a plain int under several names.
const EVENT_STOP: i32 = 128;
const HOLD_LIMIT: Duration = Duration::from_secs(30);

/// Why tracing could not begin or go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{what} of {thread}")]
    Ptrace {
        what: &'static str,
        thread: Pid,
        #[source]
        cause: Errno,
    },
    #[error("wait for traced threads (a real-time signal reads as EINVAL)")]
    Wait(#[source] Errno),
    #[error("{0} is not running")]
    Gone(Pid),
    #[error("{0} did not stop to be traced within {HOLD_LIMIT:?}")]
    NotHeld(Pid),
}

/// A traced program.
#[derive(Debug)]
pub(crate) struct Run<'session> {
    session: &'session Mutex<Session>,
    leader: Pid,
    threads: HashSet<Pid>,
    /// Threads that have yet to stop for the first time.
    fresh: HashSet<Pid>,
    /// Set while the leader waits in `hold` for its tracer.
    held: bool,
}

impl<'session> Run<'session> {
    /// Takes hold of every thread of a process. On return all of them run under the tracer.
    pub(crate) fn attach(leader: Pid, session: &'session Mutex<Session>) -> Result<Self, Error> {
        let held = is_hold(leader);
        if held {
            await_stop(leader)?;
        }
        let mut run = Self {
            session,
            leader,
            threads: HashSet::new(),
            fresh: HashSet::new(),
            held,
        };
        run.seize_all()?;
        while !run.fresh.is_empty() {
            if !run.step()? {
                return Err(Error::Gone(leader));
            }
        }
        Ok(run)
    }

    /// Lets a held program start.
    pub(crate) fn release(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.held) {
            pass(kill(self.leader, Signal::SIGCONT), "release", self.leader)?;
            self.resume(self.leader, None)?;
        }
        Ok(())
    }

    /// Handles one stop or end of a thread. False once no thread is left.
    pub(crate) fn step(&mut self) -> Result<bool, Error> {
        let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
            Err(Errno::ECHILD) => return Ok(false),
            Err(Errno::EINTR) => return Ok(true),
            other => other.map_err(Error::Wait)?,
        };
        match status {
            WaitStatus::PtraceSyscall(thread) => self.system_call(thread)?,
            WaitStatus::PtraceEvent(thread, _, EVENT_STOP) => self.stopped(thread)?,
            WaitStatus::PtraceEvent(thread, ..) => self.resume(thread, None)?,
            WaitStatus::Stopped(thread, signal) => self.resume(thread, Some(signal))?,
            WaitStatus::Exited(thread, code) => self.ended(thread, End::Exited(code)),
            WaitStatus::Signaled(thread, signal, _) => {
                self.ended(thread, End::Signalled(signal as i32));
            }
            WaitStatus::Continued(_) | WaitStatus::StillAlive => {}
        }
        Ok(true)
    }

    fn session(&self) -> MutexGuard<'session, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Repeats until a listing shows no thread that is not yet ours: threads that start meanwhile
    /// are either seen there or, begun by a thread of ours, come along by themselves.
    fn seize_all(&mut self) -> Result<(), Error> {
        loop {
            let listed = threads(self.leader).ok_or(Error::Gone(self.leader))?;
            let new: Vec<Pid> = listed.difference(&self.threads).copied().collect();
            if new.is_empty() {
                return Ok(());
            }
            for thread in new {
                self.seize(thread)?;
            }
        }
    }

    fn seize(&mut self, thread: Pid) -> Result<(), Error> {
        let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
            | ptrace::Options::PTRACE_O_TRACECLONE
            | ptrace::Options::PTRACE_O_TRACEFORK
            | ptrace::Options::PTRACE_O_TRACEVFORK
            | ptrace::Options::PTRACE_O_TRACEEXEC;
        match ptrace::seize(thread, options) {
            // Gone again, or begun by a thread of ours a moment ago and thus ours already.
            Err(Errno::ESRCH) => return Ok(()),
            Err(Errno::EPERM) if is_ours(thread) => {}
            Err(Errno::EPERM) if is_over(thread) => return Ok(()),
            other => other.map_err(|cause| Error::Ptrace {
                what: "seize",
                thread,
                cause,
            })?,
        }
        self.threads.insert(thread);
        self.fresh.insert(thread);
        pass(ptrace::interrupt(thread), "interrupt", thread)
    }

    /// A thread begins, obeys our interrupt, or stops by SIGSTOP, which ends at once here:
    /// `PTRACE_LISTEN`, which would keep it, is not at hand.
    fn stopped(&mut self, thread: Pid) -> Result<(), Error> {
        self.threads.insert(thread);
        self.fresh.remove(&thread);
        self.session().outside(thread.as_raw());
        if self.held && thread == self.leader {
            return Ok(());
        }
        self.resume(thread, None)
    }

    fn system_call(&mut self, thread: Pid) -> Result<(), Error> {
        let registers = match ptrace::getregs(thread) {
            Err(Errno::ESRCH) => return Ok(()),
            other => other.map_err(|cause| Error::Ptrace {
                what: "registers",
                thread,
                cause,
            })?,
        };
        let verdict = if self.session().is_inside(thread.as_raw()) {
            self.session()
                .leave(thread.as_raw(), registers.rax.cast_signed())
        } else {
            let raw = Raw {
                number: registers.orig_rax.cast_signed(),
                arguments: [
                    registers.rdi,
                    registers.rsi,
                    registers.rdx,
                    registers.r10,
                    registers.r8,
                    registers.r9,
                ],
            };
            self.session().enter(thread.as_raw(), &raw)
        };
        self.carry_out(verdict, thread, registers)?;
        self.resume(thread, None)
    }

    fn carry_out(
        &self,
        verdict: Verdict,
        thread: Pid,
        mut registers: libc::user_regs_struct,
    ) -> Result<(), Error> {
        match verdict {
            Verdict::Pass => return Ok(()),
            Verdict::Kill => {
                self.kill();
                return Ok(());
            }
            // No call has the number -1: the kernel does nothing and goes to the exit.
            Verdict::Skip => registers.orig_rax = u64::MAX,
            Verdict::Answer(result) => registers.rax = result.cast_unsigned(),
        }
        pass(
            ptrace::setregs(thread, registers),
            "change registers",
            thread,
        )
    }

    /// Kills every traced process. A thread killed on entry to a call does not make the call.
    fn kill(&self) {
        let all = self.threads.iter().map(|thread| Tracee(thread.as_raw()));
        let processes: HashSet<i32> = all.filter_map(Tracee::process).collect();
        for process in processes {
            // Fails only for a process that has ended meanwhile.
            let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
        }
    }

    fn resume(&mut self, thread: Pid, signal: Option<Signal>) -> Result<(), Error> {
        self.threads.insert(thread);
        pass(ptrace::syscall(thread, signal), "resume", thread)
    }

    fn ended(&mut self, thread: Pid, end: End) {
        self.threads.remove(&thread);
        self.fresh.remove(&thread);
        self.session().outside(thread.as_raw());
        if thread == self.leader {
            self.session().ended(end);
        }
    }
}

/// A thread may be killed at any moment; whatever is then done to it answers ESRCH.
fn pass(result: nix::Result<()>, what: &'static str, thread: Pid) -> Result<(), Error> {
    match result {
        Err(Errno::ESRCH) | Ok(()) => Ok(()),
        Err(cause) => Err(Error::Ptrace {
            what,
            thread,
            cause,
        }),
    }
}

fn threads(process: Pid) -> Option<HashSet<Pid>> {
    let list = fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let numbers = list.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Some(numbers.map(Pid::from_raw).collect())
}

/// True if this process is the thread's tracer.
fn is_ours(thread: Pid) -> bool {
    let own = format!("TracerPid:\t{}", std::process::id());
    fs::read_to_string(format!("/proc/{thread}/status"))
        .is_ok_and(|status| status.lines().any(|line| line == own))
}

/// True if a thread has ended, whether or not its remains are there still.
fn is_over(thread: Pid) -> bool {
    match fs::read_to_string(format!("/proc/{thread}/status")) {
        Ok(status) => ["State:\tZ", "State:\tX"]
            .iter()
            .any(|state| status.lines().any(|line| line.starts_with(state))),
        Err(_) => true,
    }
}

/// True if the process is this program before its exec.
fn is_hold(process: Pid) -> bool {
    let program = |name: &str| fs::read_link(Path::new("/proc").join(name).join("exe")).ok();
    program("self").is_some() && program("self") == program(&process.to_string())
}

fn await_stop(process: Pid) -> Result<(), Error> {
    let start = Instant::now();
    while start.elapsed() < HOLD_LIMIT {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))
            .map_err(|_| Error::Gone(process))?;
        if stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" T"))
        {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(Error::NotHeld(process))
}
