//! Keys of endpoints, which no output may hold.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    thread,
    time::Duration,
};

use crate::{run::TINY, support::fedward};

/// At its most talkative level the HTTP client prints what it sends, 16 bytes a line.
#[test]
fn no_level_of_the_log_prints_a_key() {
    let key = "sk-plum-0123456789-greengage";
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut request = Vec::new();
        let _ = stream.read_to_end(&mut request);
        let answer = "HTTP/1.1 401 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
        let _ = stream.write_all(answer.as_bytes());
        String::from_utf8_lossy(&request).into_owned()
    });
    let folder = tempfile::tempdir().unwrap();
    let scenario = folder.path().join("tiny.toml");
    fs::write(&scenario, TINY).unwrap();
    let teacher = format!(
        "cai.teacher={{ base_url = \"http://{address}/v1\", model = \"m\", api_key_env = \"PLUM_KEY\", max_retries = 0 }}"
    );
    let mut run = fedward();
    run.arg("run").arg(&scenario).arg("--out").arg(folder.path().join("out")).args(["--metrics", "off"]);
    let ended = run.args(["--set", &teacher]).env("PLUM_KEY", key).env("FEDWARD_LOG", "trace").output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    assert!(server.join().unwrap().contains(key), "the key was not sent");
    assert!(told.contains("refused the request with 401"), "{told}");
    assert!(told.contains("DEBUG"), "nothing was logged: {told}");
    let parts = key.as_bytes().windows(5).map(String::from_utf8_lossy);
    assert!(parts.into_iter().all(|part| !told.contains(&*part)), "a part of the key was printed");
}
