//! How payloads become bytes and come back: one frame each.
//!
//! ```text
//! "fdw1" │ kind u8 │ body length u64 │ CRC-32 of the body u32 │ body
//! ```
//!
//! Numbers are little-endian. The body is `MessagePack` with named fields: self-describing, so that a field that is added does
//! not shift those behind it, and readable from other languages. Adapters are in it as one run of raw little-endian `f32`.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Assessment,
    server::{
        AggregateOrder, Aggregation, CommitOrder, EvaluateOrder, InstructOrder, RealignOrder, ScreenOrder,
        ScreenedUpdate,
    },
    training::{AssessOrder, ClientUpdate, TrainOrder, TrainReport},
};
use crate::{
    ports::{Evaluation, Realignment},
    protocol::Payload,
    records::RoundRecord,
    transport::InFlight,
};

/// What every frame begins with: the protocol and its version.
const MAGIC: [u8; 4] = *b"fdw1";

/// Bytes before the body.
pub const HEADER_BYTES: usize = 17;

/// Why bytes are not the frame that was expected.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The bytes begin with something else.
    #[error("not a frame of this protocol: expected it to begin with {MAGIC:?}, found {0:?}")]
    NotAFrame(Vec<u8>),
    /// It is a frame of another kind.
    #[error("expected {expected}, found {found}")]
    OtherKind {
        /// What was expected.
        expected: &'static str,
        /// What the frame says that it is.
        found: String,
    },
    /// There are more or fewer bytes than the header says.
    #[error("expected {expected} bytes, found {found}")]
    WrongLength {
        /// By the header.
        expected: u64,
        /// That are there.
        found: u64,
    },
    /// The header asks for more than whoever reads allows.
    #[error("a body of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// By the header.
        length: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The body was changed on its way.
    #[error("damaged: its checksum is {found:08x}, expected {expected:08x}")]
    Checksum {
        /// By the header.
        expected: u32,
        /// That the body has.
        found: u32,
    },
    /// The body is whole, but does not hold what its kind asks for; the text names the field.
    #[error("{kind}: {problem}")]
    Body {
        /// The kind of frame.
        kind: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Reading or writing failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// What can travel in a frame of its own.
pub trait Message: Serialize + DeserializeOwned {
    /// Number and name of the kind; numbers are never given anew.
    const KIND: (u8, &'static str);
}

/// Declares every kind of frame, once.
macro_rules! messages {
    ($($number:literal $type:ty = $name:literal,)+) => {
        $(impl Message for $type {
            const KIND: (u8, &'static str) = ($number, $name);
        })+

        /// Number and name of every kind.
        pub const KINDS: &[(u8, &str)] = &[$(($number, $name)),+];
    };
}

messages! {
    1 TrainOrder = "train order",
    2 TrainReport = "train report",
    3 AssessOrder = "assess order",
    4 Assessment = "assessment",
    5 InstructOrder = "instruct order",
    6 Result<Payload, String> = "instructions",
    7 ScreenOrder = "screen order",
    8 Vec<ScreenedUpdate> = "screened updates",
    9 AggregateOrder = "aggregate order",
    10 Aggregation = "aggregation",
    11 RealignOrder = "realign order",
    12 Realignment = "realignment",
    13 EvaluateOrder = "evaluate order",
    14 Evaluation = "evaluation",
    15 CommitOrder = "commit order",
    16 RoundRecord = "round record",
    17 ClientUpdate = "client update",
    18 InFlight = "reports in flight",
}

/// Returns a payload as one frame.
///
/// # Errors
///
/// [`WireError::Body`] if it cannot be serialised: a bug of its type.
pub fn encode<T: Message>(payload: &T) -> Result<Vec<u8>, WireError> {
    let mut frame = vec![0; HEADER_BYTES];
    let (number, kind) = T::KIND;
    let mut serializer = rmp_serde::Serializer::new(&mut frame).with_struct_map();
    payload.serialize(&mut serializer).map_err(|error| WireError::Body { kind, problem: error.to_string() })?;
    let (header, body) = frame.split_at_mut(HEADER_BYTES);
    header[..4].copy_from_slice(&MAGIC);
    header[4] = number;
    header[5..13].copy_from_slice(&(body.len() as u64).to_le_bytes());
    header[13..].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    Ok(frame)
}

/// Returns the payload of a frame.
///
/// # Errors
///
/// [`WireError`] names what is wrong with the bytes.
pub fn decode<T: Message>(frame: &[u8]) -> Result<T, WireError> {
    let Some((header, body)) = frame.split_first_chunk() else {
        return Err(WireError::WrongLength { expected: HEADER_BYTES as u64, found: frame.len() as u64 });
    };
    Header::read::<T>(header)?.open(body)
}

/// Writes a payload to a stream.
///
/// # Errors
///
/// [`WireError::Io`], and as [`encode`].
pub fn write<T: Message>(stream: &mut impl Write, payload: &T) -> Result<(), WireError> {
    stream.write_all(&encode(payload)?)?;
    Ok(stream.flush()?)
}

/// Reads a payload from a stream. No more than `limit` bytes are kept, whatever the header says.
///
/// # Errors
///
/// [`WireError`] names what is wrong; the stream is then of no further use.
pub fn read<T: Message>(stream: &mut impl Read, limit: u64) -> Result<T, WireError> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header)?;
    let header = Header::read::<T>(&header)?;
    if header.length > limit {
        return Err(WireError::TooLong { length: header.length, limit });
    }
    // Grows as bytes arrive: a header alone costs nothing.
    let mut body = Vec::new();
    stream.take(header.length).read_to_end(&mut body)?;
    header.open(&body)
}

/// What a frame says of its body.
struct Header {
    length: u64,
    checksum: u32,
}

impl Header {
    fn read<T: Message>(bytes: &[u8; HEADER_BYTES]) -> Result<Self, WireError> {
        let [m0, m1, m2, m3, kind, l0, l1, l2, l3, l4, l5, l6, l7, checksum @ ..] = *bytes;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(WireError::NotAFrame(vec![m0, m1, m2, m3]));
        }
        let (number, expected) = T::KIND;
        if kind != number {
            let known = KINDS.iter().find(|(number, _)| *number == kind);
            let found = known.map_or_else(|| format!("kind {kind}"), |(_, name)| (*name).to_owned());
            return Err(WireError::OtherKind { expected, found });
        }
        let length = u64::from_le_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        Ok(Self { length, checksum: u32::from_le_bytes(checksum) })
    }

    fn open<T: Message>(&self, body: &[u8]) -> Result<T, WireError> {
        if body.len() as u64 != self.length {
            return Err(WireError::WrongLength { expected: self.length, found: body.len() as u64 });
        }
        let found = crc32fast::hash(body);
        if found != self.checksum {
            return Err(WireError::Checksum { expected: self.checksum, found });
        }
        rmp_serde::from_slice(body).map_err(|error| WireError::Body { kind: T::KIND.1, problem: error.to_string() })
    }
}

