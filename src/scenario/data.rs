//! `[data]`: what clients hold.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{is_default, rules::Rules};
use crate::data::{GoalSplit, OverlapPolicy, PartitionScheme, RowFormat, SCORED_RESPONSES as SCORED};

/// What clients hold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DataSection {
    /// Rows of each client; where rows belong to clients, at most so many, and all of them if `None`.
    pub rows_per_client: Option<usize>,
    /// Share of harmful rows where clients hold any.
    pub harmful_share: f64,
    /// Which clients hold harmful rows.
    pub harmful_clients: HarmfulClients,
    /// Where benign rows come from.
    pub benign: RowSource,
    /// Where harmful rows come from.
    pub harmful: RowSource,
    /// How rows are spread over clients.
    pub partition: PartitionScheme,
    /// The column of the benign rows that they are parted by; `None` means their topics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition_column: Option<String>,
    /// What becomes of rows of files that repeat what is measured with.
    #[serde(skip_serializing_if = "is_default")]
    pub overlap: OverlapPolicy,
}

/// Rows that a client is dealt where nothing is said.
const ROWS_PER_CLIENT: usize = 100;

/// Where rows come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RowSource {
    /// The seeded generator of everyday instructions.
    Everyday,
    /// AdvBench's goals with an affirmative opening as the answer, from the part set aside for clients.
    AdvBench,
    /// Responses that people have scored as harmful, of the part that neither guard nor judge is fitted on.
    ScoredResponses,
    /// A file of the user's.
    File {
        /// The file.
        path: PathBuf,
        /// Its form.
        format: RowFormat,
    },
    /// A folder of the user's with one file per client.
    ClientFiles {
        /// The folder.
        path: PathBuf,
        /// The form of its files.
        format: RowFormat,
    },
}

/// How rows are spread over clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartitionName {
    /// Every client draws from all rows alike.
    #[default]
    Iid,
    /// Each client's shares of the values of a column are drawn from a Dirichlet distribution.
    #[serde(alias = "topic")]
    Dirichlet,
    /// The values of a column are dealt to clients.
    Value,
}

/// Which clients hold harmful rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HarmfulClients {
    /// Every client.
    All,
    /// Only the given number of clients.
    Count(u32),
}

impl Serialize for HarmfulClients {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::Count(count) => serializer.serialize_u32(*count),
        }
    }
}

impl<'de> Deserialize<'de> for HarmfulClients {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = toml::Value::deserialize(deserializer)?;
        match &value {
            toml::Value::String(text) if text == "all" => Some(Self::All),
            toml::Value::Integer(count) => u32::try_from(*count).ok().map(Self::Count),
            _ => None,
        }
        .ok_or_else(|| serde::de::Error::custom(format!("found {value}; allowed: \"all\" or a number of clients")))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawData {
    pub rows_per_client: Option<usize>,
    pub harmful_share: f64,
    pub harmful_clients: HarmfulClients,
    pub benign: RawSource,
    pub harmful: RawSource,
    pub partition: PartitionName,
    pub partition_column: Option<String>,
    #[serde(alias = "topic_alpha")]
    pub partition_alpha: f64,
    pub overlap: OverlapPolicy,
}

impl Default for RawData {
    fn default() -> Self {
        Self {
            rows_per_client: None,
            harmful_share: 0.0,
            harmful_clients: HarmfulClients::All,
            benign: RawSource { source: "everyday".into(), format: None },
            harmful: RawSource { source: "advbench".into(), format: None },
            partition: PartitionName::Iid,
            partition_column: None,
            partition_alpha: 0.5,
            overlap: OverlapPolicy::LeaveOut,
        }
    }
}

/// `source = "everyday"`, `"advbench"`, `"scored-responses"` or a path.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSource {
    pub source: String,
    #[serde(default)]
    pub format: Option<String>,
}

impl RawData {
    pub(super) fn check(&self, clients: u32, split: GoalSplit, rules: &mut Rules) {
        rules.check(self.harmful.source != SCORED || split == GoalSplit::Cluster, "data.harmful.source", || {
            format!(
                "found {SCORED:?} with evaluation.split = \"fixed\", where the guard is fitted on all of them; allowed with it: \
                 \"advbench\" or a file, or evaluation.split = \"cluster\""
            )
        });
        rules.at_least_one("data.rows_per_client", self.rows_per_client.unwrap_or(1));
        rules.share("data.harmful_share", self.harmful_share);
        rules.positive("data.partition_alpha", self.partition_alpha);
        self.check_column(rules);
        if let HarmfulClients::Count(count) = self.harmful_clients {
            rules.check(count <= clients, "data.harmful_clients", || {
                format!("found {count}; allowed: 0 to {clients} (federation.clients), or \"all\"")
            });
        }
    }

