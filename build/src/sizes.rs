//! `sizes`.

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the verb.
pub fn command(_args: &Args) -> anyhow::Result<()> {
    anyhow::bail!("the verb `sizes` is not in this version")
}
