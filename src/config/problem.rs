use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;

/// Where a key was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By the built-in defaults.
    Default,
    /// In a file.
    File {
        /// Which.
        path: Arc<Path>,
        /// The line of the value, from 1.
        line: usize,
        /// The column of the value, from 1, in characters.
        column: usize,
    },
    /// By an environment variable of this name.
    Environment(Arc<str>),
    /// By this flag.
    Flag(Arc<str>),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("built-in default"),
            Self::File { path, line, .. } => write!(f, "{}:{line}", path.display()),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// Where every key that was given was given; the built-in defaults are left out.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    places: Arc<IndexMap<String, Origin>>,
    /// The keys whose values came from the environment, by a variable of their own or by `${VAR}`: no error shows those.
    hidden: Arc<HashSet<String>>,
}

impl Origins {
    pub(super) fn new(places: IndexMap<String, Origin>, hidden: HashSet<String>) -> Self {
        Self { places: Arc::new(places), hidden: Arc::new(hidden) }
    }

    /// Whether the value of a key, or of the list that it stands in, is not to be shown.
    pub(super) fn hides(&self, key: &str) -> bool {
        let list = key.rsplit_once('[').map_or(key, |(list, _)| list);
        self.hidden.contains(key) || self.hidden.contains(list)
    }

    /// Where a key was given. None where it was not.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Origin> {
        self.places.get(key)
    }

    /// Where a key stands among all that were given, in the order of the files.
    pub(super) fn order(&self, key: &str) -> usize {
        self.places.get_index_of(key).unwrap_or(usize::MAX)
    }

    /// A problem with a key, placed where the key was given, or else the nearest table around it.
    #[must_use]
    pub fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        let mut around = Some(key);
        let origin = loop {
            let Some(path) = around else { break None };
            if let Some(origin) = self.places.get(path) {
                break Some(origin.clone());
            }
            around = path.rsplit_once(['.', '[']).map(|(parent, _)| parent);
        };
        Problem { origin, key: key.to_owned(), message: message.into() }
    }
}

/// One thing that is wrong, or worth a warning: where, what, and what to do about it. Holds no secret (INV-16).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The place; none where nothing was given.
    pub origin: Option<Origin>,
    /// The key, dotted; empty when a whole file is meant.
    pub key: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong with a configuration, at once. Ends a verb with exit code 2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<Problem>);

impl ConfigErrors {
    /// `Err` when there is anything wrong.
    pub fn check(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self(problems)) }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "the configuration has {count} error{}:", if count == 1 { "" } else { "s" })?;
        for problem in &self.0 {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}
