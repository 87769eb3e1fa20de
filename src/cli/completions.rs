use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Failure;
use super::output::line;

/// `standpipe completions`
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The shell to complete in
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script: `standpipe completions bash > /etc/bash_completion.d/standpipe`.
pub fn run(options: &Options) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut super::Cli::command(), "standpipe", &mut script);
    line(String::from_utf8_lossy(&script).trim_end())
}
