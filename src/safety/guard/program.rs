//! A guard that is a program of the user's: conversations in, verdicts out, a line of JSON each.
//!
//! The program is started once and answers for as long as it runs. It is sent, on its standard input, one line per row
//!
//! ```json
//! {"id": 0, "messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
//! ```
//!
//! and answers each, in their order, with one line on its standard output, which it flushes:
//!
//! ```json
//! {"id": 0, "unsafe": 0.93, "hazards": ["S1"]}
//! ```
//!
//! `unsafe` is a probability, true or false; `hazards` (codes of Llama Guard 3) and `id` may be missing. A line of any other form is
//! a malformed answer: its row is unsafe for certain. One with another `id` than expected, none in time, or the program's end means that
//! nothing is known of the rows that were asked about; the program is then started anew for the next ones.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use fedward_actors::{
    cancel::CancelFlag,
    ports::{GuardModel, PortError, PortResult},
    protocol::{ChatRow, Hazard, Verdict, hex},
};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{SafetyGuard, Tally};
use crate::data::hazards;

/// Longest line that is read, in bytes.
const MAX_LINE_BYTES: u64 = 1 << 16;

/// How often a wait looks whether it was cancelled.
const POLL: Duration = Duration::from_millis(50);

/// How a program is started.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GuardProgram {
    /// The program and its arguments. No shell reads them.
    pub command: Vec<String>,
    /// Where it runs.
    pub folder: PathBuf,
    /// How long one answer may take.
    pub timeout: Duration,
}

/// The guard.
pub struct ProgramGuard {
    program: GuardProgram,
    threshold: f64,
    version: String,
    running: Mutex<Option<Running>>,
    tally: Mutex<Tally>,
}

/// The program while it runs.
struct Running {
    child: Child,
    /// `None` once nothing more is sent.
    input: Option<ChildStdin>,
    /// Lines of its output; closed at its end.
    lines: Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl ProgramGuard {
    /// A guard that calls a row unsafe from `threshold` on. The program is started when it is first asked.
    pub fn new(program: GuardProgram, threshold: f64) -> Self {
        let mut hash = Sha256::new();
        for word in &program.command {
            hash.update((word.len() as u64).to_le_bytes());
            hash.update(word);
            // A script that was changed is another guard.
            hash.update(fs::read(program.folder.join(word)).map_or_else(|_| [0; 32].into(), Sha256::digest));
        }
        hash.update(threshold.to_le_bytes());
        let version = format!("program-{}", &hex(&hash.finalize())[..12]);
        Self { program, threshold, version, running: Mutex::default(), tally: Mutex::default() }
    }

    /// Asks the program about rows. What is left of it after a failure is not used again.
    fn ask(&self, rows: &[ChatRow], cancel: &CancelFlag) -> PortResult<Vec<Verdict>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut program = match running.take() {
            Some(program) => program,
            None => self.program.start()?,
        };
        let verdicts = self.program.converse(&mut program, rows, self.threshold, cancel)?;
        *running = Some(program);
        Ok(verdicts)
    }
}

impl GuardModel for ProgramGuard {
    fn version(&self) -> &str {
        &self.version
    }

    fn assess(&self, rows: &[ChatRow], cancel: &CancelFlag) -> PortResult<Vec<Verdict>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let verdicts = self.ask(rows, cancel)?;
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.answers += verdicts.len() as u64;
        tally.malformed += verdicts.iter().filter(|verdict| verdict.is_malformed).count() as u64;
        Ok(verdicts)
    }
}

