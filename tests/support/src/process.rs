//! A child process that ends with the test that started it.

use std::{
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::Lines;

/// How long a test waits for an event that must come. Far above what any of them takes on a busy
/// machine with two cores, since only a failing test waits it out.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running program and all it has printed.
///
/// Dropping it kills the program by its process id; a panicking test also gets its output. The
/// program's stdin is a pipe that closes with this value, and with the test process itself.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

impl Process {
    /// Starts `command`; `name` is what the messages of failing tests call it.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[must_use]
    pub fn spawn(name: &str, mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!(
                "cannot start {name} ({:?}): {error}; `cargo xtask test` installs what is missing",
                command.get_program(),
            ),
        };
        let stdout = Lines::collect(child.stdout.take().expect("stdout is piped"));
        let stderr = Lines::collect(child.stderr.take().expect("stderr is piped"));
        Self { name: name.to_owned(), child, stdout, stderr }
    }

    /// A command for a program that does not end with its stdin: the kernel kills it when the
    /// thread that starts it ends, so that not even a killed test leaves it behind.
    #[must_use]
    pub fn bound_command(program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", program]);
        command
    }

    /// Its process id, for what the kernel counts of it.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the program has written to its stdout.
    #[must_use]
    pub fn stdout(&self) -> &Lines {
        &self.stdout
    }

    /// What the program has written to its stderr.
    #[must_use]
    pub fn stderr(&self) -> &Lines {
        &self.stderr
    }

    /// Waits for the first line of stdout, past or future, that `pick` accepts.
    ///
    /// # Panics
    /// When it does not come within [`PATIENCE`], or the program ends before.
    pub fn expect_line<T>(&self, what: &str, pick: impl FnMut(&str) -> Option<T>) -> T {
        self.expect_line_from(0, what, pick)
    }

    /// As [`Self::expect_line`], looking only at line number `start` and those after it.
    ///
    /// # Panics
    /// As [`Self::expect_line`].
    pub fn expect_line_from<T>(
        &self,
        start: usize,
        what: &str,
        pick: impl FnMut(&str) -> Option<T>,
    ) -> T {
        let found = self.stdout.find_from(start, Instant::now() + PATIENCE, pick);
        found.unwrap_or_else(|| panic!("{} never printed {what}", self.name))
    }

    /// Asks the program to stop (SIGTERM).
    ///
    /// # Panics
    /// When it has ended already.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Has the program stand still (SIGSTOP), as on a machine that sleeps, until [`Self::wake`].
    ///
    /// # Panics
    /// When it has ended already.
    pub fn put_to_sleep(&self) {
        self.signal(Signal::STOP);
    }

    /// Has it go on (SIGCONT).
    ///
    /// # Panics
    /// When it has ended already.
    pub fn wake(&self) {
        self.signal(Signal::CONT);
    }

    /// Ends the program at once (SIGKILL), and waits until it is gone.
    ///
    /// # Panics
    /// When it has ended already.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.expect_exit();
    }

    /// Waits until the program has closed its output and ended.
    ///
    /// # Panics
    /// When it has not within [`PATIENCE`].
    pub fn expect_exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        let ended = self.stdout.wait_end(deadline) && self.stderr.wait_end(deadline);
        assert!(ended, "{} did not stop", self.name);
        self.child.wait().expect("a child can be waited for")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal)
            .unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Either fails only when the program is gone, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            for (stream, lines) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
                let lines = lines.all();
                let skipped = lines.len().saturating_sub(SHOWN_LINES);
                let shown: String = lines.iter().skip(skipped).flat_map(|l| [l, "\n"]).collect();
                eprintln!("--- {stream} of {} (less {skipped} lines):\n{shown}", self.name);
            }
        }
    }
}

/// How many of its last lines a process shows in a failing test.
const SHOWN_LINES: usize = 50;
