//! What the runs of one command share: loaded models, starting adapters, guards, finished trainings.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use fedward_actors::{cancel::CancelFlag, protocol::hex};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    DataPlan, FittedGuard, HarmfulShares, InputChecksums, Prepared, SetupError, benchmark_suite, cai, guard, start,
};
use crate::{
    data::catalogue,
    eval::Benchmark,
    model::{ChatModel, NumberFormat, Precision, Replicas, device},
    progress::Progress,
    scenario::{DeviceName, GuardSection, ModelSection, PrecisionName, RowSource, Scenario},
    train::SharedTrainings,
};

/// Memory for local trainings that the variants of a scenario remember for one another: 70 adapters of rank 16 on q and
/// v of the default model.
const REMEMBERED_BYTES: u64 = 256 << 20;

/// Makes what runs need, each thing once.
pub struct Workshop {
    /// By what they are of, and the place of their device among those that clients train on.
    models: HashMap<(String, usize), Arc<ChatModel>>,
    guards: HashMap<String, Arc<FittedGuard>>,
    /// What people have been told: versions of guards, assumptions.
    told: HashSet<String>,
    trainings: Arc<SharedTrainings>,
    /// Measured beside those that scenarios ask for.
    benchmarks: Vec<Arc<dyn Benchmark>>,
    cache: PathBuf,
}

impl Default for Workshop {
    fn default() -> Self {
        Self::new()
    }
}

impl Workshop {
    /// An empty workshop that keeps adapters and guards in the cache of fedward's home.
    pub fn new() -> Self {
        Self {
            models: HashMap::new(),
            guards: HashMap::new(),
            told: HashSet::new(),
            trainings: SharedTrainings::new(REMEMBERED_BYTES),
            benchmarks: Vec::new(),
            cache: catalogue::home().join("cache"),
        }
    }

    /// A workshop whose runs are measured with these benchmarks, too.
    #[must_use]
    pub fn with_benchmarks(self, benchmarks: Vec<Arc<dyn Benchmark>>) -> Self {
        Self { benchmarks, ..self }
    }

    /// Makes everything that a run of `scenario` needs. `judge` is the guard that looks at responses in benchmarks: the
    /// same one for all runs that are compared, also for those that filter nothing. `progress` hears of preparation, and
    /// later of evaluations and realignments.
    ///
    /// # Errors
    ///
    /// [`SetupError`] says what is missing or wrong.
    pub fn prepare(
        &mut self,
        scenario: &Scenario,
        judge: Option<&GuardSection>,
        progress: &Arc<dyn Progress>,
        cancel: &CancelFlag,
    ) -> Result<Prepared, SetupError> {
        let told = progress.as_ref();
        let replicas = Arc::new(self.replicas(&scenario.model, told)?);
        let model = Arc::clone(replicas.first());
        let data = Arc::new(DataPlan::of(scenario, &model.tokenizer)?);
        cai::check(scenario, &data, cancel)?;
        let inputs = InputChecksums::of(scenario, &data)?;
        let start = start::adapter(scenario, &model, &data, &self.cache, told, cancel)?;
        let mut fitted = |section: Option<&GuardSection>| {
            let from = (scenario.data_seed(), &scenario.model);
            section.map(|section| self.guard(section, from, &model, &data, told, cancel)).transpose()
        };
        let guard = fitted(scenario.guard.as_ref())?;
        let judge = fitted(judge)?;
        // Where clients hold such openings, as guards are fitted on, it would be 1.
        let is_another_source = scenario.data.harmful == RowSource::ScoredResponses;
        let measured = guard.as_ref().zip(scenario.guard.as_ref()).filter(|_| is_another_source);
        let guard_on_clients = measured
            .map(|(guard, section)| guard::on_clients_rows(guard, section, &data, model.threads, cancel))
            .transpose()?;
        let judging = judge.as_ref().map(|judge| Arc::clone(&judge.model) as _);
        let mut benchmarks = benchmark_suite(scenario, &model, &data, judging, progress, cancel)?;
        benchmarks.extensions.clone_from(&self.benchmarks);
        let benchmarks = Arc::new(benchmarks);
        let read = (scenario.training.max_length, scenario.training.sft.end);
        let harmful = HarmfulShares::of(&data, &model, read, scenario.federation.selectable())?;
        Ok(Prepared {
            model,
            replicas,
            start,
            benchmarks,
            guard,
            guard_on_clients,
            judge,
            data,
            inputs,
            harmful,
            progress: Arc::clone(progress),
        })
    }

