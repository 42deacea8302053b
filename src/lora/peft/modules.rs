//! Which modules of a model an adapter's configuration names, by the rules of `peft` (`check_target_module_exists` and
//! `get_pattern_key` of version 0.21).

use std::fmt;

use serde_json::{Map, Value};
use tokenizers::utils::SysRegex;

use crate::{lora::Target, model::ModelConfig, panics};

/// A linear layer of a model, and what its adapter is.
#[derive(Clone, Debug)]
pub(super) struct Module {
    pub(super) layer: usize,
    pub(super) target: Target,
    /// For example `model.layers.0.self_attn.q_proj`.
    pub(super) name: String,
    pub(super) rank: usize,
    pub(super) scaling: f64,
}

impl Module {
    /// All of a model, in the order of the forward pass.
    pub(super) fn all(model: &ModelConfig) -> impl Iterator<Item = Self> {
        let in_layer = |layer| {
            Target::ALL.into_iter().map(move |target| {
                let name = format!("model.layers.{layer}.{}.{target}", target.block());
                Self { layer, target, name, rank: 0, scaling: 0.0 }
            })
        };
        (0..model.num_hidden_layers).flat_map(in_layer)
    }
}

/// A regular expression of Python, for the names of modules.
pub(super) struct Pattern {
    regex: SysRegex,
    /// For errors: the key and the expression.
    source: String,
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl Pattern {
    /// One that matches whole names.
    fn whole(key: &str, pattern: &str) -> Result<Self, String> {
        Self::new(key, pattern, &format!(r"\A(?:{pattern})\z"))
    }

    /// One that matches whole names or what follows a dot in them.
    pub(super) fn end(key: &str, pattern: &str) -> Result<Self, String> {
        Self::new(key, pattern, &format!(r"\A(?:.*\.)?(?:{pattern})\z"))
    }

    fn new(key: &str, pattern: &str, anchored: &str) -> Result<Self, String> {
        // A name with a number of at most four kilobytes: what people write has a few hundred.
        if pattern.len() > 4096 {
            return Err(format!("{key}: found a pattern of {} bytes, expected at most 4096", pattern.len()));
        }
        // Groups have names in another form here.
        let anchored = anchored.replace("(?P<", "(?<");
        let regex = panics::catch_all(|| SysRegex::new(&anchored).map_err(|error| error.to_string()));
        let regex = regex.and_then(|regex| regex);
        let regex =
            regex.map_err(|problem| format!("{key}: found the pattern {pattern:?}, which is not read: {problem}"))?;
        Ok(Self { regex, source: format!("{key}: {pattern:?}") })
    }

    /// Whether it matches the name of a module.
    pub(super) fn matches(&self, module: &str) -> Result<bool, String> {
        panics::catch_all(|| self.regex.find_iter(module).next().is_some())
            .map_err(|problem| format!("{} cannot be matched with {module}: {problem}", self.source))
    }
}

/// Names of modules, or a pattern for them.
#[derive(Debug)]
enum Names {
    /// Whole, or what follows a dot in them.
    List(Vec<String>),
    Pattern(Pattern),
}

impl Names {
    fn parse(key: &str, value: &Value) -> Result<Self, String> {
        match value {
            Value::String(pattern) => Pattern::whole(key, pattern).map(Self::Pattern),
            Value::Array(names) => names
                .iter()
                .map(|name| {
                    name.as_str().map(str::to_owned).ok_or_else(|| format!("{key}: found {name}, expected a name"))
                })
                .collect::<Result<_, _>>()
                .map(Self::List),
            other => Err(format!("{key}: found {other}, expected a list of names")),
        }
    }

