use std::sync::Arc;

use indexmap::IndexMap;

use crate::config::{Config, ConfigErrors, DialectChoice, OWNED_PROPERTIES, Problem, SinkKind, is_secret_header};
use crate::event::SinkName;
use crate::route::Rules;
use crate::sink::kafka::{KafkaSinkError, check_properties};
use crate::telemetry::causes;

/// The compiled rules of every sink. Their mistakes, and those in properties of Kafka clients, are configuration errors, with the key's place in the file and a
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
    let mut problems = properties(config);
    let mut compiled = IndexMap::new();
    for (name, sink) in &config.sinks {
        match Rules::compile(name, sink, &dialects) {
            Ok(rules) => {
                compiled.insert(name.clone(), Arc::new(rules));
            }
            Err(errors) => problems.extend(errors.into_iter().map(|error| {
                let key = format!("sinks.{name}.{}", error.key);
                // A pointer would show the whole value.
                let is_secret = error.key.strip_prefix("headers.").is_some_and(is_secret_header);
                config.problem(&key, if is_secret { error.message.clone() } else { error.pointing() })
            })),
        }
    }
    ConfigErrors::check(problems)?;
    Ok(compiled)
}

/// What librdkafka says of the properties, without a broker. Those that are ours alone were refused before.
fn properties(config: &Config) -> Vec<Problem> {
    let sinks = config.sinks.iter().filter_map(|(name, sink)| match &sink.kind {
        SinkKind::Kafka(kafka) => Some((name, kafka)),
        SinkKind::Webhook(_) => None,
    });
    let errors = sinks.flat_map(|(name, kafka)| check_properties(kafka).into_iter().map(move |error| (name, error)));
    errors
        .filter_map(|(name, error)| match error {
            KafkaSinkError::Property { property, .. }
                if OWNED_PROPERTIES.iter().any(|(owned, _)| *owned == property) =>
            {
                None
            }
            KafkaSinkError::Property { property, why } => {
                Some(config.problem(&format!("sinks.{name}.properties.{property:?}"), why))
            }
            other => Some(config.problem(&format!("sinks.{name}.properties"), causes(&other))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_that_librdkafka_does_not_know_or_take_are_configuration_errors() {
        let text = "deployment = \"t\"\n[ledger]\nurl = \"embedded\"\n[accounts.a]\ntoken = \"t\"\n[sinks.k]\n\
                    type = \"kafka\"\nbrokers = \"b:1\"\ntopic = \"t\"\n[sinks.k.properties]\n\
                    \"sokket.keepalive.enable\" = true\n\"compression.codec\" = \"rar\"\n\"client.rack\" = \"a\"\n";
        let config = crate::config::parse("f.toml", text).unwrap().config;
        let lines: Vec<String> = compile(&config).unwrap_err().0.iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 2, "{lines:#?}");
        assert!(lines[0].starts_with("f.toml:11: sinks.k.properties.\"sokket.keepalive.enable\": "), "{lines:#?}");
        assert!(lines[1].starts_with("f.toml:12: sinks.k.properties.\"compression.codec\": "), "{lines:#?}");
    }
}