    /// The model of a scenario, loaded once, on the first of its devices.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if it cannot be found or loaded.
    pub fn model(&mut self, section: &ModelSection, progress: &dyn Progress) -> Result<Arc<ChatModel>, SetupError> {
        self.model_on(section, 0, progress)
    }

    /// The model of a scenario on all of its devices.
    fn replicas(&mut self, section: &ModelSection, progress: &dyn Progress) -> Result<Replicas, SetupError> {
        let first = self.model_on(section, 0, progress)?;
        let others = (1..section.devices.get()).map(|place| self.model_on(section, place, progress));
        Ok(Replicas::new(first, others.collect::<Result<Vec<_>, _>>()?))
    }

    fn model_on(
        &mut self,
        section: &ModelSection,
        place: usize,
        progress: &dyn Progress,
    ) -> Result<Arc<ChatModel>, SetupError> {
        let wherever = ModelSection { devices: NonZeroUsize::MIN, ..section.clone() };
        let key = (serde_json::to_string(&wherever).unwrap_or_default(), place);
        if let Some(model) = self.models.get(&key) {
            return Ok(Arc::clone(model));
        }
        let device = device_of(section, place, tch::Cuda::device_count().max(0) as usize)?;
        let and_where = if section.devices.get() > 1 { format!(" on {device:?}") } else { String::new() };
        progress.stage(&format!("loading {}{and_where}", section.base));
        let path = catalogue::model(&section.base)?;
        let precision = precision_of(section.precision, device);
        let format = NumberFormat { precision, quantization: section.quantize };
        let threads = device::compute_threads(device);
        let model = Arc::new(ChatModel::open(&section.base, &path, device, format, threads)?);
        self.models.insert(key, Arc::clone(&model));
        Ok(model)
    }

    /// A guard, fitted once for all runs that ask for the same.
    fn guard(
        &mut self,
        section: &GuardSection,
        (seed, base): (u64, &ModelSection),
        model: &Arc<ChatModel>,
        data: &DataPlan,
        progress: &dyn Progress,
        cancel: &CancelFlag,
    ) -> Result<Arc<FittedGuard>, SetupError> {
        let rows = guard::fitting_rows(section, seed, data)?;
        let key = rows_key(rows.iter().map(|row| &row.row));
        let key = cache_key(&(model.identity(), section.classifier(), seed, key))?;
        if let Some(guard) = self.guards.get(&key) {
            return Ok(Arc::clone(guard));
        }
        let fitted = guard::of_section(section, (seed, base), model, rows, self, progress, cancel)?;
        let fitted = Arc::new(fitted);
        self.guards.insert(key, Arc::clone(&fitted));
        Ok(fitted)
    }

    /// What people are to be told of a guard: once, however many runs share it.
    pub fn description_once(&mut self, guard: &FittedGuard) -> Option<String> {
        self.is_new(guard.model.version()).then(|| guard.description())
    }

    /// Whether people have not been told this yet; from now on they have.
    pub fn is_new(&mut self, text: &str) -> bool {
        self.told.insert(text.to_owned())
    }

    /// Where work is kept for later commands.
    pub(super) fn cache(&self) -> &Path {
        &self.cache
    }

    /// What local trainings have been done by runs of this command.
    pub fn shared_trainings(&self) -> Arc<SharedTrainings> {
        Arc::clone(&self.trainings)
    }
}

