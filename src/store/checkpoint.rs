//! The state after a round: global model, strategy state and what is under way, with their checksum.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use fedward_actors::protocol::{Adapter, AdapterLayout, GlobalModel, RoundId, hex};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{StoreError, files, rows::Extent};

/// The state after a round.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The round.
    pub round: RoundId,
    /// The global model after it.
    pub global: GlobalModel,
    /// What the strategy remembers.
    pub strategy_state: Vec<u8>,
    /// What was under way past the round's end, as the transport wrote it.
    pub in_flight: Vec<u8>,
}

/// The beginning of a checkpoint file, one line of JSON; the values of the trainable adapter and of frozen terms, the strategy's state and
/// what was under way follow.
#[derive(Serialize, Deserialize)]
struct Header {
    round: RoundId,
    layout: AdapterLayout,
    /// Of frozen terms; absent where there are none, and in those of earlier versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    frozen: Vec<AdapterLayout>,
    strategy_state_bytes: usize,
    /// Absent where nothing was under way, and in those of earlier versions.
    #[serde(default, skip_serializing_if = "is_zero")]
    in_flight_bytes: usize,
    /// Of the body; where it is known what belongs to the checkpoint, that comes before it.
    sha256: String,
    /// Absent in those of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    belongings: Option<Belongings>,
}

/// What belongs to a checkpoint beside it. The rows of its own round are written after it and are not among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Belongings {
    /// Rows of the rounds before.
    pub(super) rounds: Extent,
    /// Rows of the clients in the rounds before.
    pub(super) clients: Extent,
    /// Rows of the index of client states, those of this round included.
    pub(super) states: Extent,
}

impl Checkpoint {
    /// Where the checkpoint of a round lies.
    pub fn path(folder: &Path, round: RoundId) -> PathBuf {
        folder.join(format!("round-{:05}.checkpoint", round.0))
    }

    /// Writes the checkpoint into `folder`, whole or not at all, and what belongs to it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written.
    pub(super) fn write(&self, folder: &Path, belongings: Option<Belongings>) -> Result<PathBuf, StoreError> {
        let path = Self::path(folder, self.round);
        let (trainable, frozen) = (self.global.trainable(), self.global.frozen());
        let terms = std::iter::once(trainable).chain(frozen.iter().map(AsRef::as_ref));
        let mut body: Vec<u8> =
            terms.flat_map(|term| term.values().iter().flat_map(|value| value.to_le_bytes())).collect();
        body.extend_from_slice(&self.strategy_state);
        body.extend_from_slice(&self.in_flight);
        let header = Header {
            round: self.round,
            layout: (**trainable.layout()).clone(),
            frozen: frozen.iter().map(|term| (**term.layout()).clone()).collect(),
            strategy_state_bytes: self.strategy_state.len(),
            in_flight_bytes: self.in_flight.len(),
            sha256: checksum(&body, belongings.as_ref()),
            belongings,
        };
        let mut bytes = serde_json::to_vec(&header)
            .map_err(|error| StoreError::Invalid { path: path.clone(), problem: error.to_string() })?;
        bytes.push(b'\n');
        bytes.append(&mut body);
        files::write_atomically(&path, &bytes)?;
        Ok(path)
    }

    /// Reads the checkpoint of `round` from `folder`.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it is missing, cut off or changed.
    pub fn read(folder: &Path, round: RoundId) -> Result<Self, StoreError> {
        Ok(Self::read_whole(folder, round)?.0)
    }

    /// As [`Checkpoint::read`], with what belongs to it; nothing is known of that in those of earlier versions.
    pub(super) fn read_whole(folder: &Path, round: RoundId) -> Result<(Self, Option<Belongings>), StoreError> {
        let path = Self::path(folder, round);
        let bytes = files::read_regular(&path).map_err(|source| StoreError::Io { path: path.clone(), source })?;
        let invalid = |problem: String| StoreError::Invalid { path: path.clone(), problem };
        let end = bytes.iter().position(|&byte| byte == b'\n').ok_or_else(|| invalid("found no header line".into()))?;
        let header: Header = serde_json::from_slice(&bytes[..end]).map_err(|error| invalid(error.to_string()))?;
        let body = &bytes[end + 1..];
        let found = checksum(body, header.belongings.as_ref());
        if found != header.sha256 || header.round != round {
            let problem = format!("checksum of its content is {found}, its header says {}", header.sha256);
            return Err(invalid(problem));
        }
        let values_bytes = |layout: &AdapterLayout| layout.len() * size_of::<f32>();
        let terms = std::iter::once(&header.layout).chain(&header.frozen).map(values_bytes);
        let mut parts = terms.chain([header.strategy_state_bytes, header.in_flight_bytes]);
        if parts.try_fold(0, usize::checked_add) != Some(body.len()) {
            return Err(invalid(format!("holds {} bytes, its header says otherwise", body.len())));
        }
        let mut rest = body;
        let mut term = |layout: AdapterLayout| {
            let (values, behind) = rest.split_at(values_bytes(&layout));
            rest = behind;
            let values = values.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            Adapter::new(Arc::new(layout), values).map_err(|error| invalid(error.to_string()))
        };
        let trainable = term(header.layout)?;
        let frozen = header.frozen.into_iter().map(|layout| term(layout).map(Arc::new)).collect::<Result<_, _>>()?;
        let global = GlobalModel::new(frozen, trainable);
        let (strategy_state, in_flight) = rest.split_at(header.strategy_state_bytes);
        let checkpoint = Self { round, global, strategy_state: strategy_state.to_vec(), in_flight: in_flight.to_vec() };
        Ok((checkpoint, header.belongings))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}

fn checksum(body: &[u8], belongings: Option<&Belongings>) -> String {
    let mut hash = Sha256::new();
    if let Some(Belongings { rounds, clients, states }) = belongings {
        for Extent { rows, bytes, sha256 } in [rounds, clients, states] {
            hash.update(format!("{rows} {bytes} {sha256}\n"));
        }
    }
    hash.update(body);
    hex(&hash.finalize())
}