    fn include(&self, module: &str) -> Result<bool, String> {
        match self {
            Self::List(names) => Ok(names.iter().any(|name| {
                module.strip_suffix(name.as_str()).is_some_and(|before| before.is_empty() || before.ends_with('.'))
            })),
            Self::Pattern(pattern) => pattern.matches(module),
        }
    }
}

/// `target_modules`, `exclude_modules`, `layers_to_transform` and `layers_pattern`.
#[derive(Debug)]
pub(super) struct Selection {
    /// `None` for all of them.
    targets: Option<Names>,
    excluded: Option<Names>,
    /// How the name of a module in one of the layers begins, if not all layers are adapted.
    layers: Option<Vec<Pattern>>,
    /// `target_modules`, for errors.
    found: String,
}

impl Selection {
    pub(super) fn parse(json: &Map<String, Value>) -> Result<Self, String> {
        const TARGETS: &str = "target_modules";
        let found = json.get(TARGETS).filter(|value| !value.is_null()).ok_or("target_modules is missing")?;
        let targets = match found {
            Value::String(all) if all.to_lowercase() == "all-linear" => None,
            names => Some(Names::parse(TARGETS, names)?),
        };
        let excluded = json.get("exclude_modules").filter(|value| !is_empty(value));
        let layers = layers(json)?;
        if found.is_string() && layers.is_some() {
            return Err(format!(
                "layers_to_transform: found {} beside a pattern in target_modules, expected null",
                json["layers_to_transform"]
            ));
        }
        Ok(Self {
            targets,
            excluded: excluded.map(|names| Names::parse("exclude_modules", names)).transpose()?,
            layers,
            found: found.to_string(),
        })
    }

    /// Whether a module is adapted.
    pub(super) fn includes(&self, module: &str) -> Result<bool, String> {
        if let Some(excluded) = &self.excluded
            && excluded.include(module)?
        {
            return Ok(false);
        }
        if let Some(targets) = &self.targets
            && !targets.include(module)?
        {
            return Ok(false);
        }
        let Some(layers) = &self.layers else { return Ok(true) };
        for layer in layers {
            if layer.matches(module)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What to say where no module is adapted.
    pub(super) fn nothing_found(&self) -> String {
        let allowed: Vec<_> = Target::ALL.iter().map(|target| target.name()).collect();
        let others = if self.excluded.is_some() || self.layers.is_some() {
            " (with exclude_modules and layers_to_transform)"
        } else {
            ""
        };
        format!(
            "target_modules: found {}{others}, which is no linear layer of the model; allowed: {}",
            self.found,
            allowed.join(", ")
        )
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(values) => values.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// How the names of modules in `layers_to_transform` begin.
fn layers(json: &Map<String, Value>) -> Result<Option<Vec<Pattern>>, String> {
    const KEY: &str = "layers_to_transform";
    let holders = json.get("layers_pattern").filter(|value| !is_empty(value));
    let Some(layers) = json.get(KEY).filter(|value| !is_empty(value)) else {
        return match holders {
            None => Ok(None),
            Some(found) => Err(format!("layers_pattern: found {found} without {KEY}, expected null")),
        };
    };
    let numbers: Vec<_> = match layers {
        Value::Array(layers) => layers.iter().collect(),
        layer => vec![layer],
    };
    let numbers: Vec<_> = numbers.into_iter().map(|number| number.as_i64().map(|number| number.to_string())).collect();
    let Some(numbers) = numbers.into_iter().collect::<Option<Vec<_>>>() else {
        return Err(format!("{KEY}: found {layers}, expected a layer's number or a list of them"));
    };
    let numbers = numbers.join("|");
    let holders = match holders {
        None => vec![r"[^.]*".to_owned()],
        Some(Value::String(holder)) => vec![holder.clone()],
        Some(Value::Array(holders)) => holders.iter().filter_map(|holder| holder.as_str().map(str::to_owned)).collect(),
        Some(found) => return Err(format!("layers_pattern: found {found}, expected a pattern or a list of them")),
    };
    let holder =
        |holder: &String| Pattern::whole("layers_pattern", &format!(r"(?:.*?\.)?(?:{holder})\.(?:{numbers})\..*"));
    holders.iter().map(holder).collect::<Result<Vec<_>, _>>().map(Some)
}
