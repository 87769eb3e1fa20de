use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

/// A secret from the configuration, or a file that holds it. Never prints: neither `Debug` nor an error shows it.
#[derive(Clone)]
pub struct Secret(Source);

#[derive(Clone)]
enum Source {
    Value(Arc<SecretString>),
    File(PathBuf),
}

/// A secret file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("cannot read the secret file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is empty, or holds nothing but white space.
    #[error("the secret file {path} is empty")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl Secret {
    /// A secret that stands in the configuration itself.
    #[must_use]
    pub fn value(text: impl Into<String>) -> Self {
        Self(Source::Value(Arc::new(SecretString::from(text.into()))))
    }

    /// A secret that is read from a file, anew at every [`Secret::read`], so that a changed file takes effect.
    #[must_use]
    pub const fn file(path: PathBuf) -> Self {
        Self(Source::File(path))
    }

    /// The file that holds it; none where it stands in the configuration itself.
    #[must_use]
    pub fn path(&self) -> Option<&std::path::Path> {
        match &self.0 {
            Source::Value(_) => None,
            Source::File(path) => Some(path),
        }
    }

    /// The secret as it is now; white space around a file's content is not part of it.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        match &self.0 {
            Source::Value(text) => Ok(SecretString::from(text.expose_secret().to_owned())),
            Source::File(path) => {
                let text =
                    std::fs::read_to_string(path).map_err(|source| SecretError::Read { path: path.clone(), source })?;
                let text = zeroize::Zeroizing::new(text);
                let trimmed = text.trim();
                if trimmed.is_empty() {
                    return Err(SecretError::Empty { path: path.clone() });
                }
                Ok(SecretString::from(trimmed.to_owned()))
            }
        }
    }
}

/// Whether they say the same, not whether the files hold the same.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Source::Value(one), Source::Value(two)) => one.expose_secret() == two.expose_secret(),
            (Source::File(one), Source::File(two)) => one == two,
            _ => false,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Value(_) => f.write_str("Secret(redacted)"),
            Source::File(path) => write!(f, "Secret(file {})", path.display()),
        }
    }
}
