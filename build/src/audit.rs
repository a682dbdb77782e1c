//! `audit`: checks a booted system from outside.

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the verb.
pub fn command(_args: &Args) -> anyhow::Result<()> {
    anyhow::bail!("the verb `audit` is not in this version")
}
