use std::sync::Arc;

use indexmap::IndexMap;

use crate::config::{Config, ConfigErrors, DialectChoice};
use crate::event::SinkName;
use crate::route::Rules;

/// The compiled rules of every sink. Their mistakes are configuration errors, with the key's place in the file and a
/// pointer into the text.
pub fn compile(config: &Config) -> Result<IndexMap<SinkName, Arc<Rules>>, ConfigErrors> {
    let dialects: Vec<_> = config
        .accounts
        .values()
        .map(|account| match account.dialect {
            DialectChoice::Fixed(dialect) => Some(dialect),
            DialectChoice::Auto => None,
        })
        .collect::<Option<_>>()
        // What an account speaks is found out later: the rules must hold for both.
        .unwrap_or_default();
    let mut problems = Vec::new();
    let mut compiled = IndexMap::new();
    for (name, sink) in &config.sinks {
        match Rules::compile(name, sink, &dialects) {
            Ok(rules) => {
                compiled.insert(name.clone(), Arc::new(rules));
            }
            Err(errors) => problems.extend(errors.into_iter().map(|error| {
                let key = format!("sinks.{name}.{}", error.key);
                config.problem(&key, error.pointing())
            })),
        }
    }
    ConfigErrors::check(problems)?;
    Ok(compiled)
}
