//! A scripted chat endpoint on loopback, for tests. Needs nothing of this crate, so that integration tests include it,
//! too.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// One request as the server got it.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Value,
    pub(crate) at: Instant,
}

impl Received {
    /// The last message's text.
    pub(crate) fn last_message(&self) -> &str {
        let messages = self.body["messages"].as_array().unwrap();
        messages.last().unwrap()["content"].as_str().unwrap()
    }
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub(crate) struct Scripted {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: String,
    pub(crate) after: Duration,
}

impl Scripted {
    /// A chat completion.
    pub(crate) fn says(text: &str) -> Self {
        let body = json!({
            "id": "x", "object": "chat.completion", "model": "scripted",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        });
        Self::status(200, &body.to_string())
    }

    pub(crate) fn status(status: u16, body: &str) -> Self {
        Self { status, headers: String::new(), body: body.to_owned(), after: Duration::ZERO }
    }

    pub(crate) fn header(mut self, line: &str) -> Self {
        self.headers.push_str(line);
        self.headers.push_str("\r\n");
        self
    }

    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.after = delay;
        self
    }
}

type Script = dyn Fn(usize, &Received) -> Scripted + Send + Sync;

/// A server that answers the n-th request (from 0) as its script says. Stops when dropped.
pub(crate) struct ScriptedServer {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    stop: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl ScriptedServer {
    pub(crate) fn start(script: impl Fn(usize, &Received) -> Scripted + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let script: Arc<Script> = Arc::new(script);
        let thread = std::thread::spawn({
            let (received, stop) = (Arc::clone(&received), Arc::clone(&stop));
            move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::Acquire) {
                        break;
                    }
                    let (received, script) = (Arc::clone(&received), Arc::clone(&script));
                    std::thread::spawn(move || answer(&stream.unwrap(), &received, &*script));
                }
            }
        });
        Self { address, received, stop, listener: Some(thread) }
    }

    pub(crate) fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.listener.take() {
            let _ = thread.join();
        }
    }
}

fn answer(stream: &TcpStream, received: &Mutex<Vec<Received>>, script: &Script) {
    let Some(request) = read(stream) else { return };
    let index = {
        let mut received = received.lock().unwrap();
        received.push(request.clone());
        received.len() - 1
    };
    let scripted = script(index, &request);
    std::thread::sleep(scripted.after);
    let Scripted { status, headers, body, .. } = scripted;
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status} Scripted\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{headers}Connection: \
         close\r\n\r\n{body}"
    );
    let mut stream = stream;
    // The client may have left.
    let _ = stream.write_all(text.as_bytes());
}

fn read(stream: &TcpStream) -> Option<Received> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "authorization" => authorization = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Received { path, authorization, body: serde_json::from_slice(&body).ok()?, at: Instant::now() })
}