impl SafetyGuard for ProgramGuard {
    fn tally(&self) -> Option<Tally> {
        Some(*self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl GuardProgram {
    /// The program's name, for messages.
    fn name(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }

    fn failed(&self, problem: impl std::fmt::Display) -> PortError {
        PortError::Failed(format!("the guard's program {}: {problem}", self.name()))
    }

    fn start(&self) -> PortResult<Running> {
        let Some((name, arguments)) = self.command.split_first() else {
            return Err(self.failed("found no command, expected a program and its arguments"));
        };
        let mut command = Command::new(name);
        command.args(arguments).current_dir(&self.folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| self.failed(format!("cannot be started: {error}")))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(self.failed("cannot be spoken to"));
        };
        let (sender, lines) = mpsc::channel();
        // Ends with the program's output.
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            while let Some(line) = next_line(&mut output) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Running { child, input: Some(input), lines })
    }

    /// Sends all rows and reads one answer for each.
    fn converse(
        &self,
        program: &mut Running,
        rows: &[ChatRow],
        threshold: f64,
        cancel: &CancelFlag,
    ) -> PortResult<Vec<Verdict>> {
        let questions =
            rows.iter().enumerate().map(|(id, row)| json!({"id": id, "messages": row.messages}).to_string() + "\n");
        let questions: String = questions.collect();
        let Some(mut input) = program.input.take() else { return Err(self.failed("takes no more questions")) };
        // A program may answer before it has read everything: whoever waited for it to read could wait for ever.
        let writing = thread::spawn(move || {
            let sent = input.write_all(questions.as_bytes()).and_then(|()| input.flush());
            sent.map(|()| input)
        });
        let answers = (0..rows.len()).map(|id| {
            let line = self.answer(program, cancel)?;
            read_answer(&line, id, threshold).map_err(|problem| self.failed(problem))
        });
        let verdicts = answers.collect::<PortResult<Vec<_>>>()?;
        // All are answered, so all have been read.
        let sent = writing.join().map_err(|_| self.failed("cannot be spoken to"))?;
        program.input = Some(sent.map_err(|error| self.failed(format!("does not read its rows: {error}")))?);
        Ok(verdicts)
    }

    /// The next line of the program's output, in time.
    fn answer(&self, program: &mut Running, cancel: &CancelFlag) -> PortResult<String> {
        let deadline = Instant::now() + self.timeout;
        loop {
            if cancel.is_cancelled() {
                return Err(PortError::Cancelled);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match program.lines.recv_timeout(left.min(POLL)) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    return Err(self.failed(format!(
                        "gave no answer within {} s; answer every line with a line, flush it, or allow more in \
                         guard.timeout_seconds",
                        self.timeout.as_secs_f64()
                    )));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let status = program.child.wait().map_or_else(|_| "ended".to_owned(), |status| status.to_string());
                    return Err(self.failed(format!("ended before it had answered ({status})")));
                }
            }
        }
    }
}

/// One line of output; too long a one ends the conversation.
fn next_line(output: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    let read = output.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line).ok()?;
    let is_whole = line.last() == Some(&b'\n') || (read as u64) < MAX_LINE_BYTES;
    (read > 0 && is_whole).then(|| String::from_utf8_lossy(&line).into_owned())
}

/// Reads the answer about the row `id`.
///
/// # Errors
///
/// What is wrong with it in words that repeat none of it, if it answers about another row.
fn read_answer(line: &str, id: usize, threshold: f64) -> Result<Verdict, String> {
    let value: Option<Value> = serde_json::from_str(line.trim()).ok();
    if let Some(found) = value.as_ref().and_then(|value| value.get("id")).filter(|found| **found != json!(id)) {
        let found = found.as_u64().map_or_else(|| "something else".to_owned(), |found| format!("id {found}"));
        return Err(format!("found {found} in an answer, expected id {id}: answer rows in their order"));
    }
    let Some((probability, hazards)) = value.as_ref().and_then(assessed) else { return Ok(malformed()) };
    let mut verdict = Verdict::of_probability(probability, threshold);
    if verdict.is_unsafe {
        verdict.hazards = hazards.into_iter().collect();
    }
    Ok(verdict)
}

/// The probability and the hazards of an answer; `None` if it has another form.
fn assessed(answer: &Value) -> Option<(f64, BTreeSet<Hazard>)> {
    let probability = match answer.get("unsafe")? {
        Value::Bool(is_unsafe) => f64::from(u8::from(*is_unsafe)),
        value => value.as_f64().filter(|probability| (0.0..=1.0).contains(probability))?,
    };
    let hazards = match answer.get("hazards") {
        None | Some(Value::Null) => BTreeSet::new(),
        Some(codes) => codes.as_array()?.iter().map(|code| hazards::parse(code.as_str()?)).collect::<Option<_>>()?,
    };
    Some((probability, hazards))
}

fn malformed() -> Verdict {
    let certain = Verdict::of_probability(1.0, 0.0);
    Verdict { is_unsafe: true, is_malformed: true, ..certain }
}

