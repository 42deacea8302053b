//! A run whose metrics are asked for in ways that it did not hope for.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{run::TINY, support::fedward};

/// Descriptors that the run may have open.
const OPEN_FILES: usize = 256;

/// Connections that somebody opens beside it: more than that.
const CONNECTIONS: usize = 320;

/// A run that may open few files, without what takes its time.
fn run_with_few_descriptors(folder: &std::path::Path, metrics: SocketAddr) -> Child {
    let scenario = folder.join("tiny.toml");
    fs::write(&scenario, TINY).unwrap();
    let fedward = fedward();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -n {OPEN_FILES} && exec \"$0\" \"$@\"")]).arg(fedward.get_program());
    shell.envs(fedward.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.arg("run").arg(&scenario).arg("--out").arg(folder.join("out"));
    shell.args(["--metrics", &metrics.to_string(), "--set", "guard.enabled=false", "--set", "cai.schedule=never"]);
    shell.args(["--set", "evaluation.benches=[]", "--set", "evaluation.interim_benches=[]"]);
    shell.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn connections_that_are_held_open_do_not_take_the_files_of_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut run = run_with_few_descriptors(folder.path(), address);
    let begun = Instant::now();
    let mut held = Vec::new();
    while held.len() < CONNECTIONS && run.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_mins(1) {
        match TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            Ok(mut stream) => {
                // Half of them begin a request that never ends.
                if held.len() % 2 == 0 {
                    let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ");
                }
                held.push(stream);
            }
            // It does not listen yet, or has as many waiting as the system lets wait.
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
    let ended = run.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    assert!(held.len() > OPEN_FILES / 4, "only {} connections were opened: {told}", held.len());
    assert!(ended.status.success(), "{told}");
    let rounds = fs::read_to_string(folder.path().join("out/rounds.jsonl")).unwrap();
    assert_eq!(rounds.lines().filter(|line| line.contains("committed")).count(), 2, "{rounds}");
}

#[test]
fn a_connection_that_asks_nothing_is_closed_and_others_are_answered_meanwhile() {
    let telemetry = {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        fedward::telemetry::Telemetry::install(address, fedward::telemetry::Exposure::Loopback).map(|it| (it, address))
    };
    let (_telemetry, address) = telemetry.unwrap();
    let mut silent = TcpStream::connect(address).unwrap();
    let mut halting = TcpStream::connect(address).unwrap();
    halting.write_all(b"GET /metrics HTTP/1.1\r\nX: ").unwrap();
    let mut asking = TcpStream::connect(address).unwrap();
    asking.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut page = String::new();
    asking.read_to_string(&mut page).unwrap();
    assert!(page.contains("fedward_process_resident_memory_bytes "), "{page}");
    for stream in [&mut silent, &mut halting] {
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        // Closed by the server, with or without an answer that says so: not a time-out of ours.
        let ended = stream.read_to_end(&mut Vec::new());
        assert!(!ended.is_err_and(|error| matches!(error.kind(), std::io::ErrorKind::WouldBlock)), "it was left open");
    }
}