    fn check_column(&self, rules: &mut Rules) {
        let Some(column) = &self.partition_column else { return };
        rules.check(self.partition != PartitionName::Iid, "data.partition_column", || {
            "is set, but data.partition is not; allowed with it: \"dirichlet\" or \"value\"".into()
        });
        rules.check(self.benign.source != "everyday" || column == "topic", "data.partition_column", || {
            format!("found {column:?}; allowed with data.benign.source = \"everyday\": \"topic\"")
        });
    }

    /// The section, unless a source is no source.
    pub(super) fn resolve(&self, folder: &Path, rules: &mut Rules) -> Option<DataSection> {
        for harmful in ["advbench", SCORED] {
            rules.check(self.benign.source != harmful, "data.benign.source", || {
                format!("found {harmful:?}, which is harmful; allowed: \"everyday\" or a file")
            });
        }
        rules.check(self.harmful.source != "everyday", "data.harmful.source", || {
            format!("found \"everyday\", which is benign; allowed: \"advbench\", {SCORED:?} or a file")
        });
        let benign = resolve_source(&self.benign, "data.benign", folder, rules);
        let harmful = resolve_source(&self.harmful, "data.harmful", folder, rules);
        if let Some(RowSource::ClientFiles { path, .. }) = &harmful {
            rules.complain(
                "data.harmful.source",
                format!(
                    "found the folder {}; expected \"advbench\" or a file; rows of clients' own files are harmful \
                         where their label is \"unsafe\"",
                    path.display()
                ),
            );
        }
        let partition = match (&benign, self.partition) {
            (Some(RowSource::ClientFiles { .. }), partition) => {
                rules.check(partition == PartitionName::Iid, "data.partition", || {
                    "is set, but data.benign.source is a folder whose files are the clients'; remove it".into()
                });
                PartitionScheme::ClientFiles
            }
            (_, PartitionName::Iid) => PartitionScheme::Iid,
            (_, PartitionName::Dirichlet) => PartitionScheme::Dirichlet { alpha: self.partition_alpha },
            (_, PartitionName::Value) => PartitionScheme::Value,
        };
        let is_dealt = matches!(partition, PartitionScheme::Iid | PartitionScheme::Dirichlet { .. });
        Some(DataSection {
            rows_per_client: self.rows_per_client.or(is_dealt.then_some(ROWS_PER_CLIENT)),
            harmful_share: self.harmful_share,
            harmful_clients: self.harmful_clients,
            benign: benign?,
            harmful: harmful?,
            partition,
            partition_column: self.partition_column.clone(),
            overlap: self.overlap,
        })
    }
}

fn resolve_source(raw: &RawSource, key: &str, folder: &Path, rules: &mut Rules) -> Option<RowSource> {
    let format_without_file = |rules: &mut Rules| {
        if raw.format.is_some() {
            rules.complain(&format!("{key}.format"), format!("is set, but source {:?} is not a file", raw.source));
        }
    };
    match raw.source.as_str() {
        "everyday" => {
            format_without_file(rules);
            Some(RowSource::Everyday)
        }
        "advbench" => {
            format_without_file(rules);
            Some(RowSource::AdvBench)
        }
        SCORED => {
            format_without_file(rules);
            Some(RowSource::ScoredResponses)
        }
        file => {
            let path = folder.join(file);
            let is_folder = path.is_dir();
            if !is_folder && !path.is_file() {
                let message = format!(
                    "found {file:?}, but there is no file {}; allowed: \"everyday\", \"advbench\", {SCORED:?}, a file, or a folder with a file \
                     for each client (benign rows)",
                    path.display()
                );
                rules.lacks(&format!("{key}.source"), message);
            }
            let format = match &raw.format {
                None => Ok(RowFormat::Auto),
                Some(name) => name.parse::<RowFormat>(),
            };
            match format {
                Ok(format) if is_folder => Some(RowSource::ClientFiles { path, format }),
                Ok(format) => Some(RowSource::File { path, format }),
                Err(message) => {
                    rules.complain(&format!("{key}.format"), message);
                    None
                }
            }
        }
    }
}
