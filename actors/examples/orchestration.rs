//! What orchestration costs when nobody trains: clients give the 3.7 MB adapter back, as the very buffer that they were
//! sent or as a copy of it, and the server averages.
//!
//! `cargo run --release -p fedward-actors --features testing --example orchestration`
//!
//! Prints a row of numbers for each size, each measured in a process of its own, so that peaks of memory do not mix.

use std::{
    env,
    error::Error,
    fs,
    process::Command,
    sync::{Arc, Mutex},
};

use fedward_actors::{
    CancelFlag, FederationConfig, StartState,
    ports::{LocalTrainer, LocalTraining, PortError, PortResult, RunStore, StateAfter, TrainTask},
    protocol::{Adapter, AdapterLayout, GlobalModel, TrainRows},
    records::{ClientRecord, RoundRecord},
    run_federation,
    testing::{Rehearsal, WeightedMean},
};

const ROUNDS: u32 = 20;

/// Clients, cohort, numbers in the adapter, whether clients copy it.
const SIZES: [(u32, u32, usize, bool); 7] = [
    (20, 8, 921_600, false),
    (200, 100, 921_600, false),
    (1_000, 100, 921_600, false),
    (10_000, 100, 921_600, false),
    (1_000, 100, 921_600, true),
    (10_000, 100, 921_600, true),
    (10_000, 10_000, 8, true),
];

/// Keeps the last state and every row: what is measured is not the store.
#[derive(Clone, Default)]
struct LastState {
    state: Option<GlobalModel>,
    rounds: Arc<Mutex<Vec<RoundRecord>>>,
}

impl RunStore for LastState {
    fn checkpoint(&mut self, state: StateAfter<'_>) -> PortResult<()> {
        self.state = Some(state.global.clone());
        Ok(())
    }

    fn append(&mut self, record: &RoundRecord, _: &[ClientRecord]) -> PortResult<()> {
        let mut rounds = self.rounds.lock().map_err(|error| PortError::Failed(error.to_string()))?;
        rounds.push(record.clone());
        Ok(())
    }
}

/// Gives back the adapter that it was sent.
struct Untouched {
    copies: bool,
}

impl LocalTrainer for Untouched {
    fn train(&self, task: &TrainTask, rows: &TrainRows, _: &CancelFlag) -> PortResult<LocalTraining> {
        let global = task.global.trainable();
        let adapter = if self.copies {
            Adapter::new(Arc::clone(global.layout()), global.values().to_vec()).unwrap_or_else(|_| global.clone())
        } else {
            global.clone()
        };
        Ok(LocalTraining {
            n_examples: rows.weight_sum(),
            adapter,
            steps: 1,
            tokens: rows.rows().len() as u64,
            learning_rate_sum: 0.0,
            mean_loss: 0.0,
            seconds: 0.0,
            reused: false,
        })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<usize> = env::args().skip(1).map(|argument| argument.parse()).collect::<Result<_, _>>()?;
    if let [clients, cohort, numbers, copies] = arguments[..] {
        return measure(clients as u32, cohort as u32, numbers, copies == 1);
    }
    println!("clients  cohort  adapter_bytes  copied  seconds_a_round  peak_memory_megabytes");
    for (clients, cohort, numbers, copies) in SIZES {
        let arguments = [clients.to_string(), cohort.to_string(), numbers.to_string(), u8::from(copies).to_string()];
        let status = Command::new(env::current_exe()?).args(arguments).status()?;
        if !status.success() {
            return Err(format!("measuring {clients} clients failed: {status}").into());
        }
    }
    Ok(())
}

#[tokio::main]
async fn measure(clients: u32, cohort: u32, numbers: usize, copies: bool) -> Result<(), Box<dyn Error>> {
    let rehearsal = Rehearsal::new(clients, cohort, ROUNDS);
    let slots = std::thread::available_parallelism()?.get();
    let config = FederationConfig { slots, ..rehearsal.config.clone() };
    let mut ports = rehearsal.ports();
    ports.trainer = Arc::new(Untouched { copies });
    let store = LastState::default();
    ports.store = Box::new(store.clone());
    ports.strategy = Arc::new(|| Box::new(WeightedMean));
    let layout = Arc::new(AdapterLayout::new([("adapter".to_owned(), [1, numbers])]));
    let global = Adapter::zeros(layout);
    let adapter_bytes = global.size_bytes();
    let start = StartState::new(global);
    run_federation(config, ports, start, CancelFlag::new()).await?;
    let total: f64 =
        store.rounds.lock().map_err(|error| error.to_string())?.iter().map(|round| round.seconds.total()).sum();
    let seconds = total / f64::from(ROUNDS);
    let peak = peak_memory_kilobytes()? / 1024;
    println!("{clients:>7}  {cohort:>6}  {adapter_bytes:>13}  {copies:>6}  {seconds:>15.4}  {peak:>21}");
    Ok(())
}

fn peak_memory_kilobytes() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
