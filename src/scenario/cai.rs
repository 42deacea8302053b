//! `[cai]`: Constitutional AI on the server.

use std::path::{Path, PathBuf};

use fedward_actors::Schedule;
use serde::{Deserialize, Serialize};

use super::{counted, endpoint::RawEndpoint, is_default, rules::Rules, schedule::ScheduleName, training::RawTraining};
use crate::{
    data::catalogue,
    endpoint::EndpointSettings,
    safety::cai::{Effort, Examples, Method, Revise},
    train::{DpoSettings, LrSchedule, SftSettings},
};

/// Constitutional AI.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaiSection {
    /// In which rounds.
    pub schedule: Schedule,
    /// By revisions, or the control by fixed refusals.
    #[serde(skip_serializing_if = "is_default")]
    pub method: Method,
    /// Whether trainings take their number of steps or an epoch.
    pub effort: Effort,
    /// Red prompts a realignment.
    pub red_prompts: usize,
    /// Prompts to draw them from; `None` means AdvBench's part that is set aside for the server.
    pub prompts: Option<PathBuf>,
    /// Principles and examples; `None` means fedward's own.
    pub constitution: Option<PathBuf>,
    /// Prepared preference pairs and answers, used instead of making any.
    pub data: Option<PathBuf>,
    /// Who answers, criticises and revises; `None` means the model itself.
    pub teacher: Option<EndpointSettings>,
    /// Longest answer, critique and revision, in tokens.
    pub max_new_tokens: usize,
    /// Sampling temperature of all three turns; 0 is greedy.
    pub temperature: f64,
    /// Which answers are criticised and revised.
    pub revise: Revise,
    /// When the constitution's examples are shown.
    #[serde(skip_serializing_if = "is_default")]
    pub examples: Examples,
    /// Share of the revisions that supervised fine-tuning sees; the rest makes preference pairs.
    pub sft_share: f64,
    /// Share of benign rows mixed into the fine-tuning, so that helpfulness is kept, from 0 to below 1.
    pub benign_share: f64,
    /// Fine-tuning on the revisions.
    pub training: SftSettings,
    /// Training on preferences for revisions over answers.
    pub dpo: DpoSettings,
}

/// The probability of harm below which an answer needs no revision.
const DEFAULT_SURELY_SAFE: f64 = 0.1;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCai {
    pub schedule: ScheduleName,
    pub every: u32,
    pub method: Method,
    pub effort: Effort,
    pub red_prompts: usize,
    pub prompts: Option<PathBuf>,
    pub constitution: Option<PathBuf>,
    pub data: Option<PathBuf>,
    pub teacher: Option<RawEndpoint>,
    pub max_new_tokens: usize,
    pub temperature: f64,
    pub revise: Option<RawRevise>,
    pub examples: Option<Examples>,
    pub surely_safe: Option<f64>,
    pub sft_share: f64,
    pub benign_share: f64,
    pub steps: usize,
    pub batch_size: usize,
    pub learning_rate: f64,
    pub lr_schedule: LrSchedule,
    pub dpo: RawDpo,
}

/// `cai.revise`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawRevise {
    All,
    Unsafe,
}

/// `cai.dpo`: training on preferences.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDpo {
    pub steps: usize,
    pub batch_size: usize,
    pub learning_rate: f64,
    pub lr_schedule: LrSchedule,
    pub beta: f64,
}

impl Default for RawCai {
    fn default() -> Self {
        Self {
            schedule: ScheduleName::Never,
            every: 1,
            method: Method::Constitutional,
            effort: Effort::Light,
            red_prompts: 32,
            prompts: None,
            constitution: None,
            data: None,
            teacher: None,
            max_new_tokens: 48,
            temperature: 0.0,
            revise: None,
            examples: None,
            surely_safe: None,
            sft_share: 0.5,
            benign_share: 0.25,
            steps: 10,
            batch_size: 8,
            learning_rate: 5e-4,
            lr_schedule: LrSchedule::Constant,
            dpo: RawDpo::default(),
        }
    }
}

impl Default for RawDpo {
    fn default() -> Self {
        Self { steps: 10, batch_size: 8, learning_rate: 1e-4, lr_schedule: LrSchedule::Constant, beta: 0.1 }
    }
}

impl RawCai {
    pub(super) fn check(&self, rounds: u32, has_guard: bool, rules: &mut Rules) {
        rules.check(has_guard || self.revise != Some(RawRevise::Unsafe), "cai.revise", || {
            "found \"unsafe\", but there is no guard to tell which answers are; allowed: \"all\", or guard.enabled = true"
                .into()
        });
        rules.at_least_one("cai.red_prompts", self.red_prompts);
        rules.at_least_one("cai.max_new_tokens", self.max_new_tokens);
        rules.at_least_one("cai.steps", self.steps);
        rules.at_least_one("cai.batch_size", self.batch_size);
        rules.share("cai.sft_share", self.sft_share);
        rules.below_one("cai.benign_share", self.benign_share);
        rules.positive("cai.learning_rate", self.learning_rate);
        rules.not_negative("cai.temperature", self.temperature);
        rules.at_least_one("cai.dpo.steps", self.dpo.steps);
        rules.at_least_one("cai.dpo.batch_size", self.dpo.batch_size);
        rules.positive("cai.dpo.learning_rate", self.dpo.learning_rate);
        rules.positive("cai.dpo.beta", self.dpo.beta);
        rules.below_one("cai.lr_schedule.warmup_ratio", self.lr_schedule.warmup_ratio());
        rules.below_one("cai.dpo.lr_schedule.warmup_ratio", self.dpo.lr_schedule.warmup_ratio());
        self.schedule.check("cai.every", self.every, rounds, rules);
        if let Some(teacher) = &self.teacher {
            teacher.check("cai.teacher", rules);
        }
        rules.check(self.method == Method::Constitutional || self.data.is_none(), "cai.method", || {
            "found \"refusals\", but cai.data names revisions to train on; allowed: \"constitutional\", or no cai.data".into()
        });
        if self.data.is_some() {
            for (key, is_set) in [
                ("cai.prompts", self.prompts.is_some()),
                ("cai.constitution", self.constitution.is_some()),
                ("cai.revise", self.revise.is_some()),
                ("cai.examples", self.examples.is_some()),
                ("cai.surely_safe", self.surely_safe.is_some()),
                ("cai.teacher", self.teacher.is_some()),
            ] {
                rules.check(!is_set, key, || "is set, but nothing is generated where cai.data is given".into());
            }
        } else if let Some(surely_safe) = self.surely_safe {
            rules.share("cai.surely_safe", surely_safe);
            rules.check(matches!(self.revise(has_guard), Revise::Unsafe { .. }), "cai.surely_safe", || {
                "is set, but only revise = \"unsafe\" reads it".into()
            });
        }
    }