/// Shared bytes as one run instead of a sequence of numbers.
pub(super) mod bytes {
    use std::sync::Arc;

    use serde::{Deserializer, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(bytes: &Arc<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
        serde_bytes::serialize(&**bytes, serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<[u8]>, D::Error> {
        serde_bytes::deserialize::<Vec<u8>, D>(deserializer).map(Arc::from)
    }
}

/// As [`bytes`], where there may be none.
pub(super) mod optional_bytes {
    use std::sync::Arc;

    use serde::{Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde passes references to fields")]
    pub(in super::super) fn serialize<S: Serializer>(
        bytes: &Option<Arc<[u8]>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serde_bytes::serialize(&bytes.as_deref().map(serde_bytes::Bytes::new), serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Arc<[u8]>>, D::Error> {
        Ok(serde_bytes::deserialize::<Option<Vec<u8>>, D>(deserializer)?.map(Arc::from))
    }
}

/// As [`bytes`], for each of several clients.
pub(super) mod bytes_of_clients {
    use std::sync::Arc;

    use serde::{Deserializer, Serializer};

    use super::{super::ClientId, Deserialize};

    type BytesOfClients = Vec<(ClientId, Arc<[u8]>)>;

    pub(in super::super) fn serialize<S: Serializer>(
        clients: &[(ClientId, Arc<[u8]>)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(clients.iter().map(|(client, bytes)| (client, serde_bytes::Bytes::new(bytes))))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BytesOfClients, D::Error> {
        let clients = Vec::<(ClientId, serde_bytes::ByteBuf)>::deserialize(deserializer)?;
        Ok(clients.into_iter().map(|(client, bytes)| (client, Arc::from(bytes.into_vec()))).collect())
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
