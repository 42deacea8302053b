//! The client: one request with its retries, many requests with bounds.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, SystemTime},
};

use fedward_actors::{
    cancel::CancelFlag,
    protocol::{ChatMessage, ClientId, Role, RoundId},
    streams::{Purpose, stream},
};
use ureq::{
    Agent,
    http::{Response, Uri, header},
    tls::{RootCerts, TlsConfig},
};

use super::{
    ChatCompletion, ChatRequest, EndpointError, EndpointProblem, EndpointSettings,
    answer::{self, Outline, Unread},
    pace::{POLL, RateLimit, backoff, retry_after, wait},
    settings::ApiKey,
};
use crate::progress::{Counter, Progress};

/// Longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: u64 = 8 << 20;

/// A client of one model at one endpoint.
pub struct ChatEndpoint {
    settings: EndpointSettings,
    wire: Arc<Wire>,
    rate: RateLimit,
}

/// What one attempt needs; shared with the thread that makes it.
struct Wire {
    agent: Agent,
    url: Uri,
    key: Option<ApiKey>,
}

/// What one attempt meets.
enum Attempt {
    /// An answer, whatever its status.
    Answered {
        status: u16,
        retry_after: Option<Duration>,
        content_type: Option<String>,
        body: String,
    },
    TimedOut,
    Unreachable(String),
    /// Bytes that are no HTTP answer of a bearable size.
    Unreadable(String),
}

impl ChatEndpoint {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`EndpointProblem::Settings`] if the base URL cannot be used or the key's variable is not set.
    pub fn new(settings: EndpointSettings) -> Result<Self, EndpointError> {
        let wrong = |problem: String| EndpointError {
            base_url: settings.shown_base_url().to_owned(),
            model: settings.model.clone(),
            problem: EndpointProblem::Settings(problem),
        };
        let url = settings.chat_url().map_err(|problem| wrong(format!("the base URL {problem}")))?;
        let key = settings.api_key_env.as_deref().map(ApiKey::from_env).transpose().map_err(wrong)?;
        let config = Agent::config_builder()
            .timeout_global(Some(settings.timeout))
            .http_status_as_error(false)
            // A redirected POST becomes a GET, and a key should not travel to another host.
            .max_redirects(0)
            .max_redirects_will_error(false)
            // What the machine trusts: servers inside an organisation often have certificates of its own.
            .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
            .user_agent(concat!("fedward/", env!("CARGO_PKG_VERSION")))
            .max_idle_connections_per_host(settings.parallel.get());
        let config = if is_loopback(&url) { config.proxy(None) } else { config };
        let agent = config.build().new_agent();
        let rate = RateLimit::of(&settings);
        Ok(Self { wire: Arc::new(Wire { agent, url, key }), rate, settings })
    }

    /// Where it is, and how hard it may be asked.
    pub fn settings(&self) -> &EndpointSettings {
        &self.settings
    }

    /// Asks once, with retries.
    ///
    /// # Errors
    ///
    /// [`EndpointError`] says what happened and what to do.
    pub fn chat(&self, request: &ChatRequest, cancel: &CancelFlag) -> Result<ChatCompletion, EndpointError> {
        self.chat_with_retries(request, cancel).map_err(|problem| self.error(problem))
    }

    /// Asks one short question, so that a wrong address or key shows before the work and not after it.
    ///
    /// # Errors
    ///
    /// As [`ChatEndpoint::chat`].
    pub fn greet(&self, cancel: &CancelFlag) -> Result<(), EndpointError> {
        let messages = vec![ChatMessage::new(Role::User, "Reply with the word ready.")];
        match self.chat(&ChatRequest { messages, temperature: 0.0, max_tokens: 8 }, cancel) {
            // Models that think first have nothing to say within so few tokens.
            Ok(_) | Err(EndpointError { problem: EndpointProblem::NoText { .. }, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Asks everything, several requests at a time, and gives the answers in the order of the requests. A request that
    /// fails alone is an error in its place, and so are those that are not sent any more after one has shown that they
    /// would be in vain: no connection, a wrong address or key, too long a wait. `progress` hears how many have ended.
    ///
    /// # Errors
    ///
    /// [`EndpointError`] if cancelled, or if that happened before any was answered.
    pub fn chat_all(
        &self,
        requests: &[ChatRequest],
        cancel: &CancelFlag,
        progress: &dyn Progress,
    ) -> Result<Vec<Result<ChatCompletion, EndpointError>>, EndpointError> {
        // Raised by the first request that shows that the others are in vain.
        let stop = cancel.child();
        let given_up: Mutex<Option<EndpointError>> = Mutex::new(None);
        let ended = Counter::new(progress, requests.len());
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::with_capacity(requests.len()));
        let worker = || {
            while !stop.is_cancelled() {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(request) = requests.get(index) else { break };
                let answer = self.chat(request, &stop);
                if let Err(error) = &answer
                    && error.problem.concerns_all_requests()
                {
                    given_up.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
                    stop.cancel();
                }
                done.lock().unwrap_or_else(PoisonError::into_inner).push((index, answer));
                ended.add(1);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.settings.parallel.get().min(requests.len()) {
                scope.spawn(worker);
            }
            worker();
        });
        if cancel.is_cancelled() {
            return Err(self.error(EndpointProblem::Cancelled));
        }
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Some(given_up) = given_up.into_inner().unwrap_or_else(PoisonError::into_inner) else {
            done.sort_by_key(|(index, _)| *index);
            return Ok(done.into_iter().map(|(_, answer)| answer).collect());
        };
        if !done.iter().any(|(_, answer)| answer.is_ok()) {
            return Err(given_up);
        }
        // What was answered by then may have cost money: it stays.
        let mut answers = vec![Err(given_up); requests.len()];
        let ended = |answer: &Result<_, EndpointError>| {
            !matches!(answer, Err(EndpointError { problem: EndpointProblem::Cancelled, .. }))
        };
        for (index, answer) in done.into_iter().filter(|(_, answer)| ended(answer)) {
            answers[index] = answer;
        }
        Ok(answers)
    }

    fn error(&self, problem: EndpointProblem) -> EndpointError {
        EndpointError { base_url: self.settings.base_url.clone(), model: self.settings.model.clone(), problem }
    }

    fn chat_with_retries(&self, request: &ChatRequest, cancel: &CancelFlag) -> Result<ChatCompletion, EndpointProblem> {
        let body = request
            .body(&self.settings.model, &self.settings.extra_body)
            .map_err(|error| EndpointProblem::Settings(error.to_string()))?;
        let body = Arc::new(body);
        let client = ClientId(request.fingerprint());
        let mut rng = stream(self.settings.seed, Purpose::Retries, RoundId::START, Some(client));
        let mut retries = 0;
        loop {
            self.rate.admit(cancel).map_err(|_| EndpointProblem::Cancelled)?;
            let attempt = self.attempt(&body, cancel)?;
            let asked_to_wait = match &attempt {
                Attempt::Unreadable(reason) => return Err(EndpointProblem::Malformed(reason.clone())),
                Attempt::Answered { status: status @ 200..300, content_type, body, .. } => {
                    return answer::read(body).map_err(|unread| match unread {
                        Unread::Malformed(problem) => EndpointProblem::Malformed(problem),
                        Unread::NoText(ending) => EndpointProblem::NoText { ending },
                        Unread::Error => {
                            let outline = Outline::of(content_type.as_deref(), body);
                            EndpointProblem::ErrorInside { status: *status, outline }
                        }
                    });
                }
                Attempt::Answered { status, content_type, body, .. } if !passes(*status) => {
                    let outline = Outline::of(content_type.as_deref(), body);
                    return Err(EndpointProblem::Refused { status: *status, outline });
                }
                Attempt::Answered { status, retry_after: Some(wait), .. } if *wait > self.settings.max_delay => {
                    let (status, wait, allowed) = (*status, *wait, self.settings.max_delay);
                    return Err(EndpointProblem::AsksForPatience { status, wait, allowed });
                }
                Attempt::Answered { retry_after, .. } => retry_after.unwrap_or_default(),
                Attempt::TimedOut | Attempt::Unreachable(_) => Duration::ZERO,
            };
            if retries == self.settings.max_retries {
                return Err(self.given_up(attempt, retries + 1));
            }
            let pause = backoff(&self.settings, retries, &mut rng).max(asked_to_wait);
            wait(pause, cancel).map_err(|_| EndpointProblem::Cancelled)?;
            retries += 1;
        }
    }

    /// One attempt, on a thread of its own: the caller leaves when cancelled, the thread ends with its time-out.
    fn attempt(&self, body: &Arc<Vec<u8>>, cancel: &CancelFlag) -> Result<Attempt, EndpointProblem> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let (wire, body) = (Arc::clone(&self.wire), Arc::clone(body));
        std::thread::spawn(move || {
            // Nobody listens any more if the caller was cancelled.
            let _ = sender.send(wire.post(&body));
        });
        loop {
            match receiver.recv_timeout(POLL) {
                Ok(attempt) => return Ok(attempt),
                Err(RecvTimeoutError::Timeout) if cancel.is_cancelled() => return Err(EndpointProblem::Cancelled),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Ok(Attempt::Unreachable("the request's thread ended early".into()));
                }
            }
        }
    }

    fn given_up(&self, attempt: Attempt, attempts: u32) -> EndpointProblem {
        match attempt {
            Attempt::Answered { status, content_type, body, .. } => {
                EndpointProblem::Overloaded { status, attempts, outline: Outline::of(content_type.as_deref(), &body) }
            }
            Attempt::TimedOut => EndpointProblem::TimedOut { attempts, timeout: self.settings.timeout },
            Attempt::Unreachable(reason) | Attempt::Unreadable(reason) => {
                EndpointProblem::Unreachable { attempts, reason }
            }
        }
    }
}

