//! `bench`: measures the figures that have a budget.

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the verb.
pub fn command(_args: &Args) -> anyhow::Result<()> {
    anyhow::bail!("the verb `bench` is not in this version")
}
