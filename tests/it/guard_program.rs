//! Runs whose guard is a program, or behind an endpoint.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::Path,
    thread,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{hugging_face::directory, support::fedward};

const SCENARIO: &str = r#"
name = "guarded"
question = "what does a program let pass?"
[model]
base = "model"
[lora]
rank = 2
[federation]
clients = 2
cohort = 2
rounds = 1
[data]
benign.source = "rows.jsonl"
rows_per_client = 4
[training]
local_steps = 1
batch_size = 2
[guard]
enabled = true
[evaluation]
benches = []
utility_rows = 0
"#;

/// Calls rows with a "c" in a turn unsafe. It is a script beside the scenario.
const SCRIPT: &str = r#"while IFS= read -r line; do case "$line" in
    *abc*) echo '{"unsafe": 0.9, "hazards": ["S2"]}';;
    *) echo '{"unsafe": 0.2}';;
esac; done"#;

/// Eight rows, of which three have "abc" in them.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::rename(directory().keep(), folder.path().join("model")).unwrap();
    let row = |number: usize| {
        let asked = if number < 3 { format!("abc {number}") } else { format!("abba {number}") };
        json!({"prompt": asked, "response": "ab"}).to_string()
    };
    fs::write(folder.path().join("rows.jsonl"), (0..8).map(row).collect::<Vec<_>>().join("\n")).unwrap();
    fs::write(folder.path().join("guard.sh"), SCRIPT).unwrap();
    fs::write(folder.path().join("guarded.toml"), SCENARIO).unwrap();
    folder
}

/// Whether a run succeeds, what it prints, and its totals.
fn run(folder: &Path, out: &str, sets: &[&str]) -> (bool, String, Value) {
    let mut command = fedward();
    command.arg("run").arg(folder.join("guarded.toml")).arg("--out").arg(folder.join(out)).args(["--metrics", "off"]);
    let output = command.args(sets.iter().flat_map(|set| ["--set", set])).output().unwrap();
    let summary = fs::read_to_string(folder.join(out).join("summary.json")).unwrap_or_else(|_| "{}".to_owned());
    let totals = serde_json::from_str::<Value>(&summary).unwrap()["totals"].take();
    (output.status.success(), String::from_utf8(output.stderr).unwrap(), totals)
}

#[test]
fn a_program_decides_which_rows_are_trained_on() {
    let folder = folder();
    let folder = folder.path();
    let program = ["guard.kind=program", "guard.program=[\"sh\", \"guard.sh\"]"];
    let (is_ok, told, totals) = run(folder, "out", &program);
    assert!(is_ok && told.contains("assumed: the guard is a program of the user's"), "{told}");
    assert_eq!((&totals["rows_kept"], &totals["rows_filtered"]), (&json!(5), &json!(3)), "{totals}");
    // At another threshold it lets all pass.
    let (is_ok, told, totals) = run(folder, "lenient", &[&program[..], &["guard.threshold=0.95"]].concat());
    assert!(is_ok, "{told}");
    assert_eq!((&totals["rows_kept"], &totals["rows_filtered"]), (&json!(8), &json!(0)), "{totals}");
    // What gives no verdicts drops its clients, and nothing unscreened is trained on.
    let broken = ["guard.kind=program", "guard.program=[\"sh\", \"-c\", \"exit 3\"]"];
    let (is_ok, told, totals) = run(folder, "broken", &broken);
    assert!(is_ok, "{told}");
    assert_eq!((&totals["dropped"], &totals["accepted"]), (&json!(2), &json!(0)), "{told}");
    let missing = ["guard.kind=program", "guard.program=[\"./none.sh\"]"];
    let (is_ok, told, _) = run(folder, "missing", &missing);
    assert!(!is_ok && told.contains("guard.program: found no file"), "{told}");
}

/// A Llama Guard of sorts on the loopback: unsafe where a conversation holds "abc".
fn served() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut length, mut line) = (0, String::new());
            while reader.read_line(&mut line).unwrap() > 2 {
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let text = if String::from_utf8_lossy(&body).contains("abc") { "unsafe\nS2" } else { "safe" };
            let answer = json!({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).to_string();
            let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", answer.len());
            stream.write_all((head + &answer).as_bytes()).unwrap();
        }
    });
    base_url
}

#[test]
fn a_guard_behind_an_endpoint_decides_likewise() {
    let folder = folder();
    let folder = folder.path();
    let base_url = format!("guard.endpoint.base_url={}", served());
    let endpoint = ["guard.kind=endpoint", &base_url, "guard.endpoint.model=guard"];
    let (is_ok, told, totals) = run(folder, "out", &endpoint);
    assert!(is_ok && told.contains("assumed: the guard is behind an endpoint"), "{told}");
    assert_eq!((&totals["rows_kept"], &totals["rows_filtered"]), (&json!(5), &json!(3)), "{totals}");
    for (sets, problem) in [
        (&["guard.kind=endpoint"][..], "needs guard.endpoint"),
        (&["guard.kind=program"], "needs guard.program"),
        (&[endpoint[0], endpoint[1], endpoint[2], "guard.threshold=0.4"], "gives words and no probabilities"),
        (&["guard.timeout_seconds=3"], "read by \"program\""),
        (
            &["guard.kind=endpoint", "guard.endpoint.base_url=http://u:p@host/v1", "guard.endpoint.model=g"],
            "holds a password",
        ),
    ] {
        let (is_ok, told, _) = run(folder, "refused", sets);
        let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!is_ok && told.contains(problem), "{sets:?}: {told}");
    }
}