impl Wire {
    fn post(&self, body: &[u8]) -> Attempt {
        let mut request = self.agent.post(&self.url).header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, key.bearer());
        }
        let answered = request.send(body).and_then(|mut response| {
            let bytes = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec()?;
            let Ok(body) = String::from_utf8(bytes) else {
                return Ok(Attempt::Unreadable("found bytes that are not UTF-8".into()));
            };
            let (status, retry_after) = (response.status().as_u16(), asked_to_wait(&response));
            let content_type = response.headers().get(header::CONTENT_TYPE);
            let content_type = content_type.and_then(|value| value.to_str().ok()).map(str::to_owned);
            Ok(Attempt::Answered { status, retry_after, content_type, body })
        });
        answered.unwrap_or_else(|error| match error {
            ureq::Error::Timeout(_) => Attempt::TimedOut,
            ureq::Error::BodyExceedsLimit(_) => {
                Attempt::Unreadable(format!("found more than {MAX_ANSWER_BYTES} bytes, expected fewer"))
            }
            // Its words may hold a header of the server's.
            ureq::Error::Protocol(_) => Attempt::Unreadable("found no valid HTTP/1.1".into()),
            other => Attempt::Unreachable(other.to_string()),
        })
    }
}

fn asked_to_wait<T>(response: &Response<T>) -> Option<Duration> {
    let header = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    retry_after(header, SystemTime::now())
}

/// Whether a status may be another one soon.
const fn passes(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..600)
}

/// Whether a URL means this machine, where no proxy stands in between.
fn is_loopback(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
