//! `setup`.

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the verb.
pub fn command(_args: &Args) -> anyhow::Result<()> {
    anyhow::bail!("the verb `setup` is not in this version")
}