/// The device in `place` of those that a section means on a machine with `found` CUDA devices.
///
/// # Errors
///
/// [`SetupError::Other`] if the machine does not have the devices that are asked for.
fn device_of(section: &ModelSection, place: usize, found: usize) -> Result<tch::Device, SetupError> {
    let wanted = section.devices.get();
    match section.device {
        DeviceName::Cuda if found == 0 => Err(SetupError::Other(
            "model.device: found \"cuda\", but libtorch finds no CUDA device here; allowed: \"cpu\", \"auto\"".into(),
        )),
        DeviceName::Cuda | DeviceName::Auto if found > 0 && wanted > found => Err(SetupError::Other(format!(
            "model.devices: found {wanted}, but libtorch finds {found} CUDA devices here; allowed: 1 to {found}"
        ))),
        DeviceName::Cuda | DeviceName::Auto if found > 0 => Ok(tch::Device::Cuda(place)),
        _ if wanted > 1 => Err(SetupError::Other(format!(
            "model.devices: found {wanted}, but it is computed on the CPU, which is one device; allowed: 1 (clients share \
             its cores)"
        ))),
        _ => Ok(tch::Device::Cpu),
    }
}

/// The precision that a name means on a device.
fn precision_of(name: PrecisionName, device: tch::Device) -> Precision {
    match (name, device) {
        (PrecisionName::F32, _) | (PrecisionName::Auto, tch::Device::Cpu) => Precision::F32,
        (PrecisionName::Bf16 | PrecisionName::Auto, _) => Precision::Bf16,
    }
}

/// The code that computes, by its checksum: other code may compute something else from the same settings.
const CODE: &str = env!("FEDWARD_CODE");

/// A name for cached work: the checksum of everything that it depends on, the program's code and the processor's instructions
/// included.
pub(super) fn cache_key<T: Serialize>(depends_on: &T) -> Result<String, SetupError> {
    let text = serde_json::to_vec(&(CODE, device::instructions(), depends_on))
        .map_err(|error| SetupError::Other(error.to_string()))?;
    Ok(hex(&Sha256::digest(&text))[..16].to_owned())
}

/// A checksum of rows, in their order.
pub(super) fn rows_key<'a>(rows: impl IntoIterator<Item = &'a fedward_actors::protocol::ChatRow>) -> String {
    let mut hash = Sha256::new();
    for row in rows {
        hash.update(row.digest().0);
        hash.update([match row.label {
            None => 0,
            Some(fedward_actors::protocol::RowLabel::Safe) => 1,
            Some(fedward_actors::protocol::RowLabel::Unsafe) => 2,
        }]);
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_those_that_the_machine_has() {
        let section = |device, devices| ModelSection {
            base: "a".into(),
            device,
            devices: NonZeroUsize::new(devices).unwrap(),
            precision: PrecisionName::Auto,
            quantize: None,
        };
        let device = |name, devices, place, found| device_of(&section(name, devices), place, found);
        for name in [DeviceName::Auto, DeviceName::Cuda] {
            assert_eq!(device(name, 1, 0, 2).unwrap(), tch::Device::Cuda(0));
            assert_eq!(device(name, 2, 1, 2).unwrap(), tch::Device::Cuda(1));
            assert!(device(name, 3, 0, 2).unwrap_err().to_string().contains("found 3, but libtorch finds 2"));
        }
        assert_eq!(device(DeviceName::Auto, 1, 0, 0).unwrap(), tch::Device::Cpu);
        assert_eq!(device(DeviceName::Cpu, 1, 0, 2).unwrap(), tch::Device::Cpu);
        assert!(device(DeviceName::Cuda, 1, 0, 0).unwrap_err().to_string().contains("no CUDA device"));
        assert!(device(DeviceName::Auto, 2, 0, 0).unwrap_err().to_string().contains("allowed: 1"));
    }
}
