//! Child processes that end with the test, and waits that end.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How often a condition is looked at; short, since some waits race with a transfer.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// How long a service has to end by itself before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a command that should end by itself may take; debootstrap over a slow network is the longest.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(200);

/// Polls until `condition` gives a value; panics with `what` after `timeout`.
pub fn wait_until<T>(what: &str, timeout: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "timed out after {timeout:?}: {what}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Returns an address of this machine that nothing listens on.
///
/// The port lies below those that the kernel gives to clients, and each process tries others first.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 700).expect("below 700") * 16;
    loop {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from(([127, 0, 0, 1], 20_000 + (first + offset) % 12_000));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Returns a command that the kernel kills when the test's thread ends, however it ends.
pub fn bound_command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program.as_ref())
        .stdin(Stdio::null());
    command
}

/// A program that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Service {
    name: String,
    child: Child,
    ended: Option<ExitStatus>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Service {
    /// Starts a program whose output goes to `<name>.out` and `<name>.err` in `directory`.
    pub fn start(name: &str, directory: &Path, mut command: Command) -> Self {
        let stdout = directory.join(format!("{name}.out"));
        let stderr = directory.join(format!("{name}.err"));
        let open = |path| {
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .expect("open a log")
        };
        let child = command
            .stdout(open(&stdout))
            .stderr(open(&stderr))
            .spawn()
            .unwrap_or_else(|e| panic!("start {name}: {e}"));
        Self {
            name: name.to_owned(),
            child,
            ended: None,
            stdout,
            stderr,
        }
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to its standard output.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stdout).expect("read a log")).into_owned()
    }

    /// What it has written to its standard error.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stderr).expect("read a log")).into_owned()
    }

    /// Waits until `ready` gives a value; panics with the log if the program ends before.
    pub fn wait_ready<T>(&mut self, timeout: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(value) = ready() {
                return value;
            }
            let ended = self.status();
            let late = Instant::now() >= deadline;
            assert!(
                ended.is_none() && !late,
                "{} is not ready, {ended:?}:\n{}",
                self.name,
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How it ended, if it has.
    pub fn status(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("wait for a child");
        }
        self.ended
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) {
        if self.status().is_none() {
            let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a pid");
            kill_process(pid, signal).expect("signal a child");
        }
    }

    /// Waits until it has ended.
    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let name = self.name.clone();
        wait_until(&format!("{name} to end"), timeout, || self.status())
    }

    /// Sends SIGKILL and waits.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait(STOP_TIMEOUT);
    }

    /// Sends SIGTERM and waits; kills it when it takes too long.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while self.status().is_none() && Instant::now() < deadline {
            std::thread::sleep(POLL_INTERVAL);
        }
        self.kill();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.stderr();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- the end of what {} wrote:", self.name);
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
        self.stop();
    }
}

/// What a command that has ended left.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The exit code; 128 and the signal's number if a signal ended it.
    pub fn code(&self) -> i32 {
        let signal = self.status.signal().map(|signal| 128 + signal);
        self.status.code().or(signal).expect("an exit code or a signal")
    }
}

/// Runs a command to its end, which must come in time.
pub fn run(mut command: Command) -> Ended {
    let directory = tempfile::tempdir().expect("a directory");
    let shown = format!("{command:?}");
    let mut service = Service::start("command", directory.path(), {
        command.env("LC_ALL", "C");
        command
    });
    let status = wait_until(&shown, COMMAND_TIMEOUT, || service.status());
    Ended {
        status,
        stdout: service.stdout(),
        stderr: service.stderr(),
    }
}

/// Runs a command that must succeed, and returns its standard output.
pub fn run_ok(command: Command) -> String {
    let shown = format!("{command:?}");
    let ended = run(command);
    assert!(
        ended.status.success(),
        "{shown}: {}\n{}\n{}",
        ended.status,
        ended.stdout,
        ended.stderr
    );
    ended.stdout
}

/// Runs a shell script that must succeed.
pub fn shell(script: &str) -> String {
    let mut command = bound_command("/bin/sh");
    command.args(["-euc", script]);
    run_ok(command)
}
