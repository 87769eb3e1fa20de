//! From files, environment and flags to a [`Config`]: built-in defaults ← TOML files ← environment ← flags.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::check::check;
use super::environment::{Override, environment, flags};
use super::interpolate::interpolate;
use super::problem::{ConfigErrors, Origin, Origins, Problem};
use super::raw::{RawConfig, RawSink};
use super::scalar::{Name, SecretText};
use super::show::show;
use super::tree::{Node, Table, Value, into_config, join};
use super::types::Config;
use super::walk::{Walk, sink_types};
use super::{DEFAULT_TOML, document};

/// A configuration that holds, and what is worth a warning in it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The typed configuration.
    pub config: Config,
    /// What is allowed but most likely not meant.
    pub warnings: Vec<Problem>,
    /// The effective configuration as TOML, secrets redacted, each line with where it came from.
    pub shown: String,
}

/// The environment of this process, without variables that are not Unicode.
#[must_use]
pub fn process_environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// The files to load: those given (`--config`); else those of `STANDPIPE_CONFIG` (several are parted as in `PATH`);
/// else the first of `./standpipe.toml` and `/etc/standpipe/standpipe.toml` that exists; else none, and the
/// environment must say everything.
#[must_use]
pub fn discover(given: &[PathBuf], environment: &[(String, String)]) -> Vec<PathBuf> {
    if !given.is_empty() {
        return given.to_vec();
    }
    let named = environment.iter().find(|(name, value)| name == "STANDPIPE_CONFIG" && !value.is_empty());
    if let Some((_, paths)) = named {
        return std::env::split_paths(paths).filter(|path| !path.as_os_str().is_empty()).collect();
    }
    let usual = DEFAULT_FILES.iter().map(PathBuf::from);
    usual.into_iter().find(|path| path.exists()).into_iter().collect()
}

/// Where a configuration is looked for when none is named.
const DEFAULT_FILES: [&str; 2] = ["standpipe.toml", "/etc/standpipe/standpipe.toml"];

/// Loads and checks everything, and names every error at once.
pub fn load(
    files: &[PathBuf],
    env: impl IntoIterator<Item = (String, String)>,
    overrides: &[Override],
) -> Result<Loaded, ConfigErrors> {
    load_and(files, env, overrides, |_| Vec::new())
}

/// The same with a further check, whose problems come with all the others. It sees also a configuration that has
/// problems already: what has one is left out of it or stands empty.
pub fn load_and(
    files: &[PathBuf],
    env: impl IntoIterator<Item = (String, String)>,
    overrides: &[Override],
    further: impl FnOnce(&Config) -> Vec<Problem>,
) -> Result<Loaded, ConfigErrors> {
    load_with(files, env, overrides, |_| (), further).map(|(loaded, ())| loaded)
}

/// Loads a configuration in which the refresh token of `account` may be missing, because it is to be made now. Gives the file
/// that it names for it, if it names one.
pub fn load_to_authorize(
    files: &[PathBuf],
    env: impl IntoIterator<Item = (String, String)>,
    overrides: &[Override],
    account: &str,
) -> Result<(Loaded, Option<PathBuf>), ConfigErrors> {
    let take = |raw: &mut RawConfig| {
        let oauth = raw.accounts.get_mut(&Name(account.to_owned()))?.oauth.as_mut()?;
        let file = oauth.refresh_token_file.take().map(|path| path.0);
        // Stands for what is to come.
        oauth.refresh_token.get_or_insert_with(|| SecretText("none yet".to_owned()));
        file
    };
    load_with(files, env, overrides, take, |_| Vec::new())
}

/// `prepare` sees the merged layers before they are checked.
fn load_with<T>(
    files: &[PathBuf],
    env: impl IntoIterator<Item = (String, String)>,
    overrides: &[Override],
    prepare: impl FnOnce(&mut RawConfig) -> T,
    further: impl FnOnce(&Config) -> Vec<Problem>,
) -> Result<(Loaded, T), ConfigErrors> {
    let env: Vec<(String, String)> = env.into_iter().collect();
    let mut problems = Vec::new();
    let mut texts = Vec::new();
    for path in files {
        match std::fs::read_to_string(path) {
            Ok(text) => texts.push((path.clone(), zeroize::Zeroizing::new(text))),
            Err(error) => problems.push(Problem {
                origin: None,
                key: String::new(),
                message: format!("cannot read the configuration file {}: {error}", path.display()),
            }),
        }
    }
    let texts: Vec<(&Path, &str)> = texts.iter().map(|(path, text)| (path.as_path(), text.as_str())).collect();
    let loaded = combine(&texts, &env, overrides, problems, (prepare, further));
    loaded.map_err(|mut errors| {
        if files.is_empty() {
            errors.0.push(Problem {
                origin: None,
                key: String::new(),
                message: format!(
                    "no configuration file was found: looked at --config, STANDPIPE_CONFIG, ./{} and {}",
                    DEFAULT_FILES[0], DEFAULT_FILES[1]
                ),
            });
        }
        errors
    })
}

