//! The seam holds across processes: clients' turns run in others, over the wire types, and nothing changes (D-1).

use std::{
    env,
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use crate::{
    cancel::CancelFlag,
    checkpointer::CommitGate,
    client::ClientEnv,
    compute::Compute,
    faults::{FaultPlan, Faults},
    federation::{StartState, make_server, start_actors},
    ledger::Reported,
    ports::{ClientRows, LocalTrainer, PlainClients},
    protocol::{Adapter, ClientId, ClientRanks, RequestId, RoundId, SimTime, TrainOrder, TrainReport, wire},
    records::DropReason,
    testing::{MemoryStore, Rehearsal, layout_of_rank},
    transport::{Arrival, Arriving, Dispatch, Transport},
};

/// Tells a test that it is the other process, and where the server listens.
const PORT: &str = "FEDWARD_TEST_SERVER_PORT";
const MOST_BYTES: u64 = 1 << 20;

fn rehearsal() -> Rehearsal {
    let mut rehearsal = Rehearsal::new(6, 4, 3);
    rehearsal.layout = layout_of_rank(3);
    rehearsal.config.ranks = ClientRanks::new(vec![3, 1]);
    rehearsal
}

fn start() -> StartState {
    let values = (0..24).map(|value| value as f32 / 7.0).collect();
    StartState::new(Adapter::new(layout_of_rank(3), values).unwrap())
}

/// The other process: takes orders and answers each with the report of its client's turn, until the server hangs up.
#[tokio::test]
async fn serve_clients() {
    let Ok(port) = env::var(PORT) else { return };
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port.parse().unwrap())).unwrap();
    let Rehearsal { rows, trainer, config, .. } = rehearsal();
    let clients = ClientEnv {
        rows: rows as Arc<dyn ClientRows>,
        trainer: trainer as Arc<dyn LocalTrainer>,
        algorithm: Arc::new(PlainClients),
        memories: Arc::new(MemoryStore::default()),
        screener: None,
        seed: config.seed,
        faults: Faults::new(config.attack_seed, FaultPlan::default()),
        compute: Compute::new(1, CancelFlag::new(), Duration::from_secs(1)),
    };
    while let Ok(order) = wire::read::<TrainOrder>(&mut stream, MOST_BYTES) {
        wire::write(&mut stream, &clients.run(order).await.unwrap()).unwrap();
    }
}

/// A process that serves clients, ended with the test.
struct Process {
    child: Child,
    stream: TcpStream,
}

impl Process {
    fn start(listener: &TcpListener) -> Self {
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "invariants::processes::serve_clients"])
            .env(PORT, listener.local_addr().unwrap().port().to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let stream = Self::accept(listener);
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        Self { child, stream }
    }
}

impl Process {
    /// Waits for a process that may have died instead of calling.
    fn accept(listener: &TcpListener) -> TcpStream {
        listener.set_nonblocking(true).unwrap();
        let begun = std::time::Instant::now();
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).unwrap();
                    return stream;
                }
                Err(_) if begun.elapsed() < Duration::from_mins(1) => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => panic!("the other process did not call: {error}"),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends each client's orders to one of the processes.
struct Sockets {
    processes: Vec<Process>,
    arrivals: Vec<Arrival>,
    bytes: Arc<std::sync::atomic::AtomicU64>,
}

impl Sockets {
    fn ask(&mut self, order: &TrainOrder) -> Result<TrainReport, wire::WireError> {
        let process = order.client.0 as usize % self.processes.len();
        let stream = &mut self.processes[process].stream;
        let frame = wire::encode(order)?;
        self.bytes.fetch_add(frame.len() as u64, std::sync::atomic::Ordering::SeqCst);
        std::io::Write::write_all(stream, &frame)?;
        wire::read(stream, MOST_BYTES)
    }
}

impl Transport for Sockets {
    fn dispatch(&mut self, dispatch: Dispatch) {
        let order = dispatch.order.unwrap();
        let answer = self.ask(&order).map_err(|_| DropReason::Crashed);
        let reported = Reported {
            client: order.client,
            id: RequestId::first(dispatch.round),
            bytes_down: order.size_bytes(),
            answer,
            fault: None,
            misfit: None,
        };
        let sent = Some((order.version, order.global.trainable().clone()));
        self.arrivals.push(Arrival { at: SimTime::START, reported, sent });
    }

    fn next(&mut self, _: SimTime) -> Arriving<'_> {
        let arrival = self.arrivals.pop();
        Box::pin(async move { arrival })
    }

    fn in_flight(&self) -> Vec<ClientId> {
        Vec::new()
    }

    fn abandon(&mut self) -> Vec<Arrival> {
        Vec::new()
    }

    fn now(&self) -> SimTime {
        SimTime::START
    }

    fn wait_until(&mut self, _: SimTime) {}

    fn state(&self) -> Result<Vec<u8>, wire::WireError> {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn turns_in_two_other_processes_give_the_bytes_of_turns_here() {
    let here = rehearsal();
    here.run_from(start()).await.unwrap();
    let there = rehearsal();
    let (run, config) = (CancelFlag::new(), there.config.clone());
    let started = start_actors(&config, there.ports(), &run, CommitGate::default()).await.unwrap();
    let mut server = make_server(config, start(), run, started).await.unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let processes = vec![Process::start(&listener), Process::start(&listener)];
    let bytes = Arc::default();
    server.transport = Box::new(Sockets { processes, arrivals: Vec::new(), bytes: Arc::clone(&bytes) });
    server.run_rounds(&[1, 2, 3].map(RoundId)).await.unwrap();
    let (here, there) = (here.store.stored(), there.store.stored());
    assert_eq!(here.checkpoints, there.checkpoints);
    let counted = |stored: &crate::testing::Stored| -> Vec<_> {
        let row = |row: &crate::records::RoundRecord| (row.accepted, row.adapter_bytes_up, row.adapter_bytes_down);
        stored.rounds.iter().map(row).collect()
    };
    assert_eq!(counted(&here), counted(&there));
    assert!(there.rounds.iter().all(|round| round.accepted == 4));
    // What is counted went over the wire, in frames of a few hundred bytes more.
    let counted: u64 = there.rounds.iter().map(|round| round.adapter_bytes_down).sum();
    let sent = bytes.load(std::sync::atomic::Ordering::SeqCst);
    assert!((counted..counted + 12 * 1024).contains(&sent), "{sent} bytes for {counted}");
}