    /// Whether red prompts are goals of AdvBench.
    pub(super) fn trains_on_goals(&self) -> bool {
        self.schedule != ScheduleName::Never && self.prompts.is_none() && self.data.is_none()
    }

    /// What is revised where nobody says: all that a guard, if there is one, is not sure of.
    fn revise(&self, has_guard: bool) -> Revise {
        match self.revise {
            Some(RawRevise::All) => Revise::All,
            None if !has_guard => Revise::All,
            None | Some(RawRevise::Unsafe) => {
                Revise::Unsafe { surely_safe: self.surely_safe.unwrap_or(DEFAULT_SURELY_SAFE) }
            }
        }
    }

    /// The section, if the run has Constitutional AI. Waits of the teacher's client are
    /// drawn with `seed`.
    pub(super) fn resolve(
        &self,
        training: &RawTraining,
        folder: &Path,
        (seed, has_guard): (u64, bool),
        rules: &mut Rules,
    ) -> Option<CaiSection> {
        let schedule = self.schedule.resolve(self.every);
        let mut file = |key: &str, path: &Option<PathBuf>| {
            let path = folder.join(path.as_ref()?);
            if !path.is_file() {
                rules.lacks(key, format!("found no file {}; allowed: a file that exists", path.display()));
            }
            Some(path)
        };
        let named =
            self.prompts.as_ref().filter(|path| catalogue::RED_PROMPTS.iter().any(|name| Path::new(name) == *path));
        let prompts = named.cloned().or_else(|| file("cai.prompts", &self.prompts));
        let constitution = file("cai.constitution", &self.constitution);
        let data = file("cai.data", &self.data);
        (schedule != Schedule::Never).then(|| CaiSection {
            schedule,
            method: self.method,
            effort: self.effort,
            red_prompts: self.red_prompts,
            prompts,
            constitution,
            data,
            teacher: self.teacher.as_ref().map(|teacher| teacher.resolve(seed)),
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            revise: self.revise(has_guard),
            examples: self.examples.unwrap_or_default(),
            sft_share: self.sft_share,
            benign_share: self.benign_share,
            training: SftSettings {
                schedule: self.lr_schedule,
                ..training.server_sft(self.steps, self.batch_size, self.learning_rate)
            },
            dpo: DpoSettings {
                schedule: self.dpo.lr_schedule,
                ..training.server_dpo(self.dpo.steps, self.dpo.batch_size, self.dpo.learning_rate, self.dpo.beta)
            },
        })
    }
}

impl CaiSection {
    /// What a run with this section takes for granted.
    pub(super) fn assumptions(&self) -> Vec<String> {
        let steps = |steps: usize| match self.effort {
            Effort::Light => counted(steps, "step"),
            Effort::Full => "an epoch".to_owned(),
        };
        let (sft, benign) = (100.0 * self.sft_share, 100.0 * self.benign_share);
        if self.method == Method::Refusals {
            return vec![format!(
                "a control in place of Constitutional AI: fine-tuning on fixed refusals of the same red prompts, as many steps as its \
                 trainings plan, {benign:.0}% benign rows mixed in; neither constitution, teacher nor guard has a part in it"
            )];
        }
        let tuning = (self.sft_share > 0.0).then(|| {
            let steps = steps(self.training.steps);
            format!("{steps} of fine-tuning on {sft:.0}% of the revisions, {benign:.0}% benign rows mixed in")
        });
        let preferences = (self.sft_share < 1.0).then(|| {
            let (steps, beta) = (steps(self.dpo.steps), self.dpo.beta);
            format!("{steps} of DPO on {:.0}% of the pairs, beta {beta}", 100.0 - sft)
        });
        let teacher =
            self.teacher.as_ref().map(|teacher| format!("answers, critiques and revisions by {}", teacher.model));
        let revised = match self.revise {
            _ if self.data.is_some() => None,
            Revise::All => Some("every answer is revised".to_owned()),
            Revise::Unsafe { surely_safe } => Some(format!(
                "answers that the guard is sure to be safe (P(unsafe) below {surely_safe}) are kept, the others revised"
            )),
        };
        let examples = self.data.is_none().then_some(match self.examples {
            Examples::LaterTurns => {
                "the constitution's examples, if any, are shown before critiques and revisions are asked for"
            }
            Examples::AllTurns => "the constitution's examples, if any, are shown in front of all three turns",
            Examples::Never => "the constitution's examples are not shown",
        });
        let examples = examples.map(str::to_owned);
        let parts: Vec<_> =
            teacher.into_iter().chain(examples).chain(revised).chain(tuning).chain(preferences).collect();
        vec![format!("Constitutional AI: {}", parts.join("; "))]
    }
}
