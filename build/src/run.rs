//! `run`: boots a system in QEMU and shows its merged log.

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the verb.
pub fn command(_args: &Args) -> anyhow::Result<()> {
    anyhow::bail!("the verb `run` is not in this version")
}
