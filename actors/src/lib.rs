//! The protocol and the round of fedward: actors that exchange LoRA adapters.
//!
//! This crate knows nothing of tensors, files, clocks on the wall or HTTP: what it needs of them it asks for through
//! the traits in [`ports`]. [`run_federation`] is its one entry point.
//!
//! # Map
//!
//! Read `round.rs` first: a round is one function of eight steps, each a method below it.
//!
//! ```text
//! run_federation ─► Supervisor ─┬─ Coordinator    round.rs, ledger.rs   runs rounds, owns the global adapter
//!   federation.rs               ├─ Client × cohort           client.rs  rows ▸ guard ▸ training, one report per order
//!                               ├─ Guard                      guard.rs  a verdict a row, cached
//!                               ├─ Aggregator            aggregator.rs  screens updates, applies the strategy
//!                               ├─ CaiGenerator                 cai.rs  realigns the global adapter
//!                               ├─ Evaluator              evaluator.rs  measures it
//!                               └─ Checkpointer        checkpointer.rs  stores the round
//! ```
//!
//! `protocol` holds what crosses a wire: ids, the [adapter](protocol::Adapter), chat rows, orders and reports, and in
//! [`protocol::wire`] how they become bytes. The envelopes with reply ports are beside their actors. `address.rs` asks: an
//! `Address` is where a role can be reached, whoever fills it now. `compute.rs` runs blocking work on a bounded number of slots.
//! `transport.rs` carries orders to clients, at once or in the simulated time of [`devices`]; [`gather`] says when a round goes on.
//! `collusion.rs` lets malicious clients act. What is in [`faults`] is put in on purpose. [`policy`] says what verdicts
//! do to rows. [`records`] are what a round says of itself, [`streams`] and [`sampler`] where its randomness comes from,
//! `testing` a federation of fakes.
//!
//! # Who fails, and what then
//!
//! Expected failure is a value: a port's error becomes the outcome of a client, of the round, or a warning. A panic is a
//! bug of whoever panicked: its actor dies, the supervisor puts a successor at the same address, and the question is put
//! again under the next [`Attempt`](protocol::Attempt), as long as there are attempts. Actors keep nothing that a successor
//! could miss: requests carry what is needed, the strategy's state included; the verdict cache outlives its guard. The
//! checkpointer alone has no successor, for there is one store. Time-outs catch hangs: they cancel the work, and work that
//! ignores its flag loses its compute slot after a grace. Work is cancelled by dropping whoever waits for it, all
//! the way down to a flag that training polls.
//!
//! # Invariants
//!
//! Each has tests named after it in `invariants/`, and a predicate in [`predicates`] over what a run left behind. `examples/swarm.rs`
//! searches seeds for a federation that violates one.
//!
//! - **R-1** Every selected client has exactly one outcome: in the round that selected it, or, where late work counts, in that
//!   in which it arrives; none if the run ends before. Every round has exactly one, too.
//! - **R-2** An update counts at most once, and only for the round and attempt that asked for it.
//! - **R-3** A round below quorum, or whose aggregation fails, leaves the global adapter and the strategy as they were.
//! - **A-1** An update has the layout of the adapter that its client was sent, and the global adapter keeps its own; another
//!   is rejected, naming the first difference.
//! - **A-2** Nothing that is not finite enters the global adapter: not from clients, strategy or realignment.
//! - **A-3** With an update screen nothing enters the aggregation that it has not judged: no judgement, no way in. What it
//!   clips is no longer than it says.
//! - **S-1** With a guard, nothing unscreened is trained on: no verdict, no training.
//! - **S-2** A row's verdict is computed once a guard version.
//! - **D-1** Same seed, same bytes, whatever the order of replies and the number of slots.
//! - **C-1** A round is stored whole or not at all, what cancelled work left undone is not stored, and a resumed run
//!   equals an uninterrupted one. (That a checkpoint is whole on disk is its store's part.)
//! - **F-1** A fault that is put in is a function of seed, round and client, has an outcome like any other, and is in the
//!   records if it struck. Whoever dies and is asked again changes no byte.
//! - **M-1** Memory is bounded by slots and cohort, which work under way past a round's end counts to: clients outside the cohort have no actor, and rows are in memory for
//!   clients in their turn alone, of which there are as many as slots. (The verdict cache, some 100 bytes a row seen, is
//!   the price of S-2.)
//!
//! # What is absent on purpose
//!
//! Clients never call the coordinator, nobody but a client's guard sees its rows, no step of a round waits for the clock
//! except to catch hangs, and no work holds a compute slot while it waits for another actor.

mod address;
mod aggregator;
mod cai;
pub mod cancel;
mod checkpointer;
mod client;
mod collusion;
mod compute;
mod coordinator;
pub mod devices;
mod evaluator;
pub mod faults;
pub mod federation;
pub mod gather;
mod guard;
#[cfg(test)]
mod invariants;
mod ledger;
pub mod policy;
pub mod ports;
pub mod predicates;
pub mod protocol;
pub mod records;
mod round;
pub mod sampler;
mod screening;
pub mod streams;
mod supervisor;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod transport;

pub use cancel::{CancelFlag, CancelOnDrop};
pub use devices::DeviceProfile;
pub use federation::{
    FederationConfig, FederationError, FederationResult, Ports, Schedule, StartState, StrategyFactory, run_federation,
};
pub use gather::{Gather, Late};
pub use sampler::CohortSampler;