/// Loads one text as if it were the file `name`, without an environment.
pub fn parse(name: &str, text: &str) -> Result<Loaded, ConfigErrors> {
    parse_with(name, text, &[])
}

/// As [`parse`], with an environment.
pub fn parse_with(name: &str, text: &str, env: &[(String, String)]) -> Result<Loaded, ConfigErrors> {
    let hooks = (|_: &mut RawConfig| (), |_: &Config| Vec::new());
    combine(&[(Path::new(name), text)], env, &[], Vec::new(), hooks).map(|(loaded, ())| loaded)
}

fn combine<T>(
    files: &[(&Path, &str)],
    env: &[(String, String)],
    overrides: &[Override],
    mut problems: Vec<Problem>,
    (prepare, further): (impl FnOnce(&mut RawConfig) -> T, impl FnOnce(&Config) -> Vec<Problem>),
) -> Result<(Loaded, T), ConfigErrors> {
    let mut bad = Vec::new();
    let variable = |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let mut layers = vec![defaults()];
    for (path, text) in files {
        match document::parse(path, text) {
            Ok(mut table) => {
                interpolate(&mut table, "", &variable, &mut problems, &mut bad);
                layers.push(table);
            }
            Err(problem) => {
                problems.push(problem);
                // Whatever it would have given is unknown: nothing is called missing.
                bad.push(String::new());
            }
        }
    }
    layers.push(environment(env, &mut problems));
    layers.push(flags(overrides, &mut problems));

    let types = sink_types(layers.iter());
    let mut walk = Walk { sink_types: &types, problems, bad };
    let mut layers: Vec<Table> = layers.into_iter().map(|layer| walk.layer(layer)).collect();
    let Walk { mut problems, mut bad, .. } = walk;
    if files.is_empty() && !problems.is_empty() && layers.iter().skip(1).all(IndexMap::is_empty) {
        bad.push(String::new());
    }
    for upper in 1..layers.len() {
        let (lower, rest) = layers.split_at_mut(upper);
        for layer in lower {
            supersede(layer, &rest[0], 0);
        }
    }

    let (mut places, mut hidden) = (IndexMap::new(), HashSet::new());
    for layer in &layers {
        note_places(layer, "", &mut places, &mut hidden);
    }
    let origins = Origins::new(places, hidden);
    drop_untyped_sinks(&mut layers, &bad);

    let mut raw = match merge(layers) {
        Ok(raw) => in_file_order(raw, &origins),
        Err(key) => {
            // The walk has checked every type, so this only happens with a bug of ours; the message of the
            // deserializer may quote a value, so it stays unsaid.
            problems.push(origins.problem(&key, "cannot be read as a configuration"));
            return Err(ConfigErrors(problems));
        }
    };
    let prepared = prepare(&mut raw);
    let shown = show(&raw, &origins);
    let (config, warnings) = check(raw, &origins, bad, &mut problems);
    problems.extend(further(&config));
    ConfigErrors::check(problems)?;
    Ok((Loaded { config, warnings, shown }, prepared))
}

fn defaults() -> Table {
    fn mark(table: &mut Table) {
        for node in table.values_mut() {
            node.origin = Origin::Default;
            node.key_origin = Origin::Default;
            if let Value::Table(table) = &mut node.value {
                mark(table);
            }
        }
    }
    let mut table = document::parse(Path::new("default.toml"), DEFAULT_TOML).unwrap_or_default();
    mark(&mut table);
    table
}

/// Keys of which one replaces the others of an earlier layer.
const TWINS: [&[&str]; 7] = [
    &["url", "url_file"],
    &["token", "token_file", "oauth"],
    &["client_secret", "client_secret_file"],
    &["refresh_token", "refresh_token_file"],
    &["key", "key_file"],
    &["secret", "secret_file", "secrets", "secret_files"],
    &["signing_key", "signing_key_file"],
];

