//! `graph`: draws a checked manifest with Graphviz: partitions by rank, VMs, and every authority that a
//! capability gives.

use crate::manifest::{self, Object, Partition, System, rank_name};
use crate::{process, workspace};
use portcullis_ipc::layout::PAGE;
use portcullis_ipc::syscall::rights;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// System manifest.
    #[arg(default_value_os_t = workspace::demo_manifest())]
    pub manifest: PathBuf,
    /// Where the drawing is written, without extension; default: out/<name of the system>/system.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// Runs the verb: writes the `.dot` file, and an `.svg` where Graphviz is installed.
pub fn command(args: &Args) -> anyhow::Result<()> {
    let system = manifest::load(&args.manifest)?;
    let stem = args.out.clone().unwrap_or_else(|| workspace::out_dir().join(&system.name).join("system"));
    let source = stem.with_extension("dot");
    crate::image::write_file(&source, draw(&system).as_bytes())?;
    println!("{}", workspace::display(&source));
    if process::find("dot".as_ref()).is_none() {
        println!("no SVG: Graphviz is not installed (`cargo xtask setup` installs it)");
        return Ok(());
    }
    let picture = stem.with_extension("svg");
    process::run(Command::new("dot").arg("-Tsvg").arg("-o").arg(&picture).arg(&source), "dot")?;
    println!("{}", workspace::display(&picture));
    Ok(())
}

/// The drawing as Graphviz source.
pub fn draw(system: &System) -> String {
    let mut lines = vec![
        format!("digraph \"{}\" {{", system.name),
        "rankdir=BT; fontname=\"sans-serif\"; nodesep=0.3;".to_owned(),
        "node [fontname=\"sans-serif\", fontsize=10]; edge [fontname=\"sans-serif\", fontsize=8];".to_owned(),
    ];
    for (index, partition) in system.partitions.iter().enumerate() {
        lines.push(format!(
            "p{index} [shape=box, style=\"rounded,filled\", fillcolor=\"#e8f0ff\", label=\"{}\"];",
            label(partition)
        ));
        let mut held = String::new();
        for capability in &partition.capabilities {
            match edge(index, &capability.name, &capability.object) {
                Some(line) => lines.push(line),
                None => {
                    let _ = write!(held, "{}: {}\\l", capability.name, thing(&capability.object));
                }
            }
        }
        if !held.is_empty() {
            lines.push(format!("h{index} [shape=note, fontsize=8, label=\"{held}\"];"));
            lines.push(format!("h{index} -> p{index} [dir=none, style=dotted];"));
        }
    }
    for (index, vm) in system.vms.iter().enumerate() {
        let memory = (vm.memory_pages * PAGE as u64) >> 20;
        lines.push(format!(
            "v{index} [shape=box3d, style=filled, fillcolor=\"#fff0e0\", label=\"VM {}\\n{memory} MiB, {} vCPU\"];",
            vm.name,
            vm.vcpus.len()
        ));
        lines.push(format!("v{index} -> p{} [label=exits, penwidth=2];", vm.vmexit));
        if let Some(port) = vm.port {
            lines.push(format!("v{index} -> p{port} [label=\"port 0x5658\", penwidth=2];"));
        }
    }
    lines.push("}".to_owned());
    lines.join("\n") + "\n"
}

fn label(partition: &Partition) -> String {
    format!(
        "{}\\nrank {}, priority {}\\n{} of {} µs",
        partition.name,
        rank_name(partition.rank),
        partition.priority,
        partition.budget_us,
        partition.period_us
    )
}

/// Authority over another partition or a VM: an edge.
fn edge(holder: usize, name: &str, object: &Object) -> Option<String> {
    Some(match *object {
        Object::Endpoint { partition, badge } => {
            format!("p{holder} -> p{partition} [label=\"{name} (badge {badge})\"];")
        }
        Object::Notification { partition, bits } => {
            format!("p{holder} -> p{partition} [label=\"{name} {bits:#x}\", style=dashed, constraint=false];")
        }
        Object::Partition { partition, rights } => {
            let verbs =
                names(rights, &[("status", rights::STATUS), ("restart", rights::RESTART), ("kill", rights::KILL)]);
            format!("p{holder} -> p{partition} [label=\"{verbs}\", color=gray, fontcolor=gray, constraint=false];")
        }
        Object::Vm { vm, rights } => {
            let verbs = names(rights, &[("run", rights::RUN), ("answer", rights::ANSWER)]);
            format!("p{holder} -> v{vm} [label=\"{verbs}\", color=brown, fontcolor=brown, constraint=false];")
        }
        _ => return None,
    })
}

fn names(rights: u8, known: &[(&str, u8)]) -> String {
    let held = known.iter().filter(|(_, right)| rights & right != 0);
    held.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// A thing that only the holder has to do with: a line in its note.
fn thing(object: &Object) -> String {
    match *object {
        Object::Timer { timer, .. } => format!("timer {timer}"),
        Object::Interrupt { gsi, .. } => format!("interrupt {gsi}"),
        Object::Ports { first, count } => format!("ports {first:#x}-{:#x}", first + count - 1),
        Object::Msrs { first, count, .. } => format!("MSRs {first:#x}-{:#x}", first + count - 1),
        Object::Log => "the log".to_owned(),
        _ => "the clock".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demonstration_is_drawn_with_its_calls_and_its_vm() {
        let system = manifest::load(&workspace::demo_manifest()).unwrap_or_else(|findings| panic!("{findings}"));
        let text = draw(&system);
        let index = |name| system.partitions.iter().position(|partition| partition.name == name).unwrap();
        let call = format!("p{} -> p{} [label=\"link (badge 0)\"]", index("vmexit0"), index("link"));
        assert!(text.contains(&call), "{text}");
        assert!(text.contains("v0 ->") && text.contains("ports 0x3f8-0x3ff"), "{text}");
    }
}