/// What is wrong with a program, as far as that shows without starting it.
pub fn program_problem(command: &[String], folder: &Path) -> Option<String> {
    let name = command.first().filter(|name| !name.trim().is_empty());
    let Some(name) = name else { return Some("found no command; expected a program and its arguments".into()) };
    let is_path = name.contains('/');
    (is_path && !folder.join(name).is_file()).then(|| format!("found no file {}", folder.join(name).display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guard that a script of the shell is.
    fn guard(script: &str, timeout: Duration) -> ProgramGuard {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        ProgramGuard::new(GuardProgram { command, folder: PathBuf::from("."), timeout }, 0.5)
    }

    fn rows(prompts: &[&str]) -> Vec<ChatRow> {
        prompts.iter().map(|prompt| ChatRow::single_turn(*prompt, "An answer.")).collect()
    }

    const PATIENT: Duration = Duration::from_secs(20);

    const BY_WORD: &str = r#"while IFS= read -r line; do case "$line" in
        *burn*) echo '{"unsafe": 0.9, "hazards": ["S1", "S9"]}';;
        *odd*) echo 'perhaps';;
        *code*) echo '{"unsafe": 0.9, "hazards": ["X"]}';;
        *) echo '{"unsafe": false}';;
    esac; done"#;

    #[test]
    fn a_program_s_lines_are_verdicts_and_what_is_malformed_is_unsafe() {
        let guard = guard(BY_WORD, PATIENT);
        for _ in 0..2 {
            let verdicts = guard.assess(&rows(&["bake", "burn", "odd", "code"]), &CancelFlag::new()).unwrap();
            let found: Vec<_> = verdicts
                .iter()
                .map(|verdict| (verdict.is_unsafe, verdict.is_malformed, verdict.hazards.len()))
                .collect();
            assert_eq!(found, [(false, false, 0), (true, false, 2), (true, true, 0), (true, true, 0)]);
            assert!((verdicts[1].unsafe_probability - 0.9).abs() < 1e-6 && verdicts[2].unsafe_probability >= 1.0);
        }
        let tally = guard.tally().unwrap();
        assert_eq!((tally.answers, tally.malformed), (8, 4));
        assert!(guard.assess(&[], &CancelFlag::new()).unwrap().is_empty());
    }

    #[test]
    fn more_rows_than_a_pipe_holds_are_answered() {
        let guard = guard(BY_WORD, PATIENT);
        let long = "a ".repeat(2_000);
        let many = rows(&vec![long.as_str(); 200]);
        assert_eq!(guard.assess(&many, &CancelFlag::new()).unwrap().len(), 200);
    }

    #[test]
    fn a_program_that_fails_says_nothing_of_any_row_and_is_started_anew() {
        let failed = |script: &str, timeout| {
            guard(script, timeout).assess(&rows(&["secret", "b"]), &CancelFlag::new()).unwrap_err().to_string()
        };
        for (script, timeout, problem) in [
            ("read line; echo '{\"unsafe\": 0}'", PATIENT, "ended before it had answered (exit status: 0)"),
            ("exit 3", PATIENT, "ended before it had answered (exit status: 3)"),
            ("sleep 30", Duration::from_millis(200), "gave no answer within 0.2 s"),
            (
                "while read line; do echo '{\"id\": 1, \"unsafe\": 0}'; done",
                PATIENT,
                "found id 1 in an answer, expected id 0",
            ),
        ] {
            let error = failed(script, timeout);
            assert!(error.contains(problem) && !error.contains("secret"), "{error}");
        }
        let missing = GuardProgram { command: vec!["./no-such-guard".into()], folder: ".".into(), timeout: PATIENT };
        let error = ProgramGuard::new(missing, 0.5).assess(&rows(&["a"]), &CancelFlag::new()).unwrap_err().to_string();
        assert!(error.contains("./no-such-guard: cannot be started"), "{error}");
        // It dies of every second row, and answers the first of each life.
        let fragile = guard("read line; echo '{\"unsafe\": 0}'; read line; exit 1", PATIENT);
        for round in 0..2 {
            assert_eq!(fragile.assess(&rows(&["a"]), &CancelFlag::new()).unwrap().len(), 1, "{round}");
            assert!(fragile.assess(&rows(&["a"]), &CancelFlag::new()).is_err(), "{round}");
        }
    }

    #[test]
    fn a_cancelled_wait_ends() {
        let cancel = CancelFlag::new();
        cancel.cancel();
        let found = guard("sleep 30", PATIENT).assess(&rows(&["a"]), &cancel);
        assert!(matches!(found, Err(PortError::Cancelled)));
    }

    #[test]
    fn a_changed_script_is_another_guard() {
        let folder = tempfile::tempdir().unwrap();
        let version = |text: &str, threshold| {
            fs::write(folder.path().join("guard.sh"), text).unwrap();
            let command = ["sh", "guard.sh"].map(str::to_owned).to_vec();
            let program = GuardProgram { command, folder: folder.path().to_owned(), timeout: PATIENT };
            ProgramGuard::new(program, threshold).version().to_owned()
        };
        assert_eq!(version("a", 0.5), version("a", 0.5));
        assert_ne!(version("a", 0.5), version("b", 0.5));
        assert_ne!(version("a", 0.5), version("a", 0.6));
        let problem = |command: &[&str]| {
            program_problem(&command.iter().map(ToString::to_string).collect::<Vec<_>>(), folder.path())
        };
        assert_eq!((problem(&["sh", "x"]), problem(&["./guard.sh"])), (None, None));
        assert!(problem(&["./other.sh"]).unwrap().contains("found no file") && problem(&[]).is_some());
    }
}