/// A later layer's `url` also replaces an earlier one's `url_file`: only within one layer are both an error.
fn supersede(lower: &mut Table, upper: &Table, depth: usize) {
    for (key, node) in upper {
        // At the top and right below it stand sections and names of a person's choice, which are no twins.
        if depth > 0 {
            for group in TWINS.iter().filter(|group| group.contains(&key.as_str())) {
                for twin in group.iter().filter(|twin| *twin != key && !upper.contains_key(**twin)) {
                    if lower.get(*twin).is_some_and(|node| depth > 1 || !matches!(node.value, Value::Table(_))) {
                        lower.shift_remove(*twin);
                    }
                }
            }
        }
        if let (Some(Node { value: Value::Table(below), .. }), Value::Table(above)) = (lower.get_mut(key), &node.value)
        {
            supersede(below, above, depth + 1);
        }
    }
}

fn note_places(table: &Table, parent: &str, places: &mut IndexMap<String, Origin>, hidden: &mut HashSet<String>) {
    for (key, node) in table {
        let path = join(parent, key);
        match &node.value {
            Value::Table(table) => {
                if node.origin != Origin::Default {
                    places.entry(path.clone()).or_insert_with(|| node.origin.clone());
                }
                note_places(table, &path, places, hidden);
            }
            _ if node.origin == Origin::Default => {}
            value => {
                if let Value::Array(items) = value {
                    for (index, item) in items.iter().enumerate() {
                        places.insert(format!("{path}[{index}]"), item.origin.clone());
                        if item.opaque {
                            hidden.insert(format!("{path}[{index}]"));
                        }
                        if let Value::Table(table) = &item.value {
                            note_places(table, &format!("{path}[{index}]"), places, hidden);
                        }
                    }
                }
                if node.opaque {
                    hidden.insert(path.clone());
                }
                places.insert(path, node.origin.clone());
            }
        }
    }
}

/// What is left of a sink whose type is missing or wrong cannot be read; it has its error.
fn drop_untyped_sinks(layers: &mut [Table], bad: &[String]) {
    for layer in layers {
        if let Some(Node { value: Value::Table(sinks), .. }) = layer.get_mut("sinks") {
            sinks.retain(|name, _| !bad.contains(&format!("sinks.{name}")));
        }
    }
}

#[derive(Clone)]
struct Layer(Table);

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Layer(redacted)")
    }
}

impl config::Source for Layer {
    fn clone_into_box(&self) -> Box<dyn config::Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, config::Value>, config::ConfigError> {
        Ok(into_config(self.0.clone()))
    }
}

/// The crate `config` keeps no order of its own.
fn in_file_order(mut raw: RawConfig, origins: &Origins) -> RawConfig {
    fn sort<K: AsRef<str>, V>(map: &mut IndexMap<K, V>, table: &str, origins: &Origins) {
        map.sort_by_cached_key(|key, _| (origins.order(&join(table, key.as_ref())), key.as_ref().to_owned()));
    }
    sort(&mut raw.accounts, "accounts", origins);
    sort(&mut raw.server.keys, "server.keys", origins);
    sort(&mut raw.sinks, "sinks", origins);
    for (name, sink) in &mut raw.sinks {
        let table = join("sinks", name.as_ref());
        let common = match sink {
            RawSink::Kafka(sink) => {
                sort(&mut sink.own.properties, &join(&table, "properties"), origins);
                sort(&mut sink.own.properties_file, &join(&table, "properties_file"), origins);
                &mut sink.common
            }
            RawSink::Webhook(sink) => &mut sink.common,
        };
        sort(&mut common.headers, &join(&table, "headers"), origins);
    }
    raw
}

/// Lays the layers over each other; an error names no more than the key.
fn merge(layers: Vec<Table>) -> Result<RawConfig, String> {
    let builder = layers.into_iter().fold(config::Config::builder(), |builder, layer| builder.add_source(Layer(layer)));
    let merged = builder.build().map_err(|_| String::new())?;
    merged.try_deserialize().map_err(|error| match error {
        config::ConfigError::Type { key, .. } | config::ConfigError::At { key, .. } => key.unwrap_or_default(),
        _ => String::new(),
    })
}
